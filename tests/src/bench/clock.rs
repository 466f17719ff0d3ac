//! The only reader of clocks here: what is measured is time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::time::Timestamp;

/// Now, to measure with.
#[expect(clippy::disallowed_methods, reason = "benchmarks measure time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Now, to write into slot files and messages.
#[expect(clippy::disallowed_methods, reason = "a slot file says when it ends")]
pub(super) fn wall() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
