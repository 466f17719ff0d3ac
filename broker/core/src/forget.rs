//! Forgetting what has been over for long, so that a broker that runs for years does not grow for
//! ever. The shell asks for it now and then, a few records at a time.
//!
//! A workspace goes with its log and its idempotency key: the same key makes a new workspace from
//! then on. Nothing goes that something may still come of: no workspace with a lease, a saved state
//! or a state that is still to be deleted; no pilot job that counts against its site's limits or
//! has a lease. A job on several nodes goes with all its pilots' records at once. A pilot that comes
//! after its pilot job was forgotten is told that there is none, and leaves.

use std::collections::BTreeSet;

use protocol::api::PilotState;
use protocol::ids::{SubmitKey, WorkspaceId};
use protocol::time::Timestamp;

use crate::crowd::is_live;
use crate::effect::Reply;
use crate::records::{PilotRecord, WorkspaceRecord};
use crate::state::Broker;

impl Broker {
    /// Forgets at most `limit` workspaces and pilot jobs of what ended before `ended_before`, the
    /// oldest workspaces first, then pilot jobs.
    pub(crate) fn forget(&mut self, ended_before: Timestamp, limit: usize) -> Reply {
        let states: BTreeSet<String> = (self.tables.discards.values())
            .filter_map(|d| d.state.as_str().rsplit_once(".g"))
            .map(|(workspace, _)| workspace.to_owned())
            .collect();
        let workspaces: Vec<WorkspaceId> = (self.tables.numbers.values())
            .filter_map(|id| self.tables.workspaces.get(id))
            .filter(|w| self.is_past(w, ended_before) && !states.contains(w.id.as_str()))
            .take(limit)
            .map(|w| w.id.clone())
            .collect();
        let pilots: Vec<SubmitKey> = (self.tables.pilots.values())
            .filter(|p| self.is_past_job(p, ended_before))
            .take(limit - workspaces.len())
            .flat_map(|p| std::iter::once(p).chain(self.tables.members(&p.key)))
            .map(|p| p.key.clone())
            .collect();
        for id in &workspaces {
            self.tables.forget_workspace(id);
        }
        for key in &pilots {
            self.tables.forget_pilot(key);
        }
        Reply::Forgotten {
            records: workspaces.len() + pilots.len(),
        }
    }

    fn is_past(&self, w: &WorkspaceRecord, ended_before: Timestamp) -> bool {
        w.state.is_final()
            && w.since < ended_before
            && w.saved.is_none()
            && !self.tables.leases.contains_key(&w.id)
    }

    /// True for a pilot job all of whose pilots are past. A member goes with its job: without its
    /// record a pilot that was replaced would be taken for one that is new.
    fn is_past_job(&self, p: &PilotRecord, ended_before: Timestamp) -> bool {
        p.member_of.is_none()
            && self.is_past_pilot(p, ended_before)
            && (self.tables.members(&p.key)).all(|m| self.is_past_pilot(m, ended_before))
    }

    fn is_past_pilot(&self, p: &PilotRecord, ended_before: Timestamp) -> bool {
        p.state == PilotState::Ended
            && p.since < ended_before
            && !is_live(p)
            && self.tables.leases_of(&p.key).next().is_none()
    }
}
