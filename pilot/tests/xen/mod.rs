//! What is Xen's alone: how disks and networks get to a guest. Run as the pilots' account inside of a
//! dom0.

use std::fs;
use std::path::Path;
use std::process::Command;

use pilot::hypervisor::{ExitHow, Guest, Helper};
use protocol::slot_file::{HypervisorKind, XEN_HELPER};
use protocol::workspace::{Disk, DiskFormat, Network};

use super::guests::{
    LONG, Site, artefact, complaints, console, counts_to, ended, eventually, first_seen, guest_dir,
    suspend,
};

/// Runs a command that must succeed.
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// The count on the disk as the guest last said it.
fn on_disk(guest: &Guest) -> u64 {
    let text = console(guest);
    let last = text.lines().rfind(|l| l.starts_with("COUNT "));
    let disk = last.and_then(|l| l.split("disk=").nth(1)?.trim().parse().ok());
    disk.expect("it counts on its disk")
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn a_disk_has_what_is_in_its_qcow2_base_and_is_kept_over_a_suspend() {
    let site = Site::new(HypervisorKind::Xen);
    let dir = site.root.path();
    let (raw, ticks, base) = (
        dir.join("base.raw"),
        dir.join("ticks"),
        dir.join("base.qcow2"),
    );
    fs::copy(guest_dir().join("disk.raw"), &raw).unwrap();
    fs::write(&ticks, "41000\n").unwrap();
    let (raw, ticks) = (raw.display().to_string(), ticks.display().to_string());
    let write = format!("write {ticks} ticks");
    run("/usr/sbin/debugfs", &["-w", "-R", &write, &raw]);
    let to = base.display().to_string();
    run("qemu-img", &["convert", "-O", "qcow2", &raw, &to]);
    let before = fs::read(&base).unwrap();

    let mut spec = site.spec("");
    spec.image.disks.push(Disk {
        base: Some(artefact(&base)),
        format: DiskFormat::Qcow2,
        size_mib: None,
    });
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &spec, None).await;
    let seen = first_seen(&guest).await;
    assert!(
        console(&guest).contains(" disk=41000"),
        "{}",
        console(&guest)
    );
    counts_to(&guest, seen.n + 2).await;
    let made = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(complaints(&guest), [""; 0]);
    let counted = on_disk(&guest);
    assert!(counted > 41_002, "{counted}");

    let slot = site.slot("s2");
    let (guest, mut events) = slot.run(2, &spec, Some(&made.state)).await;
    let after = first_seen(&guest).await;
    assert_eq!(after.boot, seen.boot, "it booted anew");
    counts_to(&guest, after.n + 2).await;
    // It compares its disk with its memory at each count.
    assert_eq!(complaints(&guest), [""; 0]);
    assert!(on_disk(&guest) > counted);
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert!(
        fs::read(&base).unwrap() == before,
        "the base was written to"
    );
}

const BRIDGE: &str = "/sys/class/net/xenbr0/brif";

/// The guests' interfaces on the bridge.
fn on_the_bridge() -> Vec<String> {
    let Ok(all) = fs::read_dir(BRIDGE) else {
        return Vec::new();
    };
    all.flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The guests' interfaces in dom0, on a bridge or not.
fn interfaces() -> Vec<String> {
    let all = fs::read_dir("/sys/class/net").unwrap().flatten();
    all.map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("vif"))
        .collect()
}

/// Waits until one guest is on the bridge and has sent something.
async fn is_heard_on_the_bridge() -> String {
    eventually("a packet of the guest", || {
        let [name] = &on_the_bridge()[..] else {
            return None;
        };
        let sent = Path::new("/sys/class/net")
            .join(name)
            .join("statistics/rx_packets");
        let sent: u64 = fs::read_to_string(sent).ok()?.trim().parse().ok()?;
        (sent > 0).then(|| name.clone())
    })
    .await
}

async fn no_interface_is_left() {
    eventually("no interface", || interfaces().is_empty().then_some(())).await;
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn a_guest_with_a_network_is_on_the_bridge_and_leaves_it() {
    let site = Site::new(HypervisorKind::Xen);
    assert_eq!(interfaces(), [""; 0]);
    let mut spec = site.spec("");
    spec.network = Network::User;
    let own = spec.image.cmdline.take().unwrap();
    spec.image.cmdline = Some(own.replace(" nonet", ""));

    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    let first = is_heard_on_the_bridge().await;
    let made = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    no_interface_is_left().await;

    // Its next domain has another number, and so an interface of another name.
    let slot = site.slot("s2");
    let request = slot.request(2, &spec, Some(&made.state));
    let marker = request.marker.as_str().to_owned();
    let staged = slot.hypervisor.stage(request).await.unwrap();
    let (guest, mut events) = slot.hypervisor.start(staged).await.unwrap();
    let after = first_seen(&guest).await;
    assert_eq!(interfaces(), on_the_bridge());
    assert!(on_the_bridge().len() == 1 && on_the_bridge() != [first]);
    counts_to(&guest, after.n + 2).await;
    assert_eq!(complaints(&guest), [""; 0]);

    // A reclaim takes it away from under its living helper.
    let helper = Helper::at(Path::new(XEN_HELPER));
    let done = helper.reclaim(&marker).await.unwrap();
    assert!(done.left.is_empty(), "{done:?}");
    no_interface_is_left().await;
    let how = tokio::time::timeout(LONG, ended(&mut events))
        .await
        .unwrap();
    assert!(matches!(how, ExitHow::Crashed(_)), "{how:?}");
}
