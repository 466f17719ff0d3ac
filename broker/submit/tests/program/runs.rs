//! `run`, `follow` and `queue`: a request from its submission to its end, with a broker that is away.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{User, WS, ended, event, life, workspace};
use crate::stub::{Reply, Stub};

#[test]
fn run_tells_each_step_and_ends_with_the_workspaces_end() {
    for (state, code, want) in [
        ("done", "run_time_used", 0),
        ("failed", "image_missing", 1),
        ("cancelled", "cancelled_by_user", 6),
    ] {
        let steps = vec![
            event(1, "queued", "accepted"),
            event(2, "running", "the guest runs on n2"),
            event(3, state, "the end"),
        ];
        let stub = Stub::start(life(steps, ended(state, code, "all of it")));
        let done = User::new().run(&stub.url(), &["run", "r.toml"]);
        assert_eq!(done.code, Some(want), "{done:?}");
        let expected = format!(
            "counter is queued as ws-0001\n\
             08:20:01  queued       accepted\n\
             08:20:02  running      the guest runs on n2\n\
             08:20:03  {state:<11}  the end\n\
             counter is {state}: all of it; it ran 1m 32s, was suspended once and restarted 0 times\n"
        );
        assert_eq!(done.out, expected);
        assert_eq!(done.err, "", "no status line where there is no terminal");
    }
}

/// The workspace ends between the question for events and that for its state.
#[test]
fn no_event_is_lost_at_the_end() {
    let stub = Stub::start(|request, n| {
        if request.is("GET", &format!("{WS}/events")) {
            let items = match n {
                0 => vec![],
                _ => vec![event(1, "done", "the very last word")],
            };
            return Reply::Json(200, json!({ "items": items }));
        }
        Reply::Json(200, ended("done", "run_time_used", "enough"))
    });
    let done = User::new().run(&stub.url(), &["follow", "ws-0001"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("the very last word"), "{done:?}");
}

#[test]
fn run_with_json_is_one_object_on_a_line() {
    let steps = vec![event(1, "done", "the end")];
    let stub = Stub::start(life(steps, ended("done", "guest_powered_off", "off")));
    let done = User::new().run(&stub.url(), &["run", "r.toml", "--json"]);
    let lines: Vec<Value> = done
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3, "{done:?}");
    assert_eq!(lines[0]["workspace"]["state"], "queued");
    let key = lines[0]["idempotency_key"].as_str().unwrap();
    assert_eq!(stub.seen()[0].header("idempotency-key"), Some(key));
    assert_eq!(lines[1]["event"]["text"], "the end");
    assert_eq!(lines[2]["workspace"]["reason"]["code"], "guest_powered_off");
    let quiet = User::new().run(&stub.url(), &["run", "r.toml", "-q"]);
    assert_eq!((quiet.code, quiet.out.as_str()), (Some(0), "ws-0001\n"));
}

#[test]
fn run_bears_a_broker_that_is_away() {
    let answer = life(
        vec![event(1, "running", "it runs"), event(2, "done", "the end")],
        ended("done", "run_time_used", "enough"),
    );
    let stub = Stub::start(move |request, n| match n {
        0 if request.method == "POST" => Reply::Drop,
        1 if request.target.contains("/events") => Reply::Drop,
        2 if request.target.contains("/events") => Reply::Raw(503, vec![], b"starting".to_vec()),
        _ => answer(request, n),
    });
    let done = User::new().run(&stub.url(), &["run", "r.toml"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.out.contains("it runs") && done.out.contains("the end"),
        "{done:?}"
    );
    let notes: Vec<&str> = done.err.lines().collect();
    assert_eq!(notes.len(), 3, "{done:?}");
    assert!(notes[0].contains("no answer from the broker") && notes[0].contains("still trying"));
    assert!(notes[1].contains("goes on without us"), "{done:?}");
    assert_eq!(notes[2], "note: the broker answers again");
    let keys: Vec<_> = stub
        .seen()
        .iter()
        .filter_map(|r| r.header("idempotency-key").map(str::to_owned))
        .collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

#[test]
fn a_submit_without_an_answer_says_how_to_find_it_again() {
    let stub = Stub::start(|_, _| Reply::Drop);
    let args = [
        "queue",
        "r.toml",
        "--timeout",
        "0s",
        "--idempotency-key",
        "k1",
    ];
    let done = User::new().run(&stub.url(), &args);
    assert_eq!(done.code, Some(3), "{done:?}");
    assert!(done.err.contains("`--idempotency-key k1`"), "{done:?}");
}

#[test]
fn a_submit_that_reached_nobody_does_not_say_that_it_may_be_queued() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let args = ["queue", "r.toml", "--timeout", "0s"];
    let done = User::new().run(&format!("http://{nobody}"), &args);
    assert_eq!(done.code, Some(3), "{done:?}");
    assert!(!done.err.contains("may have been queued"), "{done:?}");
}

#[test]
fn ctrl_c_detaches_and_says_how_to_follow_again() {
    let stub = Stub::start(|request, n| match n {
        _ if request.method == "POST" => Reply::Json(201, workspace(&json!({}))),
        0 => Reply::Json(200, json!({"items": [event(1, "running", "it runs")]})),
        _ => Reply::Hang,
    });
    let user = User::new();
    let mut child = user
        .command(&stub.url(), &["run", "r.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("it runs")));
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert!(
        err.contains("detached") && err.contains("pilot-submit follow ws-0001"),
        "{err}"
    );
}
