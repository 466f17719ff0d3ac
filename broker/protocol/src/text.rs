//! How people write spans and sizes in files, and how a wrong file is shown to them.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::time::Span;

/// A span in a file: `"90s"`, `"2h 30m"`. Numbers without a unit and negative spans are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct SpanText(pub Span);

/// Reads a span as people write it.
///
/// # Errors
/// A sentence with an example of a right one.
pub fn parse_span(text: &str) -> Result<Span, String> {
    humantime::parse_duration(text.trim()).map(Span::from_duration).map_err(|_| {
        let what = if text.trim_start().starts_with('-') { "negative, or not a span" } else { "not a span" };
        format!("`{text}` is {what} of time; write a number and a unit, as in \"90s\", \"45m\" or \"2h 30m\"")
    })
}

/// A size in a file: `"512 MiB"`, `"4G"` (powers of 1024 either way). Held in MiB, rounded up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct SizeText(pub u64);

/// Reads a size as people write it, into MiB, rounded up.
///
/// # Errors
/// A sentence with an example of a right one.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let fail = || {
        format!("`{text}` is not a size; write a number and a unit, as in \"512 MiB\" or \"4 GiB\"")
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(fail)?;
    let (number, unit) = trimmed.split_at(split);
    let number: f64 = number.parse().map_err(|_| fail())?;
    let bytes: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1_048_576.0,
        "g" | "gb" | "gib" => 1_073_741_824.0,
        "t" | "tb" | "tib" => 1_099_511_627_776.0,
        _ => return Err(fail()),
    };
    let mib = (number * bytes / 1_048_576.0).ceil();
    if !(0.0..1e12).contains(&mib) {
        return Err(fail());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded above"
    )]
    Ok(mib as u64)
}

macro_rules! text_visitor {
    ($ty:ident, $parse:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct V;
                impl de::Visitor<'_> for V {
                    type Value = $ty;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, v: &str) -> Result<$ty, E> {
                        $parse(v).map($ty).map_err(E::custom)
                    }
                }
                d.deserialize_any(V)
            }
        }
    };
}
text_visitor!(
    SpanText,
    parse_span,
    "a span of time in quotes, as in \"90s\" or \"2h 30m\""
);
text_visitor!(
    SizeText,
    parse_mib,
    "a size in quotes, as in \"512 MiB\" or \"4 GiB\""
);

impl serde::Serialize for SpanText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(self.0.as_duration()))
    }
}

impl serde::Serialize for SizeText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{} MiB", self.0))
    }
}

/// A file that a person wrote and that can't be taken: file, line, caret, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read `{file}`\n{message}")]
pub struct FileError {
    /// The file's name as the person gave it.
    pub file: String,
    /// The explanation, several lines: position, the line itself, a caret, the reason.
    pub message: String,
}

/// Parses TOML that a person wrote, with unknown keys refused by the type's own
/// `deny_unknown_fields`; the error shows line and caret.
///
/// # Errors
/// The text is not TOML, or not what `T` wants.
pub fn parse_toml<T: de::DeserializeOwned>(file: &str, text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|e| FileError {
        file: file.to_owned(),
        message: e.to_string().trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_read_as_written() {
        assert_eq!(parse_span("2h 30m"), Ok(Span::from_mins(150)));
        assert_eq!(parse_mib("4 GiB"), Ok(4096));
        assert_eq!(parse_mib("1.5G"), Ok(1536));
        assert_eq!(parse_mib("1 KiB"), Ok(1));
        for bad in ["-5s", "5", "", "abc"] {
            assert!(parse_span(bad).unwrap_err().contains("\"90s\""), "{bad}");
        }
        for bad in ["-5 MiB", "5", "", "5 parsecs", "1e300 GiB"] {
            assert!(parse_mib(bad).unwrap_err().contains("\"512 MiB\""), "{bad}");
        }
    }

    #[test]
    fn a_wrong_file_shows_line_and_caret() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct T {
            #[expect(dead_code, reason = "only parsed")]
            walltime: SpanText,
        }
        let e = parse_toml::<T>("job.toml", "walltime = \"-5s\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            e.contains("job.toml")
                && e.contains("line 1")
                && e.contains('^')
                && e.contains("negative"),
            "{e}"
        );
        let e = parse_toml::<T>("job.toml", "waltime = \"5s\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            e.contains("unknown field `waltime`") && e.contains('^'),
            "{e}"
        );
    }
}
