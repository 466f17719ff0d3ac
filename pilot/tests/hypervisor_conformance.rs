//! The contract of hypervisor drivers (`pilot::hypervisor`), rule by rule, on every driver.

#[path = "contract/checkpoints.rs"]
mod checkpoints;
mod guests;
#[path = "contract/told.rs"]
mod told;
#[path = "xen/mod.rs"]
mod xen_host;

use checkpoints::{
    a_checkpoint_is_not_needed_by_its_guest,
    a_checkpoint_lets_the_guest_go_on_and_is_resumed_as_it_was,
    a_checkpoint_of_a_paused_guest_leaves_it_paused,
    a_checkpoint_that_is_late_or_called_off_leaves_nothing_and_the_guest_goes_on,
};
use guests::{Site, complaints, counts_to, ended, first_seen, lives, order, suspend};
use pilot::hypervisor::{ControlError, ExitHow, StageError, WhenLate};
use protocol::codes::ReasonCode;
use protocol::slot_file::HypervisorKind;
use protocol::time::Span;
use told::a_guest_is_told_of_itself_and_of_its_time_in_every_slot;

/// Each rule as a test on each driver.
macro_rules! on_every_driver {
    ($($rule:ident)*) => {
        mod qemu {
            use super::HypervisorKind;
            $(#[tokio::test] async fn $rule() { super::$rule(HypervisorKind::Qemu).await; })*
        }
        mod null {
            use super::HypervisorKind;
            $(#[tokio::test] async fn $rule() { super::$rule(HypervisorKind::Null).await; })*
        }
        /// Run by the tests of the part `xen`, inside of a dom0.
        mod xen {
            use super::HypervisorKind;
            $(
                #[tokio::test]
                #[ignore = "needs a Xen control domain"]
                async fn $rule() { super::$rule(HypervisorKind::Xen).await; }
            )*
        }
    };
}

on_every_driver! {
    nothing_is_started_from_what_is_missing_or_altered
    a_guest_runs_is_paused_and_goes_on_and_is_killed
    a_guest_obeys_its_power_button_also_when_it_is_paused
    a_guest_that_switches_itself_off_is_told_from_a_crash
    a_suspended_guest_goes_on_in_another_slot_as_often_as_wanted
    a_suspend_that_takes_too_long_leaves_nothing_and_the_guest_runs_on
    a_suspend_that_takes_too_long_ends_the_guest_when_told_so
    a_suspend_can_be_called_off
    a_checkpoint_lets_the_guest_go_on_and_is_resumed_as_it_was
    a_checkpoint_is_not_needed_by_its_guest
    a_checkpoint_that_is_late_or_called_off_leaves_nothing_and_the_guest_goes_on
    a_checkpoint_of_a_paused_guest_leaves_it_paused
    a_state_does_not_start_when_it_does_not_fit
    a_damaged_state_does_not_start
    what_is_gone_says_so
    a_guest_is_told_of_itself_and_of_its_time_in_every_slot
}

/// Words on the command line for the same behaviour of a real guest and a null one.
fn words<'a>(kind: HypervisorKind, real: &'a str, null: &'a str) -> &'a str {
    match kind {
        HypervisorKind::Qemu | HypervisorKind::Xen => real,
        HypervisorKind::Null => null,
    }
}

async fn nothing_is_started_from_what_is_missing_or_altered(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let mut spec = site.spec("");
    let kernel = spec.image.kernel.as_mut().unwrap();
    kernel.digest = Some(format!("sha256:{}", "0".repeat(64)));
    let e = slot
        .hypervisor
        .stage(slot.request(1, &spec, None))
        .await
        .unwrap_err();
    assert!(
        matches!(e, StageError::ImageCorrupt(_)) && e.permanent(),
        "{e}"
    );

    spec.image.kernel.as_mut().unwrap().url = "/nowhere/kernel".to_owned();
    let e = slot
        .hypervisor
        .stage(slot.request(1, &spec, None))
        .await
        .unwrap_err();
    assert_eq!(e.reason().code, ReasonCode::ImageMissing);
    assert!(
        e.permanent() && e.to_string().contains("/nowhere/kernel"),
        "{e}"
    );
}

async fn a_guest_runs_is_paused_and_goes_on_and_is_killed(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &site.spec(""), None).await;
    let seen = first_seen(&guest).await;
    assert!(guest.resident_bytes().await > 0);
    guest.pause().await.unwrap();
    guest.pause().await.unwrap();
    guest.cont().await.unwrap();
    guest.cont().await.unwrap();
    if kind != HypervisorKind::Null {
        assert_eq!(counts_to(&guest, seen.n + 3).await.boot, seen.boot);
    }
    let pid = guest.pid();
    guest.kill().await;
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert!(pid.is_none_or(|pid| !lives(pid)), "a process is left");
    assert_eq!(complaints(&guest), [""; 0]);
}

async fn a_guest_obeys_its_power_button_also_when_it_is_paused(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &site.spec(""), None).await;
    first_seen(&guest).await;
    guest.pause().await.unwrap();
    guest.shutdown().await.unwrap();
    assert_eq!(ended(&mut events).await, ExitHow::PoweredOff);
}

async fn a_guest_that_switches_itself_off_is_told_from_a_crash(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let spec = site.spec(words(kind, "count_to=2", "null.poweroff_after=20ms"));
    let (_guest, mut events) = slot.run(1, &spec, None).await;
    assert_eq!(ended(&mut events).await, ExitHow::PoweredOff);

    let spec = site.spec(words(
        kind,
        "rdinit=/nowhere init=/nowhere",
        "null.crash_after=20ms",
    ));
    let (_guest, mut events) = slot.run(2, &spec, None).await;
    match ended(&mut events).await {
        ExitHow::Crashed(reason) => assert_eq!(reason.code, ReasonCode::GuestCrashed),
        other => panic!("{other:?}"),
    }
}

async fn a_suspended_guest_goes_on_in_another_slot_as_often_as_wanted(kind: HypervisorKind) {
    let site = Site::new(kind);
    let spec = site.spec_with_disk("");
    let first = site.slot("s1");
    let (guest, mut events) = first.run(1, &spec, None).await;
    first_seen(&guest).await;
    let before = counts_to(&guest, words(kind, "3", "0").parse().unwrap()).await;
    let pid = guest.pid();
    let made = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    let before = match kind {
        // It is asked for over some processes, while it counts on.
        HypervisorKind::Xen => counts_to(&guest, before.n).await,
        HypervisorKind::Qemu | HypervisorKind::Null => before,
    };
    assert!(pid.is_none_or(|pid| !lives(pid)), "a process is left");
    assert_eq!(made.state.run, Span::from_secs(7));
    assert!(made.written > 0 && made.state.bytes >= made.written);
    assert_eq!(site.states(), ["ws-1.g1"]);
    // The slot is given back with all that was in it.
    std::fs::remove_dir_all(first.journal.scratch()).unwrap();

    for generation in [2, 3] {
        let slot = site.slot(&format!("s{generation}"));
        let (guest, mut events) = slot.run(generation, &spec, Some(&made.state)).await;
        let after = first_seen(&guest).await;
        assert_eq!(after.boot, before.boot, "it booted anew");
        let steps = words(kind, "2", "100000").parse::<u64>().unwrap();
        assert!(
            (before.n..=before.n + steps).contains(&after.n),
            "from {before:?} to {after:?}"
        );
        if kind != HypervisorKind::Null {
            counts_to(&guest, after.n + 3).await;
        }
        assert_eq!(complaints(&guest), [""; 0]);
        if generation == 3 {
            // One that was resumed is suspended like one that was booted.
            let again = suspend(&guest).await;
            slot.hypervisor.discard(&again.state.id).await.unwrap();
        } else {
            guest.kill().await;
        }
        assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    }
    let slot = site.slot("s9");
    slot.hypervisor.discard(&made.state.id).await.unwrap();
    slot.hypervisor.discard(&made.state.id).await.unwrap();
    assert_eq!(site.states(), [""; 0]);
}

async fn a_suspend_that_takes_too_long_leaves_nothing_and_the_guest_runs_on(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let spec = site.spec(words(kind, "", "null.suspend_takes=50ms"));
    let (guest, mut events) = slot.run(1, &spec, None).await;
    let seen = first_seen(&guest).await;
    let mut late = order(&guest);
    late.budget = Span::from_millis(4);
    let e = guest.suspend(late).await.unwrap_err();
    assert_eq!(
        (e.reason.code, e.guest_alive),
        (ReasonCode::SuspendTooSlow, true),
        "{e}"
    );
    assert_eq!(site.states(), [""; 0]);
    if kind != HypervisorKind::Null {
        counts_to(&guest, seen.n + 3).await;
    }
    suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(site.states(), ["ws-1.g1"]);
}

async fn a_suspend_that_takes_too_long_ends_the_guest_when_told_so(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let spec = site.spec(words(kind, "", "null.suspend_takes=50ms"));
    let (guest, mut events) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    let mut late = order(&guest);
    late.budget = Span::from_millis(4);
    late.when_late = WhenLate::Kill;
    let e = guest.suspend(late).await.unwrap_err();
    assert_eq!(
        (e.reason.code, e.guest_alive),
        (ReasonCode::SuspendTooSlow, false),
        "{e}"
    );
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(site.states(), [""; 0]);
}

async fn a_suspend_can_be_called_off(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let spec = site.spec(words(kind, "", "null.suspend_takes=60s"));
    let (guest, mut events) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    guest.abort_suspend();
    let (result, ()) = tokio::join!(guest.suspend(order(&guest)), async {
        tokio::task::yield_now().await;
        guest.abort_suspend();
    });
    let e = result.unwrap_err();
    assert!(
        e.guest_alive && e.reason.code == ReasonCode::SuspendTooSlow,
        "{e}"
    );
    assert_eq!(site.states(), [""; 0]);
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
}

async fn a_state_does_not_start_when_it_does_not_fit(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let spec = site.spec_with_disk("");
    let (guest, _) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    let made = suspend(&guest).await;

    let mut bigger = spec.clone();
    bigger.resources.memory_mib *= 2;
    let mut cores = spec.clone();
    cores.resources.cores = 2;
    let mut based = spec.clone();
    based.image.disks[0].base = spec.image.kernel.clone();
    let memory = format!("{} MiB", spec.resources.memory_mib);
    for (words, other) in [
        (memory.as_str(), bigger),
        ("1 cores", cores),
        ("base", based),
    ] {
        let e = slot
            .hypervisor
            .stage(slot.request(2, &other, Some(&made.state)))
            .await
            .unwrap_err();
        assert!(
            matches!(e, StageError::StateIncompatible(_)) && !e.permanent(),
            "{e}"
        );
        assert!(e.to_string().contains(words), "{e}");
    }
    let mut foreign = slot.request(2, &spec, Some(&made.state));
    foreign.guest.workspace = "ws-2".parse().unwrap();
    let e = slot.hypervisor.stage(foreign).await.unwrap_err();
    assert!(e.to_string().contains("ws-1"), "{e}");
}

async fn a_damaged_state_does_not_start(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let spec = site.spec("");
    let (guest, _) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    let made = suspend(&guest).await;
    let stage = || {
        slot.hypervisor
            .stage(slot.request(2, &spec, Some(&made.state)))
    };
    // Some drivers see it only when they load it.
    let refused = async || match stage().await {
        Err(e) => {
            assert!(!e.permanent(), "{e}");
            e.reason()
        }
        Ok(staged) => slot.hypervisor.start(staged).await.unwrap_err().reason(),
    };

    let memory = site.store.join("states/ws-1.g1/memory");
    let whole = std::fs::read(&memory).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for bytes in [&whole[..whole.len() - 1], &[], &flipped] {
        std::fs::write(&memory, bytes).unwrap();
        let reason = refused().await;
        assert_eq!(reason.code, ReasonCode::StateCorrupt, "{}", reason.text);
        assert!(reason.text.contains("memory"), "{}", reason.text);
    }
    std::fs::write(&memory, &whole).unwrap();
    stage().await.unwrap();
    std::fs::remove_dir_all(site.store.join("states/ws-1.g1")).unwrap();
    let e = stage().await.unwrap_err();
    assert_eq!(e.reason().code, ReasonCode::StateCorrupt);
}

async fn what_is_gone_says_so(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &site.spec(""), None).await;
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    for result in [
        guest.pause().await,
        guest.cont().await,
        guest.shutdown().await,
    ] {
        assert_eq!(result, Err(ControlError::Gone));
    }
    let e = guest.suspend(order(&guest)).await.unwrap_err();
    assert!(!e.guest_alive, "{e}");
    assert_eq!(site.states(), [""; 0]);
}
