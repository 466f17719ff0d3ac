//! The lines that the documents give to site administrators, run as each batch system runs them:
//! the script of `docs/operations/prologue.md`, word for word but for its two paths, and the hook of
//! `docs/adapters/htcondor.md`. PBS and HTCondor are played; `tests/tests/` has the real ones.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pilot::host::processes::ProcessId;

use crate::node::{Node, pilot_program};
use crate::role::{Actor, Part};

const SCRIPT: &str = include_str!("../../../docs/operations/prologue.md");
const HOOK: &str = include_str!("../../../docs/adapters/htcondor.md");

/// The shell script in a document that has this line, written into `at` with the node's paths.
fn written(page: &str, line: &str, node: &Node, pilot: &Path, at: &Path) -> PathBuf {
    let found = (page.split("```sh\n").skip(1))
        .filter_map(|rest| rest.split("```").next())
        .find(|script| script.starts_with("#!/bin/sh") && script.contains(line));
    let script = found.unwrap_or_else(|| panic!("no script with `{line}` in the document"));
    for path in ["/scratch", "/opt/pilot/pilot"] {
        assert!(script.contains(path), "`{path}` is not in:\n{script}");
    }
    let script = script
        .replace("/opt/pilot/pilot", &pilot.display().to_string())
        .replace("/scratch", &node.node_state().display().to_string());
    let path = at.join("reclaim");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
    path
}

fn reclaim(node: &Node, pilot: &Path, at: &Path) -> PathBuf {
    written(SCRIPT, "Never fails the node", node, pilot, at)
}

/// A slot whose pilot and warden were killed together, as by a control group: what it had stays.
fn killed(node: &Node) {
    let guarded = Part::WithWarden {
        deadline: Duration::from_secs(3600),
    };
    let mut actor = Actor::start(node.root(), guarded);
    actor.settled().unwrap();
    let journal = pilot::journal::read(&node.slot().join("journal"));
    let warden: ProcessId = journal.unwrap().unwrap().warden.unwrap();
    // So that it cannot see the pilot's death before its own.
    kill(Pid::from_raw(warden.pid), Signal::SIGSTOP).unwrap();
    actor.kill();
    kill(Pid::from_raw(warden.pid), Signal::SIGKILL).unwrap();
    assert!(node.slot().exists(), "there is something to undo");
}

fn is_clean(node: &Node) -> bool {
    !node.slot().exists()
        && !pilot::journal::node_entries(&node.node_state()).exists()
        && node.processes().is_empty()
}

/// A batch system's way to run it: arguments, environment, what is on stdin.
struct Way<'a> {
    name: &'a str,
    arguments: &'a [&'a str],
    environment: &'a [(&'a str, &'a str)],
}

/// `slurmd` sets no search path; the MoM gives eight arguments and more (its manual, "prologue and
/// epilogue arguments"); cron sets a short path.
const WAYS: &[Way<'_>] = &[
    Way {
        name: "Slurm's Epilog and Prolog",
        arguments: &[],
        environment: &[
            ("SLURM_JOB_ID", "12"),
            ("SLURM_JOB_UID", "4001"),
            ("SLURM_JOB_USER", "grid"),
            ("SLURMD_NODENAME", "n1"),
        ],
    },
    Way {
        name: "PBS's epilogue",
        arguments: &[
            "71.pbssrv",
            "grid",
            "grid",
            "wp-b-000001",
            "4711",
            "ncpus=1,mem=64mb,walltime=00:05:00",
            "cput=00:00:01,mem=3280kb,ncpus=1,vmem=0kb,walltime=00:01:02",
            "pilots",
            "null",
            "271",
        ],
        environment: &[("PBS_JOBID", "71.pbssrv"), ("PBS_JOBDIR", "/home/grid")],
    },
    Way {
        name: "PBS's prologue",
        arguments: &["71.pbssrv", "grid", "grid"],
        environment: &[],
    },
    Way {
        name: "cron",
        arguments: &[],
        environment: &[("PATH", "/usr/bin:/bin"), ("SHELL", "/bin/sh")],
    },
];

fn run(script: &Path, way: &Way<'_>, stdin: &str) -> Output {
    let mut child = Command::new(script)
        .args(way.arguments)
        .env_clear()
        .envs(way.environment.iter().copied())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It need not read it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn the_script_for_prologue_and_epilogue_undoes_what_a_dead_pilot_has_left() {
    for way in WAYS {
        let node = Node::new();
        let place = tempfile::tempdir().unwrap();
        let script = reclaim(&node, pilot_program(), place.path());
        killed(&node);
        let output = run(&script, way, "");
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", way.name);
        assert!(is_clean(&node), "{}: {:#?}", way.name, node.snapshot());
        let again = run(&script, way, "");
        assert_eq!(again.status.code(), Some(0), "{}: {again:?}", way.name);
        assert!(again.stdout.is_empty(), "{}: {again:?}", way.name);
    }
}

#[test]
fn the_script_never_fails_the_node() {
    let place = tempfile::tempdir().unwrap();
    for way in WAYS {
        // No pilot was ever there: nothing is run.
        let node = Node::new();
        let script = reclaim(&node, Path::new("/no/such/pilot"), place.path());
        let output = run(&script, way, "");
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", way.name);
        fs::remove_file(&script).unwrap();
        // The program is not there.
        killed(&node);
        let script = reclaim(&node, Path::new("/no/such/pilot"), place.path());
        let output = run(&script, way, "");
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", way.name);
        assert!(node.slot().exists(), "{}", way.name);
        fs::remove_file(&script).unwrap();
    }
}

#[test]
fn the_script_leaves_a_living_pilot_alone() {
    let node = Node::new();
    let place = tempfile::tempdir().unwrap();
    let script = reclaim(&node, pilot_program(), place.path());
    let mut actor = Actor::start(
        node.root(),
        Part::Script {
            die_after: usize::MAX,
        },
    );
    let guest = ProcessId::of(actor.settled().unwrap()).unwrap();
    for way in WAYS {
        let output = run(&script, way, "");
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", way.name);
        assert!(guest.is_alive() && node.slot().exists(), "{}", way.name);
    }
    actor.kill();
}

#[test]
fn htcondors_hook_looks_at_our_jobs_only() {
    let node = Node::new();
    let place = tempfile::tempdir().unwrap();
    let script = written(
        HOOK,
        "WorkspacePilotKey",
        &node,
        pilot_program(),
        place.path(),
    );
    killed(&node);
    let way = |argument| Way {
        name: "HTCondor's hook",
        arguments: argument,
        environment: &[("PATH", "/usr/bin:/bin")],
    };
    let other = "ClusterId = 12\nJobStatus = 4\n";
    let output = run(&script, &way(&["exit"]), other);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(node.slot().exists(), "another's job is no reason to look");
    let ours = "ClusterId = 12\nWorkspacePilotKey = \"wp-b-000001\"\n";
    let output = run(&script, &way(&["evict"]), ours);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(is_clean(&node), "{:#?}", node.snapshot());
}
