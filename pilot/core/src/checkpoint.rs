//! Checkpoints of one lease: when the next one is due, and which one is the newest.
//!
//! A checkpoint is a complete state of a guest that goes on running. One is due each time that the
//! guest has run for the request's `checkpoint_every` since its last state, but the guest stands
//! still for it: where one takes long, or fails after long, the next waits ten times as long.

use protocol::ids::StateId;
use protocol::lease::StateRef;
use protocol::time::{Mono, Span};

/// A guest runs at least so many times as long as its last checkpoint took before the next one.
const LEAST_SHARE: u64 = 10;
/// Pause after the first failed checkpoint; it doubles, up to `checkpoint_every`. Longer where the
/// guest stood still for long.
const RETRY: Span = Span::from_secs(10);

/// The checkpoint that is being made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnderWay {
    /// Its name.
    pub state: StateId,
    /// Guest-running time that it will contain.
    pub run: Span,
}

/// The checkpoints of one lease.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoints {
    /// The newest that is complete; the broker hears of it with each report of the lease.
    pub newest: Option<StateRef>,
    /// The one that is being made, or was being made when its guest was given up.
    pub under_way: Option<UnderWay>,
    /// How many are complete; the next one has the number after that.
    made: u32,
    /// Guest-running time in the last state: the one that the lease started from, or the newest.
    run: Span,
    took: Span,
    failures: u32,
    retry_at: Mono,
}

impl Checkpoints {
    /// Those of a lease that starts with `run` of guest-running time in its state: none yet.
    pub fn new(run: Span) -> Self {
        Self {
            run,
            ..Self::default()
        }
    }

    /// Number of the next one.
    pub const fn next_number(&self) -> u32 {
        self.made.saturating_add(1)
    }

    /// How long the guest, which has run for `ran` in all, has to run until the next one is due.
    pub fn due_in(&self, every: Span, ran: Span) -> Span {
        let every = every.max(self.took.times(LEAST_SHARE));
        (self.run + every).minus(ran)
    }

    /// After a failure: not before this.
    pub const fn retry_at(&self) -> Mono {
        self.retry_at
    }

    /// One is complete.
    pub fn completed(&mut self, state: StateRef, took: Span) {
        self.made = self.next_number();
        self.run = state.run;
        self.took = took;
        self.failures = 0;
        self.under_way = None;
        self.newest = Some(state);
    }

    /// One failed after `spent`, and left nothing.
    pub fn failed(&mut self, now: Mono, every: Span, spent: Span) {
        self.under_way = None;
        let pause = RETRY.times(1 << self.failures.min(16)).min(every);
        let pause = pause.max(spent.times(LEAST_SHARE));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::SiteName;
    use protocol::time::Timestamp;

    fn state(run: u64) -> StateRef {
        StateRef {
            id: StateId::new("ws.g1.c1").unwrap(),
            manifest: "m".into(),
            site: SiteName::new("lab").unwrap(),
            bytes: 1,
            run: Span::from_secs(run),
            at: Timestamp::from_secs(1),
        }
    }

    #[test]
    fn the_next_is_due_after_the_policys_time_or_ten_times_what_the_last_one_took() {
        let every = Span::from_secs(60);
        let mut c = Checkpoints::new(Span::from_secs(100));
        assert_eq!(c.due_in(every, Span::from_secs(130)), Span::from_secs(30));
        assert_eq!((c.next_number(), c.newest.is_none()), (1, true));
        c.completed(state(160), Span::from_secs(2));
        assert_eq!(c.due_in(every, Span::from_secs(160)), every);
        c.completed(state(220), Span::from_secs(9));
        assert_eq!(c.due_in(every, Span::from_secs(220)), Span::from_secs(90));
        assert_eq!(c.due_in(every, Span::from_secs(400)), Span::ZERO);
        assert_eq!(c.next_number(), 3);
    }

    #[test]
    fn a_failed_one_is_tried_again_less_and_less_often() {
        let (every, mut c) = (Span::from_secs(60), Checkpoints::new(Span::ZERO));
        let pauses: Vec<u64> = (0..5)
            .map(|_| {
                c.failed(Mono::from_millis(1000), every, Span::from_millis(5));
                c.retry_at().since(Mono::from_millis(1000)).as_millis() / 1000
            })
            .collect();
        assert_eq!(pauses, [10, 20, 40, 60, 60]);
        assert_eq!(c.next_number(), 1, "what failed has left no name");
        c.completed(state(1), Span::ZERO);
        c.failed(Mono::from_millis(0), every, Span::ZERO);
        assert_eq!(c.retry_at(), Mono::from_millis(10_000));
        c.failed(Mono::from_millis(0), every, Span::from_secs(40));
        assert_eq!(c.retry_at(), Mono::from_millis(400_000), "a hung disk");
    }
}
