//! The exchange between pilot and broker: what is held, what is repeated, what is stored once.

use broker_core::records::Log;
use broker_core::{Event, Reply, SyncDecision};
use protocol::codes::ErrorCode;
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::messages::PilotEvent;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::{TTL, hour, one_site, running, sync_now};
use crate::world;
use crate::world::{World, admin, config, room, site, site_config, user};

#[test]
fn a_sync_is_held_until_there_is_news() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    w.pilots[p].sent = None;
    assert!(w.sync(p).is_none(), "nothing to say");
    assert!(w.poll(p).is_none(), "still nothing");
    w.pass(Span::from_secs(15));
    let reply = w.poll(p).expect("the hold is over");
    assert_eq!(reply.held, Span::from_secs(15));
    let expiry = w.store.leases[0].expiry;
    assert_eq!(expiry, w.now + TTL, "the answer renews the lease");

    // The same request again, as after a lost answer, is answered at once and the same.
    let lost = w.request(p);
    w.pass(Span::from_secs(15));
    let Reply::Sync(SyncDecision::Hold { .. }) = w.deliver(lost.clone()) else {
        panic!("nothing to say");
    };
    w.submit("ben", hour());
    let first = w.poll(p).unwrap();
    assert_eq!(first.leases.len(), 2);
    let Reply::Sync(SyncDecision::Answer(second)) = w.deliver(lost.clone()) else {
        panic!("held back what was lost");
    };
    assert_eq!(first.leases, second.leases);
    let newer = w.request(p);
    w.deliver(newer);
    let late = w.deliver(lost);
    assert!(matches!(late, Reply::Refused(e) if e.code == ErrorCode::WrongState));
    assert_eq!(w.state(&id), WorkspaceState::Running);
}

#[test]
fn events_of_a_pilot_are_stored_once_and_in_order() {
    let mut w = one_site();
    let (id, p) = running(&mut w, hour());
    let event = |seq: u64, workspace: Option<&WorkspaceId>| PilotEvent {
        seq: EventSeq(seq),
        at: world::start(),
        kind: "noticed".into(),
        workspace: workspace.cloned(),
        generation: workspace.map(|_| protocol::ids::Generation(1)),
        text: format!("event {seq}"),
        data: serde_json::Value::Null,
    };
    let stranger = world::ws(77);
    for (events, acknowledged) in [
        (vec![event(1, Some(&id)), event(2, None)], 2),
        (
            vec![
                event(1, Some(&id)),
                event(2, None),
                event(3, Some(&stranger)),
            ],
            3,
        ),
        (vec![event(5, None)], 3),
    ] {
        let mut request = w.request(p);
        request.events = events;
        request.no_hold = true;
        let Reply::Sync(SyncDecision::Answer(reply)) = w.deliver(request) else {
            panic!("news is answered");
        };
        assert_eq!(reply.acknowledged, EventSeq(acknowledged));
    }
    let stored: Vec<_> = (w.events.iter())
        .filter(|e| e.kind == "noticed")
        .map(|e| (matches!(e.log, Log::Workspace(_)), e.text.as_str()))
        .collect();
    assert_eq!(
        stored,
        [(true, "event 1"), (false, "event 2"), (false, "event 3")]
    );
}

#[test]
fn a_pilot_by_hand_is_a_pilot() {
    let mut sites = vec![site_config("H", room(2, 4096))];
    sites[0].lrm = None;
    let mut w = World::new(config(sites));
    let id = w.submit("anna", hour());
    assert!(w.take_order().is_none());
    let (name, by) = (site("H"), admin());
    let Reply::HandPilot { key } = w.step(Event::HandPilot { site: name, by }) else {
        panic!("refused");
    };
    let end = w.now + Span::from_mins(60);
    let p = w.new_pilot(&key, &site("H"), room(2, 4096), end, 0);
    w.register(p);
    sync_now(&mut w, p);
    assert!(w.pilots[p].guests.contains_key(&id));
    let by = broker_core::Caller::User(user("anna"));
    let no = w.step(Event::HandPilot {
        site: site("H"),
        by,
    });
    assert!(matches!(no, Reply::Refused(e) if e.code == ErrorCode::Forbidden));
}
