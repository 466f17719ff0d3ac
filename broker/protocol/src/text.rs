//! How people write spans and sizes in files.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

pub use crate::file_error::{FileError, KeyProblem, parse_toml, parse_toml_with};
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
    ($ty:ident, $parse:ident, $expecting:literal, $unit:literal) => {
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
                    fn visit_i64<E: de::Error>(self, v: i64) -> Result<$ty, E> {
                        Err(E::custom(format_args!(
                            "found the number `{v}`, expected {}\nhelp: write it in quotes and with a unit, as in \"{}{}\"",
                            $expecting, v.unsigned_abs(), $unit
                        )))
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
    "a span of time in quotes, as in \"90s\" or \"2h 30m\"",
    "s"
);
text_visitor!(
    SizeText,
    parse_mib,
    "a size in quotes, as in \"512 MiB\" or \"4 GiB\"",
    " MiB"
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
}
