//! What happened, as people read it: the last lines, for when a promise breaks.

use std::collections::VecDeque;

use protocol::time::Timestamp;

/// How many lines are kept.
const KEPT: usize = 200_000;

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

    /// The last `n` lines that name any of `about` as a whole word (all lines if it is empty).
    pub fn about(&self, about: &[String], n: usize) -> String {
        let wanted: Vec<&(Timestamp, String)> = self
            .0
            .iter()
            .filter(|(_, line)| about.is_empty() || about.iter().any(|a| names(line, a)))
            .collect();
        let skip = wanted.len().saturating_sub(n);
        wanted[skip..]
            .iter()
            .map(|(at, line)| format!("  {at} {line}\n"))
            .collect()
    }
}

/// True when the line has `name`, and not only as the beginning of a longer one: `pilot 1` is not
/// in `pilot 12`, and `ws-1` is in `ws-1.g2`.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, found)| {
        let after = line[at + found.len()..].chars().next();
        after.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-')
    })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_name_is_found_as_a_whole() {
        assert!(names("pilot 1 kills ws-1-1.g2", "ws-1-1"));
        assert!(names("pilot 1", "pilot 1"));
        assert!(!names("pilot 12 starts", "pilot 1"));
        assert!(!names("ws-1-10 and ws-1-1-2", "ws-1-1"));
        assert!(names("ws-1-10 and ws-1-1", "ws-1-1"));
    }
}
