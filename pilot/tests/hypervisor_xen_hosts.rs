//! A guest of one Xen host goes on on another. Run inside of two dom0s that share a directory, one
//! test on each, by the tests of the part `xen`.

mod guests;

use std::fs;
use std::path::PathBuf;

use guests::{Site, complaints, counts_to, ended, first_seen, suspend};
use pilot::hypervisor::ExitHow;
use protocol::lease::StateRef;
use protocol::slot_file::HypervisorKind;
use serde::{Deserialize, Serialize};

/// What the second host has to know of the first one's guest.
#[derive(Serialize, Deserialize)]
struct Left {
    state: StateRef,
    boot: String,
    n: u64,
}

/// The directory that both hosts see.
fn meeting() -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever runs this on two hosts says where they meet"
    )]
    let dir = std::env::var_os("WP_XEN_MEETING").map(PathBuf::from);
    dir.expect("WP_XEN_MEETING names a directory that both hosts see")
}

/// This host's part of the site: slots on its own disk, the store where both see it.
fn site() -> Site {
    let store = meeting().join("store");
    fs::create_dir_all(&store).unwrap();
    Site {
        store,
        ..Site::new(HypervisorKind::Xen)
    }
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn a_guest_leaves() {
    let site = site();
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &site.spec_with_disk(""), None).await;
    let seen = first_seen(&guest).await;
    let seen = counts_to(&guest, seen.n + 3).await;
    let suspended = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(site.states(), ["ws-1.g1"]);
    let left = Left {
        state: suspended.state,
        boot: seen.boot,
        n: seen.n,
    };
    fs::write(
        meeting().join("left.json"),
        serde_json::to_vec(&left).unwrap(),
    )
    .unwrap();
}

#[tokio::test]
#[ignore = "needs a Xen control domain, and a guest that has left another one"]
async fn a_guest_arrives() {
    let left = fs::read(meeting().join("left.json")).unwrap();
    let left: Left = serde_json::from_slice(&left).unwrap();
    let site = site();
    let slot = site.slot("s2");
    let spec = site.spec_with_disk("");
    let (guest, mut events) = slot.run(2, &spec, Some(&left.state)).await;
    let seen = first_seen(&guest).await;
    assert_eq!(seen.boot, left.boot, "it booted again");
    assert!(
        seen.n > left.n,
        "it has counted to {} before: {seen:?}",
        left.n
    );
    counts_to(&guest, seen.n + 3).await;
    assert_eq!(complaints(&guest), [""; 0]);
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
}
