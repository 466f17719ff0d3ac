//! Numbers as people say them in explanations.

use protocol::lrm::JobEnd;
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

/// `14:05` (UTC) when it is near `now`, else `2026-11-21 14:05`.
pub(crate) fn hour(at: Timestamp, now: Timestamp) -> String {
    let text = at.to_string();
    let day_and_hour = text
        .get(..10)
        .zip(text.get(11..16))
        .filter(|_| text.as_bytes().get(10) == Some(&b'T'));
    match day_and_hour {
        Some((_, hour)) if at.since(now).max(now.since(at)) < Span::from_mins(12 * 60) => {
            hour.to_owned()
        }
        Some((day, hour)) => format!("{day} {hour}"),
        None => text,
    }
}

/// `40m`, `2h`, `1m 30s`: as spans are written elsewhere, in whole seconds, from an hour on in whole
/// minutes; never less than it is.
pub(crate) fn length(span: Span) -> String {
    let secs = span.as_millis().div_ceil(1000);
    let secs = if secs >= 3600 {
        secs.div_ceil(60) * 60
    } else {
        secs
    };
    Span::from_secs(secs).to_string()
}

/// `6 GiB`, `1536 MiB`.
pub(crate) fn memory(mib: u64) -> String {
    protocol::resources::mib(mib)
}

/// `40 MB/s`, `0.5 MB/s`.
pub(crate) fn per_second(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    match (tenths / 10, tenths % 10) {
        (whole @ 0..10, tenth) if tenth > 0 => format!("{whole}.{tenth} MB/s"),
        (whole, _) => format!("{whole} MB/s"),
    }
}

/// `6 GiB`, `4 cores and 6 GiB`: what of a request decides where it fits.
pub(crate) fn need(r: &Resources) -> String {
    match r.cores {
        0 | 1 => memory(r.memory_mib),
        n => format!("{n} cores and {}", memory(r.memory_mib)),
    }
}

/// `1 pilot`, `3 pilots`.
pub(crate) fn count(n: u32, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// How a job ended, by its LRM's word.
pub(crate) fn job_end(end: &JobEnd) -> String {
    match end {
        JobEnd::Exited(code) => format!("exited with {code}"),
        JobEnd::Cancelled => "cancelled".to_owned(),
        JobEnd::Walltime => "its walltime was over".to_owned(),
        JobEnd::Preempted => "preempted".to_owned(),
        JobEnd::NodeLost => "its node was lost".to_owned(),
        JobEnd::LaunchFailed => "it could not be started".to_owned(),
        JobEnd::Other(words) => words.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_can_read_it() {
        let now = Timestamp::parse("2026-11-21T13:00:00Z").unwrap();
        assert_eq!(hour(now + Span::from_mins(65), now), "14:05");
        assert_eq!(hour(now + Span::from_mins(1441), now), "2026-11-22 13:01");
        assert_eq!(hour(now + Span::from_millis(1), now), "13:00");
        let said: Vec<String> = [40, 90, 2400, 7200, 9000]
            .map(|s| length(Span::from_secs(s)))
            .into();
        assert_eq!(said, ["40s", "1m 30s", "40m", "2h", "2h 30m"]);
        assert_eq!(
            (memory(6144), memory(1536)),
            ("6 GiB".into(), "1536 MiB".into())
        );
    }
}
