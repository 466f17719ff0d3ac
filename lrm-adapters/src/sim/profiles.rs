//! Signal profiles: how each LRM ends a job, as data.
//!
//! Every figure was measured on the real system (Slurm 22.05.8, OpenPBS 23.06, HTCondor 23.9).
//! A profile says, per [`Cause`], which processes get which signal when, what the listing says
//! meanwhile, and what becomes of the job. The simulated LRM plays profiles; tests of the pilot
//! walk them exhaustively.

mod htcondor;
mod pbs;
mod slurm;

use protocol::time::Span;
use serde::{Deserialize, Serialize};

/// The batch systems whose behaviour is written down here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileName {
    /// Slurm whose processes are found by parenthood (`proctrack/linuxproc`).
    Slurm,
    /// Slurm with `proctrack/cgroup`.
    SlurmCgroup,
    /// OpenPBS in direct mode (`qsub -- pilot`), without the cgroup hook.
    Pbs,
    /// HTCondor, vanilla universe.
    Htcondor,
}

impl ProfileName {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Slurm, Self::SlurmCgroup, Self::Pbs, Self::Htcondor];

    /// The name as it is written in a configuration file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slurm => "slurm",
            Self::SlurmCgroup => "slurm-cgroup",
            Self::Pbs => "pbs",
            Self::Htcondor => "htcondor",
        }
    }
}

/// Why an LRM ends a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The walltime is over.
    Walltime,
    /// Somebody cancelled the job.
    Cancel,
    /// Another job takes the node.
    Preempt,
    /// Somebody told the LRM to start it again.
    Requeue,
    /// An administrator declared the node down.
    NodeDown,
    /// The LRM lost its daemon on the node; the job's processes run on there.
    NodeLost,
    /// An administrator drains the node.
    Drain,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Walltime,
        Self::Cancel,
        Self::Preempt,
        Self::Requeue,
        Self::NodeDown,
        Self::NodeLost,
        Self::Drain,
    ];

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Walltime => "walltime",
            Self::Cancel => "cancelled",
            Self::Preempt => "preempted",
            Self::Requeue => "requeued",
            Self::NodeDown => "node down",
            Self::NodeLost => "node lost",
            Self::Drain => "node drained",
        }
    }
}

/// The signals that LRMs send.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// SIGCONT, sent before a SIGTERM so that stopped processes hear it.
    Cont,
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// Which of a job's processes get a signal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The job's first process alone.
    FirstProcess,
    /// The first process's group.
    ProcessGroup,
    /// Every process in the first process's session.
    Session,
    /// The job's steps (`srun`). A job whose first process is not run as a step hears nothing.
    Steps,
    /// The first process and its descendants by parenthood: a daemon that was orphaned on
    /// purpose is not among them.
    Tree,
    /// Everything that the job ever started, as a cgroup knows it.
    Everything,
}

/// How a job's first process was started, where the LRM makes a difference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launch {
    /// As the batch process.
    Batch,
    /// As a step, which gets every signal that the LRM sends to steps.
    #[default]
    Step,
}

/// When something happens, counted from what was before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delay {
    /// Between two spans; where they differ, it is drawn anew each time.
    Between(Span, Span),
    /// After the site's kill wait, up to `early` before and `late` after it.
    KillWait {
        /// How much too early it may come.
        early: Span,
        /// How much too late it may come.
        late: Span,
    },
    /// After the site's preemption grace, and between two spans more.
    Grace(Span, Span),
}

/// One signal on the way to a job's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beat {
    /// When, counted from the beat before, or from the cause for the first.
    pub after: Delay,
    /// Who gets it.
    pub who: Target,
    /// What.
    pub signal: Signal,
}

/// What becomes of the job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Over, with the cause as its reason.
    Over,
    /// It waits again under the same id, not before this span has passed.
    Requeued(Span),
    /// It waits under the same id until somebody releases it.
    Held,
    /// Nothing: it runs on.
    RunsOn,
}

/// How an LRM ends a job for one cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ending {
    /// The signals in order. Empty: nobody is told.
    pub beats: Vec<Beat>,
    /// The first so many beats come while the listing still calls the job running.
    pub listed_running: usize,
    /// The end that the listing shows moves to this long after the cause.
    pub shown_end: Option<Delay>,
    /// The LRM writes the job off this long after the cause, while the job's processes may
    /// live: it forgets them, or signals them without waiting.
    pub written_off: Option<Delay>,
    /// What becomes of the job.
    pub fate: Fate,
}

/// What is done with the processes that are left when a job's first process has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leftovers {
    /// Nothing: they survive.
    Survive,
    /// What is in the first process's session is killed; what left it survives.
    SessionKilled,
    /// All are killed.
    AllKilled,
}

/// One LRM's behaviour.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Whose behaviour it is.
    pub name: ProfileName,
    /// The site's wait between SIGTERM and SIGKILL.
    pub kill_wait: Span,
    /// The site's grace between a preemption's first word and its enforcement; zero means none.
    pub grace: Span,
    /// How much of the measured lateness is played, in percent.
    pub lateness_percent: u32,
    /// What happens to processes that are left over.
    pub leftovers: Leftovers,
    /// What forgotten processes get when the LRM's daemon on their node comes back.
    pub on_return: Vec<Beat>,
}

impl Profile {
    /// The profile as measured, with that LRM's default kill wait and grace.
    pub fn measured(name: ProfileName) -> Self {
        match name {
            ProfileName::Slurm => slurm::profile(name, Leftovers::Survive),
            ProfileName::SlurmCgroup => slurm::profile(name, Leftovers::AllKilled),
            ProfileName::Pbs => pbs::profile(),
            ProfileName::Htcondor => htcondor::profile(),
        }
    }

    /// What this LRM does for `cause`.
    pub fn ending(&self, cause: Cause) -> Ending {
        match self.name {
            ProfileName::Slurm => slurm::ending(cause, !self.grace.is_zero(), Target::Tree),
            ProfileName::SlurmCgroup => {
                slurm::ending(cause, !self.grace.is_zero(), Target::Everything)
            }
            ProfileName::Pbs => pbs::ending(cause),
            ProfileName::Htcondor => htcondor::ending(cause),
        }
    }

    /// The earliest and the latest that a delay can be at this site.
    pub fn window(&self, delay: Delay) -> (Span, Span) {
        let scaled =
            |s: Span| Span::from_millis(s.as_millis() * u64::from(self.lateness_percent) / 100);
        match delay {
            Delay::Between(min, max) => (min, min + scaled(max.minus(min))),
            Delay::KillWait { early, late } => (
                self.kill_wait.minus(scaled(early)),
                self.kill_wait + scaled(late),
            ),
            Delay::Grace(min, max) => (self.grace + scaled(min), self.grace + scaled(max)),
        }
    }

    /// The least time that a job launched this way has for `cause` between the first signal that
    /// its first process can hear and the kill; `None` when nothing ends it.
    pub fn notice_for(&self, cause: Cause, launch: Launch) -> Option<Span> {
        let mut heard: Option<Span> = None;
        let mut at = Span::ZERO;
        for beat in self.ending(cause).beats {
            at += self.window(beat.after).0;
            let reaches = match beat.who {
                Target::Steps => launch == Launch::Step,
                Target::FirstProcess
                | Target::ProcessGroup
                | Target::Session
                | Target::Tree
                | Target::Everything => true,
            };
            match beat.signal {
                Signal::Term if reaches => heard = heard.or(Some(at)),
                Signal::Kill if reaches => return Some(heard.map_or(Span::ZERO, |h| at.minus(h))),
                Signal::Term | Signal::Kill | Signal::Cont => {}
            }
        }
        None
    }

    /// The least notice over the causes that a site can promise one for: walltime, cancel,
    /// preemption and requeue.
    pub fn guaranteed_notice(&self, launch: Launch) -> Span {
        [
            Cause::Walltime,
            Cause::Cancel,
            Cause::Preempt,
            Cause::Requeue,
        ]
        .into_iter()
        .filter_map(|cause| self.notice_for(cause, launch))
        .min()
        .unwrap_or(Span::ZERO)
    }
}

/// A delay of exactly this many milliseconds.
const fn ms(millis: u64) -> Delay {
    Delay::Between(Span::from_millis(millis), Span::from_millis(millis))
}

/// A delay between two numbers of milliseconds.
const fn between(min: u64, max: u64) -> Delay {
    Delay::Between(Span::from_millis(min), Span::from_millis(max))
}

/// One signal.
const fn beat(after: Delay, who: Target, signal: Signal) -> Beat {
    Beat { after, who, signal }
}
