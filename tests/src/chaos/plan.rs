//! What goes wrong when: drawn from the seed before anything starts. The same seed makes the same
//! plan; whom an act meets depends on who is there at that moment.

use std::time::Duration;

use crate::harness::proxy::Fault;
use crate::simulation::Chance;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// SIGKILL to a pilot.
    KillPilot,
    /// SIGSTOP to a pilot, SIGCONT so much later.
    StopPilot(Duration),
    /// SIGTERM to a pilot, as by a batch system that tells nobody else; so many times in a row.
    TermPilot(u32),
    /// SIGKILL to a warden.
    KillWarden,
    /// SIGKILL to a guest's hypervisor.
    KillGuest,
    /// SIGSTOP to a guest's hypervisor, SIGCONT so much later.
    StopGuest(Duration),
    /// SIGKILL to the broker, which is started again so much later.
    RestartBroker(Duration),
    /// SIGKILL to a batch system's daemon, which is started again so much later; its jobs run on.
    RestartLrm(Duration),
    /// A job of the site itself takes a pilot job's node.
    Preempt,
    /// A pilot job is started again under its id.
    Requeue,
    /// A node is drained and comes back so much later.
    Drain(Duration),
    /// A pilot job loses some of its walltime.
    Shorten(Duration),
    /// A job of the site itself is queued, which needs a whole node for so long.
    SiteJob(Duration),
    /// A pilot job is cancelled behind the broker's back.
    CancelJob,
    /// The batch system does a command, and its answer is lost; or it lies in its listing.
    LrmFault(LrmFault),
    /// One site's store has no space left for so long.
    FillDisk(Duration),
    /// One slot is cut off from the broker for so long.
    CutSlot(Duration),
    /// All slots are.
    CutAll(Duration),
    /// So many calls between pilots and broker go wrong like this.
    Net(Fault, u32),
    /// A user cancels a request.
    CancelRequest,
}

/// How a batch system misbehaves toward the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LrmFault {
    /// A submit is done and its answer is lost.
    LostSubmit,
    /// A submit is done and hangs.
    HungSubmit,
    /// The listing leaves all jobs out, some times in a row.
    Missing,
    /// The listing cannot be read.
    Garbled,
}

impl Act {
    /// A stable name for summaries.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::KillPilot => "kill_pilot",
            Self::StopPilot(_) => "stop_pilot",
            Self::TermPilot(_) => "term_pilot",
            Self::KillWarden => "kill_warden",
            Self::KillGuest => "kill_guest",
            Self::StopGuest(_) => "stop_guest",
            Self::RestartBroker(_) => "restart_broker",
            Self::RestartLrm(_) => "restart_lrm",
            Self::Preempt => "preempt",
            Self::Requeue => "requeue",
            Self::Drain(_) => "drain",
            Self::Shorten(_) => "shorten",
            Self::SiteJob(_) => "site_job",
            Self::CancelJob => "cancel_job",
            Self::LrmFault(LrmFault::LostSubmit) => "lrm_lost_submit",
            Self::LrmFault(LrmFault::HungSubmit) => "lrm_hung_submit",
            Self::LrmFault(LrmFault::Missing) => "lrm_missing",
            Self::LrmFault(LrmFault::Garbled) => "lrm_garbled",
            Self::FillDisk(_) => "fill_disk",
            Self::CutSlot(_) => "cut_slot",
            Self::CutAll(_) => "cut_all",
            Self::Net(fault, _) => fault.kind(),
            Self::CancelRequest => "cancel_request",
        }
    }
}

/// An act with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Counted from the first request.
    pub at: Duration,
    /// What.
    pub act: Act,
    /// Chooses among those whom it can meet: the one with this number, modulo how many there are.
    pub pick: u64,
}

/// Kinds with their weights.
const KINDS: [(u64, Kind); 22] = [
    (10, Kind::KillPilot),
    (8, Kind::StopPilot),
    (8, Kind::TermPilot),
    (5, Kind::KillWarden),
    (5, Kind::KillGuest),
    (3, Kind::StopGuest),
    (4, Kind::RestartBroker),
    (4, Kind::RestartLrm),
    (12, Kind::Preempt),
    (6, Kind::Requeue),
    (4, Kind::Drain),
    (5, Kind::Shorten),
    (4, Kind::SiteJob),
    (5, Kind::CancelJob),
    (4, Kind::LrmFault),
    (4, Kind::FillDisk),
    (7, Kind::CutSlot),
    (3, Kind::CutAll),
    (4, Kind::Lost),
    (4, Kind::Repeated),
    (4, Kind::Late),
    (3, Kind::CancelRequest),
];

/// An [`Act`] without its numbers.
#[derive(Debug, Clone, Copy)]
enum Kind {
    KillPilot,
    StopPilot,
    TermPilot,
    KillWarden,
    KillGuest,
    StopGuest,
    RestartBroker,
    RestartLrm,
    Preempt,
    Requeue,
    Drain,
    Shorten,
    SiteJob,
    CancelJob,
    LrmFault,
    FillDisk,
    CutSlot,
    CutAll,
    Lost,
    Repeated,
    Late,
    CancelRequest,
}

/// The plan of a campaign of this length.
pub fn draw(seed: u64, length: Duration) -> Vec<Planned> {
    let mut chance = Chance::new(seed);
    let mut plan = Vec::new();
    // The first pilots have to be there.
    let mut at = Duration::from_secs(6);
    while at < length {
        let act = act(&mut chance);
        let pick = chance.between(0, u64::from(u32::MAX));
        plan.push(Planned { at, act, pick });
        at += chance.millis(900, 3600).as_duration();
    }
    plan
}

fn kind(chance: &mut Chance) -> Kind {
    let all: u64 = KINDS.iter().map(|(weight, _)| weight).sum();
    let mut drawn = chance.between(0, all - 1);
    for (weight, kind) in KINDS {
        if drawn < weight {
            return kind;
        }
        drawn -= weight;
    }
    Kind::KillPilot
}

fn act(chance: &mut Chance) -> Act {
    let mut span = |min, max| chance.millis(min, max).as_duration();
    // All are drawn, so that the numbers of one kind do not move those of the next.
    let (short, long, cut) = (span(200, 3000), span(2000, 9000), span(2000, 25_000));
    let some = u32::try_from(chance.between(3, 20)).unwrap_or(3);
    let which = chance.between(0, 11);
    match kind(chance) {
        Kind::KillPilot => Act::KillPilot,
        Kind::StopPilot => Act::StopPilot(long),
        Kind::TermPilot => Act::TermPilot(if which < 6 { 1 } else { some }),
        Kind::KillWarden => Act::KillWarden,
        Kind::KillGuest => Act::KillGuest,
        Kind::StopGuest => Act::StopGuest(long),
        Kind::RestartBroker => Act::RestartBroker(short),
        Kind::RestartLrm => Act::RestartLrm(short),
        Kind::Preempt => Act::Preempt,
        Kind::Requeue => Act::Requeue,
        Kind::Drain => Act::Drain(long),
        Kind::Shorten => Act::Shorten(long),
        Kind::SiteJob => Act::SiteJob(long),
        Kind::CancelJob => Act::CancelJob,
        Kind::LrmFault => Act::LrmFault(match which % 4 {
            0 => LrmFault::LostSubmit,
            1 => LrmFault::HungSubmit,
            2 => LrmFault::Missing,
            _ => LrmFault::Garbled,
        }),
        Kind::FillDisk => Act::FillDisk(long),
        Kind::CutSlot => Act::CutSlot(cut),
        Kind::CutAll => Act::CutAll(cut.min(Duration::from_secs(15))),
        Kind::Lost => Act::Net(
            match which % 3 {
                0 => Fault::DropCall,
                1 => Fault::DropAnswer,
                _ => Fault::TornAnswer,
            },
            some,
        ),
        Kind::Repeated => Act::Net(
            Fault::Repeat(if which < 4 { Duration::ZERO } else { cut }),
            some,
        ),
        Kind::Late => Act::Net(
            if which < 6 {
                Fault::Overtaken
            } else {
                Fault::Delay(short)
            },
            some,
        ),
        Kind::CancelRequest => Act::CancelRequest,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_plan_and_a_longer_one_begins_like_it() {
        let two = draw(7, Duration::from_secs(120));
        assert_eq!(two, draw(7, Duration::from_secs(120)));
        let eight = draw(7, Duration::from_secs(480));
        assert!(
            eight.len() > 150 && eight.starts_with(&two),
            "{}",
            eight.len()
        );
        assert_ne!(two, draw(8, Duration::from_secs(120)));
    }

    #[test]
    fn a_long_plan_has_every_kind() {
        let plan = draw(1, Duration::from_secs(3600));
        let kinds: BTreeSet<&str> = plan.iter().map(|p| p.act.kind()).collect();
        // 18 acts of one name each, four faults of batch systems, six of the network.
        assert_eq!(kinds.len(), 18 + 4 + 6, "{kinds:?}");
        let mut times = plan.windows(2);
        assert!(times.all(|w| w[0].at < w[1].at));
    }
}
