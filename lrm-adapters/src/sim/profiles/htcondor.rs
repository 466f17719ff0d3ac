//! HTCondor 23.9, vanilla universe, with graceful removal and `allowed_job_duration` as walltime.

use protocol::time::Span;

use super::{Beat, Cause, Delay, Ending, Fate, Leftovers, Profile, ProfileName, Signal, Target};
use super::{beat, between, ms};

/// The smaller of the job's and the machine's vacate time; ticks of a second make it early.
const VACATE_TIME: Delay = Delay::KillWait {
    early: Span::from_millis(800),
    late: Span::from_millis(300),
};

pub(super) fn profile() -> Profile {
    Profile {
        name: ProfileName::Htcondor,
        kill_wait: Span::from_secs(600),
        grace: Span::ZERO,
        lateness_percent: 100,
        leftovers: Leftovers::AllKilled,
        on_return: vec![beat(ms(0), Target::Everything, Signal::Kill)],
    }
}

fn pattern(first: Delay) -> Vec<Beat> {
    vec![
        beat(first, Target::FirstProcess, Signal::Term),
        beat(VACATE_TIME, Target::Everything, Signal::Kill),
    ]
}

pub(super) fn ending(cause: Cause) -> Ending {
    let over = Ending {
        beats: pattern(between(50, 300)),
        listed_running: 0,
        shown_end: None,
        written_off: None,
        fate: Fate::Over,
    };
    let again = Ending {
        fate: Fate::Requeued(Span::ZERO),
        ..over.clone()
    };
    match cause {
        // The job goes on hold (code 46), it is not removed.
        Cause::Walltime => Ending {
            beats: pattern(between(0, 900)),
            fate: Fate::Held,
            ..over
        },
        Cause::Cancel => over,
        // Idle again and reruns, even if the pilot exited by itself with any code.
        Cause::Preempt => Ending {
            beats: pattern(between(50, 2000)),
            ..again
        },
        Cause::Requeue => again,
        Cause::Drain => Ending {
            beats: pattern(between(50, 200)),
            ..again
        },
        // Fast shutdown: SIGKILL at once.
        Cause::NodeDown => Ending {
            beats: vec![beat(ms(0), Target::Everything, Signal::Kill)],
            ..again
        },
        // No soft signal; SIGKILL on the node when the job lease (2400 s) is over, and only then
        // does the job run elsewhere.
        Cause::NodeLost => Ending {
            beats: vec![beat(
                between(2_398_000, 2_400_000),
                Target::Everything,
                Signal::Kill,
            )],
            ..again
        },
    }
}
