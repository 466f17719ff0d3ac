use broker::store::revoke;
use broker::tokens::Identity;
use protocol::api::WorkspaceView;
use protocol::codes::ErrorCode;
use protocol::ids::UserName;
use protocol::time::Span;
use reqwest::Method;

use crate::support::{Answer, Broker, spec};

#[tokio::test]
async fn calls_without_a_good_token_are_refused() {
    let broker = Broker::start().await;
    let bare = broker
        .client
        .get(format!("{}/v1/workspaces", broker.running.url()));
    let answer = Answer::of(bare).await;
    assert!(
        answer
            .refused(ErrorCode::Unauthenticated)
            .help
            .unwrap()
            .contains("token create")
    );
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    for bad in ["", "x", "wp1.e30.AAAA", "wp1..", &"x".repeat(4000)] {
        broker
            .caller(bad)
            .get("/v1/workspaces")
            .await
            .refused(ErrorCode::Unauthenticated);
    }
    let basic = broker
        .client
        .get(format!("{}/v1/sites", broker.running.url()));
    let answer = Answer::of(basic.basic_auth("a", Some("b"))).await;
    assert!(
        answer
            .refused(ErrorCode::Unauthenticated)
            .detail
            .contains("Bearer")
    );
    for open in ["/v1/health", "/v1/openapi.json"] {
        let answer = broker.client.get(format!("{}{open}", broker.running.url()));
        assert!(Answer::of(answer).await.status.is_success(), "{open}");
    }
}

#[tokio::test]
async fn expired_and_revoked_tokens_are_refused() {
    let broker = Broker::start().await;
    let alice = || Identity::User {
        sub: UserName::new("alice").unwrap(),
    };
    let (issuer, now) = (broker.running.issuer(), broker.running.clock().now());
    let (old, _) = issuer.issue(alice(), now);
    let e = broker
        .caller(old)
        .get("/v1/sites")
        .await
        .refused(ErrorCode::Unauthenticated);
    assert!(e.detail.contains("expired"), "{e:?}");

    let (token, claims) = issuer.issue(alice(), now + Span::from_secs(60));
    let (other, _) = issuer.issue(alice(), now + Span::from_secs(60));
    broker.caller(token.clone()).get("/v1/sites").await.json();
    revoke(
        &broker.dir.path().join("state"),
        &claims.id,
        claims.exp,
        now,
    )
    .await
    .unwrap();
    let e = broker
        .caller(token)
        .get("/v1/sites")
        .await
        .refused(ErrorCode::Unauthenticated);
    assert!(e.detail.contains("revoked"), "{e:?}");
    broker.caller(other).get("/v1/sites").await.json();
}

#[tokio::test]
async fn what_is_not_ones_own_does_not_exist() {
    let broker = Broker::start().await;
    let (alice, bob) = (broker.user("alice"), broker.user("bob"));
    let id = alice.submit("k", &spec("w")).await.ok::<WorkspaceView>().id;
    let missing = bob
        .get("/v1/workspaces/ws-none")
        .await
        .refused(ErrorCode::NotFound);
    for path in ["", "/events", "/explain", "/console"] {
        let path = format!("/v1/workspaces/{id}{path}");
        let e = bob.get(&path).await.refused(ErrorCode::NotFound);
        assert_eq!(
            e.detail.replace(id.as_str(), "ws-none"),
            missing.detail,
            "{path}"
        );
        assert!(alice.get(&path).await.status.is_success(), "{path}");
        assert!(
            broker.admin().get(&path).await.status.is_success(),
            "{path}"
        );
    }
    for action in ["cancel", "suspend", "resume", "pause"] {
        let path = format!("/v1/workspaces/{id}/{action}");
        bob.post(&path).await.refused(ErrorCode::NotFound);
    }
    assert_eq!(
        bob.get("/v1/workspaces").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    assert_eq!(
        broker.admin().get("/v1/workspaces").await.json()["items"][0]["id"],
        id.as_str()
    );
    let by_owner = broker.admin().get("/v1/workspaces?owner=bob").await.json();
    assert_eq!(by_owner["items"].as_array().unwrap().len(), 0);
    assert_eq!(
        alice.get(&format!("/v1/workspaces/{id}")).await.json()["state"],
        "queued"
    );
}

#[tokio::test]
async fn each_kind_of_token_is_good_for_its_own_calls_only() {
    let broker = Broker::start().await;
    let mut pilot = broker.pilot().await;
    let user = broker.user("alice");
    let site = serde_json::json!({"site": "hand"});
    user.post("/v1/sites/hand/drain")
        .await
        .refused(ErrorCode::Forbidden);
    user.post("/v1/sites/hand/undrain")
        .await
        .refused(ErrorCode::Forbidden);
    user.post_json("/v1/pilots", &site)
        .await
        .refused(ErrorCode::Forbidden);
    for caller in [&user, &broker.admin()] {
        let sync = pilot.request(true);
        caller
            .post_json("/v1/pilot/sync", &sync)
            .await
            .refused(ErrorCode::Forbidden);
        let register = pilot.registration();
        caller
            .post_json("/v1/pilot/register", &register)
            .await
            .refused(ErrorCode::Forbidden);
        let console = "/v1/pilot/console/ws-1/1?offset=0";
        caller.post(console).await.refused(ErrorCode::Forbidden);
    }
    for path in ["/v1/workspaces", "/v1/sites", "/v1/pilots", "/v1/slots"] {
        pilot.caller.get(path).await.refused(ErrorCode::Forbidden);
    }
    pilot
        .caller
        .submit("k", &spec("w"))
        .await
        .refused(ErrorCode::Forbidden);
    pilot
        .caller
        .post("/v1/sites/hand/drain")
        .await
        .refused(ErrorCode::Forbidden);

    // And a pilot speaks for its own pilot job only.
    let other = broker.pilot().await;
    let mut request = pilot.request(true);
    request.submit_key = other.key.clone();
    let e = pilot
        .caller
        .post_json("/v1/pilot/sync", &request)
        .await
        .refused(ErrorCode::Forbidden);
    assert!(e.detail.contains(other.key.as_str()), "{e:?}");
    let register = other.registration();
    pilot
        .caller
        .post_json("/v1/pilot/register", &register)
        .await
        .refused(ErrorCode::Forbidden);
    let mut register = pilot.registration();
    register.slot.site = protocol::ids::SiteName::new("elsewhere").unwrap();
    pilot
        .caller
        .post_json("/v1/pilot/register", &register)
        .await
        .refused(ErrorCode::Forbidden);
    let drained = broker.admin().post("/v1/sites/hand/drain").await.json();
    assert_eq!(drained["draining"], true);
    let request = broker
        .admin()
        .request(Method::POST, "/v1/sites/nowhere/drain");
    Answer::of(request).await.refused(ErrorCode::NotFound);
}
