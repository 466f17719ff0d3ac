use protocol::api::{Page, WorkspaceView};
use protocol::codes::ErrorCode;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;
use reqwest::Method;

use crate::support::{Answer, Broker, Caller, spec};

#[tokio::test]
async fn a_repeated_submit_finds_the_first_one() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let first: WorkspaceView = alice.submit("key \"1\"/ä", &spec("w")).await.ok();
    assert_eq!(
        (first.state, first.owner.as_str()),
        (WorkspaceState::Queued, "alice")
    );
    let again: WorkspaceView = alice.submit("key \"1\"/ä", &spec("w")).await.ok();
    assert_eq!(again.id, first.id);
    let e = alice
        .submit("key \"1\"/ä", &spec("other"))
        .await
        .refused(ErrorCode::KeyReused);
    assert!(e.detail.contains("key"), "{e:?}");
    let bobs: WorkspaceView = broker
        .user("bob")
        .submit("key \"1\"/ä", &spec("w"))
        .await
        .ok();
    assert_ne!(bobs.id, first.id, "a key is its owner's");
    let none = alice
        .post_json("/v1/workspaces", &spec("w"))
        .await
        .ok::<WorkspaceView>();
    assert_ne!(none.id, first.id, "without a key each submit is a new one");
    let race = spec("race");
    let many = (0..20).map(|_| alice.submit("same", &race));
    let many = futures_util::future::join_all(many).await;
    let ids: std::collections::BTreeSet<_> =
        many.iter().map(|a| a.ok::<WorkspaceView>().id).collect();
    assert_eq!(ids.len(), 1, "at once, too");
}

#[tokio::test]
async fn wrong_calls_say_what_is_wrong() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let post = |body: &str| {
        let request = alice
            .request(Method::POST, "/v1/workspaces")
            .body(body.to_owned());
        Answer::of(request)
    };
    for (body, want) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[1]", "invalid"),
        ("{\"name\": 3}", "line 1"),
        (&format!("{{\"x\": {}", "[".repeat(500)), "EOF"),
        ("\u{0}", "expected value"),
    ] {
        let e = post(body).await.refused(ErrorCode::BadRequest);
        assert!(e.detail.contains(want), "{body}: {e:?}");
    }
    let mut zero = spec("w");
    zero.run_time = Span::ZERO;
    let answer = alice.submit("k", &zero).await;
    assert!(
        answer.status.is_client_error() && answer.text().contains("run_time"),
        "{answer:?}"
    );
    post(&"x".repeat(2 << 20))
        .await
        .refused(ErrorCode::TooLarge);
    let long = alice.submit(&"k".repeat(201), &spec("w")).await;
    assert!(
        long.refused(ErrorCode::BadRequest)
            .detail
            .contains("idempotency key")
    );
    for (path, want) in [
        ("/v1/workspaces?state=asleep", "suspended"),
        ("/v1/workspaces?limit=0", "the least is 1"),
        ("/v1/workspaces?limit=many", "limit"),
        ("/v1/workspaces/a%20b", "workspace id"),
        ("/v1/workspaces/..%2F..%2Fetc", "workspace id"),
        ("/v1/sites/-x/explain", "site name"),
    ] {
        let e = alice.get(path).await.refused(ErrorCode::BadRequest);
        assert!(e.detail.contains(want), "{path}: {e:?}");
    }
    let e = alice.get("/v1/nothing").await.refused(ErrorCode::NotFound);
    assert!(e.detail.contains("GET /v1/nothing"), "{e:?}");
    let e = alice.post("/v1/sites").await.refused(ErrorCode::BadRequest);
    assert!(e.detail.contains("does not take POST"), "{e:?}");
    alice
        .get("/v1/sites/nowhere/explain")
        .await
        .refused(ErrorCode::NotFound);
    assert_eq!(
        alice.get("/v1/workspaces").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

async fn pages(caller: &Caller, query: &str) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/workspaces?limit=3{query}{after}");
        let page: Page<WorkspaceView> = caller.get(&path).await.ok();
        assert!(page.items.len() <= 3);
        names.extend(page.items.into_iter().map(|w| w.spec.name));
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return names,
        }
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let mut names = Vec::new();
    for n in 0..7 {
        let name = format!("w{n}");
        let view: WorkspaceView = alice.submit(&name, &spec(&name)).await.ok();
        if n == 2 {
            alice
                .post(&format!("/v1/workspaces/{}/cancel", view.id))
                .await
                .json();
        }
        names.push(name);
    }
    assert_eq!(pages(&alice, "").await, names);
    assert_eq!(pages(&alice, "&state=cancelled").await, ["w2"]);
    assert_eq!(pages(&alice, "&state=queued").await.len(), 6);
    assert_eq!(pages(&alice, "&name=w5").await, ["w5"]);
    assert_eq!(pages(&alice, "&name=w5&state=done").await, [""; 0]);
    assert_eq!(pages(&broker.admin(), "&owner=alice").await, names);
}

#[tokio::test]
async fn a_cancelled_workspace_says_why_and_stays_so() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let id = alice.submit("k", &spec("w")).await.ok::<WorkspaceView>().id;
    let path = |what: &str| format!("/v1/workspaces/{id}{what}");
    let view: WorkspaceView = alice.post(&path("/cancel")).await.ok();
    assert_eq!(view.state, WorkspaceState::Cancelled);
    let reason = view.reason.unwrap();
    assert_eq!(reason.code, protocol::codes::ReasonCode::CancelledByUser);
    assert!(!reason.text.is_empty());
    alice
        .post(&path("/suspend"))
        .await
        .refused(ErrorCode::WrongState);
    assert_eq!(
        alice.get(&path("")).await.ok::<WorkspaceView>().state,
        WorkspaceState::Cancelled
    );
    let sentences = alice.get(&path("/explain")).await.json();
    assert!(
        sentences["sentences"][0]
            .as_str()
            .unwrap()
            .contains("cancel"),
        "{sentences}"
    );
}

#[tokio::test]
async fn events_are_paged_and_followed() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let id = alice.submit("k", &spec("w")).await.ok::<WorkspaceView>().id;
    let path = format!("/v1/workspaces/{id}/events");
    let all = alice.get(&path).await.json();
    let last = all["items"].as_array().unwrap().last().unwrap()["seq"]
        .as_u64()
        .unwrap();
    assert_eq!(all["items"][0]["seq"], 1);
    assert!(all["next"].is_null());
    assert_eq!(
        alice.get(&format!("{path}?limit=1")).await.json()["items"][0]["seq"],
        1
    );
    let none = alice
        .get(&format!("{path}?after={last}&wait_ms=1"))
        .await
        .json();
    assert_eq!(none["items"].as_array().unwrap().len(), 0);

    let follow = alice.clone();
    let follow_path = format!("{path}?after={last}&wait_ms=20000");
    let following = tokio::spawn(async move { follow.get(&follow_path).await.json() });
    alice
        .post(&format!("/v1/workspaces/{id}/cancel"))
        .await
        .json();
    let news = following.await.unwrap();
    assert_eq!(news["items"][0]["state"], "cancelled", "{news}");
    assert_eq!(news["items"][0]["seq"], last + 1);
}
