//! The real binary against a stub: exit codes, output for people and programs, and what happens
//! while the broker is away.

mod alone;
mod asks;
mod runs;
#[path = "../stub/mod.rs"]
mod stub;

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use stub::{Reply, Request};
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
    let mut view: Value = serde_json::from_str(include_str!("../fixtures/workspace.json")).unwrap();
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
