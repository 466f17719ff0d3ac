//! Commands that ask or tell the broker one thing: exit codes, lists, ids, the console, a token.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::{User, workspace};
use crate::stub::{Reply, Stub};

#[test]
fn exit_codes_tell_what_went_wrong() {
    let user = User::new();
    for (status, code, want) in [
        (401, "unauthenticated", 4),
        (403, "forbidden", 4),
        (404, "not_found", 5),
        (409, "wrong_state", 1),
    ] {
        let stub = Stub::start(move |request, _| match request.target.contains('?') {
            true => Reply::Json(200, json!({"items": []})),
            false => Reply::refuse(status, code),
        });
        let done = user.run(&stub.url(), &["show", "ws-0001"]);
        assert_eq!(done.code, Some(want), "{done:?}");
        assert_eq!(
            done.err,
            "error: failed to show ws-0001: as the test wants it\nhelp: do otherwise\n"
        );
        let json = user.run(&stub.url(), &["show", "ws-0001", "--json"]);
        assert_eq!((json.code, json.out.as_str()), (Some(want), ""));
        let error: Value = serde_json::from_str(&json.err).unwrap();
        assert_eq!(error["error"]["code"], code);
        assert_eq!(error["error"]["exit"], want);
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{nobody}");
    assert_eq!(user.run(&url, &["list", "--timeout", "0s"]).code, Some(3));
    assert_eq!(
        user.run(&url, &["list", "--state", "sleeping"]).code,
        Some(2)
    );
    assert_eq!(user.run(&url, &["show", "../etc"]).code, Some(2));
    assert_eq!(
        user.run("http://broker.example.org", &["list"]).code,
        Some(2)
    );
    assert_eq!(
        user.run(&url, &["list", "--token-file", "nowhere"]).code,
        Some(2)
    );
    assert_eq!(user.run(&url, &["queue", "nowhere.toml"]).code, Some(2));
}

#[test]
fn the_beginning_of_an_id_is_enough_when_it_is_the_only_one() {
    let other = workspace(&json!({"id": "ws-0002"}));
    let third = workspace(&json!({"id": "wt-0003"}));
    let stub = Stub::start(move |request, _| {
        if request.is("GET", "/v1/workspaces") {
            return match request.target.contains("after=p2") {
                false => Reply::Json(
                    200,
                    json!({"items": [workspace(&json!({})), other], "next": "p2"}),
                ),
                true => Reply::Json(200, json!({"items": [third]})),
            };
        }
        Reply::refuse(404, "not_found")
    });
    let user = User::new();
    let found = user.run(&stub.url(), &["show", "wt", "-q"]);
    assert_eq!(
        (found.code, found.out.as_str()),
        (Some(0), "wt-0003\n"),
        "{found:?}"
    );
    let several = user.run(&stub.url(), &["show", "ws-"]);
    assert_eq!(several.code, Some(2));
    assert!(several.err.contains("ws-0001, ws-0002"), "{several:?}");
    assert_eq!(user.run(&stub.url(), &["show", "x"]).code, Some(5));
}

#[test]
fn several_are_cancelled_even_when_one_can_not_be() {
    let stub = Stub::start(|request, _| match request.target.as_str() {
        "/v1/workspaces/ws-0002" | "/v1/workspaces/ws-0001" => {
            let id = request.target.rsplit('/').next().unwrap();
            Reply::Json(200, workspace(&json!({ "id": id })))
        }
        "/v1/workspaces/ws-0001/cancel" => Reply::refuse(409, "wrong_state"),
        "/v1/workspaces/ws-0002/cancel" => Reply::Json(
            200,
            workspace(&json!({"id": "ws-0002", "state": "stopping"})),
        ),
        other => panic!("{other}"),
    });
    let done = User::new().run(&stub.url(), &["cancel", "ws-0001", "ws-0002"]);
    assert_eq!(done.code, Some(1));
    assert_eq!(
        done.out,
        "ws-0002 (counter): cancel is asked for; it is stopping\n"
    );
    assert!(done.err.contains("failed to cancel ws-0001"), "{done:?}");
}

#[test]
fn the_console_is_followed_across_slots_to_its_end() {
    let text = "boot\ncount 1\n-- next slot --\ncount 2\n";
    let (ended_at, asked) = (text.len(), Mutex::new(0));
    let stub = Stub::start(move |request, _| {
        if !request.target.contains("/console") {
            let state = if *asked.lock().unwrap() < 3 {
                "running"
            } else {
                "done"
            };
            return Reply::Json(200, workspace(&json!({ "state": state })));
        }
        *asked.lock().unwrap() += 1;
        let offset = request.target.split("offset=").nth(1).unwrap();
        let offset: usize = offset.split('&').next().unwrap().parse().unwrap();
        let end = (offset + 20).min(ended_at);
        let next = ("Console-Next-Offset", end.to_string());
        Reply::Raw(200, vec![next], text.as_bytes()[offset..end].to_vec())
    });
    let user = User::new();
    let done = user.run(&stub.url(), &["console", "ws-0001", "--follow"]);
    assert_eq!((done.code, done.out.as_str()), (Some(0), text), "{done:?}");
    let part = user.run(
        &stub.url(),
        &["console", "ws-0001", "--offset", "5", "--json"],
    );
    let first: Value = serde_json::from_str(part.out.lines().next().unwrap()).unwrap();
    assert_eq!(
        first,
        json!({"offset": 5, "next_offset": 25, "text": &text[5..25]})
    );
}

#[test]
fn lists_are_the_brokers_own_objects() {
    let stub = Stub::start(|request, _| {
        let one: Value = serde_json::from_str(match request.target.split('?').next().unwrap() {
            "/v1/sites" => include_str!("../fixtures/site.json"),
            "/v1/pilots" => include_str!("../fixtures/pilot.json"),
            "/v1/slots" => include_str!("../fixtures/slot.json"),
            "/v1/sites/siteA/explain" => {
                return Reply::Json(200, json!({"sentences": ["because"]}));
            }
            _ => include_str!("../fixtures/workspace.json"),
        })
        .unwrap();
        Reply::Json(200, json!({ "items": [one] }))
    });
    let user = User::new();
    for (command, id, key) in [
        ("list", "ws-0001", "id"),
        ("sites", "siteA", "name"),
        ("pilots", "siteA-8", "submit_key"),
        ("slots", "siteA-8", "submit_key"),
    ] {
        let done = user.run(&stub.url(), &[command, "--json"]);
        let page: Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(page["items"][0][key], id, "{done:?}");
        let done = user.run(&stub.url(), &[command, "-q"]);
        assert_eq!(done.out, format!("{id}\n"), "{done:?}");
        let done = user.run(&stub.url(), &[command]);
        assert!(done.out.lines().nth(1).unwrap().starts_with(id), "{done:?}");
        assert!(!done.out.contains('\x1b'), "no colours in a pipe");
    }
    let done = user.run(&stub.url(), &["sites", "siteA"]);
    assert!(done.out.ends_with("\n\nbecause\n"), "{done:?}");
    assert_eq!(user.run(&stub.url(), &["sites", "siteB"]).code, Some(5));
    let coloured = user.run(&stub.url(), &["list", "--color", "always"]);
    assert!(coloured.out.contains("\x1b["), "{coloured:?}");
}

#[test]
fn a_pilots_token_goes_to_a_new_file_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let stub = Stub::start(|request, _| {
        assert!(request.is("POST", "/v1/pilots"), "{request:?}");
        Reply::Json(201, json!({"submit_key": "siteA-9", "token": "wp1.secret"}))
    });
    let user = User::new();
    let args = ["admin", "new-pilot", "siteA", "--token-to", "t"];
    let done = user.run(&stub.url(), &args);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.out.contains("secret"), "{done:?}");
    assert_eq!(
        std::fs::read_to_string(user.path("t")).unwrap(),
        "wp1.secret\n"
    );
    let mode = std::fs::metadata(user.path("t"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        user.run(&stub.url(), &args).code,
        Some(2),
        "a file is never overwritten"
    );
    assert_eq!(stub.seen().len(), 1, "and no key is made in vain");
}
