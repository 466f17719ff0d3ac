//! Slurm 22.05.8 with KillWait 30 and `preempt/partition_prio`, GraceTime as configured.

use protocol::time::Span;

use super::{Beat, Cause, Delay, Ending, Fate, Leftovers, Profile, ProfileName, Signal, Target};
use super::{beat, between, ms};

/// The hard kill came 0.2 to 0.5 s before the end of KillWait.
const KILL_WAIT: Delay = Delay::KillWait {
    early: Span::from_millis(500),
    late: Span::ZERO,
};
/// A requeued job waits about two minutes before it may start again.
const REQUEUE_HOLD_OFF: Span = Span::from_secs(120);

pub(super) fn profile(name: ProfileName, leftovers: Leftovers) -> Profile {
    Profile {
        name,
        kill_wait: Span::from_secs(30),
        grace: Span::ZERO,
        lateness_percent: 100,
        leftovers,
        on_return: pattern(ms(0), Target::Tree),
    }
}

/// How every job ends: CONT, TERM, KillWait, KILL. With a cgroup the TERM still goes to the
/// first process of each step only; the KILL goes to everything.
fn pattern(first: Delay, reach: Target) -> Vec<Beat> {
    let soft = match reach {
        Target::Everything => Target::FirstProcess,
        Target::FirstProcess
        | Target::ProcessGroup
        | Target::Session
        | Target::Steps
        | Target::Tree => reach,
    };
    vec![
        beat(first, soft, Signal::Cont),
        beat(ms(5), soft, Signal::Term),
        beat(KILL_WAIT, reach, Signal::Kill),
    ]
}

pub(super) fn ending(cause: Cause, grace: bool, reach: Target) -> Ending {
    let over = Ending {
        beats: pattern(ms(5), reach),
        listed_running: 0,
        shown_end: None,
        written_off: None,
        fate: Fate::Over,
    };
    match cause {
        Cause::Walltime => {
            // The controller looks every 30 s: 0 to 29.5 s late. Steps hear TERM twice.
            let mut beats = pattern(between(0, 29_500), reach);
            beats.insert(2, beat(ms(10), Target::Steps, Signal::Term));
            Ending { beats, ..over }
        }
        Cause::Cancel => over,
        Cause::Preempt if grace => {
            // Steps hear of it at once, the batch process only when the grace is over, which the
            // controller notices 5 to 15 s late; EndTime moves at once.
            let mut beats = vec![
                beat(ms(5), Target::Steps, Signal::Term),
                beat(ms(2), Target::Steps, Signal::Cont),
                beat(
                    Delay::Grace(Span::ZERO, Span::from_secs(15)),
                    Target::Steps,
                    Signal::Term,
                ),
            ];
            beats.extend(pattern(ms(8), reach));
            Ending {
                beats,
                listed_running: 4,
                shown_end: Some(Delay::Grace(Span::ZERO, Span::ZERO)),
                ..over
            }
        }
        Cause::Preempt => over,
        Cause::Requeue => Ending {
            fate: Fate::Requeued(REQUEUE_HOLD_OFF),
            ..over
        },
        // NODE_FAIL at once, while the processes live on for KillWait.
        Cause::NodeDown => Ending {
            written_off: Some(ms(0)),
            ..over
        },
        // NODE_FAIL after SlurmdTimeout while the pilot runs on undisturbed.
        Cause::NodeLost => Ending {
            beats: Vec::new(),
            written_off: Some(between(30_000, 40_000)),
            ..over
        },
        Cause::Drain => Ending {
            beats: Vec::new(),
            fate: Fate::RunsOn,
            ..over
        },
    }
}
