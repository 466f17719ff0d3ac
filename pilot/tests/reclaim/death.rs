//! What happens by itself when the pilot dies: parent-death signals and the warden.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use pilot::exec_guest::Trampoline;
use pilot::host::processes::{ProcessId, marked};
use pilot::reclaim::{Effort, Swept, sweep};

use crate::node::{Node, claim, eventually, pilot_program};
use crate::role::{Actor, Part};

const NEVER: Part = Part::Script {
    die_after: usize::MAX,
};
const GUARDED: Part = Part::WithWarden {
    deadline: Duration::from_secs(3600),
};

fn clean_but_for_the_state(node: &Node) -> bool {
    let slot = node.slot();
    !slot.exists()
        && !pilot::journal::node_entries(&node.node_state()).exists()
        && !node.root().join("store/states/.tmp-ws.g2").exists()
        && node.processes().is_empty()
}

fn warden_of(node: &Node) -> ProcessId {
    let journal = node.slot().join("journal");
    pilot::journal::read(&journal)
        .unwrap()
        .unwrap()
        .warden
        .unwrap()
}

#[test]
fn a_guest_dies_with_its_pilot() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), NEVER);
    let guest = ProcessId::of(actor.settled().unwrap()).unwrap();
    assert!(guest.is_alive());
    actor.kill();
    eventually("the guest is gone", || !guest.is_alive());
    sweep(&node.node_state(), Effort::default()).unwrap();
    assert!(clean_but_for_the_state(&node), "{:#?}", node.snapshot());
}

#[test]
fn nothing_is_started_for_a_parent_that_is_gone() {
    let node = Node::new();
    let proof = node.root().join("started");
    let output = Command::new(pilot_program())
        .args(["exec-guest", "--parent", "1", "--marker", "wp-x.1", "--"])
        .arg("touch")
        .arg(&proof)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(!proof.exists());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("gone"), "{said}");
}

#[test]
fn a_program_that_is_not_there_is_an_error_with_its_name() {
    let output = Command::new(pilot_program())
        .args(["exec-guest", "--marker", "wp-x.1", "--parent"])
        .arg(std::process::id().to_string())
        .args(["--", "/no/such/qemu"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/no/such/qemu"), "{said}");
}

/// The LRM's signals are for the pilot, and what was ignored when the pilot was started is not
/// handed on to the guest.
#[test]
fn a_guest_hears_no_signal_of_the_batch_system() {
    let node = Node::new();
    let journal = claim(node.root()).unwrap();
    let command = Trampoline::of(pilot_program()).command(&journal.tool_marker(), "cat");
    let mut child = Command::new("sh")
        .arg("-c")
        // The trampoline looks for its parent, which `exec` keeps.
        .arg(r#"trap "" PIPE CHLD HUP; exec "$0" "$@""#)
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let guest = ProcessId::of(child.id().cast_signed()).unwrap();
    let is_cat = || fs::read_to_string(format!("/proc/{}/comm", guest.pid)).unwrap() == "cat\n";
    eventually("the trampoline becomes the program", is_cat);
    let status = fs::read_to_string(format!("/proc/{}/status", guest.pid)).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // The C library's own two, above the standard ones, are whoever started us's affair.
    let ignored = u64::from_str_radix(&field("SigIgn:"), 16).unwrap() & 0x7fff_ffff;
    assert_eq!(ignored, 0, "ignored signals were handed on: {status}");
    assert_eq!(field("NoNewPrivs:"), "1");
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGXCPU,
    ] {
        kill(Pid::from_raw(guest.pid), signal).unwrap();
        let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
        assert_ne!(
            blocked & (1 << (signal as i32 - 1)),
            0,
            "{signal}: {status}"
        );
    }
    assert!(guest.is_alive());
    // A signal that is pending is delivered before the next one that is not blocked.
    child.kill().unwrap();
    let how = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&how),
        Some(9),
        "{how}"
    );
    assert!(pilot::reclaim::finish(&journal, Duration::from_secs(10)).is_clean());
}

/// The same with the hypervisor itself, which might unblock what it inherits.
#[test]
fn qemu_hears_no_signal_of_the_batch_system() {
    let node = Node::new();
    let journal = claim(node.root()).unwrap();
    let socket = journal.scratch().join("qmp.sock");
    let mut child = Trampoline::of(pilot_program())
        .command(&journal.tool_marker(), "qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
        .args(["-machine", "q35", "-accel", "tcg", "-m", "16"])
        .args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", socket.display()),
        ])
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-system-x86_64 must be installed");
    let guest = ProcessId::of(child.id().cast_signed()).unwrap();
    let connect = || UnixStream::connect(&socket);
    eventually("QEMU listens", || {
        assert!(guest.is_alive(), "QEMU has ended");
        connect().is_ok()
    });
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGXCPU,
    ] {
        kill(Pid::from_raw(guest.pid), signal).unwrap();
    }
    // QEMU acts on such a signal before it answers anything that was asked after it.
    let mut qmp = connect().unwrap();
    qmp.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n")
        .unwrap();
    let mut lines = BufReader::new(qmp).lines().map_while(Result::ok);
    let status = lines.find(|line| line.contains("\"status\""));
    assert!(
        status.is_some_and(|status| status.contains("prelaunch")),
        "QEMU does not answer any more"
    );
    assert!(guest.is_alive());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(pilot::reclaim::finish(&journal, Duration::from_secs(10)).is_clean());
}

#[test]
fn the_warden_undoes_everything_after_the_pilot_is_killed() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), GUARDED);
    actor.settled().unwrap();
    actor.kill();
    eventually("the warden has undone everything and left", || {
        clean_but_for_the_state(&node)
    });
    let state = node.root().join("store/states/ws.g1/memory");
    assert_eq!(fs::read_to_string(state).unwrap(), "ws.g1");
}

#[test]
fn the_warden_heeds_no_signal_and_outlives_the_pilots_group() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), GUARDED);
    actor.settled().unwrap();
    let warden = warden_of(&node);
    let pid = Pid::from_raw(warden.pid);
    let session = nix::unistd::getsid(Some(pid)).unwrap();
    assert_eq!(session, pid, "the warden leads a session of its own");
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGXCPU,
        Signal::SIGTSTP,
    ] {
        kill(pid, signal).unwrap();
    }
    actor.kill();
    eventually("the warden has undone everything and left", || {
        clean_but_for_the_state(&node)
    });
}

#[test]
fn a_pilot_that_leaves_in_order_takes_its_warden_with_it() {
    let node = Node::new();
    let said = Actor::start(node.root(), Part::CleanEnd).wait_ended();
    assert!(said.contains("test result: ok"), "{said}");
    assert!(clean_but_for_the_state(&node), "{:#?}", node.snapshot());
}

#[test]
fn a_pilot_that_hangs_past_its_deadline_is_ended_with_its_slot() {
    let node = Node::new();
    let mut actor = Actor::start(
        node.root(),
        Part::WithWarden {
            deadline: Duration::from_millis(700),
        },
    );
    // Whether it has come to the end of its script by then or not.
    let how = actor.child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&how),
        Some(9),
        "{how}"
    );
    eventually("the warden has undone everything and left", || {
        clean_but_for_the_state(&node)
    });
}

/// The broker gives the workspaces of a pilot that cannot speak to other slots.
#[test]
fn the_guests_of_a_stopped_pilot_die_when_their_leases_run_out_and_the_pilot_lives() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), Part::Fenced);
    let guest = ProcessId::of(actor.settled().unwrap());
    let journal = node.slot().join("journal");
    let holder = pilot::journal::read(&journal).unwrap().unwrap().holder;
    eventually("the pilot is stopped", || holder.pilot.is_stopped());
    eventually("all processes of the slot are gone", || {
        marked(&holder.marker_prefix()).is_empty()
    });
    assert!(guest.is_none_or(|guest| !guest.is_alive()));
    assert!(holder.pilot.is_stopped(), "the pilot is not ended for it");
    assert!(warden_of(&node).is_alive(), "the warden goes on waiting");
    for theirs in ["journal", "guests/ws.g1/overlay"] {
        assert!(node.slot().join(theirs).exists(), "{theirs} is the pilot's");
    }
    assert!(node.root().join("store/states/.tmp-ws.g2/memory").exists());
    let pilot = Pid::from_raw(holder.pilot.pid);
    kill(pilot, Signal::SIGCONT).unwrap();
    let said = actor.wait_ended();
    assert!(said.contains("test result: ok"), "{said}");
    assert!(clean_but_for_the_state(&node), "{:#?}", node.snapshot());
}

/// LRMs with control groups kill everything at once.
#[test]
fn killed_together_with_its_warden_a_pilot_leaves_files_for_the_next_to_sweep() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), GUARDED);
    let guest = ProcessId::of(actor.settled().unwrap()).unwrap();
    let warden = warden_of(&node);
    // The warden first, or it would begin.
    kill(Pid::from_raw(warden.pid), Signal::SIGKILL).unwrap();
    actor.kill();
    eventually("guest and warden are gone", || {
        !guest.is_alive() && !warden.is_alive()
    });
    assert!(node.slot().exists());
    let swept = sweep(&node.node_state(), Effort::default()).unwrap();
    assert!(
        matches!(swept.as_slice(), [Swept::Reclaimed(report)] if report.is_clean()),
        "{swept:?}"
    );
    assert!(clean_but_for_the_state(&node), "{:#?}", node.snapshot());
}

#[test]
fn a_warden_that_is_stopped_is_ended_by_the_epilogue() {
    let node = Node::new();
    let mut actor = Actor::start(node.root(), GUARDED);
    actor.settled().unwrap();
    kill(Pid::from_raw(warden_of(&node).pid), Signal::SIGSTOP).unwrap();
    actor.kill();
    let slot = node.slot();
    let output = node.reclaim_command(&["--slot", slot.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(clean_but_for_the_state(&node), "{:#?}", node.snapshot());
}
