//! What suspends cost on the nodes of a site: kept from one slot to the next, and given to the
//! pilots that come after.
//!
//! A pilot tells its latest measurements with each sync; those that are new are added to the record
//! of its node. A new pilot gets the record of its node, if the store's file system is the same
//! there; else a few measurements of the nodes that were heard last, not enough to be believed
//! without care unless they are of several nodes. By the same few it is judged which guests a site's
//! slots can suspend at all.
//!
//! What makes a node look slower than nothing known would is forgotten after
//! `provision.refused_for`: it keeps away the very guests that would show that it is well again.

use protocol::ids::{NodeName, SiteName, SubmitKey};
use protocol::messages::{CostReport, KnownCosts, PilotEvent, SyncRequest};
use protocol::notice;
use protocol::suspend_cost::{CostLine, CostModel, ENOUGH, Samples};
use protocol::time::{Span, Timestamp};

use crate::config::SiteConfig;
use crate::records::{CostRecord, EvictionLedger, RECORD_VERSION};
use crate::state::Broker;
use crate::tables::Tables;
use crate::words::{self, count, hour};

/// Nodes of a site that are remembered, those heard last.
const NODES: usize = 64;
/// Of so many of them a new pilot on another node hears.
const HEARD_OF: usize = ENOUGH - 1;
/// What is not slow is forgotten after so long without a word.
const KEPT_FOR: Span = Span::from_mins(30 * 24 * 60);
/// Nodes that are told of in an explanation.
const TOLD: usize = 3;
/// Memory of the guest in the examples, MiB.
const EXAMPLE_MIB: u64 = 1024;

impl Tables {
    pub(crate) fn put_cost(&mut self, c: CostRecord) {
        let key = (c.site.clone(), c.node.clone());
        self.costs.insert(key.clone(), c);
        self.cost_changed(key);
    }

    fn remove_cost(&mut self, site: &SiteName, node: &NodeName) {
        let key = (site.clone(), node.clone());
        if self.costs.remove(&key).is_some() {
            self.cost_changed(key);
        }
    }

    fn cost_changed(&mut self, key: (SiteName, NodeName)) {
        match self.site_budget(&key.0) {
            Some(budget) => self.budgets.insert(key.0.clone(), budget),
            None => self.budgets.remove(&key.0),
        };
        self.touch_cost(key);
    }

    /// The records of a site, heard last first.
    pub(crate) fn costs_at(&self, site: &SiteName) -> Vec<&CostRecord> {
        let from = (site.clone(), NodeName::least());
        let of_site = (self.costs.range(from..)).take_while(|((s, _), _)| s == site);
        let mut records: Vec<_> = of_site.map(|(_, c)| c).collect();
        records.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.node.cmp(&b.node)));
        records
    }

    /// A few measurements for a node that nothing is known of; none of another file system.
    fn of_others(&self, site: &SiteName, filesystem: Option<&str>) -> (Samples, u32) {
        let mut records = self.costs_at(site);
        let latest = records.first().map(|c| c.filesystem.clone());
        let wanted = filesystem.map(str::to_owned).or(latest);
        records.retain(|c| Some(&c.filesystem) == wanted.as_ref());
        records.truncate(HEARD_OF);
        let each = (ENOUGH - 1) / records.len().max(1);
        let oldest_first = records.iter().rev();
        let samples = oldest_first.flat_map(|c| c.samples.latest(each.max(1)));
        let nodes = u32::try_from(records.len()).unwrap_or(u32::MAX);
        (samples.collect(), nodes)
    }

    /// The time that a pilot on a new node of this site sets aside for a suspend, when something is
    /// known of other nodes.
    fn site_budget(&self, site: &SiteName) -> Option<CostLine> {
        let (samples, nodes) = self.of_others(site, None);
        (!samples.is_empty()).then(|| CostModel::of_others(&samples, nodes).budget)
    }
}

impl Broker {
    /// What a pilot that registers is told.
    pub(crate) fn known_costs(
        &self,
        site: &SiteName,
        node: &NodeName,
        filesystem: &str,
    ) -> Option<KnownCosts> {
        let own = self.tables.costs.get(&(site.clone(), node.clone()));
        let own = own.filter(|c| c.filesystem == filesystem);
        let (samples, nodes) = match own {
            Some(own) => (own.samples.clone(), 1),
            None => self.tables.of_others(site, Some(filesystem)),
        };
        (!samples.is_empty()).then(|| KnownCosts {
            of_node: own.is_some(),
            nodes,
            samples: samples.iter().copied().collect(),
        })
    }

    /// Takes what a pilot has measured since it told last.
    pub(crate) fn learn_costs(&mut self, now: Timestamp, key: &SubmitKey, request: &SyncRequest) {
        let Some(report) = &request.costs else {
            return;
        };
        let Some((p, slot)) =
            (self.tables.pilots.get(key)).and_then(|p| Some((p, p.slot.as_ref()?)))
        else {
            return;
        };
        let new = report.measured.saturating_sub(slot.costs_measured);
        let new_samples = usize::try_from(new).unwrap_or(usize::MAX);
        let samples = (report.samples.iter().rev())
            .take(new_samples.min(CostReport::MOST))
            .rev();
        let samples: Vec<_> = samples.copied().collect();
        if samples.is_empty() {
            return;
        }
        let (site, node) = (p.site.clone(), slot.facts.node.clone());
        let filesystem = slot.host.store_filesystem.clone();
        let memory = self.site_config(&site).map(|s| s.slot.memory_mib);
        let known = self.tables.costs.get(&(site.clone(), node.clone()));
        let known = known.filter(|c| c.filesystem == filesystem);
        let (before, mut all) =
            known.map_or((0, Samples::default()), |c| (c.measured, c.samples.clone()));
        for sample in samples {
            all.push(sample);
        }
        let budget = CostModel::of(&all).budget;
        let slow = |memory: u64| {
            let bytes = notice::most_bytes(memory);
            budget.of(bytes) > notice::careful(notice::ASSUMED_RATE).of(bytes)
        };
        self.tables.put_cost(CostRecord {
            version: RECORD_VERSION,
            site: site.clone(),
            node,
            filesystem,
            measured: before + u64::from(new),
            at: now,
            slow: memory.is_none_or(slow),
            samples: all,
        });
        let surplus: Vec<_> = (self.tables.costs_at(&site).into_iter().skip(NODES))
            .map(|c| c.node.clone())
            .collect();
        for node in surplus {
            self.tables.remove_cost(&site, &node);
        }
    }

    /// Forgets what is old.
    pub(crate) fn forget_costs(&mut self, now: Timestamp) {
        let after = self.config().provision.refused_for;
        let old: Vec<_> = (self.tables.costs.values())
            .filter(|c| c.at + if c.slow { after } else { KEPT_FOR } <= now)
            .map(|c| (c.site.clone(), c.node.clone()))
            .collect();
        for (site, node) in old {
            self.tables.remove_cost(&site, &node);
        }
    }

    /// Forgets all of a site, at the wish of an administrator.
    pub(crate) fn forget_costs_of(&mut self, site: &SiteName) {
        let nodes: Vec<_> = (self.tables.costs_at(site).into_iter())
            .map(|c| c.node.clone())
            .collect();
        for node in nodes {
            self.tables.remove_cost(site, &node);
        }
    }

    /// A guest had to go: how long its suspend took beside what was set aside for it.
    pub(crate) fn note_eviction(&mut self, key: &SubmitKey, e: &PilotEvent) {
        let number = |name: &str| e.data.get(name).and_then(serde_json::Value::as_u64);
        let is = |name: &str, value: &str| e.data.get(name).is_some_and(|v| v == value);
        let (Some(actual), Some(budget)) = (number("actual_ms"), number("budget_ms")) else {
            return;
        };
        let Some(site) = self.tables.pilots.get(key).map(|p| p.site.clone()) else {
            return;
        };
        if is("means", "suspend") && is("outcome", "suspended") {
            (self.tables).edit_site(&site, |s| s.evictions.push(actual, budget));
        }
    }

    /// What is known of a site's suspends, in sentences.
    pub(crate) fn costs_told(&self, now: Timestamp, site: &SiteConfig) -> Vec<String> {
        let records = self.tables.costs_at(&site.name);
        let mut told: Vec<String> = (records.iter().take(TOLD))
            .map(|c| {
                let cost = CostModel::of(&c.samples).cost(notice::most_bytes(EXAMPLE_MIB));
                let on = if c.filesystem.is_empty() {
                    String::new()
                } else {
                    format!(" (store on {})", c.filesystem)
                };
                format!(
                    "on node {}{on} {} measured, the last told at {}: {} is expected to take {}, and {} are set aside",
                    c.node,
                    suspends(c.measured, "was", "were"),
                    hour(c.at, now),
                    words::memory(EXAMPLE_MIB),
                    cost.expected,
                    cost.budget
                )
            })
            .collect();
        if records.len() > TOLD {
            let more = u32::try_from(records.len() - TOLD).unwrap_or(u32::MAX);
            told.push(format!(
                "suspends are known of {}",
                count(more, "more node")
            ));
        }
        told.extend(ledger(&self.tables.site(&site.name).evictions));
        told
    }
}

fn suspends(n: u64, one: &str, more: &str) -> String {
    if n == 1 {
        format!("1 suspend {one}")
    } else {
        format!("{n} suspends {more}")
    }
}

fn ledger(e: &EvictionLedger) -> Option<String> {
    let (half, most, worst) = (e.percentile(50)?, e.percentile(95)?, e.percentile(100)?);
    Some(format!(
        "of the last {}, half took at most {half} % of the time that was set aside, 95 of 100 at most {most} %, the slowest {worst} %; {} ever took longer than that time",
        suspends(e.percent.len() as u64, "", "").trim_end(),
        match e.over {
            0 => "none".to_owned(),
            n => n.to_string(),
        }
    ))
}
