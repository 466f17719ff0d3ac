//! When a lease is over and another may begin: lost pilots, requeued jobs, pilots that forget or leave.

use broker_core::{Reply, SyncDecision};
use protocol::api::PilotState;
use protocol::codes::{ErrorCode, ReasonCode};
use protocol::lrm::JobEnd;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::{MARGIN, TTL, hour, one_site, pilot_state, running, sync_now};
use crate::world::admin;

#[test]
fn a_lost_pilots_lease_lasts_to_its_expiry_and_margin_whatever_the_lrm_says() {
    for by_word in [false, true] {
        let mut w = one_site();
        let (id, p) = running(&mut w, hour());
        w.quit(p);
        if by_word {
            w.end_job(0, JobEnd::NodeLost);
            w.observe("A");
        }
        w.pass_ticking(Span::from_millis((TTL + MARGIN).as_millis() - 1));
        assert_eq!(
            w.state(&id),
            WorkspaceState::Running,
            "by the LRM's word: {by_word}"
        );
        w.pass_ticking(Span::from_millis(1));
        assert_eq!(w.state(&id), WorkspaceState::Queued);
        assert_eq!(w.reason(&id), ReasonCode::PilotLost);
    }
}

#[test]
fn a_requeued_job_fences_its_former_start() {
    let mut w = one_site();
    let (id, old) = running(&mut w, hour());
    w.jobs[0].restarts = 1;
    let new = w.start_job(0);
    w.register(new);
    w.sync(new);
    assert!(
        w.pilots[new].guests.is_empty(),
        "the old guest may still run"
    );
    w.pilots[old].sent = None;
    assert!(w.sync(old).is_none());
    assert!(w.pilots[old].gone, "the old pilot was told to leave");
    let again = w.register(old);
    assert!(matches!(again, Reply::Refused(e) if e.code == ErrorCode::Fenced));
    w.pass_ticking(TTL);
    sync_now(&mut w, new);
    assert_eq!(w.state(&id), WorkspaceState::Running);
    w.pass_ticking(MARGIN);
    assert_eq!(w.reason(&id), ReasonCode::Requeued);
    sync_now(&mut w, new);
    assert_eq!(w.pilots[new].guests[&id].generation.0, 2);
}

#[test]
fn a_lease_that_its_pilot_forgot_is_not_renewed_and_ends_by_time() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pilots[p].guests.clear();
    for _ in 0..5 {
        let reply = sync_now(&mut w, p);
        assert!(
            reply.leases.is_empty(),
            "whatever runs there must not live on"
        );
        w.pass_ticking(Span::from_secs(10));
    }
    assert_eq!(w.state(&id), WorkspaceState::Running, "silence is no end");
    w.pass_ticking(TTL);
    sync_now(&mut w, p);
    assert_eq!(w.pilots[p].guests[&id].generation.0, 2);
}

#[test]
fn a_pilot_that_leaves_takes_nothing_with_it() {
    let mut w = one_site();
    let id = w.submit("anna", hour());
    let p = w.pilot_up();
    // The answer with the lease was lost, and the pilot leaves.
    w.pilots[p].guests.clear();
    w.pilots[p].leaving = true;
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    let key = w.pilots[p].key.clone();
    assert_eq!(pilot_state(&w, &key), PilotState::Ended);
    let mut again = w.request(p);
    again.number -= 1;
    let Reply::Sync(SyncDecision::Answer(reply)) = w.deliver(again) else {
        panic!("a repeated goodbye is answered");
    };
    assert!(reply.leases.is_empty());
    let back = w.register(p);
    assert!(matches!(back, Reply::Refused(e) if e.code == ErrorCode::Fenced));
}

#[test]
fn a_pilot_that_leaves_and_calls_a_guest_alive_is_not_believed() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pilots[p].leaving = true;
    assert!(!w.pilots[p].guests.is_empty());
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Running);
    w.pass_ticking(TTL);
    assert_eq!(w.state(&id), WorkspaceState::Running, "within the margin");
    w.pass_ticking(MARGIN + Span::from_secs(1));
    assert_eq!(w.state(&id), WorkspaceState::Queued);
}

#[test]
fn a_clock_that_was_set_back_keeps_no_lease_alive() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    sync_now(&mut w, p);
    // The pilot is gone, and the host's clock was a day ahead.
    w.pilots[p].guests.clear();
    w.set_clock_back(Span::from_mins(24 * 60));
    w.restart_broker();
    w.pass_ticking(TTL);
    assert_eq!(w.state(&id), WorkspaceState::Running, "within the margin");
    w.pass_ticking(MARGIN + Span::from_secs(1));
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    let key = w.pilots[p].key.clone();
    assert_eq!(pilot_state(&w, &key), PilotState::Lost);
}

#[test]
fn after_a_restart_the_pilots_have_a_full_lease_to_come_back() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    // The broker is away for long; the pilot suspends by its own clock.
    w.pass(Span::from_mins(20));
    assert!(!w.pilots[p].guests[&id].alive());
    w.restart_broker();
    assert_eq!(
        w.state(&id),
        WorkspaceState::Running,
        "nobody has said otherwise yet"
    );
    sync_now(&mut w, p);
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert!(view.saved.is_some(), "and the state is taken");
}
