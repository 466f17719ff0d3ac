//! Sites whose jobs are of several nodes, and what is asked of them.

use crate::world::{World, config, room, site, site_config, spec};
use protocol::api::PilotState;
use protocol::codes::ReasonCode;
use protocol::ids::{SubmitKey, WorkspaceId};
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};
use std::collections::BTreeMap;

/// A site whose jobs are of so many nodes.
pub fn site_of(nodes: u32) -> World {
    let mut a = site_config("A", room(2, 4096));
    a.nodes = nodes;
    World::new(config(vec![a]))
}

/// A request that fills a slot.
pub fn whole() -> WorkspaceSpec {
    let mut s = spec(4096, Span::from_mins(30));
    s.resources.cores = 2;
    s
}

pub fn sync_now(w: &mut World, p: usize) -> protocol::messages::SyncReply {
    w.pilots[p].sent = None;
    w.pilots[p].failed_sync = true;
    w.sync(p).expect("a sync that must not be held was held")
}

pub fn run_up(w: &mut World, p: usize) {
    for _ in 0..3 {
        w.progress(p, &BTreeMap::new());
        sync_now(w, p);
    }
}

/// The one job, started, with so many requests running in it; its key and its first pilot.
pub fn running(w: &mut World, requests: usize) -> (SubmitKey, usize, Vec<WorkspaceId>) {
    let ids: Vec<_> = (0..requests).map(|_| w.submit("anna", whole())).collect();
    w.pass_ticking(Span::from_secs(5));
    w.honest_submits();
    assert_eq!(w.jobs.len(), 1, "one job for all of them");
    let first = w.start_job(0);
    for p in first..w.pilots.len() {
        w.register(p);
        sync_now(w, p);
        run_up(w, p);
    }
    for id in &ids {
        assert_eq!(w.state(id), WorkspaceState::Running);
    }
    (w.jobs[0].order.key.clone(), first, ids)
}

pub fn state(w: &World, key: &SubmitKey) -> PilotState {
    w.broker.pilot(key).unwrap().state
}

pub fn of(key: &SubmitKey, rank: u32) -> SubmitKey {
    key.member(rank).unwrap()
}

pub fn counts(w: &World) -> (u32, u32) {
    let view = w.broker.site(w.now, &site("A")).unwrap();
    (view.queued, view.running)
}

/// Says goodbye as a pilot does whose node is wanted back.
pub fn leave(w: &mut World, p: usize) {
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(w, p);
    assert!(w.pilots[p].gone, "it has left");
}
