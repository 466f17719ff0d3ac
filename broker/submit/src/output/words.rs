//! Instants, spans and sizes as people read them.

use protocol::time::{Span, Timestamp};

/// The text with nothing that could steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}

/// A span in whole seconds and at most two units: `45s`, `2h 30m`.
pub fn span(span: Span) -> String {
    let text = Span::from_secs(span.as_millis() / 1000).to_string();
    let mut units = text.split(' ');
    match (units.next(), units.next()) {
        (Some(a), Some(b)) => format!("{a} {b}"),
        _ => text,
    }
}

/// The time of day, UTC: `08:20:11`.
pub fn clock(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(11..19).unwrap_or(&text).to_owned()
}

/// The day and the time of day, UTC: `2026-11-21 08:20:11Z`.
pub fn instant(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(clock)) => format!("{day} {clock}Z"),
        _ => text,
    }
}

/// How long ago: `3m 20s ago`.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.since(at)))
}

/// A number of MiB in the unit that fits: `512 MiB`, `4 GiB`, `1.5 GiB`.
pub fn mib(mib: u64) -> String {
    match mib {
        0..1024 => format!("{mib} MiB"),
        _ if mib.is_multiple_of(1024) => format!("{} GiB", mib / 1024),
        _ => format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024),
    }
}

/// A number of bytes in the unit that fits.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => mib(bytes / 1_048_576),
    }
}

/// How often: `once`, `3 times`.
pub fn times(n: u32) -> String {
    match n {
        1 => "once".into(),
        n => format!("{n} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_like_speech() {
        let shown: Vec<String> = [0, 900, 4_200, 200_000, 90_061_000]
            .map(|ms| span(Span::from_millis(ms)))
            .into();
        assert_eq!(shown, ["0s", "0s", "4s", "3m 20s", "1day 1h"]);
        assert_eq!(mib(1536), "1.5 GiB");
        assert_eq!(bytes(5 << 30), "5 GiB");
        let at = Timestamp::from_millis(1_763_712_000_250);
        assert_eq!(instant(at), "2025-11-21 08:00:00Z");
        assert_eq!(clock(at), "08:00:00");
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\nc"), "a [2Jb \nc");
    }
}
