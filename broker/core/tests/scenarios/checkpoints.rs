//! Checkpoints: what the broker keeps while the guest goes on, and what it goes on from.

use broker_core::Event;
use protocol::codes::ReasonCode;
use protocol::ids::{StateId, WorkspaceId};
use protocol::lease::EndOutcome;
use protocol::time::Span;
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

use super::{MARGIN, TTL, because, end_guest, hour, one_site, run_up, running, sync_now};
use crate::world::{World, admin};

fn checkpointed() -> WorkspaceSpec {
    let mut s = hour();
    s.policy.checkpoint_every = Some(Span::from_mins(1));
    s
}

fn secs(n: u64) -> Span {
    Span::from_secs(n)
}

fn name(text: &str) -> StateId {
    StateId::new(text).unwrap()
}

fn saved(w: &World, id: &WorkspaceId) -> Option<String> {
    let view = w.broker.workspace(&admin(), id).unwrap();
    view.saved.map(|s| s.id.as_str().to_owned())
}

fn discards(w: &World) -> Vec<String> {
    w.broker
        .records()
        .discards
        .iter()
        .map(|d| d.state.as_str().to_owned())
        .collect()
}

/// The guest runs for so long, then its checkpoint is made and told of.
fn checkpoint_after(w: &mut World, p: usize, id: &WorkspaceId, run: u64) {
    w.pass(secs(run));
    w.checkpoint(p, id).unwrap();
    sync_now(w, p);
}

/// Runs it in the same slot again; says from which state.
fn again(w: &mut World, id: &WorkspaceId) -> (usize, Option<String>) {
    w.pass_ticking(secs(5));
    let p = w.pilot_up();
    let from = w.pilots[p].guests[id].from.clone();
    run_up(w, p);
    (p, from.map(|s| s.as_str().to_owned()))
}

#[test]
fn a_lost_pilots_guest_goes_on_from_its_newest_checkpoint() {
    let mut w = one_site();
    let (id, p) = running(&mut w, checkpointed());
    checkpoint_after(&mut w, p, &id, 50);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1.c1"));
    assert_eq!(w.state(&id), WorkspaceState::Running, "the lease goes on");
    checkpoint_after(&mut w, p, &id, 50);
    assert_eq!(discards(&w), ["ws-1.g1.c1"], "nobody runs from it");
    w.pass(secs(20));
    sync_now(&mut w, p);
    w.quit(p);
    w.pass_ticking(TTL + MARGIN);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!((view.run, view.restarts, view.suspends), (secs(100), 0, 0));
    let why = view.reason.unwrap();
    assert_eq!(why.code, ReasonCode::PilotLost);
    assert!(
        why.text
            .ends_with("; continues from its checkpoint at 1m 40s of 30m; 20s are lost"),
        "{why}"
    );
    // What the lost pilot may have made after its last word.
    assert_eq!(discards(&w), ["ws-1.g1.c3", "ws-1.g1.c4"]);
    let (p, from) = again(&mut w, &id);
    assert_eq!(from.as_deref(), Some("ws-1.g1.c2"));
    assert_eq!(w.pilots[p].guests[&id].run, secs(100));
}

#[test]
fn a_kill_without_a_state_costs_what_ran_since_the_checkpoint() {
    for code in [ReasonCode::SuspendTooSlow, ReasonCode::GuestCrashed] {
        let mut w = one_site();
        let (id, p) = running(&mut w, checkpointed());
        checkpoint_after(&mut w, p, &id, 50);
        w.pass(secs(7));
        let reason = because(code);
        let outcome = if code == ReasonCode::GuestCrashed {
            let permanent = false;
            EndOutcome::Failed { reason, permanent }
        } else {
            EndOutcome::Killed { reason }
        };
        end_guest(&mut w, p, &id, outcome);
        assert_eq!(
            w.broker.workspace(&admin(), &id).unwrap().run,
            secs(50),
            "it counts from there"
        );
        let queued = w.events.iter().rfind(|e| e.kind == "queued").unwrap();
        assert!(
            queued.text.contains("50s of 30m; 7s are lost"),
            "{queued:?}"
        );
        assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1.c1"));
        assert!(discards(&w).is_empty(), "its pilot has said all");
    }
}

#[test]
fn lost_and_repeated_reports_change_nothing_else() {
    let mut w = one_site();
    let (id, p) = running(&mut w, checkpointed());
    w.pass(secs(20));
    w.checkpoint(p, &id).unwrap();
    let first = w.request(p);
    w.pass(secs(20));
    w.checkpoint(p, &id).unwrap();
    sync_now(&mut w, p);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1.c2"));
    assert_eq!(discards(&w), ["ws-1.g1.c1"], "its report was lost");
    let before = w.broker.records();
    w.deliver(first);
    assert_eq!(w.broker.records(), before, "overtaken");
    let again = w.request(p);
    w.deliver(again.clone());
    let before = w.broker.records().workspaces;
    w.deliver(again);
    assert_eq!(w.broker.records().workspaces, before);
    w.restart_broker();
    sync_now(&mut w, p);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1.c2"));
}

#[test]
fn the_state_that_the_lease_started_from_is_kept_until_it_is_over() {
    let mut w = one_site();
    let (id, p) = running(&mut w, checkpointed());
    w.pass(secs(30));
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(&mut w, p);
    let (p, from) = again(&mut w, &id);
    assert_eq!(from.as_deref(), Some("ws-1.g1"));
    checkpoint_after(&mut w, p, &id, 20);
    checkpoint_after(&mut w, p, &id, 20);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g2.c2"));
    sync_now(&mut w, p);
    assert!(w.states.contains_key(&name("ws-1.g1")), "it runs from it");
    assert!(!w.states.contains_key(&name("ws-1.g2.c1")));
    w.pass(secs(10));
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(&mut w, p);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g2"));
    assert_eq!(discards(&w), ["ws-1.g1", "ws-1.g2.c2"]);
}

#[test]
fn a_late_word_of_an_older_lease_replaces_nothing() {
    let mut w = one_site();
    let (id, old) = running(&mut w, checkpointed());
    checkpoint_after(&mut w, old, &id, 30);
    w.pilots[old].guests.get_mut(&id).unwrap().suspends = true;
    w.pass(secs(10));
    w.checkpoint(old, &id).unwrap();
    // It is not heard of until its guest was given up and killed.
    w.pilots[old].guests.get_mut(&id).unwrap().suspends = false;
    w.pass_ticking(TTL + MARGIN);
    let (new, from) = again(&mut w, &id);
    assert_eq!(from.as_deref(), Some("ws-1.g1.c1"));
    checkpoint_after(&mut w, new, &id, 30);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g2.c1"));
    let told = w.pilots[old].guests[&id].checkpoint.clone().unwrap();
    assert_eq!(told.id.as_str(), "ws-1.g1.c2");
    sync_now(&mut w, old);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g2.c1"));
    assert!(
        w.states.contains_key(&name("ws-1.g1.c1")),
        "gen 2 runs from it"
    );
    assert!(!w.states.contains_key(&name("ws-1.g1.c2")));
    // Said again, when the one that it names is what the next lease runs from.
    w.pass(secs(10));
    end_guest(
        &mut w,
        new,
        &id,
        EndOutcome::Killed {
            reason: because(ReasonCode::SuspendTooSlow),
        },
    );
    assert!(discards(&w).contains(&"ws-1.g1.c1".to_owned()));
}

#[test]
fn a_late_word_of_the_state_that_is_in_use_does_not_cost_it() {
    let mut w = one_site();
    let (id, old) = running(&mut w, checkpointed());
    checkpoint_after(&mut w, old, &id, 30);
    w.pilots[old].guests.get_mut(&id).unwrap().suspends = false;
    w.pass_ticking(TTL + MARGIN);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    sync_now(&mut w, old);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1.c1"));
    assert!(w.states.contains_key(&name("ws-1.g1.c1")));
}

/// Its answer was lost, and meanwhile the next guest runs from it and has a checkpoint of its own.
#[test]
fn a_suspend_that_is_told_again_does_not_cost_the_state_that_is_in_use() {
    let mut w = one_site();
    let (id, old) = running(&mut w, checkpointed());
    w.pass(secs(30));
    w.evict(old, ReasonCode::Preempted);
    let told = w.request(old);
    w.deliver(told);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1"));
    let (new, from) = again(&mut w, &id);
    assert_eq!(from.as_deref(), Some("ws-1.g1"));
    checkpoint_after(&mut w, new, &id, 30);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g2.c1"));
    let told_again = w.request(old);
    w.deliver(told_again);
    assert!(discards(&w).is_empty(), "{:?}", discards(&w));
    assert!(w.states.contains_key(&name("ws-1.g1")));
}

#[test]
fn a_suspend_after_all_of_a_lost_pilot_is_better_than_its_checkpoint() {
    let mut w = one_site();
    let (id, p) = running(&mut w, checkpointed());
    checkpoint_after(&mut w, p, &id, 30);
    w.pass_ticking(TTL + MARGIN);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1.c1"));
    sync_now(&mut w, p);
    assert_eq!(saved(&w, &id).as_deref(), Some("ws-1.g1"));
    assert!(discards(&w).contains(&"ws-1.g1.c1".to_owned()));
}

#[test]
fn a_checkpoint_of_another_lease_or_site_is_not_taken() {
    let mut w = one_site();
    let (id, p) = running(&mut w, checkpointed());
    w.pass(secs(30));
    for (state, site) in [
        ("ws-1.g2.c1", "A"),
        ("ws-2.g1.c1", "A"),
        ("ws-1.g1.c0", "A"),
        ("ws-1.g1", "A"),
        ("ws-1.g1.c1", "B"),
    ] {
        let mut request = w.request(p);
        request.leases[0].checkpoint = Some(protocol::lease::StateRef {
            id: name(state),
            manifest: "0".repeat(64),
            site: site.parse().unwrap(),
            bytes: 1,
            run: secs(30),
            at: w.now,
        });
        w.deliver(request);
        assert_eq!(saved(&w, &id), None, "{state} at {site}");
    }
    assert!(discards(&w).is_empty());
}

#[test]
fn when_the_workspace_ends_its_checkpoints_go() {
    for cancel in [true, false] {
        let mut w = one_site();
        let (id, p) = running(&mut w, checkpointed());
        checkpoint_after(&mut w, p, &id, 30);
        w.pass(secs(5));
        w.checkpoint(p, &id).unwrap();
        if cancel {
            let (i, by) = (id.clone(), admin());
            w.step(Event::Cancel { id: i, by });
            sync_now(&mut w, p);
            sync_now(&mut w, p);
            assert_eq!(w.state(&id), WorkspaceState::Cancelled);
        } else {
            let reason = because(ReasonCode::GuestPoweredOff);
            end_guest(&mut w, p, &id, EndOutcome::Finished { reason });
            assert_eq!(w.state(&id), WorkspaceState::Done);
        }
        sync_now(&mut w, p);
        sync_now(&mut w, p);
        assert!(w.states.is_empty(), "{:?}", w.states);
        assert!(discards(&w).is_empty(), "all are gone");
    }
}

#[test]
fn a_guest_that_always_fails_after_its_checkpoint_is_not_resumed_for_ever() {
    let mut w = one_site();
    let mut what = checkpointed();
    what.policy.max_restarts = 1;
    let (id, mut p) = running(&mut w, what);
    let mut starts = vec![None];
    for _ in 0..20 {
        let from = w.pilots[p].guests[&id].from.clone();
        if from.is_none() {
            checkpoint_after(&mut w, p, &id, 30);
        }
        w.pass(secs(7));
        let (reason, permanent) = (because(ReasonCode::GuestCrashed), false);
        end_guest(&mut w, p, &id, EndOutcome::Failed { reason, permanent });
        if w.state(&id).is_final() {
            break;
        }
        w.evict(p, ReasonCode::SlotEnding);
        sync_now(&mut w, p);
        w.pass_ticking(Span::from_mins(40));
        let (next, from) = again(&mut w, &id);
        p = next;
        starts.push(from);
    }
    let c = |g: u32| Some(format!("ws-1.g{g}.c1"));
    assert_eq!(
        starts,
        [None, c(1), c(1), c(1), None, c(5), c(5), c(5)],
        "each state three times, the image twice"
    );
    assert_eq!(w.state(&id), WorkspaceState::Failed);
    assert_eq!(w.reason(&id), ReasonCode::TooManyRestarts);
}
