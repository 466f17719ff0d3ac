//! The record of a site: what was learned, as opposed to what is configured.

use std::collections::BTreeMap;

use super::EvictionLedger;
use protocol::codes::Reason;
use protocol::ids::{NodeName, SiteName};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// What is known of a site.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SiteRecord {
    /// [`super::RECORD_VERSION`].
    pub version: u32,
    /// Name.
    pub name: SiteName,
    /// Why it is being drained, if it is.
    pub draining: Option<Reason>,
    /// Why no pilot is submitted until an administrator has looked, if so.
    pub paused: Option<Reason>,
    /// Submits in a row that failed.
    pub submit_failures: u32,
    /// No submit before.
    pub not_before: Option<Timestamp>,
    /// The last round of submits.
    pub last_round: Option<Timestamp>,
    /// The LRM's words at the last failed submit.
    pub last_failure: Option<String>,
    /// Pilot jobs in a row that ended without ever registering.
    pub died_young: u32,
    /// How long our pilots overran their slots, ever.
    pub overrun: Span,
    /// Of a slot's time, how much our pilots said that guests could not use (boot, eviction,
    /// margins): the latest highest, slowly forgotten. Zero until one has said so.
    #[serde(default)]
    pub slot_cost: Span,
    /// Nodes on which guests failed, or pilots before they registered.
    pub nodes: BTreeMap<NodeName, NodeTrouble>,
    /// The last listing that could be read.
    pub last_listing: Option<Timestamp>,
    /// Since when the LRM gives no answer.
    pub silent_since: Option<Timestamp>,
    /// Pilots in a row that registered and left without any lease that ran.
    #[serde(default)]
    pub fruitless: u32,
    /// No submit before, because of those.
    #[serde(default)]
    pub fruitless_until: Option<Timestamp>,
    /// Why a pilot of this site declined a lease last, since one ran.
    #[serde(default)]
    pub last_decline: Option<String>,
    /// What no slot of this site takes, by its pilots' word. At most one of each cause.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
    /// How long a pilot job waits in the queue: the latest, averaged with those before.
    #[serde(default)]
    pub queue_time: Option<Span>,
    /// The last look-up of a single job.
    #[serde(default)]
    pub last_look_up: Option<Timestamp>,
    /// The rate of suspends that a pilot there measured last, for some hours.
    #[serde(default)]
    pub suspend_rate: Option<SuspendRate>,
    /// What our pilots have cost the site.
    #[serde(default)]
    pub courtesy: CourtesyLedger,
    /// How suspends there went, beside what was foreseen.
    #[serde(default)]
    pub evictions: EvictionLedger,
}

impl SiteRecord {
    /// That of a site that nothing is known of.
    pub fn new(name: SiteName) -> Self {
        Self {
            version: super::RECORD_VERSION,
            name,
            draining: None,
            paused: None,
            submit_failures: 0,
            not_before: None,
            last_round: None,
            last_failure: None,
            died_young: 0,
            overrun: Span::ZERO,
            slot_cost: Span::ZERO,
            nodes: BTreeMap::new(),
            last_listing: None,
            silent_since: None,
            fruitless: 0,
            fruitless_until: None,
            last_decline: None,
            refusals: Vec::new(),
            queue_time: None,
            last_look_up: None,
            suspend_rate: None,
            courtesy: CourtesyLedger::default(),
            evictions: EvictionLedger::default(),
        }
    }
}

/// Failures on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeTrouble {
    /// Failures in a row there.
    pub failures: u32,
    /// It gets no guests before.
    pub avoid_until: Option<Timestamp>,
}

/// What a pilot of a site declined for a reason that holds in every slot of the site. Forgotten
/// when the site's terms change, when such a guest runs there after all, and after some hours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// What is refused.
    pub what: Refused,
    /// The pilot's sentence.
    pub text: String,
    /// When.
    pub at: Timestamp,
    /// What the site had agreed to then.
    pub terms: Terms,
}

/// What no slot of a site takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "refused", rename_all = "snake_case")]
pub enum Refused {
    /// Guests with this much memory or more that must not be killed: the notice is too short.
    Notice {
        /// Memory, MiB.
        memory_mib: u64,
    },
    /// Guests that need more than this: the slots have less than was asked for.
    Room {
        /// What the slots have.
        given: Resources,
    },
}

/// How fast a pilot wrote the states of guests: a site's pilots share its store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SuspendRate {
    /// Mean, bytes a second.
    pub mean: u64,
    /// Number of measurements.
    pub count: u32,
    /// Where.
    pub node: NodeName,
    /// When the last of them was told.
    pub at: Timestamp,
}

/// What a refusal depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// The notice that the site guarantees.
    pub notice: Span,
    /// Safety before every deadline.
    pub margin: Span,
    /// What a pilot job asks for.
    pub slot: Resources,
}

/// What our pilots have cost a site, by the slot: the courtesy ledger. How long they overran in
/// all is [`SiteRecord::overrun`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CourtesyLedger {
    /// Slots that are over.
    pub slots: u32,
    /// Of those, with a pilot that was still there after the slot's end.
    pub overruns: u32,
    /// The longest of those overruns.
    pub longest_overrun: Span,
    /// Times that something of ours was left on a node.
    pub leftovers: u32,
    /// Slots whose LRM asked for the node before the end, with a pilot that said when it was done.
    pub signalled: u32,
    /// In those, time from the first signal to the pilot's last word, summed.
    pub notice_used: Span,
    /// The longest of those.
    pub longest_notice_used: Span,
    /// How much we owe: each step halves the site's limits. One more for each slot that hurt the
    /// site, one less for so many in a row that did not.
    pub owed: u32,
    /// Slots in a row that did no harm.
    pub well: u32,
    /// The last harm, in words, and when.
    pub last_harm: Option<(Timestamp, String)>,
}
