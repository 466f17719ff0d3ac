//! The only place of this crate that reads clocks.

use protocol::time::Timestamp;
use tokio::time::Instant;

/// The wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that reads clocks"
)]
pub fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

/// The monotonic clock (paused with tokio's in tests).
#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that reads clocks"
)]
pub(crate) fn mono() -> Instant {
    Instant::now()
}
