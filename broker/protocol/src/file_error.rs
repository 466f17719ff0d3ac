//! How a wrong file is shown to the person who wrote it: line, caret, reason, and what to write
//! instead. Used by all files that people write (request, slot, broker and client settings).

use std::ops::Range;

use serde::de;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// A file that a person wrote and that can't be taken: file, line, caret, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read `{file}`\n{message}")]
pub struct FileError {
    /// The file's name as the person gave it.
    pub file: String,
    /// The explanation, several lines: position, the line itself, a caret, the reason, help.
    pub message: String,
}

impl FileError {
    /// An error about the value of a key: shows where the key stands in `text`.
    ///
    /// `key` is dotted, with numbers for the entries of arrays: `resources.memory`,
    /// `image.disk.0.digest`. Where there is no such key, its nearest parent is shown.
    #[must_use]
    pub fn at_key(file: &str, text: &str, key: &str, message: &str) -> Self {
        Self {
            file: file.to_owned(),
            message: show(text, position(text, key), message),
        }
    }
}

/// Parses TOML that a person wrote, with unknown keys refused by the type's own
/// `deny_unknown_fields`; the error shows line, caret and help.
///
/// # Errors
/// The text is not TOML, or not what `T` wants.
pub fn parse_toml<T: de::DeserializeOwned>(file: &str, text: &str) -> Result<T, FileError> {
    parse_toml_with(file, text, |_| None)
}

/// What is wrong with a key, for who knows the file's keys and can say what to write instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyProblem<'k> {
    /// A key that is not known where it stands.
    Unknown(&'k str),
    /// A key that must be there and is not.
    Missing(&'k str),
}

/// As [`parse_toml`]; `hint` may say what to do about an unknown or missing key, where it knows
/// more than that the name looks like another.
///
/// # Errors
/// The text is not TOML, or not what `T` wants.
pub fn parse_toml_with<T: de::DeserializeOwned>(
    file: &str,
    text: &str,
    hint: impl Fn(KeyProblem<'_>) -> Option<String>,
) -> Result<T, FileError> {
    toml::from_str(text).map_err(|e| FileError {
        file: file.to_owned(),
        message: show(text, e.span(), &reword(e.message().trim_end(), &hint)),
    })
}

/// Where the value of a dotted key stands: the name of a table, else the value itself.
fn position(text: &str, key: &str) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let mut parts = key.split('.');
    let first = parts.next()?;
    let (mut name, mut value) = member(root.get_ref(), first)?;
    for part in parts {
        let child = match value.get_ref() {
            DeValue::Table(table) => member(table, part),
            DeValue::Array(entries) => {
                let index = part.parse::<usize>().ok();
                index
                    .and_then(|i| entries.get(i))
                    .map(|entry| (name, entry))
            }
            _ => None,
        };
        match child {
            Some(child) => (name, value) = child,
            None => break,
        }
    }
    Some(match value.get_ref() {
        DeValue::Table(_) => name.span(),
        DeValue::Array(entries) if entries.iter().any(|e| e.get_ref().is_table()) => name.span(),
        _ => value.span(),
    })
}

type Member<'t, 'i> = (&'t Spanned<DeString<'i>>, &'t Spanned<DeValue<'i>>);

fn member<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<Member<'t, 'i>> {
    table.iter().find(|(k, _)| k.get_ref().as_ref() == key)
}

/// The position, the line with a caret, and the message.
fn show(text: &str, span: Option<Range<usize>>, message: &str) -> String {
    // What is missing from the whole document stands nowhere.
    let somewhere = |s: &Range<usize>| {
        text.is_char_boundary(s.start)
            && !text.trim().is_empty()
            && *s != (0..text.len())
            && *s != (0..0)
    };
    let Some(span) = span.filter(somewhere) else {
        return message.to_owned();
    };
    // A position behind the last line (something is missing at the end) is shown at that line.
    let start = span.start.min(text.trim_end().len());
    let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let number = text[..line_start].matches('\n').count() + 1;
    let before = &text[line_start..start];
    let under = text
        .get(start..span.end.min(line_start + line.len()))
        .map_or(1, |t| t.chars().count().max(1));
    let column = before.chars().count() + 1;
    let margin = " ".repeat(number.to_string().len());
    let pad: String = before
        .chars()
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    format!(
        "{margin}--> line {number}, column {column}\n{margin} |\n{number} | {line}\n{margin} | {pad}{}\n{message}",
        "^".repeat(under)
    )
}

/// The parser's message in words for people, with help where there is some.
fn reword(message: &str, hint: &impl Fn(KeyProblem<'_>) -> Option<String>) -> String {
    if let Some((name, known)) = name_and_known(message, "unknown field `") {
        let help = match (hint(KeyProblem::Unknown(name)), nearest(name, &known)) {
            (Some(hint), _) => hint,
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => format!("the keys here are {}", list(&known)),
        };
        return format!("unknown field `{name}`\nhelp: {help}");
    }
    if let Some((name, known)) = name_and_known(message, "unknown variant `") {
        let help = match nearest(name, &known) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of {}", list(&known)),
        };
        return format!("`{name}` is not one of {}\nhelp: {help}", list(&known));
    }
    if let Some(name) = message
        .strip_prefix("missing field `")
        .and_then(|m| m.strip_suffix('`'))
    {
        let help = hint(KeyProblem::Missing(name))
            .unwrap_or_else(|| format!("add a line or section for `{name}`"));
        return format!("missing field `{name}`\nhelp: {help}");
    }
    if let Some((found, wanted)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|m| m.split_once(", expected "))
    {
        let help = match found.split_once(' ') {
            Some(("integer" | "floating" | "boolean", _)) if wanted == "a string" => {
                "\nhelp: put it in quotes"
            }
            Some(("string", _)) if is_number_type(wanted) || wanted == "a boolean" => {
                "\nhelp: leave the quotes out"
            }
            _ => "",
        };
        return format!("found {found}, expected {}{help}", number_words(wanted));
    }
    message.to_owned()
}

/// From ``unknown field `x`, expected one of `a`, `b` ``: `x` and what would have been right.
fn name_and_known<'m>(message: &'m str, prefix: &str) -> Option<(&'m str, Vec<&'m str>)> {
    let (name, rest) = message.strip_prefix(prefix)?.split_once('`')?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    }
}

fn is_number_type(wanted: &str) -> bool {
    number_words(wanted) != wanted
}

fn number_words(wanted: &str) -> &str {
    match wanted {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, not negative",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        other => other,
    }
}

/// The known name that `name` was most likely meant to be.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|k| (distance(&name, k), *k))
        .filter(|(d, k)| *d <= (k.len().max(name.len()) / 3).max(1))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Insertions, deletions, changes and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::SpanText;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct T {
        #[expect(dead_code, reason = "only parsed")]
        walltime: SpanText,
        #[serde(default)]
        #[expect(dead_code, reason = "only parsed")]
        tries: u32,
    }

    fn refused(text: &str) -> String {
        parse_toml::<T>("job.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_file_shows_line_and_caret() {
        assert_eq!(
            refused("# a job\n\twaltime = \"5s\"\n"),
            "failed to read `job.toml`\n --> line 2, column 2\n  |\n2 | \twaltime = \"5s\"\n  | \t^^^^^^^\n\
             unknown field `waltime`\nhelp: did you mean `walltime`?"
        );
        let e = refused("walltime = \"-5s\"\n");
        assert!(
            e.contains("line 1") && e.contains("| ") && e.contains("negative"),
            "{e}"
        );
        let e = refused("walltime = \"5s\"\ntries = -1\n");
        assert!(
            e.contains("line 2, column 9") && e.contains("from 0 to 4294967295"),
            "{e}"
        );
        let e = refused("walltime = \"5s\"\ntries = \"1\"\n");
        assert!(e.contains("leave the quotes out"), "{e}");
        let e = refused("walltime = \"ü\n");
        assert!(e.contains("line 1") && e.contains('^'), "{e}");
    }

    #[test]
    fn keys_are_found_where_they_stand() {
        let text = "a = 1\n[b]\nc = \"é\"\n[[b.d]]\ne = 2\n[[b.d]]\ne = 3\n";
        let at = |key| position(text, key).map(|r| &text[r]);
        assert_eq!(at("a"), Some("1"));
        assert_eq!(at("b.c"), Some("\"é\""));
        assert_eq!(at("b.d.1.e"), Some("3"));
        assert_eq!(at("b.missing"), Some("b"));
        assert_eq!(at("b.d.7.e"), Some("d"));
        assert_eq!(at("nothing"), None);
        let e = FileError::at_key("f", text, "b.c", "is no good").to_string();
        assert!(
            e.contains("line 3, column 5") && e.ends_with("is no good"),
            "{e}"
        );
        assert!(
            FileError::at_key("f", "", "b.c", "gone")
                .to_string()
                .ends_with("gone")
        );
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let known = ["walltime", "memory", "cores"];
        assert_eq!(nearest("wall-time", &known), Some("walltime"));
        assert_eq!(nearest("mmeory", &known), Some("memory"));
        assert_eq!(nearest("core", &known), Some("cores"));
        assert_eq!(nearest("gpu", &known), None);
    }
}
