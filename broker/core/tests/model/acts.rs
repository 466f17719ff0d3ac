//! What can happen, and how often.

use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Debug)]
pub enum Act {
    Pass(u64),
    Tick,
    Submit {
        big: bool,
        minutes: u64,
        policy: u8,
    },
    Owner(u8, Index),
    SubmitAnswer(u8),
    OtherAnswer(u8),
    Listing {
        site: bool,
        lie: u8,
    },
    StartJob(Index),
    EndJob(Index, u8),
    Requeue(Index),
    Register(Index),
    Send(Index),
    Deliver(Index),
    Repeat(Index),
    Poll(Index),
    GetAnswer(Index),
    LoseAnswer(Index),
    TimeOut(Index),
    Progress(Index),
    /// Nothing goes wrong for once: submits, starts, a whole sync and a step on.
    Work(Index),
    Outcome(Index, u8),
    /// A guest's checkpoint is made; its pilot tells of it when it next sends.
    Checkpoint(Index),
    Evict(Index),
    Die(Index),
    Restart,
    Drain(bool, bool),
    /// Whatever is over for so many milliseconds is forgotten, a few records at a time.
    Forget(u64, usize),
}

pub fn act() -> impl Strategy<Value = Act> {
    let i = any::<Index>;
    prop_oneof![
        4 => (1u64..40_000).prop_map(Act::Pass),
        2 => (40_000u64..400_000).prop_map(Act::Pass),
        3 => Just(Act::Tick),
        3 => (any::<bool>(), 1u64..40, 0u8..6)
            .prop_map(|(big, minutes, policy)| Act::Submit { big, minutes, policy }),
        3 => (0u8..4, i()).prop_map(|(what, i)| Act::Owner(what, i)),
        4 => (0u8..8).prop_map(Act::SubmitAnswer),
        2 => (0u8..6).prop_map(Act::OtherAnswer),
        2 => (any::<bool>(), 0u8..6).prop_map(|(site, lie)| Act::Listing { site, lie }),
        5 => i().prop_map(Act::StartJob),
        1 => (i(), 0u8..4).prop_map(|(i, how)| Act::EndJob(i, how)),
        1 => i().prop_map(Act::Requeue),
        5 => i().prop_map(Act::Register),
        9 => i().prop_map(Act::Send),
        9 => i().prop_map(Act::Deliver),
        1 => i().prop_map(Act::Repeat),
        3 => i().prop_map(Act::Poll),
        9 => i().prop_map(Act::GetAnswer),
        1 => i().prop_map(Act::LoseAnswer),
        1 => i().prop_map(Act::TimeOut),
        6 => i().prop_map(Act::Progress),
        14 => i().prop_map(Act::Work),
        2 => (i(), 0u8..7).prop_map(|(i, how)| Act::Outcome(i, how)),
        4 => i().prop_map(Act::Checkpoint),
        1 => i().prop_map(Act::Evict),
        1 => i().prop_map(Act::Die),
        1 => Just(Act::Restart),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(site, on)| Act::Drain(site, on)),
        2 => (0u64..600_000, 0usize..4).prop_map(|(after, limit)| Act::Forget(after, limit)),
    ]
}
