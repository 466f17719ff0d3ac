//! What only a real guest under QEMU can show.

mod guests;

use std::fs;
use std::path::Path;
use std::process::Command;

use guests::{
    LONG, Site, Slot, complaints, console, counts_to, ended, eventually, first_seen, guest_dir,
    lives, order, suspend,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pilot::hypervisor::{
    ExitHow, Guest, GuestEvent, GuestEvents, StageError, StartError, WhenLate,
};
use protocol::codes::ReasonCode;
use protocol::lease::StateRef;
use protocol::slot_file::HypervisorKind;
use protocol::time::Span;
use protocol::workspace::Network;

fn site() -> Site {
    Site::new(HypervisorKind::Qemu)
}

fn pid(guest: &Guest) -> Pid {
    Pid::from_raw(guest.pid().unwrap().try_into().unwrap())
}

#[tokio::test]
async fn memory_and_disk_go_on_together_through_many_slots() {
    let site = site();
    let spec = site.spec_with_disk("");
    let mut state: Option<StateRef> = None;
    let mut last: Option<guests::Seen> = None;
    // More slots than a disk keeps layers: they are merged on the way.
    for generation in 1..=11 {
        let slot = site.slot(&format!("s{generation}"));
        let (guest, mut events) = slot.run(generation, &spec, state.as_ref()).await;
        let first = first_seen(&guest).await;
        if let Some(last) = &last {
            assert_eq!(first.boot, last.boot, "slot {generation}: it booted anew");
            assert!(
                first.n > last.n,
                "slot {generation}: from {last:?} to {first:?}"
            );
            assert!(
                first.n <= last.n + 2,
                "slot {generation}: from {last:?} to {first:?}"
            );
        }
        counts_to(&guest, first.n + 2).await;
        let made = suspend(&guest).await;
        assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
        assert_eq!(complaints(&guest), [""; 0], "slot {generation}");
        // Its memory is free for the next guest, though this one's lease is still here.
        while guest.resident_bytes().await > 8 << 20 {
            tokio::task::yield_now().await;
        }
        last = Some(counts_to(&guest, 0).await);
        if let Some(old) = state.replace(made.state) {
            slot.hypervisor.discard(&old.id).await.unwrap();
        }
        fs::remove_dir_all(slot.journal.scratch()).unwrap();
    }
    assert_eq!(site.states(), ["ws-1.g11"]);
    let layers = fs::read_dir(site.store.join("states/ws-1.g11"))
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with("disk-0")
        })
        .count();
    assert!((2..=8).contains(&layers), "{layers} layers");
}

#[tokio::test]
async fn a_guest_gets_its_network_and_keeps_it_over_a_suspend() {
    let site = site();
    let mut spec = site.spec("");
    let own = spec.image.cmdline.take().unwrap();
    spec.image.cmdline = Some(own.replace(" nonet", ""));
    spec.network = Network::User;
    let slot = site.slot("s1");
    let (guest, _) = slot.run(1, &spec, None).await;
    eventually("an address", || {
        console(&guest).contains("ip=10.0.2.15").then_some(())
    })
    .await;
    let before = counts_to(&guest, 1).await;
    let made = suspend(&guest).await;

    let mut without = spec.clone();
    without.network = Network::None;
    let request = slot.request(2, &without, Some(&made.state));
    let e = slot.hypervisor.stage(request).await.unwrap_err();
    assert!(matches!(e, StageError::StateIncompatible(_)), "{e}");
    assert!(e.to_string().contains("virtio-net"), "{e}");

    let (guest, _) = slot.run(2, &spec, Some(&made.state)).await;
    assert_eq!(counts_to(&guest, before.n + 2).await.boot, before.boot);
    guest.kill().await;
}

#[tokio::test]
async fn the_process_is_sandboxed_and_carries_its_marker() {
    let site = site();
    let slot = site.slot("s1");
    let request = slot.request(1, &site.spec(""), None);
    let marker = request.marker.to_string();
    let staged = slot.hypervisor.stage(request).await.unwrap();
    let (guest, _) = slot.hypervisor.start(staged).await.unwrap();
    let proc = format!("/proc/{}", pid(&guest));
    let arguments = fs::read_to_string(format!("{proc}/cmdline")).unwrap();
    assert!(arguments.contains(&marker), "{arguments}");
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    for wanted in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
        assert!(status.contains(wanted), "{wanted}: {status}");
    }
    guest.kill().await;
}

#[tokio::test]
async fn what_is_no_kernel_fails_with_qemus_own_words() {
    let site = site();
    let slot = site.slot("s1");
    let mut spec = site.spec("");
    let file = site.root.path().join("kernel");
    fs::write(&file, b"this is no kernel").unwrap();
    spec.image.kernel = Some(guests::artefact(&file));
    let staged = slot
        .hypervisor
        .stage(slot.request(1, &spec, None))
        .await
        .unwrap();
    let e = slot.hypervisor.start(staged).await.unwrap_err();
    assert!(matches!(e, StartError::BootFailed(_)), "{e}");
    assert!(e.to_string().contains("kernel"), "{e}");

    let mut section = site.section();
    section.binary = Some("/nowhere/qemu".into());
    let slot = site.slot_with("s2", &section);
    let staged = slot
        .hypervisor
        .stage(slot.request(2, &site.spec(""), None))
        .await
        .unwrap();
    let e = slot.hypervisor.start(staged).await.unwrap_err();
    assert!(e.to_string().contains("/nowhere/qemu"), "{e}");
}

#[tokio::test]
async fn a_guest_that_resets_itself_or_whose_qemu_dies_has_crashed() {
    let site = site();
    let slot = site.slot("s1");
    let (guest, mut events) = slot
        .run(1, &site.spec("rdinit=/nowhere init=/nowhere"), None)
        .await;
    match ended(&mut events).await {
        ExitHow::Crashed(reason) => assert!(reason.text.contains("reset"), "{reason}"),
        other => panic!("{other:?}"),
    }
    drop(guest);
    let (guest, mut events) = slot.run(2, &site.spec(""), None).await;
    first_seen(&guest).await;
    kill(pid(&guest), Signal::SIGKILL).unwrap();
    match ended(&mut events).await {
        ExitHow::Crashed(reason) => assert!(reason.text.contains("signal: 9"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hung_qemu_holds_nothing_up() {
    let site = site();
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &site.spec(""), None).await;
    first_seen(&guest).await;
    kill(pid(&guest), Signal::SIGSTOP).unwrap();
    let mut order = order(&guest);
    order.budget = Span::from_millis(300);
    order.when_late = WhenLate::Kill;
    let e = tokio::time::timeout(LONG, guest.suspend(order))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (e.reason.code, e.guest_alive),
        (ReasonCode::SuspendTooSlow, false),
        "{e}"
    );
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert!(!lives(guest.pid().unwrap()));
    assert_eq!(site.states(), [""; 0]);
}

/// Boots a guest that holds enough memory for a suspend to be caught in the middle.
async fn full_guest(site: &Site, slot: &Slot) -> (Guest, GuestEvents) {
    let mut spec = site.spec("fill=300");
    spec.resources.memory_mib = 512;
    let (guest, events) = slot.run(1, &spec, None).await;
    eventually("the guest's memory is full", || {
        console(&guest).contains("GUEST-FILLED").then_some(())
    })
    .await;
    (guest, events)
}

#[tokio::test]
async fn a_qemu_that_dies_in_the_middle_of_a_suspend_leaves_no_state() {
    let site = site();
    let slot = site.slot("s1");
    let (guest, mut events) = full_guest(&site, &slot).await;
    let bytes = guest.resident_bytes().await;
    assert!((300 << 20..500 << 20).contains(&bytes), "{bytes}");
    let memory = site.store.join("states/.tmp-ws-1.g1/memory");
    let (result, ()) = tokio::join!(guest.suspend(order(&guest)), async {
        eventually("some of the memory is written", || {
            fs::metadata(&memory)
                .is_ok_and(|m| m.len() > 1 << 20)
                .then_some(())
        })
        .await;
        kill(pid(&guest), Signal::SIGKILL).unwrap();
    });
    let e = result.unwrap_err();
    assert_eq!(
        (e.reason.code, e.guest_alive),
        (ReasonCode::GuestCrashed, false),
        "{e}"
    );
    assert!(matches!(ended(&mut events).await, ExitHow::Crashed(_)));
    assert_eq!(site.states(), [""; 0]);
}

#[tokio::test]
async fn a_suspend_that_is_called_off_in_the_middle_leaves_nothing_and_the_guest_runs_on() {
    let site = site();
    let slot = site.slot("s1");
    let (guest, _) = full_guest(&site, &slot).await;
    let before = counts_to(&guest, 1).await;
    let memory = site.store.join("states/.tmp-ws-1.g1/memory");
    let (result, ()) = tokio::join!(guest.suspend(order(&guest)), async {
        eventually("some of the memory is written", || {
            fs::metadata(&memory)
                .is_ok_and(|m| m.len() > 1 << 20)
                .then_some(())
        })
        .await;
        guest.abort_suspend();
    });
    let e = result.unwrap_err();
    assert!(e.guest_alive, "{e}");
    assert_eq!(site.states(), [""; 0]);
    counts_to(&guest, before.n + 3).await;
    suspend(&guest).await;
    assert_eq!(complaints(&guest), [""; 0]);
}

/// A file system of a few MiB, as root can make it.
struct Tiny<'a>(&'a Path);

impl<'a> Tiny<'a> {
    fn mount(at: &'a Path, mib: u32) -> Self {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(at)
            .status();
        assert!(
            done.unwrap().success(),
            "this test needs root to mount a small file system"
        );
        Self(at)
    }
}

impl Drop for Tiny<'_> {
    fn drop(&mut self) {
        // Best effort in a test that may be failing already.
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}

#[tokio::test]
async fn a_store_without_room_is_noticed_before_the_guest_is_stopped() {
    let site = site();
    let slot = site.slot("s1");
    let states = site.store.join("states");
    let _tiny = Tiny::mount(&states, 16);
    let (guest, _) = slot.run(1, &site.spec(""), None).await;
    let seen = first_seen(&guest).await;
    let e = guest.suspend(order(&guest)).await.unwrap_err();
    assert_eq!(
        (e.reason.code, e.guest_alive),
        (ReasonCode::DiskFull, true),
        "{e}"
    );
    assert!(e.to_string().contains("16 MiB free"), "{e}");
    counts_to(&guest, seen.n + 3).await;
    guest.kill().await;
}

#[tokio::test]
async fn a_store_on_another_file_system_gets_copies_of_the_layers() {
    let site = site();
    let spec = site.spec_with_disk("");
    let states = site.store.join("states");
    let _tiny = Tiny::mount(&states, 400);
    let mut state = None;
    let mut last = 0;
    for generation in 1..=3 {
        let slot = site.slot(&format!("s{generation}"));
        let (guest, _) = slot.run(generation, &spec, state.as_ref()).await;
        let first = first_seen(&guest).await;
        assert!(first.n > last, "it went back from {last} to {}", first.n);
        counts_to(&guest, first.n + 2).await;
        let made = suspend(&guest).await;
        assert!(made.written >= made.state.bytes / 2, "{made:?}");
        last = counts_to(&guest, 0).await.n;
        assert_eq!(complaints(&guest), [""; 0]);
        fs::remove_dir_all(slot.journal.scratch()).unwrap();
        state = Some(made.state);
    }
}

#[tokio::test]
async fn a_guest_whose_own_disk_is_full_is_stopped_said_so_and_goes_on() {
    let site = site();
    let scratch = site.root.path().join("small");
    let _tiny = Tiny::mount(&scratch, 4);
    let slot = site.slot("s1");
    let mut request = slot.request(1, &site.spec_with_disk(""), None);
    request.dir = scratch.join("guest");
    let staged = slot.hypervisor.stage(request).await.unwrap();
    let (guest, mut events) = slot.hypervisor.start(staged).await.unwrap();
    fs::write(scratch.join("ballast"), vec![1; 3 << 20]).unwrap();
    // Take what is left, before the guest has come so far that it writes.
    let mut rest = fs::File::create(scratch.join("rest")).unwrap();
    while std::io::Write::write(&mut rest, &[1; 4096]).is_ok_and(|n| n > 0) {}
    drop(rest);
    loop {
        let event = tokio::time::timeout(LONG, events.next());
        match event.await.unwrap().unwrap() {
            GuestEvent::IoError(reason) => {
                assert_eq!(reason.code, ReasonCode::DiskFull, "{reason}");
                break;
            }
            GuestEvent::Said(_) | GuestEvent::Flushed => {}
            GuestEvent::Exited(how) => panic!("{how:?}"),
        }
    }
    fs::remove_file(scratch.join("ballast")).unwrap();
    fs::remove_file(scratch.join("rest")).unwrap();
    guest.cont().await.unwrap();
    counts_to(&guest, 3).await;
    assert_eq!(complaints(&guest), [""; 0]);
    guest.kill().await;
}

#[tokio::test]
async fn a_state_does_not_start_on_a_node_that_is_set_up_otherwise_or_on_a_changed_base() {
    let site = site();
    let slot = site.slot("s1");
    let mut spec = site.spec_with_disk("");
    let base = site.root.path().join("disk.raw");
    fs::copy(guest_dir().join("disk.raw"), &base).unwrap();
    spec.image.disks[0].base = Some(guests::artefact(&base));
    let (guest, _) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    let made = suspend(&guest).await;

    for (what, machine, cpu) in [
        ("machine type", "pc-q35-7.1", "qemu64"),
        ("cpu model", "pc-q35-7.2", "Westmere"),
    ] {
        let mut section = site.section();
        (section.machine, section.cpu) = (Some(machine.to_owned()), Some(cpu.to_owned()));
        let other = site.slot_with(&format!("s-{machine}-{cpu}"), &section);
        let request = other.request(2, &spec, Some(&made.state));
        let e = other.hypervisor.stage(request).await.unwrap_err();
        assert!(matches!(e, StageError::StateIncompatible(_)), "{e}");
        assert!(e.to_string().contains(what), "{e}");
    }
    fs::write(&base, vec![0; 64 << 20]).unwrap();
    let e = slot
        .hypervisor
        .stage(slot.request(2, &spec, Some(&made.state)))
        .await
        .unwrap_err();
    assert!(matches!(e, StageError::StateCorrupt(_)), "{e}");
    assert!(e.to_string().contains("disk.raw"), "{e}");
}

#[tokio::test]
async fn devices_that_are_no_migration_stream_are_refused_by_qemu() {
    let site = site();
    let slot = site.slot("s1");
    let spec = site.spec("");
    let (guest, _) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    let made = suspend(&guest).await;
    let staged = slot
        .hypervisor
        .stage(slot.request(2, &spec, Some(&made.state)))
        .await
        .unwrap();
    // Altered between its verification and its use.
    fs::write(
        site.store.join("states/ws-1.g1/devices"),
        b"nothing of the kind",
    )
    .unwrap();
    let e = slot.hypervisor.start(staged).await.unwrap_err();
    assert!(matches!(e, StartError::StateCorrupt(_)), "{e}");
}
