//! Reads the clocks; nothing else here does.

use std::time::Instant;

use protocol::time::Timestamp;

/// The wall clock, which the programs' logs tell as well.
pub(super) fn wall() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let millis = since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    Timestamp::from_millis(millis)
}

/// The monotonic clock, by which the plan is followed.
#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the monotonic clock here; the plan is followed by it"
)]
pub(super) fn mono() -> Instant {
    Instant::now()
}
