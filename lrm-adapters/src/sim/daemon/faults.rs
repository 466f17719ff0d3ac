//! How the simulated LRM misbehaves towards its commands, as real ones do.

use protocol::lrm::JobState;
use protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::sim::model::JobNumber;
use crate::sim::wire::{JobOrder, JobRow, Request};

/// The ways to misbehave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The command hangs; nothing is done.
    Hang,
    /// The command fails; nothing is done.
    Error,
    /// It is done; the answer comes later by the fault's `by`.
    Late,
    /// It is done; the command fails as if the answer was lost.
    LostAnswer,
    /// It is done; the command hangs.
    HangAfter,
    /// The listing leaves jobs out.
    Missing,
    /// The listing has jobs in a state that nobody knows.
    OddState,
    /// It is done; what is printed cannot be read.
    Garbled,
}

/// The commands that can misbehave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CommandName {
    /// `submit`
    Submit,
    /// `queue`
    Queue,
    /// `cancel`
    Cancel,
    /// `end`
    End,
}

impl CommandName {
    /// Which command a request belongs to; none for those that never misbehave.
    pub const fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Submit { .. } => Some(Self::Submit),
            Request::List { .. } => Some(Self::Queue),
            Request::Job {
                order: JobOrder::Cancel | JobOrder::Withdraw,
                ..
            } => Some(Self::Cancel),
            Request::End { .. } => Some(Self::End),
            Request::Job { .. }
            | Request::Node { .. }
            | Request::Nodes
            | Request::Wait { .. }
            | Request::AddFault(_)
            | Request::ClearFaults
            | Request::Faults
            | Request::Crash
            | Request::Poke => None,
        }
    }
}

/// One way in which it misbehaves now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// How.
    pub kind: FaultKind,
    /// To which commands; empty means all of them.
    pub commands: Vec<CommandName>,
    /// So many times more; none means without end.
    pub times: Option<u32>,
    /// Not after this.
    pub until: Option<Timestamp>,
    /// How late, for [`FaultKind::Late`].
    pub by: Span,
    /// Which job is missing, for [`FaultKind::Missing`]; none means all.
    pub job: Option<JobNumber>,
}

impl Fault {
    /// What the listing says when this hits it.
    pub fn falsify(&self, jobs: &mut Vec<JobRow>) {
        let only = self.job.map(|j| j.to_string());
        let is_hit = |j: &JobRow| only.as_ref().is_none_or(|id| j.seen.id.as_str() == id);
        match self.kind {
            FaultKind::Missing => jobs.retain(|j| !is_hit(j)),
            FaultKind::OddState => {
                for job in jobs.iter_mut().filter(|j| is_hit(j)) {
                    job.seen.state = JobState::Unknown("LIMBO".to_owned());
                }
            }
            FaultKind::Hang
            | FaultKind::Error
            | FaultKind::Late
            | FaultKind::LostAnswer
            | FaultKind::HangAfter
            | FaultKind::Garbled => {}
        }
    }
}

/// All the faults that are set.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// With these from the start.
    pub const fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// Sets one more.
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// All of them.
    pub fn all(&self) -> &[Fault] {
        &self.0
    }

    /// The fault that hits this request now, counted down.
    pub fn take(&mut self, now: Timestamp, request: &Request) -> Option<Fault> {
        let command = CommandName::of(request)?;
        self.0.retain(|f| f.until.is_none_or(|t| now < t));
        let index = self.0.iter().position(|f| {
            let named = f.commands.is_empty() || f.commands.contains(&command);
            let lists = matches!(f.kind, FaultKind::Missing | FaultKind::OddState);
            named && (!lists || command == CommandName::Queue)
        })?;
        let hit = self.0[index].clone();
        if let Some(times) = &mut self.0[index].times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.0.remove(index);
            }
        }
        Some(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind, commands: &[CommandName], times: Option<u32>) -> Fault {
        Fault {
            kind,
            commands: commands.to_vec(),
            times,
            until: None,
            by: Span::ZERO,
            job: None,
        }
    }

    #[test]
    fn a_fault_hits_its_commands_so_often_and_no_longer() {
        let list = Request::List {
            all: true,
            key: None,
        };
        let now = Timestamp::from_secs(10);
        let mut faults = Faults::default();
        faults.add(fault(FaultKind::Hang, &[CommandName::Submit], Some(1)));
        faults.add(fault(FaultKind::Error, &[CommandName::Queue], Some(2)));
        let hits: Vec<_> = (0..3)
            .map(|_| faults.take(now, &list).map(|f| f.kind))
            .collect();
        assert_eq!(hits, [Some(FaultKind::Error), Some(FaultKind::Error), None]);
        assert_eq!(faults.all().len(), 1);
        assert_eq!(faults.take(now, &Request::Nodes), None);
        let mut timed = fault(FaultKind::Missing, &[], None);
        timed.until = Some(now);
        faults.add(timed);
        assert_eq!(faults.take(now, &list), None, "a fault hit at its end");
    }
}
