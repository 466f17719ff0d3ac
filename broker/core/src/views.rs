//! Reads: what users and administrators see. Nothing here changes anything.

use protocol::api::{Courtesy, Page, PilotView, SiteView, SlotView, WorkspaceView};
use protocol::ids::{SiteName, SubmitKey, UserName, WorkspaceId};
use protocol::resources::Resources;
use protocol::time::Timestamp;
use protocol::workspace::WorkspaceState;

use crate::config::SiteConfig;
use crate::event::Caller;
use crate::records::{PilotRecord, WorkspaceRecord};
use crate::state::Broker;

/// Which workspaces a list shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkspaceFilter {
    /// Only of this owner; users see only their own anyway.
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

impl Default for WorkspaceFilter {
    fn default() -> Self {
        Self {
            owner: None,
            state: None,
            name: None,
            limit: 100,
            after: None,
        }
    }
}

/// Collects at most `limit` rows (at least one); `next` names the last of them if there are more.
fn page<R, V>(
    mut rows: impl Iterator<Item = R>,
    limit: usize,
    name: impl Fn(&R) -> String,
    view: impl Fn(R) -> V,
) -> Page<V> {
    let limit = limit.max(1);
    let mut items = Vec::new();
    let mut last = None;
    for row in rows.by_ref().take(limit) {
        last = Some(name(&row));
        items.push(view(row));
    }
    let next = rows.next().and(last);
    Page { items, next }
}

impl Broker {
    pub(crate) fn view(&self, id: &WorkspaceId) -> Option<WorkspaceView> {
        self.tables.workspaces.get(id).map(|w| self.view_of(w))
    }

    fn view_of(&self, w: &WorkspaceRecord) -> WorkspaceView {
        let lease = self.tables.leases.get(&w.id);
        WorkspaceView {
            id: w.id.clone(),
            owner: w.owner.clone(),
            state: w.state,
            reason: w.reason.clone(),
            accepted: w.accepted,
            since: w.since,
            generation: w.generation,
            slot: lease.map(|l| l.slot.clone()),
            node: lease.map(|l| l.node.clone()),
            saved: w.saved.clone(),
            run: lease.map_or(w.run, |l| l.run.max(w.run)),
            suspends: w.suspends,
            restarts: w.restarts(),
            spec: w.spec.clone(),
        }
    }

    /// A workspace that the caller may see.
    pub fn workspace(&self, by: &Caller, id: &WorkspaceId) -> Option<WorkspaceView> {
        self.tables
            .workspaces
            .get(id)
            .filter(|w| by.may_touch(&w.owner))
            .map(|w| self.view_of(w))
    }

    /// True when there is a record of this workspace, whoever owns it.
    pub fn knows(&self, id: &WorkspaceId) -> bool {
        self.tables.workspaces.contains_key(id)
    }

    /// The workspaces that the caller may see, in order of acceptance.
    pub fn workspaces(&self, by: &Caller, filter: &WorkspaceFilter) -> Page<WorkspaceView> {
        let after = (filter.after.as_deref())
            .and_then(|a| a.parse::<u64>().ok())
            .unwrap_or(0);
        let only = match (by, &filter.owner) {
            (Caller::User(name), _) => Some(name),
            (Caller::Admin(_), owner) => owner.as_ref(),
        };
        let numbers: Box<dyn Iterator<Item = u64> + '_> = match only {
            Some(owner) => Box::new(
                (self.tables.owners.get(owner).into_iter())
                    .flat_map(move |o| o.numbers.range(after + 1..).copied()),
            ),
            None => Box::new(self.tables.numbers.range(after + 1..).map(|(n, _)| *n)),
        };
        let rows = numbers
            .filter_map(|n| self.tables.workspaces.get(self.tables.numbers.get(&n)?))
            .filter(|w| filter.owner.as_ref().is_none_or(|o| w.owner == *o))
            .filter(|w| filter.state.is_none_or(|s| w.state == s))
            .filter(|w| filter.name.as_ref().is_none_or(|n| w.spec.name == *n));
        page(
            rows,
            filter.limit,
            |w| w.number.to_string(),
            |w| self.view_of(w),
        )
    }

    /// A site.
    pub fn site(&self, now: Timestamp, name: &SiteName) -> Option<SiteView> {
        self.site_config(name).map(|s| self.site_view(now, s))
    }

    /// All sites, in configured order.
    pub fn sites(&self, now: Timestamp) -> Vec<SiteView> {
        (self.config().sites.iter())
            .map(|s| self.site_view(now, s))
            .collect()
    }

    fn site_view(&self, now: Timestamp, site: &SiteConfig) -> SiteView {
        let known = self.tables.site(&site.name);
        let counts = self.counts(now, site);
        SiteView {
            name: site.name.clone(),
            lrm: site.lrm.clone().unwrap_or_else(|| "none".to_owned()),
            draining: known.draining.is_some(),
            queued: counts.queued,
            running: counts.running,
            slot: site.slot,
            walltime: site.walltime_max,
            held_back: self.held_back_reason(now, site),
            why: self.why(now, site),
            overrun: known.overrun,
            courtesy: Courtesy {
                slots: known.courtesy.slots,
                overruns: known.courtesy.overruns,
                longest_overrun: known.courtesy.longest_overrun,
                leftovers: known.courtesy.leftovers,
                signalled: known.courtesy.signalled,
                notice_used: known.courtesy.notice_used,
                longest_notice_used: known.courtesy.longest_notice_used,
                owed: known.courtesy.owed,
            },
        }
    }

    /// Pilot jobs, in order of their keys. `after` is a [`Page::next`].
    pub fn pilots(
        &self,
        site: Option<&SiteName>,
        limit: usize,
        after: Option<&str>,
    ) -> Page<PilotView> {
        page(
            self.pilot_rows(site, after),
            limit,
            |p| p.key.to_string(),
            |p| PilotView {
                submit_key: p.key.clone(),
                site: p.site.clone(),
                nodes: p.nodes,
                lrm_job_id: p.job.clone(),
                state: p.state,
                created: p.created,
                reason: p.reason.clone(),
            },
        )
    }

    /// Slots, in order of their keys.
    pub fn slots(
        &self,
        site: Option<&SiteName>,
        limit: usize,
        after: Option<&str>,
    ) -> Page<SlotView> {
        let rows = self
            .pilot_rows(site, after)
            .filter_map(|p| Some((p, p.slot.as_ref()?)));
        page(
            rows,
            limit,
            |(p, _)| p.key.to_string(),
            |(p, slot)| {
                let leases: Vec<_> = self.tables.leases_of(&p.key).collect();
                let promised = (leases.iter())
                    .filter(|l| l.boot == slot.boot && l.phase.is_none())
                    .fold(Resources::default(), |sum, l| sum.plus(&l.resources));
                SlotView {
                    submit_key: p.key.clone(),
                    incarnation: slot.facts.incarnation.clone(),
                    site: p.site.clone(),
                    node: slot.facts.node.clone(),
                    state: p.state,
                    resources: slot.facts.resources,
                    free: slot.free.minus(&promised),
                    start: slot.facts.start,
                    status: slot.status.clone(),
                    host: slot.host.clone(),
                    workspaces: leases.iter().map(|l| l.workspace.clone()).collect(),
                    used: slot.used,
                    heard: slot.heard,
                }
            },
        )
    }

    fn pilot_rows(
        &self,
        site: Option<&SiteName>,
        after: Option<&str>,
    ) -> impl Iterator<Item = &PilotRecord> {
        let from = match after.and_then(|a| SubmitKey::new(a).ok()) {
            Some(key) => std::ops::Bound::Excluded(key),
            None => std::ops::Bound::Unbounded,
        };
        self.tables
            .pilots
            .range((from, std::ops::Bound::Unbounded))
            .map(|(_, p)| p)
            .filter(move |p| site.is_none_or(|s| p.site == *s))
    }

    /// A pilot job's record, for the shell: its site, job id and state.
    pub fn pilot(&self, key: &SubmitKey) -> Option<&PilotRecord> {
        self.tables.pilots.get(key)
    }
}
