//! How results reach people and programs: results on the standard output, notes on the standard
//! error output; tables, JSON lines or bare ids.

pub mod describe;
pub mod table;
pub mod words;

use std::io::{self, Write};

use serde::Serialize;

pub use table::{Cell, Tone};

/// How much is shown, and in which form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Tables and sentences.
    Human,
    /// Ids only.
    Quiet,
    /// JSON, one object on a line.
    Json,
}

/// Where and how results are shown.
#[derive(Clone, Debug)]
pub struct Output {
    /// The form.
    pub detail: Detail,
    /// With colours.
    pub colour: bool,
    /// Tables are fitted to the terminal; else a row is one line.
    pub wrap: bool,
    /// A status line may be drawn on the standard error output.
    pub live: bool,
}

impl Output {
    /// Prints a line of a result.
    ///
    /// # Errors
    /// The standard output can't be written.
    pub fn line(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// The standard output can't be written.
    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Prints an object on a line.
    ///
    /// # Errors
    /// The standard output can't be written.
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        self.line(&serde_json::to_string(value).map_err(io::Error::other)?)
    }

    /// Prints a note for people beside the result; nothing when only ids are wanted.
    pub fn note(&self, text: &str) {
        let line = match self.detail {
            Detail::Human => format!("note: {}", words::printable(text)),
            Detail::Json => serde_json::json!({ "note": text }).to_string(),
            Detail::Quiet => return,
        };
        warn(&line);
    }

    /// Prints a result: as JSON, as ids, or as a text for people.
    ///
    /// # Errors
    /// The standard output can't be written.
    pub fn result<T: Serialize>(
        &self,
        value: &T,
        ids: impl FnOnce(&T) -> Vec<String>,
        text: impl FnOnce(&T, &Self) -> String,
    ) -> io::Result<()> {
        match self.detail {
            Detail::Json => self.json(value),
            Detail::Quiet => ids(value).iter().try_for_each(|id| self.line(id)),
            Detail::Human => self.line(text(value, self).trim_end()),
        }
    }

    /// Columns of the terminal that notes go to; 80 where that is not known.
    pub fn terminal_width(&self) -> usize {
        comfy_table::Table::new()
            .use_stderr()
            .width()
            .filter(|w| *w > 0)
            .map_or(80, usize::from)
    }

    /// A text in a tone, where colours are wanted.
    pub fn toned(&self, text: &str, tone: Tone) -> String {
        table::toned(text, tone, self.colour)
    }
}

/// Writes a line to the standard error output. That it can't be written is nothing to fail for.
pub fn warn(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
