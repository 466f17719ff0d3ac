//! A running guest's memory is brought to the store ahead of its suspend: nothing is lost of what it
//! writes meanwhile, and nothing is left where the suspend does not come.

mod guests;

use std::fs;
use std::os::unix::fs::MetadataExt;

use guests::{
    LONG, Site, checkpoint_order, complaints, console, counts_to, ended, eventually, first_seen,
    lives, order, suspend,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use pilot::hypervisor::{ExitHow, Guest, GuestEvent, GuestEvents, SuspendError};
use protocol::codes::ReasonCode;
use protocol::lease::StateRef;
use protocol::slot_file::HypervisorKind;
use protocol::time::Span;
use protocol::workspace::WorkspaceSpec;

const FILL_MIB: u64 = 64;

fn site() -> Site {
    Site::new(HypervisorKind::Qemu)
}

/// A guest with a full memory, of which it rewrites so many MiB a second.
fn spec(site: &Site, dirty: u64) -> WorkspaceSpec {
    let mut spec = site.spec_with_disk(&format!("fill={FILL_MIB} dirty={dirty}"));
    spec.resources.memory_mib = 256;
    spec
}

/// What is in the store of a state under construction, in bytes on the disk.
fn ahead(site: &Site, generation: u64) -> u64 {
    let path = format!("states/.tmp-ws-1.g{generation}/memory");
    fs::metadata(site.store.join(path)).map_or(0, |m| m.blocks() * 512)
}

/// Begins a flush and waits until a pass has brought the filled memory.
async fn flush(site: &Site, guest: &Guest, generation: u64) {
    guest.flush().unwrap();
    guest.flush().unwrap();
    eventually("a pass over the memory", || {
        (ahead(site, generation) >= FILL_MIB << 20).then_some(())
    })
    .await;
}

/// Waits until the guest's driver says that a pass is through.
async fn passed(events: &mut GuestEvents) {
    loop {
        match tokio::time::timeout(LONG, events.next()).await {
            Ok(Some(GuestEvent::Flushed)) => return,
            Ok(Some(GuestEvent::Said(_) | GuestEvent::IoError(_))) => {}
            other => panic!("{other:?} instead of a pass"),
        }
    }
}

/// To be called before there are threads, which inherit it: a write beyond the limit then fails instead
/// of killing the program.
fn let_large_writes_fail() {
    let mut too_large = SigSet::empty();
    too_large.add(Signal::SIGXFSZ);
    too_large.thread_block().unwrap();
}

/// Tries a suspend while no file may be longer than `bytes`: a disk that fills up in the middle of it.
async fn fails_for_want_of_room(guest: &Guest, bytes: u64) -> SuspendError {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes, hard).unwrap();
    let result = guest.suspend(order(guest)).await;
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    result.unwrap_err()
}

async fn filled(guest: &Guest) {
    eventually("a full memory", || {
        console(guest).contains("GUEST-FILLED").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_guest_writes_during_its_flush_is_in_its_state() {
    let site = site();
    for (name, dirty) in [("idle", 0), ("busy", 60)] {
        let spec = spec(&site, dirty);
        let mut state: Option<StateRef> = None;
        for generation in 1..=2 {
            let slot = site.slot(&format!("{name}-{generation}"));
            let (guest, mut events) = slot.run(generation, &spec, state.as_ref()).await;
            if state.is_none() {
                filled(&guest).await;
            }
            let seen = first_seen(&guest).await;
            flush(&site, &guest, generation).await;
            // Some passes of its own over its memory, and more of ours where there are changes.
            counts_to(&guest, seen.n + 30).await;
            let made = suspend(&guest).await;
            assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
            assert_eq!(complaints(&guest), [""; 0], "{name}, slot {generation}");
            println!("{name}, slot {generation}: {made:?}");
            if dirty == 0 {
                assert!(made.written < made.state.bytes / 3, "{made:?}");
            }
            if let Some(old) = state.replace(made.state) {
                slot.hypervisor.discard(&old.id).await.unwrap();
            }
            fs::remove_dir_all(slot.journal.scratch()).unwrap();
        }
        assert_eq!(site.states(), ["ws-1.g2"]);
        fs::remove_dir_all(site.store.join("states/ws-1.g2")).unwrap();
    }
}

#[tokio::test]
async fn without_a_suspend_nothing_is_left_of_a_flush() {
    let site = site();
    let spec = spec(&site, 0);
    for generation in [1, 2] {
        let slot = site.slot(&format!("s{generation}"));
        let (guest, mut events) = slot.run(generation, &spec, None).await;
        filled(&guest).await;
        let before = guest.resident_bytes().await;
        flush(&site, &guest, generation).await;
        passed(&mut events).await;
        let after = guest.resident_bytes().await;
        assert!(after < before / 2, "{after} of {before} bytes are left");
        let expected = if generation == 1 {
            guest.kill().await;
            ExitHow::EndedByUs
        } else {
            guest.shutdown().await.unwrap();
            ExitHow::PoweredOff
        };
        assert_eq!(ended(&mut events).await, expected);
        assert!(!guest.pid().is_some_and(lives));
        eventually("an empty store", || site.states().is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn a_suspend_that_fails_after_a_flush_costs_nothing_and_both_can_be_tried_again() {
    let_large_writes_fail();
    let site = site();
    let slot = site.slot("s1");
    let spec = spec(&site, 20);
    let (guest, mut events) = slot.run(1, &spec, None).await;
    filled(&guest).await;
    let seen = first_seen(&guest).await;
    flush(&site, &guest, 1).await;
    let mut late = order(&guest);
    late.budget = Span::from_millis(1);
    let e = guest.suspend(late).await.unwrap_err();
    assert_eq!(
        (e.reason.code, e.guest_alive),
        (ReasonCode::SuspendTooSlow, true),
        "{e}"
    );
    assert_eq!(site.states(), [""; 0]);
    flush(&site, &guest, 1).await;
    // What the guest writes is written again, but there is no room for it.
    let e = fails_for_want_of_room(&guest, 4 << 20).await;
    assert_eq!(
        (e.reason.code, e.guest_alive),
        (ReasonCode::DiskFull, true),
        "{e}"
    );
    assert_eq!(site.states(), [""; 0]);
    counts_to(&guest, seen.n + 3).await;
    flush(&site, &guest, 1).await;
    let made = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(complaints(&guest), [""; 0]);

    let slot = site.slot("s2");
    let (guest, _) = slot.run(2, &spec, Some(&made.state)).await;
    let seen = first_seen(&guest).await;
    counts_to(&guest, seen.n + 20).await;
    assert_eq!(complaints(&guest), [""; 0]);
    guest.kill().await;
}

#[tokio::test]
async fn checkpoints_of_a_busy_guest_are_whole_and_its_flush_goes_on() {
    let site = site();
    let spec = spec(&site, 40);
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &spec, None).await;
    filled(&guest).await;
    flush(&site, &guest, 1).await;
    let mut last = None;
    for number in [1, 2] {
        let seen = counts_to(&guest, 0).await;
        let made = guest.checkpoint(checkpoint_order(&guest, number)).await;
        let made = made.unwrap_or_else(|e| panic!("checkpoint {number}: {e}"));
        println!("checkpoint {number}: {made:?}");
        counts_to(&guest, seen.n + 5).await;
        flush(&site, &guest, 1).await;
        last = Some((seen, made.state));
    }
    let (before, state) = last.unwrap();
    let suspended = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(complaints(&guest), [""; 0]);
    assert_eq!(site.states(), ["ws-1.g1", "ws-1.g1.c1", "ws-1.g1.c2"]);
    fs::remove_dir_all(slot.journal.scratch()).unwrap();
    // From the checkpoint, as if the guest had been lost; then from its suspend.
    for (generation, state) in [(2, &state), (3, &suspended.state)] {
        let slot = site.slot(&format!("s{generation}"));
        let (guest, _) = slot.run(generation, &spec, Some(state)).await;
        let seen = first_seen(&guest).await;
        assert_eq!(seen.boot, before.boot);
        counts_to(&guest, seen.n + 20).await;
        assert_eq!(complaints(&guest), [""; 0], "generation {generation}");
        guest.kill().await;
    }
}

#[tokio::test]
async fn a_paused_guest_whose_suspend_has_failed_can_be_suspended_without_having_run() {
    let_large_writes_fail();
    let site = site();
    let slot = site.slot("s1");
    let spec = spec(&site, 0);
    let (guest, mut events) = slot.run(1, &spec, None).await;
    filled(&guest).await;
    guest.pause().await.unwrap();
    let seen = counts_to(&guest, 0).await;
    for _ in 0..2 {
        let e = fails_for_want_of_room(&guest, 16 << 20).await;
        assert_eq!(
            (e.reason.code, e.guest_alive),
            (ReasonCode::DiskFull, true),
            "{e}"
        );
    }
    let made = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(counts_to(&guest, 0).await, seen, "it ran");
    let slot = site.slot("s2");
    let (guest, _) = slot.run(2, &spec, Some(&made.state)).await;
    counts_to(&guest, seen.n + 3).await;
    assert_eq!(complaints(&guest), [""; 0]);
    guest.kill().await;
}
