//! The record of a site: what was learned, as opposed to what is configured.

use std::collections::BTreeMap;

use protocol::codes::Reason;
use protocol::ids::{NodeName, SiteName};
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
    /// Nodes on which guests failed.
    pub nodes: BTreeMap<NodeName, NodeTrouble>,
    /// The last listing that could be read.
    pub last_listing: Option<Timestamp>,
    /// Since when the LRM gives no answer.
    pub silent_since: Option<Timestamp>,
}

impl SiteRecord {
    /// That of a site that nothing is known of.
    pub const fn new(name: SiteName) -> Self {
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
        }
    }
}

/// Failures on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeTrouble {
    /// Guests in a row that failed there.
    pub failures: u32,
    /// It gets no guests before.
    pub avoid_until: Option<Timestamp>,
}
