//! The only reader of clocks in the broker.
//!
//! Owner: everybody shares one [`Clock`]. Its instants follow the machine's wall clock, but run at
//! nearly the pace of the monotonic clock whatever happens to the wall clock: one that is set
//! forward by an hour must not make every lease look expired while its guest still runs
//! (invariant 2), and one that is set back must not stop every timer.
//!
//! After a restart there is no monotonic time to compare with; `Event::Started` gives every lease
//! a whole new life then.

use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::time::{Mono, Span, Timestamp};

/// Ours may run faster or slower than the monotonic clock by one part in so many while it
/// approaches the wall clock.
const APPROACH: u64 = 100;

/// Over so long a stretch the pace is measured.
const STRETCH: Span = Span::from_secs(10);

/// The broker's clock.
#[derive(Debug)]
pub struct Clock {
    zero: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where this stretch began.
    anchor: Reading,
    /// What was said last.
    last: Timestamp,
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    mono: Mono,
    now: Timestamp,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Starts at the machine's wall clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the module that reads clocks"
    )]
    pub fn new() -> Self {
        let now = wall();
        let anchor = Reading {
            mono: Mono::from_millis(0),
            now,
        };
        Self {
            zero: Instant::now(),
            state: Mutex::new(State { anchor, last: now }),
        }
    }

    /// Now, for everything that is stored or sent. Never before an earlier answer.
    pub fn now(&self) -> Timestamp {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mono = self.mono();
        state.last = follow(state.anchor, mono, wall()).max(state.last);
        if mono.since(state.anchor.mono) >= STRETCH {
            state.anchor = Reading {
                mono,
                now: state.last,
            };
        }
        state.last
    }

    /// Now, for spans within this process.
    pub fn mono(&self) -> Mono {
        Mono::from_millis(Span::from_duration(self.zero.elapsed()).as_millis())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that reads clocks"
)]
fn wall() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(d) => Timestamp::from_millis(0) + Span::from_duration(d),
        Err(_) => Timestamp::from_millis(0),
    }
}

/// The instant at `mono`: as near to the wall as the pace since `anchor` allows.
fn follow(anchor: Reading, mono: Mono, wall: Timestamp) -> Timestamp {
    let passed = mono.since(anchor.mono);
    let slack = Span::from_millis(passed.as_millis() / APPROACH);
    let slowest = anchor.now + passed.minus(slack);
    wall.clamp(slowest, slowest + slack.times(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_is_followed_slowly() {
        let anchor = Reading {
            mono: Mono::from_millis(500),
            now: Timestamp::from_millis(1000),
        };
        for (wall, want, what) in [
            (11_000, 11_000, "a clock that runs well"),
            (3_600_000, 11_100, "set forward"),
            (0, 10_900, "set back"),
        ] {
            let now = follow(
                anchor,
                Mono::from_millis(10_500),
                Timestamp::from_millis(wall),
            );
            assert_eq!(now, Timestamp::from_millis(want), "{what}");
        }
    }

    #[test]
    fn it_never_goes_back() {
        let clock = Clock::new();
        let readings: Vec<Timestamp> = (0..1000).map(|_| clock.now()).collect();
        assert!(readings.is_sorted());
    }
}
