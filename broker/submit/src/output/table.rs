//! Tables and colours.

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Style};
use protocol::workspace::WorkspaceState;

use super::{Output, words};

/// What a text means, as far as colours tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// Of less importance.
    Faint,
    /// At work.
    Active,
    /// Ended well.
    Good,
    /// On its way out, or held back.
    Warn,
    /// Ended badly.
    Bad,
}

impl Tone {
    /// The tone of a state.
    pub const fn of(state: WorkspaceState) -> Self {
        match state {
            WorkspaceState::Queued => Self::Plain,
            WorkspaceState::Claimed
            | WorkspaceState::Staging
            | WorkspaceState::Staged
            | WorkspaceState::Booting
            | WorkspaceState::Running
            | WorkspaceState::Resuming => Self::Active,
            WorkspaceState::Paused
            | WorkspaceState::Suspending
            | WorkspaceState::Suspended
            | WorkspaceState::Stopping
            | WorkspaceState::StagingOut => Self::Warn,
            WorkspaceState::Done => Self::Good,
            WorkspaceState::Cancelled => Self::Faint,
            WorkspaceState::Failed => Self::Bad,
        }
    }
}

/// A text in a tone.
pub fn toned(text: &str, tone: Tone, colour: bool) -> String {
    let style = match tone {
        _ if !colour => return text.to_owned(),
        Tone::Plain => return text.to_owned(),
        Tone::Faint => Style::new().dimmed(),
        Tone::Active => Style::new().cyan(),
        Tone::Good => Style::new().green(),
        Tone::Warn => Style::new().yellow(),
        Tone::Bad => Style::new().red().bold(),
    };
    text.style(style).to_string()
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "cells are made of values and references alike"
    )]
    pub fn toned<T: ToString>(text: T, tone: Tone) -> Self {
        Self {
            text: words::printable(&text.to_string()).replace('\n', " "),
            tone,
        }
    }

    /// A cell for a workspace's state.
    pub fn state(state: WorkspaceState) -> Self {
        Self::toned(state, Tone::of(state))
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Draws a table: capitals above columns, no lines.
pub fn draw(output: &Output, head: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if output.wrap {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.force_no_tty();
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    if output.colour {
        table.enforce_styling();
    }
    table.set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| styled(cell, output.colour)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

fn styled(cell: Cell, colour: bool) -> comfy_table::Cell {
    use comfy_table::{Attribute, Color};
    let drawn = comfy_table::Cell::new(cell.text);
    if !colour {
        return drawn;
    }
    match cell.tone {
        Tone::Plain => drawn,
        Tone::Faint => drawn.add_attribute(Attribute::Dim),
        Tone::Active => drawn.fg(Color::DarkCyan),
        Tone::Good => drawn.fg(Color::DarkGreen),
        Tone::Warn => drawn.fg(Color::DarkYellow),
        Tone::Bad => drawn.fg(Color::DarkRed),
    }
}

/// Draws names and values, one pair on a line.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {}\n", words::printable(value)))
        .collect()
}
