//! The promises, checked when all is over: by what pilots and batch systems wrote down, by what was
//! seen, and by what the broker tells.
//!
//! A fault excuses only what it makes impossible: a pilot that was stopped in its notice cannot
//! leave in time, one that was killed cannot suspend. All else must hold whatever happened.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use protocol::api::EventView;
use protocol::ids::{SubmitKey, WorkspaceId};
use protocol::time::{Span, Timestamp};
use protocol::workspace::OnEviction;

use super::ground::Ground;
use super::logs::{self, Run, Stay, Stays};
use super::onlooker::Notes;
use super::story::Story;
use super::stream::{Request, Stream};
use super::summary::{Ratios, Summary};
use crate::harness::sound;

/// What takes a guest away without its pilot having a choice.
const HITS_ON_GUESTS: [&str; 4] = ["kill_pilot", "stop_pilot", "kill_guest", "stop_guest"];
/// A full disk is felt for so long after it has room again: a failed suspend waits before it is
/// tried again.
const AFTER_FULL: Span = Span::from_secs(10);

/// Everything that the check looks at.
pub(super) struct Evidence<'a> {
    pub ground: &'a Ground,
    pub stream: &'a Stream,
    pub story: &'a Story,
    pub notes: &'a Notes,
}

/// One start of a pilot job, by its batch system.
struct Slot<'a> {
    site: &'a str,
    notice: Span,
    key: String,
    run: Run,
}

impl Evidence<'_> {
    /// Checks all of it and writes it into the summary.
    ///
    /// # Errors
    /// The broker or a batch system does not tell what is asked.
    pub(super) async fn judge(&self, summary: &mut Summary) -> Result<()> {
        let stays = logs::stays(&self.ground.place().join("broker/pilot-jobs"));
        let slots = self.slots(summary).await?;
        self.requests(summary).await?;
        count(&stays, self.stream, summary);
        self.overruns(&slots, summary);
        self.doubled(&stays, summary);
        self.killed(&stays, &slots, summary);
        Ok(())
    }

    /// All starts of pilot jobs; each key was submitted once.
    async fn slots(&self, summary: &mut Summary) -> Result<Vec<Slot<'_>>> {
        let mut slots = Vec::new();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for site in &self.ground.sites {
            let mut keys = BTreeMap::new();
            for job in self.ground.jobs(site.name).await? {
                let Some(key) = job.key else { continue };
                if let Some(other) = seen.insert(key.clone(), job.id.clone()) {
                    let text = format!("{key} was submitted twice: jobs {other} and {}", job.id);
                    summary.violations.push(text);
                }
                keys.insert(job.id, key);
            }
            let log = fs::read_to_string(self.ground.log(site.name));
            let runs = logs::runs(&log.context("failed to read a batch system's log")?);
            for run in runs.into_values() {
                if let Some(key) = keys.get(&run.job) {
                    slots.push(Slot {
                        site: site.name,
                        notice: Span::from_secs(site.notice_s),
                        key: key.clone(),
                        run,
                    });
                }
            }
        }
        Ok(slots)
    }

    /// Every accepted request has exactly one final state, with a reason; its leases followed one
    /// another.
    async fn requests(&self, summary: &mut Summary) -> Result<()> {
        let mut ratios = Vec::new();
        for id in self.stream.accepted.keys() {
            let view = match self.ground.user.workspace(id).await {
                Ok(view) => view,
                Err(e) => {
                    summary.lost += 1;
                    let text = format!("{id} was accepted, and the broker does not know it: {e}");
                    summary.violations.push(text);
                    continue;
                }
            };
            *summary.requests.entry(view.state.to_string()).or_default() += 1;
            if !view.state.is_final() {
                summary.lost += 1;
                let why = self.ground.explain(id).await;
                let text = format!("{id} is {} and does not end: {why}", view.state);
                summary.violations.push(text);
                continue;
            }
            let events = self.ground.events(id).await?;
            let asleep = |key: &SubmitKey| self.story.met(key.as_str(), "stop_pilot");
            if let Err(e) = sound(&view, &events, asleep) {
                summary.violations.push(format!("the life of {id}: {e:#}"));
            }
            // Who stands still for seconds does not suspend meanwhile.
            let stopped = |e: &EventView| {
                let kinds = ["stop_pilot", "stop_guest"];
                let key = e.slot.as_ref().map_or("", SubmitKey::as_str);
                kinds.iter().any(|kind| self.story.met(key, kind))
            };
            ratios.extend(measured(events.iter().filter(|e| !stopped(e))));
        }
        summary.actual_budget = Ratios::of(ratios);
        Ok(())
    }

    /// Promises 1 and 7, by the batch systems' signals and by what was seen.
    fn overruns(&self, slots: &[Slot<'_>], summary: &mut Summary) {
        for slot in slots {
            let (Some(told), Some(killed)) = (slot.run.told, slot.run.killed) else {
                continue;
            };
            let had = killed.since(told);
            let mut hits = self.story.hits(&slot.key).iter();
            let stopped = hits.any(|h| h.kind == "stop_pilot" && h.touches(told, killed));
            if had >= slot.notice && !stopped {
                summary.overruns += 1;
                summary.violations.push(format!(
                    "slot {} at {}: the batch system had to kill it at {killed}, {had} after its \
                     first signal; the notice is {}",
                    slot.key, slot.site, slot.notice
                ));
            }
        }
        for (slot, notes) in &self.notes.slots {
            let key = slot.rsplit_once(".r").map_or(slot.as_str(), |(key, _)| key);
            // Nobody is left to look at the clock.
            let unguarded = self.story.met(key, "stop_pilot") && self.story.met(key, "kill_warden");
            if let Some(what) = notes.overdue.as_ref().filter(|_| !unguarded) {
                summary.overruns += 1;
                let text = format!("slot {slot}: {what} was there after the kill time");
                summary.violations.push(text);
            }
        }
    }

    /// Promise 2, by what was seen of hypervisors and by what the pilots wrote down on their nodes.
    fn doubled(&self, stays: &Stays, summary: &mut Summary) {
        for twice in &self.notes.doubled {
            summary.doubled += 1;
            summary
                .violations
                .push(format!("a guest ran twice at once: {twice}"));
        }
        for (at, stay) in stays {
            let Some(over) = self.over(stay) else {
                continue;
            };
            let next = (at.0.clone(), at.1 + 1)..(at.0.clone(), u64::MAX);
            for (later, other) in stays.range(next) {
                if other.started.is_some_and(|started| started < over) {
                    summary.doubled += 1;
                    summary.violations.push(format!(
                        "{}: its guest of generation {} in slot {} was over at {over}, and \
                         generation {} had begun in slot {} at {:?}",
                        at.0, at.1, stay.slot, later.1, other.slot, other.started
                    ));
                }
            }
        }
    }

    /// When the guest of a stay was gone for sure; none when it never started.
    fn over(&self, stay: &Stay) -> Option<Timestamp> {
        let started = stay.started?;
        let by_word = stay.end.as_ref().map(|(at, _, _)| *at);
        let seen = self.notes.slots.get(&stay.slot).and_then(|n| n.pilot_seen);
        let over = by_word.or(seen).unwrap_or(started);
        // While its pilot was stopped, a null guest was stopped as well; real ones were seen.
        let mut hits = self.story.hits(&stay.key).iter();
        let stop = hits.find(|h| h.kind == "stop_pilot" && h.touches(started, over));
        Some(stop.map_or(over, |h| over.min(h.from.max(started))))
    }

    /// Guests that were killed without a state although their slot had its full notice and nobody
    /// had touched it.
    fn killed(&self, stays: &Stays, slots: &[Slot<'_>], summary: &mut Summary) {
        for ((workspace, generation), stay) in stays {
            let Some((at, kind, text)) = &stay.end else {
                continue;
            };
            let request = WorkspaceId::new(workspace).ok();
            let request = request.and_then(|id| self.stream.accepted.get(&id));
            let (Some(request), true) = (request, kind == "guest_killed") else {
                continue;
            };
            let slot = slots.iter().find(|s| s.key == stay.key);
            if self.could_be_suspended(request, stay, slot, *at) {
                summary.lost += 1;
                summary.violations.push(format!(
                    "{workspace}, generation {generation}, was killed without a state in slot {} \
                     at {at}, and could have been suspended: {text}",
                    stay.slot
                ));
            }
        }
    }

    fn could_be_suspended(
        &self,
        request: &Request,
        stay: &Stay,
        slot: Option<&Slot<'_>>,
        at: Timestamp,
    ) -> bool {
        let cmdline = request.spec.image.cmdline.as_deref().unwrap_or_default();
        let by_wish = request.cancelled
            || request.spec.policy.on_eviction != OnEviction::Suspend
            || cmdline.contains("null.crash_after");
        let touched = HITS_ON_GUESTS.iter().any(|k| self.story.met(&stay.key, k));
        let Some(slot) = slot else { return false };
        let from = stay.started.unwrap_or(at);
        let since = Timestamp::from_millis(from.as_millis()).before(AFTER_FULL);
        let full = self.story.around(slot.site, since, at, &["fill_disk"]);
        let off = self.story.met(&stay.key, "cut_slot")
            || self.story.around(slot.site, since, at, &["cut_all"]);
        // Its new end may have been in the past.
        let shortened = self.story.met(&stay.key, "shorten");
        let short = match (slot.run.told, slot.run.killed) {
            (Some(told), Some(killed)) => killed.since(told) < slot.notice,
            (_, _) => shortened,
        };
        !by_wish && !touched && !full && !off && !short
    }
}

/// Counts evictions and suspends.
fn count(stays: &Stays, stream: &Stream, summary: &mut Summary) {
    let mut outcome = |name, by: u64| *summary.suspends.entry(name).or_default() += by;
    let mut evictions = 0;
    for ((workspace, _), stay) in stays {
        let id = WorkspaceId::new(workspace).ok();
        let wished = id.and_then(|id| stream.accepted.get(&id));
        let wished = wished.is_some_and(|r| r.cancelled);
        outcome("failed", u64::from(stay.failed_suspends));
        let kind = stay.end.as_ref().map(|(_, kind, _)| kind.as_str());
        match kind {
            Some("guest_suspended") => {
                evictions += 1;
                outcome("committed", 1);
            }
            Some("guest_killed") if !wished => evictions += 1,
            Some(_) | None => {}
        }
        let begun = stay.suspending.is_some();
        match kind {
            Some("guest_killed") if begun && stay.failed_suspends == 0 => outcome("discarded", 1),
            None if begun => outcome("cut_short", 1),
            Some(_) | None => {}
        }
    }
    summary.evictions = evictions;
}

/// Time over budget of each suspend that was measured.
fn measured<'a>(events: impl Iterator<Item = &'a EventView>) -> Vec<f64> {
    let figure = |e: &EventView, name: &str| e.data.get(name).and_then(serde_json::Value::as_f64);
    let events: Vec<&EventView> = events.collect();
    let mut ratios = Vec::new();
    for (at, event) in events.iter().enumerate() {
        if event.kind != "suspend_measured" {
            continue;
        }
        let begun = events[..at]
            .iter()
            .rev()
            .find(|e| e.kind == "guest_suspending" && e.generation == event.generation);
        let budget = begun.and_then(|e| figure(e, "budget_ms"));
        if let (Some(took), Some(budget)) = (figure(event, "took_ms"), budget)
            && budget > 0.0
        {
            ratios.push(took / budget);
        }
    }
    ratios
}
