//! Values in the text of `qstat -f`. Pure.

use protocol::time::{Span, Timestamp};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `Sat Nov 21 01:24:44 2026`, as ctime(3) writes it. It has no zone: the command runs with
/// `TZ=UTC`.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, month, day, clock, year] = words.as_slice() else {
        return None;
    };
    let month = MONTHS.iter().position(|m| m == month)? + 1;
    let day: u32 = day.parse().ok()?;
    Timestamp::parse(&format!("{year}-{month:02}-{day:02}T{clock}Z")).ok()
}

/// `90`, `01:30`, `00:10:00`, `100:00:00` or `2:00:00:00`: seconds, and what stands before them.
pub(super) fn span(text: &str) -> Option<Span> {
    let parts: Vec<u64> = text
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let weights = [1_u64, 60, 3600, 86_400];
    if parts.len() > weights.len() {
        return None;
    }
    parts
        .iter()
        .rev()
        .zip(weights)
        .try_fold(0_u64, |sum, (part, weight)| {
            sum.checked_add(part.checked_mul(weight)?)
        })
        .map(Span::from_secs)
}

/// The first host of `n1/0*2+n2/0*2`.
pub(super) fn first_host(text: &str) -> Option<&str> {
    let host = text.split(['/', '+']).next()?.trim();
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_utc() {
        assert_eq!(
            instant("Sat Nov 21 01:24:44 2026"),
            Some(Timestamp::from_secs(1_795_224_284))
        );
        assert_eq!(
            instant("Sun Feb  1 00:00:00 2026"),
            Some(Timestamp::from_secs(1_769_904_000))
        );
        for bad in [
            "",
            "Sat Nov 21 01:24:44",
            "Sat Foo 21 01:24:44 2026",
            "1795224284",
        ] {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans_have_up_to_four_parts() {
        for (text, secs) in [
            ("0", 0),
            ("90", 90),
            ("01:30", 90),
            ("00:10:00", 600),
            ("100:00:01", 360_001),
            ("1:00:00:00", 86_400),
        ] {
            assert_eq!(span(text), Some(Span::from_secs(secs)), "{text}");
        }
        for bad in [
            "",
            "--",
            "1:2:3:4:5",
            "-5",
            "99999999999999999999",
            "9999999999999999:0:0",
        ] {
            assert_eq!(span(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_first_host_is_the_slots_node() {
        assert_eq!(first_host("n1/0*2+n2/0*2"), Some("n1"));
        assert_eq!(first_host("n1"), Some("n1"));
        assert_eq!(first_host(""), None);
    }
}
