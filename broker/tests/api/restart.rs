use protocol::api::WorkspaceView;
use protocol::workspace::WorkspaceState;
use serde_json::Value;

use crate::support::{Broker, spec};

async fn everything(broker: &Broker, ids: &[String]) -> Vec<Value> {
    let admin = broker.admin();
    let mut all = Vec::new();
    for path in ["/v1/workspaces", "/v1/sites", "/v1/pilots", "/v1/slots"] {
        all.push(admin.get(path).await.json());
    }
    for id in ids {
        all.push(
            admin
                .get(&format!("/v1/workspaces/{id}/events"))
                .await
                .json(),
        );
    }
    all
}

#[tokio::test]
async fn a_killed_broker_goes_on_where_it_was() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let mut ids = Vec::new();
    for n in 0..5 {
        let view: WorkspaceView = alice
            .submit(&n.to_string(), &spec(&format!("w{n}")))
            .await
            .ok();
        ids.push(view.id.to_string());
    }
    alice
        .post(&format!("/v1/workspaces/{}/cancel", ids[4]))
        .await
        .json();
    let mut pilot = broker.pilot().await;
    pilot.sync(true).await;
    let leases = pilot.sync(true).await.leases.len();
    assert!(leases > 0);
    let before = everything(&broker, &ids).await;

    let broker = broker.restart().await;
    assert_eq!(everything(&broker, &ids).await, before);
    let alice = broker.caller(alice.token);
    let again: WorkspaceView = alice.submit("0", &spec("w0")).await.ok();
    assert_eq!(again.id.as_str(), ids[0], "keys are kept");

    // The pilot goes on with its next sync, as if nothing had been.
    pilot.caller = broker.caller(pilot.caller.token.clone());
    let reply = pilot.sync(true).await;
    assert_eq!(reply.leases.len(), leases, "{reply:?}");
    let view: WorkspaceView = alice.get(&format!("/v1/workspaces/{}", ids[0])).await.ok();
    assert_eq!(view.state, WorkspaceState::Running);
    assert_eq!(view.generation.0, 1);
}

#[tokio::test]
async fn a_second_broker_on_the_same_state_is_refused() {
    let broker = Broker::start().await;
    let settings = crate::support::settings(broker.dir.path(), crate::support::CONFIG);
    let e = broker::serve(settings).await.unwrap_err();
    assert!(matches!(e, broker::ServeError::InUse { .. }), "{e}");
    broker.user("a").get("/v1/sites").await.json();
}
