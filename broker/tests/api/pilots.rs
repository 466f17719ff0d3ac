use protocol::api::{Page, SlotView, WorkspaceView};
use protocol::codes::ErrorCode;
use protocol::messages::{ConsoleReply, SyncReply};
use protocol::time::Span;
use protocol::workspace::WorkspaceState;
use reqwest::Method;

use crate::support::{Answer, Broker, Pilot, eventually, spec};

#[tokio::test]
async fn a_held_sync_is_answered_when_there_is_work() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let mut pilot = broker.pilot().await;
    assert!(pilot.sync(true).await.leases.is_empty());
    let mut held = pilot.clone();
    let waiting = tokio::spawn(async move {
        let reply = held.sync(false).await;
        (held, reply)
    });
    let id = alice.submit("k", &spec("w")).await.ok::<WorkspaceView>().id;
    let (mut pilot, reply) = waiting.await.unwrap();
    assert_eq!(reply.leases.len(), 1, "{reply:?}");
    assert_eq!(reply.leases[0].workspace, id);
    assert!(
        reply.leases[0].order.is_some() && reply.held < Span::from_secs(20),
        "{reply:?}"
    );

    let reply = pilot.sync(true).await;
    assert_eq!(reply.leases.len(), 1);
    let view: WorkspaceView = alice.get(&format!("/v1/workspaces/{id}")).await.ok();
    assert_eq!(
        (view.state, view.slot.as_ref()),
        (WorkspaceState::Running, Some(&pilot.key))
    );
    let slots: Page<SlotView> = alice.get("/v1/slots?site=hand").await.ok();
    assert_eq!(slots.items[0].workspaces, [id]);
    let pilots = alice.get("/v1/pilots").await.json();
    assert_eq!(pilots["items"][0]["state"], "active");
}

#[tokio::test]
async fn a_sync_with_nothing_to_say_is_held_as_long_as_configured_and_says_so() {
    let config = crate::support::CONFIG.replace("hold = \"20s\"", "hold = \"150ms\"");
    let broker = Broker::start_with(&config).await;
    let mut pilot = broker.pilot().await;
    pilot.sync(true).await;
    let reply = pilot.sync(false).await;
    assert!(reply.held >= Span::from_millis(100), "{reply:?}");
}

#[tokio::test]
async fn a_newer_sync_frees_the_older_one() {
    let broker = Broker::start().await;
    let mut pilot = broker.pilot().await;
    pilot.sync(true).await;
    let older = pilot.request(false);
    let caller = pilot.caller.clone();
    let held = tokio::spawn(async move { caller.post_json("/v1/pilot/sync", &older).await });
    let slots = broker.user("a");
    eventually("the older sync is held", async || {
        let heard = slots.get("/v1/slots").await.ok::<Page<SlotView>>().items[0].heard;
        (heard > pilot.start && !held.is_finished()).then_some(())
    })
    .await;
    let newer = pilot.request(true);
    let reply: SyncReply = pilot.caller.post_json("/v1/pilot/sync", &newer).await.ok();
    assert_eq!(reply.number, newer.number);
    // It was let go with an answer or a refusal, long before its hold was over.
    let answer = held.await.unwrap();
    assert!(
        answer.status.is_success() || answer.status.is_client_error(),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_broker_that_stops_answers_held_syncs_at_once() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    alice.submit("k", &spec("w")).await.ok::<WorkspaceView>();
    let mut pilot = broker.pilot().await;
    pilot.sync(true).await;
    pilot.sync(true).await;
    let mut held = pilot.clone();
    let waiting = tokio::spawn(async move { held.sync(false).await });
    eventually("the sync is held", async || {
        let running = alice.get("/v1/workspaces?state=running").await.json();
        (running["items"].as_array()?.len() == 1).then_some(())
    })
    .await;
    broker.running.stop().await;
    let reply = waiting.await.unwrap();
    assert_eq!(reply.leases.len(), 1, "its lease lives on: {reply:?}");
    assert!(reply.held < Span::from_secs(20), "{reply:?}");
}

#[tokio::test]
async fn old_versions_and_malformed_syncs_are_refused() {
    let broker = Broker::start().await;
    let mut pilot = broker.pilot().await;
    let mut request = pilot.request(true);
    request.version = 0;
    let answer = pilot.caller.post_json("/v1/pilot/sync", &request).await;
    assert!(
        answer
            .refused(ErrorCode::VersionTooOld)
            .detail
            .contains("version 0")
    );
    let mut register = pilot.registration();
    register.version = 0;
    let answer = pilot
        .caller
        .post_json("/v1/pilot/register", &register)
        .await;
    answer.refused(ErrorCode::VersionTooOld);
    pilot
        .caller
        .post("/v1/pilot/sync")
        .await
        .refused(ErrorCode::BadRequest);
    request.version = protocol::WIRE_VERSION;
    let mut newer = serde_json::to_value(&request).unwrap();
    newer["invented_later"] = serde_json::json!({"x": 1});
    let answer = pilot.caller.post_json("/v1/pilot/sync", &newer).await;
    assert!(
        answer.status.is_success(),
        "unknown fields of a newer pilot: {answer:?}"
    );
}

async fn running(broker: &Broker) -> (Pilot, protocol::ids::WorkspaceId) {
    let id = broker
        .user("alice")
        .submit("k", &spec("w"))
        .await
        .ok::<WorkspaceView>()
        .id;
    let mut pilot = broker.pilot().await;
    pilot.sync(true).await;
    assert_eq!(pilot.sync(true).await.leases.len(), 1);
    (pilot, id)
}

#[tokio::test]
async fn a_console_is_brought_in_pieces_and_followed() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let (pilot, id) = running(&broker).await;
    let put = async |generation: u64, offset: u64, bytes: &'static str| {
        let path = format!("/v1/pilot/console/{id}/{generation}?offset={offset}");
        Answer::of(pilot.caller.request(Method::POST, &path).body(bytes)).await
    };
    let read = async |offset: u64, wait_ms: u64| {
        let path = format!("/v1/workspaces/{id}/console?offset={offset}&wait_ms={wait_ms}");
        let answer = alice.get(&path).await;
        let next: u64 = answer.headers["console-next-offset"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        (answer.text(), next)
    };
    assert_eq!(read(0, 0).await, (String::new(), 0));
    assert_eq!(put(1, 4, "gap").await.ok::<ConsoleReply>().next_offset, 0);
    assert_eq!(
        put(1, 0, "hello\n").await.ok::<ConsoleReply>().next_offset,
        6
    );
    let (text, next) = read(0, 0).await;
    assert!(
        text.ends_with("---\nhello\n") && text.contains(pilot.key.as_str()),
        "{text}"
    );
    let follow = tokio::spawn({
        let alice = alice.clone();
        let path = format!("/v1/workspaces/{id}/console?offset={next}&wait_ms=20000");
        async move { alice.get(&path).await.text() }
    });
    assert_eq!(
        put(1, 6, "world\n").await.ok::<ConsoleReply>().next_offset,
        12
    );
    assert_eq!(follow.await.unwrap(), "world\n");
    put(2, 0, "not its lease")
        .await
        .refused(ErrorCode::Forbidden);
    let other = broker.pilot().await;
    let path = format!("/v1/pilot/console/{id}/1?offset=12");
    let stranger = Answer::of(other.caller.request(Method::POST, &path).body("x")).await;
    stranger.refused(ErrorCode::Forbidden);
    assert_eq!(read(next, 0).await.0, "world\n");
}

#[tokio::test]
async fn a_cancel_reaches_the_pilot_and_ends_with_its_word() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let (mut pilot, id) = running(&broker).await;
    let mut held = pilot.clone();
    let waiting = tokio::spawn(async move { held.sync(false).await });
    alice
        .post(&format!("/v1/workspaces/{id}/cancel"))
        .await
        .json();
    let reply = waiting.await.unwrap();
    assert!(
        matches!(reply.leases[0].goal, protocol::lease::Goal::Stop { .. }),
        "{reply:?}"
    );
    pilot.number += 1;
    let reason =
        protocol::codes::Reason::new(protocol::codes::ReasonCode::CancelledByUser, "told to");
    pilot.leases[0].phase = protocol::lease::LeasePhase::Ended {
        outcome: protocol::lease::EndOutcome::Killed { reason },
    };
    assert!(pilot.sync(true).await.leases.is_empty());
    let view: WorkspaceView = alice.get(&format!("/v1/workspaces/{id}")).await.ok();
    assert_eq!(view.state, WorkspaceState::Cancelled);
}
