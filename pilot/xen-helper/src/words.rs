//! What a guest was told: the last of it, in one value of its xenstore node. A value that is written
//! over is lost to those who did not look, so each has the words before it too.
//!
//! `SLOT;7 hello 1;8 resumed 61 1795286405;9 time-left 292 slot_ending`: SLOT is another one for each
//! domain, and the words of a domain are numbered.

use std::collections::VecDeque;

/// The longest words.
const LONGEST: usize = 200;
/// Of a value: xenstore takes 4096 bytes with the path, guests' own tools sometimes 2048.
const ROOM: usize = 2000;

/// What one domain was told.
#[derive(Debug)]
pub struct Words {
    slot: String,
    number: u64,
    last: VecDeque<String>,
}

impl Words {
    /// Nothing yet, to the domain with this uuid.
    pub fn new(uuid: &str) -> Self {
        Self {
            slot: uuid.chars().take(8).collect(),
            number: 0,
            last: VecDeque::new(),
        }
    }

    /// More words; the oldest make room.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        // `;` is ours, and `xenstore-write` has its own mind of a backslash.
        let plain = |c: char| c == ' ' || (c.is_ascii_graphic() && c != ';' && c != '\\');
        if text.is_empty() || text.len() > LONGEST || !text.chars().all(plain) {
            return Err("what the guest is told is not plain text".to_owned());
        }
        self.number += 1;
        self.last.push_back(format!(";{} {text}", self.number));
        while self.last.iter().map(String::len).sum::<usize>() > ROOM {
            self.last.pop_front();
        }
        Ok(())
    }

    /// The value.
    pub fn value(&self) -> String {
        let mut value = self.slot.clone();
        value.extend(self.last.iter().map(String::as_str));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_kept_with_their_numbers() {
        let mut words = Words::new("0123abcd-2222-3333-4444-555555555555");
        assert_eq!(words.value(), "0123abcd");
        words.add("hello 1").unwrap();
        words.add("time-left 300 slot_ending").unwrap();
        assert_eq!(
            words.value(),
            "0123abcd;1 hello 1;2 time-left 300 slot_ending"
        );
        for _ in 0..40 {
            words.add(&"x".repeat(LONGEST)).unwrap();
        }
        let value = words.value();
        assert!(value.len() <= ROOM + 8, "{}", value.len());
        assert!(value.starts_with("0123abcd;34 x") && value.contains(";42 x"));
    }

    #[test]
    fn what_would_break_the_value_is_refused() {
        let mut words = Words::new("0123abcd");
        for bad in ["", "a;b", "a\\b", "a\nb", "\u{e4}", &"x".repeat(201)] {
            assert!(words.add(bad).is_err(), "{bad:?}");
        }
        assert_eq!(words.value(), "0123abcd");
    }
}
