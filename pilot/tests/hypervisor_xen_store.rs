//! What must hold on Xen when xenstored has died: nothing can be done to a domain any more, and nothing
//! is said to be done. Run as root inside of a dom0 that is of no use afterwards: xenstored can't be
//! started anew.

#[expect(dead_code, reason = "shared by several test programs")]
mod guests;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use guests::{Site, first_seen, order};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pilot::hypervisor::{ControlError, GuestEvent, GuestEvents};
use pilot::journal::What;
use protocol::slot_file::{HypervisorKind, XEN_HELPER};
use protocol::time::Span;

/// Set in the process that is the pilot: it works in this directory.
const PILOT: &str = "WP_XEN_PILOT";

fn kill_xenstored() {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let found: Vec<i32> = all
        .filter(|e| {
            fs::read_to_string(e.path().join("comm")).is_ok_and(|c| c.trim() == "xenstored")
        })
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    kill(Pid::from_raw(found[0]), Signal::SIGKILL).unwrap();
}

/// Nobody has said that the guest has ended.
async fn has_not_ended(events: &mut GuestEvents) {
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(1), events.next()).await {
        match event {
            Some(GuestEvent::Exited(how)) => panic!("it is said to have ended: {how:?}"),
            Some(GuestEvent::IoError(_) | GuestEvent::Said(_) | GuestEvent::Flushed) => {}
            None => panic!("nobody will ever say how it ended"),
        }
    }
}

#[tokio::test]
#[ignore = "is started by the other"]
async fn the_pilot() {
    #[expect(clippy::disallowed_methods, reason = "so it knows that it is one")]
    let Some(dir) = std::env::var_os(PILOT).map(PathBuf::from) else {
        return;
    };
    let site = Site::at(&dir, HypervisorKind::Xen);
    let slot = site.slot("s1");
    let helper = PathBuf::from(XEN_HELPER);
    let _stays_open = slot.journal.intend(What::Domains { helper }).unwrap();
    let (guest, mut events) = slot.run(1, &site.spec_with_disk(""), None).await;
    first_seen(&guest).await;
    kill_xenstored();

    // The toolstack hangs; each call has an end.
    let mut late = order(&guest);
    late.budget = Span::from_secs(20);
    let e = guest.suspend(late).await.unwrap_err();
    println!("suspend: {e}");
    assert!(e.guest_alive, "{e}");
    assert_eq!(site.states(), [""; 0]);
    let e = guest.pause().await.unwrap_err();
    println!("pause: {e}");
    assert!(
        matches!(
            e,
            ControlError::Refused { .. } | ControlError::NoAnswer { .. }
        ),
        "{e}"
    );
    has_not_ended(&mut events).await;

    // It can't be ended: whoever waits for its end waits.
    let killed = tokio::time::timeout(Duration::from_secs(45), guest.kill()).await;
    assert!(killed.is_err(), "a guest that lives is said to be killed");
    has_not_ended(&mut events).await;
    let entries = fs::read_dir("/run/workspace-pilot/xen").unwrap().flatten();
    let entries = entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(entries.count(), 1, "its entry is gone");
}

#[tokio::test]
#[ignore = "ends the xenstored of a Xen control domain"]
async fn without_xenstored_no_guest_is_said_to_be_gone() {
    let site = Site::new(HypervisorKind::Xen);
    let pilot = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "the_pilot", "--nocapture"])
        .env(PILOT, site.root.path())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(pilot.success(), "{pilot}");

    // The pilot is dead. What is left of it can't be removed, and is named.
    let scratch = site.root.path().join("s1");
    let program = std::env::current_exe().unwrap().with_file_name("pilot");
    let reclaimed = Command::new(program)
        .args(["reclaim", "--slot"])
        .arg(&scratch)
        .output()
        .unwrap();
    println!("{reclaimed:?}");
    assert_eq!(reclaimed.status.code(), Some(7), "{reclaimed:?}");
    let said = [reclaimed.stdout, reclaimed.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("domain wp-ws-1"), "{said}");
    assert!(scratch.exists(), "its directory is gone");
}
