//! The broker's state: all records and what is derived from them. One owner, one step at a time.

use protocol::api::{Explanation, Page, PilotView, SiteView, SlotView, WorkspaceView};
use protocol::ids::{SiteName, SubmitKey, UserName, WorkspaceId};
use protocol::time::Timestamp;
use protocol::workspace::WorkspaceState;

use crate::changes::{Changes, Records};
use crate::config::BrokerConfig;
use crate::effect::{Reply, Step};
use crate::event::{Caller, Event};

/// The broker. Made by [`Broker::load`], moved by [`Broker::step`].
#[derive(Clone, Debug)]
pub struct Broker {
    config: BrokerConfig,
    records: Records,
}

/// Which workspaces a list shows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WorkspaceFilter {
    /// Only of this owner (an administrator's filter; users see their own anyway).
    pub owner: Option<UserName>,
    /// Only in this state.
    pub state: Option<WorkspaceState>,
    /// Only with this name.
    pub name: Option<String>,
    /// At most so many rows.
    pub limit: usize,
    /// Go on after this [`Page::next`].
    pub after: Option<String>,
}

impl Broker {
    /// Rebuilds everything from what was stored. In a new process, send [`Event::Started`] next.
    pub fn load(config: BrokerConfig, records: Records) -> Self {
        Self { config, records }
    }

    /// Takes one event: changes the state, says what to store, to do and to answer.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Step {
        let _ = (now, event);
        Step {
            changes: Changes::default(),
            effects: Vec::new(),
            reply: Reply::None,
        }
    }

    /// When the next [`Event::Tick`] is due, if time alone can change anything.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        None
    }

    /// A workspace that the caller may see.
    pub fn workspace(&self, by: &Caller, id: &WorkspaceId) -> Option<WorkspaceView> {
        let _ = (by, id, &self.records);
        None
    }

    /// The workspaces that the caller may see, in order of acceptance.
    pub fn workspaces(&self, by: &Caller, filter: &WorkspaceFilter) -> Page<WorkspaceView> {
        let _ = (by, filter);
        Page {
            items: Vec::new(),
            next: None,
        }
    }

    /// Why a workspace is where it is.
    pub fn explain(&self, now: Timestamp, by: &Caller, id: &WorkspaceId) -> Option<Explanation> {
        let _ = (now, by, id);
        None
    }

    /// A site.
    pub fn site(&self, now: Timestamp, name: &SiteName) -> Option<SiteView> {
        let _ = (now, name, &self.config);
        None
    }

    /// All sites, in configured order.
    pub fn sites(&self, now: Timestamp) -> Vec<SiteView> {
        let _ = now;
        Vec::new()
    }

    /// Why pilots are, or are not, submitted at a site.
    pub fn explain_site(&self, now: Timestamp, name: &SiteName) -> Option<Explanation> {
        let _ = (now, name);
        None
    }

    /// Pilot jobs, oldest first. `after` is a [`Page::next`]; `limit` is at most the rows given.
    pub fn pilots(
        &self,
        site: Option<&SiteName>,
        limit: usize,
        after: Option<&str>,
    ) -> Page<PilotView> {
        let _ = (site, limit, after);
        Page {
            items: Vec::new(),
            next: None,
        }
    }

    /// Slots, oldest first.
    pub fn slots(
        &self,
        site: Option<&SiteName>,
        limit: usize,
        after: Option<&str>,
    ) -> Page<SlotView> {
        let _ = (site, limit, after);
        Page {
            items: Vec::new(),
            next: None,
        }
    }

    /// True when `slot` has, or had as its latest, this lease: its console may be taken from there.
    pub fn had_lease(
        &self,
        slot: &SubmitKey,
        workspace: &WorkspaceId,
        generation: protocol::ids::Generation,
    ) -> bool {
        let _ = (slot, workspace, generation);
        false
    }
}
