//! Lives that must go one way, step by step.

mod batch_system;
mod checkpoints;
mod exchange;
mod fencing;
mod forgetting;
mod requests;
mod states;
#[path = "../world/mod.rs"]
mod world;

use std::collections::BTreeMap;

use protocol::api::PilotState;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{SubmitKey, WorkspaceId};
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};
use world::{World, config, room, site_config, spec};

const TTL: Span = Span::from_secs(60);
const MARGIN: Span = Span::from_secs(5);

fn one_site() -> World {
    World::new(config(vec![site_config("A", room(2, 4096))]))
}

fn hour() -> WorkspaceSpec {
    spec(512, Span::from_mins(30))
}

/// A workspace that runs in a pilot.
fn running(w: &mut World, what: WorkspaceSpec) -> (WorkspaceId, usize) {
    let id = w.submit("anna", what);
    let p = w.pilot_up();
    assert!(
        w.pilots[p].guests.contains_key(&id),
        "no lease at the first sync"
    );
    run_up(w, p);
    assert_eq!(w.state(&id), WorkspaceState::Running);
    (id, p)
}

fn run_up(w: &mut World, p: usize) {
    for _ in 0..3 {
        w.progress(p, &BTreeMap::new());
        w.pilots[p].sent = None;
        w.pilots[p].failed_sync = true;
        w.sync(p);
    }
}

fn sync_now(w: &mut World, p: usize) -> protocol::messages::SyncReply {
    w.pilots[p].sent = None;
    w.pilots[p].failed_sync = true;
    w.sync(p).expect("a sync that must not be held was held")
}

fn end_guest(w: &mut World, p: usize, id: &WorkspaceId, outcome: EndOutcome) {
    w.pilots[p].guests.get_mut(id).unwrap().phase = LeasePhase::Ended { outcome };
    sync_now(w, p);
}

fn because(code: ReasonCode) -> Reason {
    Reason::new(code, "so it went")
}

fn pilot_state(w: &World, key: &SubmitKey) -> PilotState {
    w.broker.pilot(key).unwrap().state
}
