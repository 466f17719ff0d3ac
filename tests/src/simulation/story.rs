//! What happened, as people read it: the last lines, for when a promise breaks.

use std::collections::VecDeque;

use protocol::time::Timestamp;

/// How many lines are kept.
const KEPT: usize = 20_000;

/// The story so far.
#[derive(Debug, Default)]
pub struct Story(VecDeque<(Timestamp, String)>);

impl Story {
    /// Adds a line.
    pub fn tell(&mut self, now: Timestamp, line: String) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, line));
    }

    /// The last `n` lines that name any of `about` (all lines if it is empty).
    pub fn about(&self, about: &[String], n: usize) -> String {
        let wanted: Vec<&(Timestamp, String)> = self
            .0
            .iter()
            .filter(|(_, line)| about.is_empty() || about.iter().any(|a| line.contains(a.as_str())))
            .collect();
        let skip = wanted.len().saturating_sub(n);
        wanted[skip..]
            .iter()
            .map(|(at, line)| format!("  {at} {line}\n"))
            .collect()
    }
}
