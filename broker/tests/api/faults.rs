//! A store that can't be written: a trigger makes every commit fail, as a full disk does.

use protocol::api::WorkspaceView;
use protocol::codes::ErrorCode;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use crate::support::{Broker, eventually, spec};

async fn database(broker: &Broker) -> SqliteConnection {
    let path = broker.dir.path().join("state/broker.sqlite");
    SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn what_can_not_be_recorded_is_not_answered_as_done_and_the_service_goes_on() {
    let broker = Broker::start().await;
    let alice = broker.user("alice");
    let first: WorkspaceView = alice.submit("1", &spec("w1")).await.ok();
    let mut pilot = broker.pilot().await;
    pilot.sync(true).await;

    let mut db = database(&broker).await;
    for table in ["workspaces", "leases", "pilots"] {
        let sql = format!(
            "CREATE TRIGGER full_{table} BEFORE INSERT ON {table} \
             BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut db)
            .await
            .unwrap();
    }
    let e = alice
        .submit("2", &spec("w2"))
        .await
        .refused(ErrorCode::Unavailable);
    assert!(e.help.is_some() && !e.detail.contains("trigger"), "{e:?}");
    let cancel = format!("/v1/workspaces/{}/cancel", first.id);
    alice.post(&cancel).await.refused(ErrorCode::Unavailable);
    let sync = pilot.request(true);
    pilot
        .caller
        .post_json("/v1/pilot/sync", &sync)
        .await
        .refused(ErrorCode::Unavailable);

    // Reads go on, and show nothing of what was refused.
    let list = eventually("it answers again", async || {
        let answer = alice.get("/v1/workspaces").await;
        answer.status.is_success().then(|| answer.json())
    })
    .await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_ne!(list["items"][0]["state"], "cancelled");

    for table in ["workspaces", "leases", "pilots"] {
        let sql = format!("DROP TRIGGER full_{table}");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&mut db)
            .await
            .unwrap();
    }
    let second: WorkspaceView = alice.submit("2", &spec("w2")).await.ok();
    assert_ne!(second.id, first.id);
    let reply = pilot.sync(true).await;
    assert!(!reply.leases.is_empty(), "{reply:?}");
    assert_eq!(
        alice.get("/v1/workspaces").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}
