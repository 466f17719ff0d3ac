//! The only place where the pilot reads clocks.

use nix::time::{ClockId, clock_gettime};
use pilot_core::now::Now;
use protocol::time::{Mono, Span, Timestamp};

/// Reads both clocks. The monotonic one is `CLOCK_BOOTTIME`, which goes on while the host sleeps
/// or the process is stopped.
pub fn now() -> Now {
    Now {
        mono: Mono::from_millis(u64::try_from(millis(ClockId::CLOCK_BOOTTIME)).unwrap_or(0)),
        wall: Timestamp::from_millis(millis(ClockId::CLOCK_REALTIME)),
    }
}

/// How long from now until `at`; zero when it has passed.
pub fn until(at: Mono) -> Span {
    at.since(now().mono)
}

/// Now, for comparison with the times of files.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub fn of_files() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

fn millis(clock: ClockId) -> i64 {
    // Neither clock can fail on Linux; a zero would end the slot at once, which is the safe side.
    clock_gettime(clock).map_or(0, |t| {
        t.tv_sec()
            .saturating_mul(1000)
            .saturating_add(t.tv_nsec() / 1_000_000)
    })
}
