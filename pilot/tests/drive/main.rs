//! The real pilot program with null guests against a broker that the test plays.

mod fake_broker;
mod slot;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use pilot::exec_guest::MARKER_VARIABLE;
use protocol::codes::{Reason, ReasonCode, exit};
use protocol::lease::{EndOutcome, Goal, LeasePhase};
use protocol::slot::{EndSource, PilotPhase};
use protocol::time::Span;
use protocol::workspace::Policy;

use fake_broker::FakeBroker;
use slot::{Slot, eventually};

fn is_running(phase: Option<&LeasePhase>) -> bool {
    phase == Some(&LeasePhase::Running)
}

#[test]
fn a_signal_suspends_the_guest_and_leaves_the_node_as_it_was() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    let mut pilot = slot.start();
    broker.grant("ws-1", 3600);
    eventually("the guest runs", || {
        is_running(broker.phase("ws-1").as_ref())
    });
    pilot.signal(Signal::SIGTERM);
    assert_eq!(pilot.wait(), exit::OK, "{}", pilot.stderr());
    let Some(LeasePhase::Ended {
        outcome: EndOutcome::Suspended { state, reason },
    }) = broker.phase("ws-1")
    else {
        panic!("{:?}\n{}", broker.phase("ws-1"), pilot.stderr());
    };
    assert_eq!(reason.code, ReasonCode::Preempted);
    assert_eq!(state.id.as_str(), "ws-1.g1");
    assert!(slot.store().join("states/ws-1.g1/manifest.json").exists());
    let last = broker.last_sync();
    assert_eq!(last.slot.phase, PilotPhase::Leaving);
    assert_eq!(last.slot.end_source, EndSource::Signal);
    assert!(last.used.overrun.is_zero());
    slot.assert_empty();
}

#[test]
fn checkpoints_are_made_while_the_guest_runs_and_outlive_a_kill() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    let mut pilot = slot.start();
    let policy = Policy {
        checkpoint_every: Some(Span::from_millis(50)),
        ..Policy::default()
    };
    broker.grant_with("ws-1", 3600, "", policy);
    let told = || broker.checkpoint("ws-1");
    eventually("a second checkpoint is told of", || {
        told().is_some_and(|state| state.id.as_str() == "ws-1.g1.c2")
    });
    assert!(
        is_running(broker.phase("ws-1").as_ref()),
        "{}",
        pilot.stderr()
    );
    pilot.signal(Signal::SIGKILL);
    pilot.wait();
    let newest = told().unwrap();
    let state = slot.store().join("states").join(newest.id.as_str());
    let manifest = fs::read(state.join("manifest.json")).unwrap();
    assert_eq!(
        blake3::hash(&manifest).to_hex().to_string(),
        newest.manifest,
        "{newest:?}"
    );
    // Of one that was being made there is nothing, once the warden is through.
    eventually("the slot is empty", || slot.is_empty());
    let half: Vec<_> = fs::read_dir(slot.store().join("states"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("ws-1.g1.c"))
        .collect();
    assert_eq!(half, [""; 0]);
}

#[test]
fn the_end_of_the_slot_comes_first_from_the_probe() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    slot.probe_says(600);
    let mut pilot = slot.start();
    broker.grant("ws-1", 3600);
    eventually("the guest runs", || {
        is_running(broker.phase("ws-1").as_ref())
    });
    slot.probe_says(8);
    assert_eq!(pilot.wait(), exit::OK, "{}", pilot.stderr());
    assert!(
        matches!(
            broker.phase("ws-1"),
            Some(LeasePhase::Ended {
                outcome: EndOutcome::Suspended { .. }
            })
        ),
        "{:?}\n{}",
        broker.phase("ws-1"),
        pilot.stderr()
    );
    slot.assert_empty();
}

#[test]
fn a_guest_is_told_when_it_has_to_go_and_goes_sooner_when_it_is_ready() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    slot.probe_says(600);
    let mut pilot = slot.start();
    broker.grant_with("ws-1", 3600, "null.says_ready", Policy::default());
    eventually("the guest is told its time left", || {
        let console = broker.console("ws-1");
        console.contains("told `hello 1`") && console.contains("told `time-left ")
    });
    assert!(!broker.has_event("guest_ready"), "{}", pilot.stderr());
    slot.probe_says(20);
    assert_eq!(pilot.wait(), exit::OK, "{}", pilot.stderr());
    let console = broker.console("ws-1");
    assert!(console.contains("told `suspend-soon "), "{console}");
    assert!(broker.has_event("guest_ready"), "{}", pilot.stderr());
    let phase = broker.phase("ws-1");
    assert!(
        matches!(
            phase,
            Some(LeasePhase::Ended {
                outcome: EndOutcome::Suspended { .. }
            })
        ),
        "{phase:?}"
    );
    slot.assert_empty();
}

#[test]
fn goals_are_followed_and_a_null_guest_finishes() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    let mut pilot = slot.start();
    broker.grant("ws-1", 3600);
    eventually("it runs", || is_running(broker.phase("ws-1").as_ref()));
    broker.set_goal("ws-1", Goal::Pause);
    eventually("it is paused", || {
        broker.phase("ws-1") == Some(LeasePhase::Paused)
    });
    broker.set_goal("ws-1", Goal::Run);
    eventually("it runs again", || {
        is_running(broker.phase("ws-1").as_ref())
    });
    broker.grant("ws-2", 1);
    eventually("the other has had its run time", || {
        matches!(
            broker.phase("ws-2"),
            Some(LeasePhase::Ended {
                outcome: EndOutcome::Finished { .. }
            })
        )
    });
    broker.set_goal(
        "ws-1",
        Goal::Stop {
            reason: Reason::new(ReasonCode::CancelledByUser, "cancelled"),
        },
    );
    eventually("it is stopped", || {
        matches!(
            broker.phase("ws-1"),
            Some(LeasePhase::Ended {
                outcome: EndOutcome::Killed { .. }
            })
        )
    });
    broker.leave(Reason::new(ReasonCode::Surplus, "there is no work"));
    assert_eq!(pilot.wait(), exit::OK, "{}", pilot.stderr());
    slot.assert_empty();
}

#[test]
fn where_it_may_the_pilot_has_a_control_group_of_its_own_which_goes_with_it() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let all = mounts.lines().filter(|l| l.contains(" - cgroup2 "));
    let point = all.filter_map(|l| l.split(' ').nth(4)).next();
    let name = format!("wp-test-{}", uuid::Uuid::new_v4().simple());
    let job = point.map(|point| Path::new(point).join(name));
    let job = job.filter(|job| fs::create_dir(job).is_ok());
    let Some(job) = job.filter(|job| job.join("cgroup.kill").exists()) else {
        println!("NOT TESTED: this account can make no control group (version 2)");
        return;
    };
    for clean in [true, false] {
        let broker = FakeBroker::start();
        let slot = Slot::new(&broker, 600);
        let mut pilot = slot.start_in(&job);
        broker.grant("ws-1", 3600);
        eventually("the guest runs", || {
            is_running(broker.phase("ws-1").as_ref())
        });
        let recorded = pilot::journal::read(&slot.scratch().join("journal"));
        let group = job.join(recorded.unwrap().unwrap().holder.slot);
        assert!(group.is_dir(), "{}", pilot.stderr());
        pilot.signal(if clean {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        });
        pilot.wait();
        eventually("it is gone", || !group.exists() && slot.is_empty());
    }
    // The warden leaves the job's group a moment after its work is done.
    eventually("nothing is left in the job's group", || {
        fs::remove_dir(&job).is_ok()
    });
}

#[test]
fn a_fenced_pilot_leaves_at_once() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    let mut pilot = slot.start();
    broker.grant("ws-1", 3600);
    eventually("the guest runs", || {
        is_running(broker.phase("ws-1").as_ref())
    });
    broker.fence();
    assert_eq!(pilot.wait(), exit::FENCED, "{}", pilot.stderr());
    assert!(!slot.store().join("states/ws-1.g1").exists());
    slot.assert_empty();
}

#[test]
fn while_it_is_stopped_its_warden_ends_its_guests_when_their_leases_run_out() {
    let broker = FakeBroker::start();
    broker.lease_ttl(6);
    let slot = Slot::new(&broker, 600);
    let mut pilot = slot.start();
    broker.grant("ws-1", 3600);
    eventually("the guest runs", || {
        is_running(broker.phase("ws-1").as_ref())
    });
    // A null guest lives in the pilot: this process plays its hypervisor.
    let recorded = pilot::journal::read(&slot.scratch().join("journal"));
    let holder = recorded.unwrap().unwrap().holder;
    let mut guest = Command::new("cat")
        .env(MARKER_VARIABLE, format!("{}played", holder.marker_prefix()))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _open = guest.stdin.take();
    pilot.signal(Signal::SIGSTOP);
    let mut how = None;
    eventually("the played guest is dead", || {
        how = guest.try_wait().unwrap();
        how.is_some()
    });
    let how = how.unwrap();
    assert_eq!(how.signal(), Some(9), "{how}\n{}", pilot.stderr());
    assert!(holder.pilot.is_stopped(), "{}", pilot.stderr());
    assert_eq!(broker.phase("ws-1"), Some(LeasePhase::Running));
    pilot.signal(Signal::SIGCONT);
    eventually("the pilot tells the end of its guest", || {
        let phase = broker.phase("ws-1");
        matches!(phase, Some(LeasePhase::Ended { outcome: EndOutcome::Killed { reason } })
            if reason.code == ReasonCode::LeaseExpired)
    });
    broker.leave(Reason::new(ReasonCode::Surplus, "there is no work"));
    assert_eq!(pilot.wait(), exit::OK, "{}", pilot.stderr());
    slot.assert_empty();
}

#[test]
fn kill_nine_leaves_nothing_behind_either() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    let mut pilot = slot.start();
    broker.grant("ws-1", 3600);
    eventually("the guest runs", || {
        is_running(broker.phase("ws-1").as_ref())
    });
    pilot.signal(Signal::SIGKILL);
    pilot.wait();
    eventually("the warden has cleaned up", || slot.is_empty());
}

#[test]
fn what_is_wrong_with_the_slot_is_said_and_nothing_is_left() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    let good = slot.file_text();
    let missing = slot.scratch().with_file_name("not-there");
    let node_state = format!("node_state = \"{}\"\n[hypervisor]", missing.display());
    for (from, to, want) in [
        ("version = 1", "version = 7", "version 1"),
        ("notice = ", "notise = ", "notise"),
        ("/token\"", "/no-token\"", "no-token"),
        ("http://127.0.0.1", "http://broker.example.org", "https"),
        ("/node/scratch", "/node/not/there", "existing directory"),
        ("[hypervisor]", &node_state, "existing directory"),
    ] {
        slot.write_file(&good.replace(from, to));
        let mut pilot = slot.start();
        assert_eq!(pilot.wait(), exit::USAGE, "{}", pilot.stderr());
        assert!(pilot.stderr().contains(want), "{}", pilot.stderr());
        slot.assert_empty();
    }
}

/// The job's script has made the slot's directory, with the slot file in it, before the pilot began.
#[test]
fn a_pilot_that_cannot_speak_to_its_broker_removes_what_its_job_has_made() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    slot.write_file(&slot.file_text().replace("/token\"", "/no-token\""));
    fs::create_dir(slot.scratch()).unwrap();
    fs::write(slot.scratch().join("slot.toml"), slot.file_text()).unwrap();
    let mut pilot = slot.start();
    assert_eq!(pilot.wait(), exit::USAGE, "{}", pilot.stderr());
    assert!(pilot.stderr().contains("no-token"), "{}", pilot.stderr());
    eventually("the slot is gone", || slot.is_empty());
}

/// A hypervisor that does not say its version, but what is there when it is asked.
#[test]
fn the_warden_is_there_before_anything_is_started_or_made() {
    let broker = FakeBroker::start();
    let slot = Slot::new(&broker, 600);
    let program = slot.store().with_file_name("qemu");
    let text = format!(
        "#!/bin/sh\ncd '{}' && grep -q '\"op\":\"warden\"' journal && echo guarded, with: * >&2\nexit 3\n",
        slot.scratch().display()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let qemu = format!(
        "kind = \"qemu\"\naccelerator = \"tcg\"\nbinary = \"{}\"",
        program.display()
    );
    slot.write_file(&slot.file_text().replace("kind = \"null\"", &qemu));
    let mut pilot = slot.start();
    assert_eq!(pilot.wait(), exit::FAILED, "{}", pilot.stderr());
    let said = pilot.stderr();
    // Nothing but the journal: the guests' directory comes later.
    assert!(said.contains("`guarded, with: journal`"), "{said}");
    slot.assert_empty();
}
