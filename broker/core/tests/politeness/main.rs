//! What a site must not suffer from us: pilots that are of no use, too many commands, and no
//! consequence when we have hurt it. And the sentence for each cause.

mod choice;
mod commands;
mod courtesy;
mod declines;
#[expect(dead_code, reason = "this program uses a part of the world")]
#[path = "../world/mod.rs"]
mod world;

use broker_core::Effect;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::WorkspaceId;
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::lrm::JobEnd;
use protocol::time::Span;
use protocol::workspace::WorkspaceSpec;
use world::{World, admin, config, room, site, site_config, spec};

const MINUTE: Span = Span::from_mins(1);

fn one_site() -> World {
    World::new(config(vec![site_config("A", room(2, 6144))]))
}

/// A request that must never be killed.
fn owed(memory_mib: u64, run: Span) -> WorkspaceSpec {
    let mut s = spec(memory_mib, run);
    s.policy.may_be_killed = false;
    s
}

fn why(w: &World, id: &WorkspaceId) -> String {
    let explained = w.broker.explain(w.now, &admin(), id).unwrap();
    explained.sentences.join("\n")
}

fn why_site(w: &World, name: &str) -> String {
    let explained = w.broker.explain_site(w.now, &site(name)).unwrap();
    explained.sentences.join("\n")
}

/// The pilot ends all its leases like this, as by its own decision.
fn end_leases(w: &mut World, pilot: usize, outcome: &EndOutcome) {
    for g in w.pilots[pilot].guests.values_mut() {
        g.phase = LeasePhase::Ended {
            outcome: outcome.clone(),
        };
    }
    w.sync(pilot);
    w.sync(pilot);
}

fn declined(code: ReasonCode, text: &str) -> EndOutcome {
    EndOutcome::Declined {
        reason: Reason::new(code, text),
    }
}

/// The pilot says its last word and its job ends.
fn leave(w: &mut World, pilot: usize) {
    w.pilots[pilot].leaving = true;
    w.pilots[pilot].sent = None;
    w.sync(pilot);
    let key = w.pilots[pilot].key.clone();
    let job = w.jobs.iter().position(|j| j.order.key == key).unwrap();
    w.end_job(job, JobEnd::Exited(0));
    w.observe("A");
}

/// Each pilot that is submitted comes up at once, gets `outcome` for its leases, and leaves. How
/// many pilots that makes in `span`.
fn pilots_in(w: &mut World, span: Span, outcome: &EndOutcome) -> usize {
    let (end, before) = (w.now + span, w.jobs.len());
    while w.now < end {
        w.pass_ticking(MINUTE);
        while w.todo.iter().any(|e| matches!(e, Effect::SubmitPilot(_))) {
            let pilot = w.pilot_up();
            end_leases(w, pilot, outcome);
            leave(w, pilot);
        }
    }
    w.jobs.len() - before
}
