//! Suspended states: which one a workspace goes on from, where, and which are discarded.

use broker_core::{Broker, Event};
use protocol::api::PilotState;
use protocol::codes::ReasonCode;
use protocol::ids::StateId;
use protocol::lease::EndOutcome;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::{
    MARGIN, TTL, because, end_guest, hour, one_site, pilot_state, run_up, running, sync_now,
};
use crate::world::{World, admin, config, room, site, site_config};

#[test]
fn a_guest_outlives_its_slot() {
    let mut w = one_site();
    let (id, first) = running(&mut w, hour());
    w.pass(Span::from_secs(40));
    w.evict(first, ReasonCode::SlotEnding);
    sync_now(&mut w, first);
    assert!(w.pilots[first].gone, "it has left");
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!(
        (view.suspends, view.restarts, view.run),
        (1, 0, Span::from_secs(40))
    );
    assert_eq!(pilot_state(&w, &w.pilots[first].key), PilotState::Ended);

    w.pass_ticking(Span::from_secs(5));
    let second = w.pilot_up();
    assert_eq!(w.pilots[second].guests[&id].generation.0, 2);
    run_up(&mut w, second);
    end_guest(
        &mut w,
        second,
        &id,
        EndOutcome::Finished {
            reason: because(ReasonCode::GuestPoweredOff),
        },
    );
    assert_eq!(w.state(&id), WorkspaceState::Done);
    assert_eq!(w.reason(&id), ReasonCode::GuestPoweredOff);
    let reply = sync_now(&mut w, second);
    let old = StateId::new(&format!("{id}.g1")).unwrap();
    assert!(!w.states.contains_key(&old) || reply.discard == [old]);
    sync_now(&mut w, second);
    assert!(
        w.store.discards.is_empty(),
        "the pilot has said that it is gone"
    );
}

#[test]
fn a_state_that_a_lost_pilot_made_is_used_if_nothing_ran_since() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pass_ticking(TTL + MARGIN);
    assert_eq!(w.state(&id), WorkspaceState::Queued);
    sync_now(&mut w, p);
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!(view.saved.unwrap().id.as_str(), "ws-1.g1");
    assert!(view.run >= TTL);
    assert!(w.store.discards.is_empty());
}

#[test]
fn a_state_of_a_former_lease_is_refused_and_discarded() {
    let mut w = one_site();
    let (id, old) = running(&mut w, hour());
    w.pass_ticking(TTL + MARGIN);
    let new = w.pilot_up();
    run_up(&mut w, new);
    assert_eq!(w.pilots[new].guests[&id].generation.0, 2);
    let reply = sync_now(&mut w, old);
    assert!(reply.leases.is_empty());
    assert_eq!(reply.discard, [StateId::new("ws-1.g1").unwrap()]);
    assert!(w.broker.workspace(&admin(), &id).unwrap().saved.is_none());
    let told = w.events.iter().any(|e| e.kind == "state_refused");
    assert!(told, "the owner can see it");
}

#[test]
fn a_state_that_nobody_tells_of_is_discarded_when_the_workspace_goes_on_without_it() {
    let state = StateId::new("ws-1.g1").unwrap();
    let mut w = one_site();
    let (id, _) = running(&mut w, hour());
    w.pass_ticking(TTL + MARGIN);
    assert!(w.store.discards.is_empty(), "its pilot may tell of it yet");
    let new = w.pilot_up();
    let reply = sync_now(&mut w, new);
    assert_eq!(w.pilots[new].guests[&id].generation.0, 2);
    let waits = |w: &World| w.store.discards.iter().any(|d| d.state == state);
    assert!(reply.discard == [state.clone()] || !waits(&w));
    sync_now(&mut w, new);
    sync_now(&mut w, new);
    assert!(w.store.discards.is_empty(), "{:?}", w.store.discards);

    let mut w = one_site();
    let (id, _) = running(&mut w, hour());
    w.pass_ticking(TTL + MARGIN);
    let by = admin();
    w.step(Event::Cancel { id: id.clone(), by });
    assert_eq!(w.state(&id), WorkspaceState::Cancelled);
    assert!(waits(&w), "{:?}", w.store.discards);
}

#[test]
fn a_corrupt_state_falls_back_to_the_image() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pass(Span::from_secs(30));
    let (i, by) = (id.clone(), admin());
    w.step(Event::Suspend { id: i, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    let (i, by) = (id.clone(), admin());
    w.step(Event::Resume { id: i, by });
    sync_now(&mut w, p);
    end_guest(
        &mut w,
        p,
        &id,
        EndOutcome::Failed {
            reason: because(ReasonCode::StateCorrupt),
            permanent: false,
        },
    );
    let view = w.broker.workspace(&admin(), &id).unwrap();
    assert_eq!(
        (view.state, view.saved, view.run),
        (WorkspaceState::Queued, None, Span::ZERO)
    );
    assert!(w.events.iter().any(|e| e.kind == "state_dropped"));
    assert!(w.pilots[p].guests.is_empty(), "not in this slot at once");
    w.pass(Span::from_secs(61));
    sync_now(&mut w, p);
    assert!(w.pilots[p].guests.contains_key(&id), "later it is");
}

#[test]
fn a_guest_that_crashes_after_every_resume_does_not_do_so_for_ever() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pass(Span::from_secs(30));
    let (i, by) = (id.clone(), admin());
    w.step(Event::Suspend { id: i, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    let (i, by) = (id.clone(), admin());
    w.step(Event::Resume { id: i, by });
    let mut resumed = 0;
    while w.broker.workspace(&admin(), &id).unwrap().saved.is_some() {
        sync_now(&mut w, p);
        run_up(&mut w, p);
        assert_eq!(w.state(&id), WorkspaceState::Running);
        resumed += 1;
        assert!(resumed <= 3, "it goes on and on");
        w.pass(Span::from_secs(5));
        let crash = EndOutcome::Failed {
            reason: because(ReasonCode::GuestCrashed),
            permanent: false,
        };
        end_guest(&mut w, p, &id, crash);
        // The slot is not asked again at once, and longer each time.
        w.pass(Span::from_secs(60 * (1 << resumed)));
    }
    // Starts from its image are bounded by its policy.
    assert_eq!((resumed, w.state(&id)), (3, WorkspaceState::Queued));
    assert!(w.events.iter().any(|e| e.kind == "state_dropped"));
}

#[test]
fn a_states_site_is_the_only_one_that_resumes_it() {
    let mut w = World::new(config(vec![
        site_config("A", room(2, 4096)),
        site_config("B", room(2, 4096)),
    ]));
    let (id, p) = running(&mut w, hour());
    assert_eq!(w.pilots[p].site, site("A"));
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(&mut w, p);
    w.step(Event::Drain {
        site: site("A"),
        by: admin(),
    });
    w.submit("ben", hour());
    w.pass_ticking(Span::from_secs(30));
    let other = w.pilot_up();
    assert_eq!(w.pilots[other].site, site("B"));
    assert!(!w.pilots[other].guests.contains_key(&id));
    w.step(Event::Undrain {
        site: site("A"),
        by: admin(),
    });
    w.pass_ticking(Span::from_secs(5));
    let back = w.pilot_up();
    assert_eq!(w.pilots[back].site, site("A"));
    assert!(w.pilots[back].guests.contains_key(&id));
}

#[test]
fn suspend_parks_and_resume_queues() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    let (i, by) = (id.clone(), admin());
    w.step(Event::Suspend { id: i, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Suspended);
    sync_now(&mut w, p);
    assert!(w.pilots[p].guests.is_empty(), "it stays out of the queue");
    let (i, by) = (id.clone(), admin());
    w.step(Event::Pause { id: i, by });
    assert_eq!(w.state(&id), WorkspaceState::Suspended, "that was refused");
    let (i, by) = (id.clone(), admin());
    w.step(Event::Resume { id: i, by });
    sync_now(&mut w, p);
    assert_eq!(w.pilots[p].guests[&id].generation.0, 2);
    run_up(&mut w, p);
    let (i, by) = (id.clone(), admin());
    w.step(Event::Pause { id: i, by });
    sync_now(&mut w, p);
    sync_now(&mut w, p);
    assert_eq!(w.state(&id), WorkspaceState::Paused);
}

#[test]
fn records_of_today_are_read_as_they_were_written() {
    let mut w = one_site();
    let (_, p) = running(&mut w, hour());
    w.evict(p, ReasonCode::SlotEnding);
    sync_now(&mut w, p);
    let r = w.broker.records();
    let mut copy = r.clone();
    macro_rules! through_json {
        ($($field:ident),*) => {$(
            let text = serde_json::to_string(&r.$field).unwrap();
            copy.$field = serde_json::from_str(&text).unwrap();
        )*};
    }
    through_json!(
        workspaces,
        leases,
        pilots,
        sites,
        idempotency,
        discards,
        meta
    );
    assert_eq!(r, copy);
    assert!(Broker::load(w.config.clone(), copy).check().is_ok());
}
