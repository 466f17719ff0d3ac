//! The typed client against a stub: what is repeated, what is not, and how failures are told apart.

mod stub;

use std::time::Duration;

use pilot_submit::client::{
    Client, ClientError, ClientSettings, PageRequest, Retry, Token, WorkspaceAction,
    WorkspaceFilter,
};
use protocol::codes::{ErrorCode, exit};
use protocol::ids::{IdempotencyKey, SubmitKey, WorkspaceId};
use protocol::workspace::WorkspaceState;
use serde_json::{Value, json};
use stub::{Reply, Stub};

fn view() -> Value {
    serde_json::from_str(include_str!("fixtures/workspace.json")).unwrap()
}

fn settings(url: &str) -> ClientSettings {
    let mut settings = ClientSettings::new(url);
    settings.token = Some(Token::new("wp1.claims.mac\n").unwrap());
    settings.retry = Retry {
        give_up_after: Duration::from_secs(20),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
    };
    settings
}

fn client(stub: &Stub) -> Client {
    Client::new(&settings(&stub.url())).unwrap()
}

fn id() -> WorkspaceId {
    WorkspaceId::new("ws-0001").unwrap()
}

#[tokio::test]
async fn a_question_is_repeated_until_it_is_answered() {
    let stub = Stub::start(|_, n| match n {
        0 => Reply::Drop,
        1 => Reply::refuse(503, "unavailable"),
        2 => Reply::Raw(502, vec![], b"<html>bad gateway</html>".to_vec()),
        _ => Reply::Json(200, view()),
    });
    let view = client(&stub).workspace(&id()).await.unwrap();
    assert_eq!(view.state, WorkspaceState::Running);
    let seen = stub.seen();
    assert_eq!(seen.len(), 4);
    for request in seen {
        assert!(request.is("GET", "/v1/workspaces/ws-0001"), "{request:?}");
        assert_eq!(
            request.header("authorization"),
            Some("Bearer wp1.claims.mac")
        );
    }
}

#[tokio::test]
async fn a_submit_is_repeated_with_the_same_key() {
    let stub = Stub::start(|_, n| match n {
        0 => Reply::Drop,
        _ => Reply::Json(201, view()),
    });
    let view: protocol::api::WorkspaceView = serde_json::from_value(view()).unwrap();
    let key = IdempotencyKey::new("key of this call").unwrap();
    let answer = client(&stub).submit(&key, &view.spec).await.unwrap();
    assert_eq!(answer.id, view.id);
    let seen = stub.seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!(request.header("idempotency-key"), Some(key.as_str()));
        let spec: protocol::workspace::WorkspaceSpec = serde_json::from_str(&request.body).unwrap();
        assert_eq!(spec, view.spec);
    }
}

#[tokio::test]
async fn an_action_that_may_have_been_done_is_not_repeated() {
    let stub = Stub::start(|_, _| Reply::Drop);
    let error = client(&stub)
        .act(&id(), WorkspaceAction::Cancel)
        .await
        .unwrap_err();
    assert!(!error.surely_not_done(), "{error:?}");
    assert_eq!(error.exit_code(), exit::NO_ANSWER);
    assert_eq!(stub.seen().len(), 1);

    let stub = Stub::start(|_, _| Reply::refuse(500, "internal"));
    let error = client(&stub)
        .act(&id(), WorkspaceAction::Pause)
        .await
        .unwrap_err();
    assert_eq!(error.refused(), Some(ErrorCode::Internal));
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn an_action_that_was_surely_not_done_is_repeated() {
    let stub = Stub::start(|_, n| match n {
        0 => Reply::refuse(503, "unavailable"),
        _ => Reply::Json(200, view()),
    });
    client(&stub)
        .act(&id(), WorkspaceAction::Suspend)
        .await
        .unwrap();
    let seen = stub.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].is("POST", "/v1/workspaces/ws-0001/suspend"));
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_help_and_is_not_repeated() {
    for (status, code, want, code_exit) in [
        (
            401,
            "unauthenticated",
            ErrorCode::Unauthenticated,
            exit::DENIED,
        ),
        (403, "forbidden", ErrorCode::Forbidden, exit::DENIED),
        (404, "not_found", ErrorCode::NotFound, exit::NOT_FOUND),
        (409, "wrong_state", ErrorCode::WrongState, exit::FAILED),
        (422, "impossible", ErrorCode::Impossible, exit::FAILED),
    ] {
        let stub = Stub::start(move |_, _| Reply::refuse(status, code));
        let error = client(&stub).workspace(&id()).await.unwrap_err();
        assert_eq!(error.refused(), Some(want));
        assert_eq!(error.help(), Some("do otherwise"));
        assert_eq!(error.exit_code(), code_exit);
        assert_eq!(
            error.to_string(),
            "failed to show ws-0001: as the test wants it"
        );
        assert_eq!(stub.seen().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn an_answer_of_something_else_is_unreadable() {
    for (status, body) in [
        (200, "<html>hello</html>"),
        (404, "no such page"),
        (302, ""),
    ] {
        let away = ("Location", "http://127.0.0.1:1/elsewhere".to_owned());
        let stub = Stub::start(move |_, _| Reply::Raw(status, vec![away.clone()], body.into()));
        let error = client(&stub).workspace(&id()).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Unreadable { status: s, .. } if s == status),
            "{error:?}"
        );
        assert_eq!(error.exit_code(), exit::NO_ANSWER);
        assert_eq!(stub.seen().len(), 1, "redirects are not followed");
    }
    let stub = Stub::start(|_, _| Reply::Raw(200, vec![], b"console".to_vec()));
    let error = client(&stub)
        .console(&id(), 0, Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("Console-Next-Offset"), "{error}");
}

#[tokio::test]
async fn a_broker_that_hangs_is_not_waited_for_without_end() {
    let stub = Stub::start(|_, _| Reply::Hang);
    let mut settings = settings(&stub.url());
    settings.answer_timeout = Duration::from_millis(50);
    settings.retry = Retry::never();
    let client = Client::new(&settings).unwrap();
    let error = client.workspace(&id()).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::NoAnswer {
                not_sent: false,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("took too long"), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_not_there_surely_did_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let client = Client::new(&settings(&format!("http://{port}")))
        .unwrap()
        .once();
    let error = client
        .act(&id(), WorkspaceAction::Cancel)
        .await
        .unwrap_err();
    assert!(error.surely_not_done(), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn lists_ask_for_what_is_wanted() {
    let stub = Stub::start(|_, _| {
        Reply::Json(200, json!({"items": [view()], "next": "x", "new_field": 1}))
    });
    let filter = WorkspaceFilter {
        state: Some(WorkspaceState::StagingOut),
        name: Some("a b&c".into()),
    };
    let page = PageRequest {
        limit: Some(7),
        after: Some("p".into()),
    };
    let page = client(&stub).workspaces(&filter, &page).await.unwrap();
    assert_eq!(page.next.as_deref(), Some("x"));
    assert_eq!(
        stub.seen()[0].target,
        "/v1/workspaces?limit=7&after=p&state=staging_out&name=a+b%26c"
    );
}

#[test]
fn a_token_is_never_shown() {
    let settings = settings("https://broker");
    assert!(!format!("{settings:?}").contains("claims"));
    assert!(!format!("{:?}", Client::new(&settings).unwrap()).contains("claims"));
    assert!(Token::new(" \n").is_err());
}

/// A broker lists slots by their keys, a page at a time.
#[tokio::test]
async fn a_slot_is_found_among_any_number() {
    let slot: Value = serde_json::from_str(include_str!("fixtures/slot.json")).unwrap();
    let stub = Stub::start(move |request, _| {
        let after = request.target.split("after=").nth(1).unwrap_or_default();
        let after = after.split('&').next().unwrap();
        let keys = (1..=2000).map(|n| format!("wp-t-{n:06}"));
        let page: Vec<String> = keys.filter(|key| key.as_str() > after).take(6).collect();
        let items: Vec<Value> = (page.iter().take(5))
            .map(|key| {
                let mut slot = slot.clone();
                slot["submit_key"] = json!(key);
                slot
            })
            .collect();
        let next = page.get(5).and(page.get(4));
        Reply::Json(200, json!({ "items": items, "next": next }))
    });
    let client = client(&stub);
    for (key, found) in [
        ("wp-t-001999", true),
        ("wp-t-000001", true),
        ("wp-t-002001", false),
        ("wp-t-0012345", false),
    ] {
        let key = SubmitKey::new(key).unwrap();
        let slot = client.slot(&key).await.unwrap();
        let want = found.then(|| key.clone());
        assert_eq!(slot.map(|s| s.submit_key), want, "{key}");
    }
    assert!(stub.seen().len() <= 8, "{:?}", stub.seen());
}
