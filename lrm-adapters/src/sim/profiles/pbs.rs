//! OpenPBS 23.06 in direct mode, kill_delay 10, `preempt_order D`, node_fail_requeue 310.

use protocol::time::Span;

use super::{Beat, Cause, Delay, Ending, Fate, Leftovers, Profile, ProfileName, Signal, Target};
use super::{beat, between, ms};

/// The MoM looks at kill deadlines only when it polls.
const KILL_DELAY: Delay = Delay::KillWait {
    early: Span::from_millis(1500),
    late: Span::from_secs(14),
};

pub(super) fn profile() -> Profile {
    Profile {
        name: ProfileName::Pbs,
        kill_wait: Span::from_secs(10),
        grace: Span::ZERO,
        lateness_percent: 100,
        leftovers: Leftovers::SessionKilled,
        on_return: vec![beat(ms(0), Target::Session, Signal::Kill)],
    }
}

fn pattern(first: Delay) -> Vec<Beat> {
    vec![
        beat(first, Target::Session, Signal::Term),
        beat(KILL_DELAY, Target::Session, Signal::Kill),
    ]
}

pub(super) fn ending(cause: Cause) -> Ending {
    let over = Ending {
        beats: pattern(between(30, 150)),
        listed_running: 0,
        shown_end: None,
        written_off: None,
        fate: Fate::Over,
    };
    match cause {
        // Never early, 0.6 to 18 s late.
        Cause::Walltime => Ending {
            beats: pattern(between(600, 18_000)),
            ..over
        },
        Cause::Cancel | Cause::Preempt => over,
        Cause::Requeue => Ending {
            fate: Fate::Requeued(Span::ZERO),
            ..over
        },
        // The MoM was told to stop: it kills at once, without a soft signal.
        Cause::NodeDown => Ending {
            beats: vec![beat(ms(0), Target::Session, Signal::Kill)],
            fate: Fate::Requeued(Span::ZERO),
            ..over
        },
        // The pilot runs on; the job may start elsewhere: two pilots with one job id.
        Cause::NodeLost => Ending {
            beats: Vec::new(),
            written_off: Some(between(310_000, 320_000)),
            fate: Fate::Requeued(Span::ZERO),
            ..over
        },
        Cause::Drain => Ending {
            beats: Vec::new(),
            fate: Fate::RunsOn,
            ..over
        },
    }
}
