//! The real binary against a stub: exit codes, output for people and programs, and what happens
//! while the broker is away.

mod stub;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};
use stub::{Reply, Request, Stub};
use tempfile::TempDir;

const WS: &str = "/v1/workspaces/ws-0001";
const REQUEST: &str = "name = \"counter\"\nrun_time = \"3m\"\n\n[image]\nkernel = \"/dev/null\"\n\n[resources]\nmemory = \"128 MiB\"\n";

/// A user's home with a token, a request file and nothing else.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "wp1.a.b\n").unwrap();
        std::fs::write(home.path().join("r.toml"), REQUEST).unwrap();
        let user = Self { home };
        let token = user.path("token");
        let chmod = Command::new("chmod")
            .arg("600")
            .arg(token)
            .status()
            .unwrap();
        assert!(chmod.success());
        user
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, broker: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilot-submit"));
        command
            .args(args)
            .current_dir(self.home.path())
            .env_clear()
            .env("HOME", self.home.path())
            .env("PILOT_BROKER", broker)
            .env("PILOT_TOKEN_FILE", self.path("token"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, broker: &str, args: &[&str]) -> Done {
        Done::from(self.command(broker, args).output().unwrap())
    }
}

#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Done {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            out: String::from_utf8(o.stdout).unwrap(),
            err: String::from_utf8(o.stderr).unwrap(),
        }
    }
}

fn workspace(changes: &Value) -> Value {
    let mut view: Value = serde_json::from_str(include_str!("fixtures/workspace.json")).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        view[key] = value.clone();
    }
    view
}

fn ended(state: &str, code: &str, text: &str) -> Value {
    workspace(&json!({"state": state, "reason": {"code": code, "text": text}}))
}

fn event(seq: u64, state: &str, text: &str) -> Value {
    json!({"seq": seq, "at": format!("2026-11-21T08:20:{seq:02}Z"), "kind": "state", "state": state, "text": text})
}

/// A broker whose workspace goes through the given states, one per question for events.
fn life(steps: Vec<Value>, end: Value) -> impl Fn(&Request, usize) -> Reply {
    move |request, _| {
        if request.is("POST", "/v1/workspaces") {
            return Reply::Json(201, workspace(&json!({"state": "queued"})));
        }
        if request.is("GET", &format!("{WS}/events")) {
            let after = request.target.split("after=").nth(1).unwrap();
            let after: usize = after.split('&').next().unwrap().parse().unwrap();
            let items: Vec<&Value> = steps.iter().skip(after).take(1).collect();
            return Reply::Json(200, json!({ "items": items }));
        }
        assert!(request.is("GET", WS), "{request:?}");
        Reply::Json(200, end.clone())
    }
}

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
            "/v1/sites" => include_str!("fixtures/site.json"),
            "/v1/pilots" => include_str!("fixtures/pilot.json"),
            "/v1/slots" => include_str!("fixtures/slot.json"),
            "/v1/sites/siteA/explain" => {
                return Reply::Json(200, json!({"sentences": ["because"]}));
            }
            _ => include_str!("fixtures/workspace.json"),
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
fn digests_are_computed_and_pinned() {
    let user = User::new();
    std::fs::write(user.path("vmlinux"), "kernel").unwrap();
    let text = REQUEST.replace("/dev/null", "vmlinux");
    std::fs::write(user.path("r.toml"), text).unwrap();
    let digest = format!("blake3:{}", blake3::hash(b"kernel"));
    let done = user.run("", &["digest", "vmlinux"]);
    assert_eq!(done.out, format!("{digest}  vmlinux\n"));
    let done = user.run("", &["check", "--pin", "--json", "r.toml"]);
    let line: Value = serde_json::from_str(&done.out).unwrap();
    let kernel = &line["spec"]["image"]["kernel"];
    assert_eq!(kernel["digest"], digest.as_str());
    let url = Path::new(kernel["url"].as_str().unwrap());
    assert!(url.is_absolute() && url.ends_with("vmlinux"), "{url:?}");
    std::fs::remove_file(user.path("vmlinux")).unwrap();
    let done = user.run("", &["check", "r.toml"]);
    assert_eq!(done.code, Some(0));
    assert!(done.err.contains("is not on this machine"), "{done:?}");
    assert_eq!(user.run("", &["check", "--pin", "r.toml"]).code, Some(2));
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

#[test]
fn completions_and_man_pages_come_from_the_definition() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = user.run("", &["completions", shell]);
        assert!(
            done.code == Some(0) && done.out.contains("idempotency-key"),
            "{done:?}"
        );
    }
    assert_eq!(user.run("", &["man", "pages"]).code, Some(0));
    let page = std::fs::read_to_string(user.path("pages/pilot-submit.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
    assert!(user.path("pages/pilot-submit-run.1").exists());
}
