//! The program itself: exit codes, start, signals.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::api::WorkspaceView;

use crate::support::{CONFIG, Caller, client, eventually, spec};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pilot-broker"))
}

fn run(args: &[&str]) -> Output {
    program().args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn config(dir: &Path) -> String {
    let path = dir.join("broker.toml");
    std::fs::write(&path, CONFIG).unwrap();
    path.display().to_string()
}

#[test]
fn wrong_configurations_are_shown_with_line_and_caret() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path());
    let out = run(&["check-config", "--config", &path]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("is fine"));
    std::fs::write(&path, "[leases]\nttl = \"-5s\"\n").unwrap();
    for command in ["check-config", "show-config", "serve"] {
        let out = run(&[command, "--config", &path]);
        let err = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{command}: {err}");
        assert!(
            err.contains("line 2") && err.contains('^') && err.contains("negative"),
            "{err}"
        );
    }
    let out = run(&["serve", "--config", "/nowhere/broker.toml"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(
        text(&out.stderr).contains("/nowhere/broker.toml"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(run(&["serve"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn what_a_configuration_names_is_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path());
    let check = |more: &str| {
        std::fs::write(&path, format!("{more}\n{CONFIG}")).unwrap();
        let out = run(&["check-config", "--config", &path]);
        assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
        text(&out.stderr)
    };
    let err = check("tls = { cert = \"none.crt\", key = \"none.key\" }");
    assert!(
        err.contains("none.crt") && err.contains("certificate"),
        "{err}"
    );
    std::fs::write(dir.path().join("file"), "").unwrap();
    let err = check("state_dir = \"file/state\"");
    assert!(
        err.contains("state directory") && err.contains("file/state"),
        "{err}"
    );
}

#[test]
fn the_configuration_and_the_description_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(&["show-config", "--config", &config(dir.path())]);
    let shown = text(&out.stdout);
    assert!(
        shown.contains("ttl = \"1m\"") && shown.contains("[site.hand"),
        "{shown}"
    );
    let out = run(&["show-config", "--defaults"]);
    assert_eq!(text(&out.stdout), broker::config::DEFAULT_CONFIG);
    let out = run(&["openapi"]);
    let description: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(description["paths"]["/v1/workspaces"].is_object());
}

#[test]
fn tokens_are_made_and_revoked_without_a_running_broker() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path());
    let file = dir.path().join("alice.token");
    let make = [
        "token", "create", "--config", &path, "--kind", "user", "--name", "alice",
    ];
    let printed = run(&make);
    assert!(
        text(&printed.stdout).starts_with("wp1."),
        "{}",
        text(&printed.stderr)
    );
    let out = run(&[
        &make[..],
        &["--expires", "2h", "--out", file.to_str().unwrap()],
    ]
    .concat());
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(out.stdout.is_empty(), "a token for a file is not printed");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let out = run(&["token", "revoke", "--config", &path, file.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let out = run(&["token", "revoke", "--config", &path, "wp1.x.y"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    for wrong in [
        &["--kind", "user"][..],
        &["--kind", "pilot", "--key", "wp-1"],
        &["--kind", "king", "--name", "a"],
        &["--kind", "user", "--name", "a b"],
        &["--kind", "user", "--name", "a", "--expires", "soon"],
    ] {
        let out = run(&[&["token", "create", "--config", &path], wrong].concat());
        assert_eq!(
            out.status.code(),
            Some(2),
            "{wrong:?}: {}",
            text(&out.stderr)
        );
    }
}

/// A served broker; killed when dropped.
struct Served {
    child: Child,
    url: String,
    log: std::thread::JoinHandle<String>,
}

impl Served {
    fn start(config: &str) -> Self {
        let mut child = program()
            .args(["serve", "--config", config])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let url = loop {
            let mut line = String::new();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended:\n{seen}");
            seen.push_str(&line);
            if let Some((_, rest)) = line.split_once("http.url=\"") {
                break rest.split('"').next().unwrap().to_owned();
            }
        };
        let log = std::thread::spawn(move || {
            // What a killed child leaves may be cut anywhere.
            let mut rest = Vec::new();
            let _ = lines.read_to_end(&mut rest);
            String::from_utf8_lossy(&rest).into_owned()
        });
        Self { child, url, log }
    }

    fn caller(&self, token: &str) -> Caller {
        Caller {
            url: self.url.clone(),
            token: token.to_owned(),
            client: client(),
        }
    }

    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
        let status = self.child.wait().unwrap();
        (status.code(), self.log.join().unwrap())
    }
}

#[tokio::test]
async fn a_service_that_is_killed_loses_no_accepted_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path());
    let make = [
        "token", "create", "--config", &path, "--kind", "user", "--name", "alice",
    ];
    let token = text(&run(&make).stdout).trim().to_owned();
    let mut accepted = Vec::new();
    for round in 0..3 {
        let served = Served::start(&path);
        let caller = served.caller(&token);
        // Killed while requests are under way: each that was answered must be there afterwards.
        let submits = tokio::spawn(async move {
            let mut ids = Vec::new();
            for n in 0.. {
                let name = format!("r{round}n{n}");
                let sent = caller
                    .request(reqwest::Method::POST, "/v1/workspaces")
                    .header("Idempotency-Key", &name)
                    .json(&spec(&name))
                    .send()
                    .await;
                let Ok(answer) = sent else { return ids };
                let Ok(view) = answer.json::<WorkspaceView>().await else {
                    return ids;
                };
                ids.push((name, view.id));
            }
            ids
        });
        let watcher = served.caller(&token);
        eventually("some are accepted", async || {
            let name = format!("/v1/workspaces?name=r{round}n20");
            let page = watcher.get(&name).await.json();
            (page["items"].as_array()?.len() == 1).then_some(())
        })
        .await;
        served.end(Signal::SIGKILL);
        accepted.extend(submits.await.unwrap());
    }
    let served = Served::start(&path);
    let database = std::fs::metadata(dir.path().join("state/broker.sqlite")).unwrap();
    assert_eq!(database.mode() & 0o077, 0, "others can read the database");
    let caller = served.caller(&token);
    for (name, id) in &accepted {
        let view: WorkspaceView = caller.get(&format!("/v1/workspaces/{id}")).await.ok();
        assert_eq!(view.spec.name, *name);
        let again: WorkspaceView = caller.submit(name, &spec(name)).await.ok();
        assert_eq!(again.id, *id);
    }
    assert!(accepted.len() > 60, "{}", accepted.len());
    let (code, log) = served.end(Signal::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert!(!log.contains(&token), "a secret in the log");
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let path = dir.path().join("broker.toml");
    std::fs::write(&path, format!("listen = \"{addr}\"\n")).unwrap();
    let out = run(&["serve", "--config", path.to_str().unwrap()]);
    let err = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(
        err.contains(&addr.to_string()) && err.contains("in use"),
        "{err}"
    );
}
