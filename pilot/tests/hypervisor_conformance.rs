//! The contract of hypervisor drivers (`pilot::hypervisor`), rule by rule, on every driver.

mod guests;
#[path = "xen/mod.rs"]
mod xen_host;

use guests::{
    LONG, Site, checkpoint_order, complaints, console, counts_to, ended, eventually, first_seen,
    lives, order, suspend,
};
use image_store::{Algorithm, Hasher};
use pilot::hypervisor::{
    ControlError, ExitHow, Guest, GuestEvent, GuestEvents, StageError, Suspended, WhenLate,
};
use pilot_core::guest_words::{Said, Words};
use protocol::codes::ReasonCode;
use protocol::slot_file::HypervisorKind;
use protocol::time::{Span, Timestamp};

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

async fn checkpoint(guest: &Guest, number: u32) -> Suspended {
    match guest.checkpoint(checkpoint_order(guest, number)).await {
        Ok(made) => made,
        Err(e) => panic!("the checkpoint failed: {e} (alive: {})", e.guest_alive),
    }
}

/// Waits until a running guest has done something.
async fn gets_on(kind: HypervisorKind, guest: &Guest) {
    match kind {
        HypervisorKind::Qemu | HypervisorKind::Xen => {
            let n = counts_to(guest, 0).await.n;
            counts_to(guest, n + 2).await;
        }
        HypervisorKind::Null => {
            let before = null_ran(guest).await;
            while null_ran(guest).await == before {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Run time of a null guest: it says it when it is told to switch itself off and does not obey.
async fn null_ran(guest: &Guest) -> u64 {
    let before = console(guest).len();
    guest.shutdown().await.unwrap();
    let said = console(guest)[before..].to_owned();
    let ran = said.split("ran_ms=").nth(1).map(str::trim);
    ran.and_then(|n| n.parse().ok())
        .expect("it says how long it ran")
}

async fn a_checkpoint_lets_the_guest_go_on_and_is_resumed_as_it_was(kind: HypervisorKind) {
    let site = Site::new(kind);
    let spec = site.spec_with_disk(words(kind, "", "null.ignores_acpi"));
    let first = site.slot("s1");
    let (guest, mut events) = first.run(1, &spec, None).await;
    let booted = first_seen(&guest).await;
    gets_on(kind, &guest).await;
    let before = counts_to(&guest, 0).await;
    let made = checkpoint(&guest, 1).await;
    assert_eq!(made.state.id.as_str(), "ws-1.g1.c1");
    assert_eq!(made.state.run, Span::from_secs(7));
    assert!(made.written > 0 && made.paused <= made.took, "{made:?}");
    assert_eq!(site.states(), ["ws-1.g1.c1"]);

    gets_on(kind, &guest).await;
    let later = counts_to(&guest, before.n).await;
    assert_eq!(later.boot, booted.boot, "it went on");
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    std::fs::remove_dir_all(first.journal.scratch()).unwrap();

    let second = site.slot("s2");
    let (guest, mut events) = second.run(2, &spec, Some(&made.state)).await;
    let after = first_seen(&guest).await;
    assert_eq!(after.boot, booted.boot, "it booted anew");
    match kind {
        HypervisorKind::Null => assert!(
            before.n <= after.n && after.n < later.n,
            "as of the checkpoint: {before:?}, {after:?}, {later:?}"
        ),
        HypervisorKind::Xen => assert!(
            (before.n..=later.n).contains(&after.n),
            "as of the checkpoint: {before:?}, {after:?}, {later:?}"
        ),
        HypervisorKind::Qemu => assert!(
            (before.n..=before.n + 2).contains(&after.n),
            "as of the checkpoint: {before:?}, {after:?}"
        ),
    }
    gets_on(kind, &guest).await;
    assert_eq!(complaints(&guest), [""; 0]);
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
}

async fn a_checkpoint_is_not_needed_by_its_guest(kind: HypervisorKind) {
    let site = Site::new(kind);
    let spec = site.spec_with_disk(words(kind, "", "null.ignores_acpi"));
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &spec, None).await;
    let booted = first_seen(&guest).await;
    for number in 1..=3 {
        checkpoint(&guest, number).await;
        gets_on(kind, &guest).await;
    }
    for number in 1..=3 {
        let name = checkpoint_order(&guest, number).state;
        slot.hypervisor.discard(&name).await.unwrap();
        gets_on(kind, &guest).await;
    }
    let made = suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(site.states(), ["ws-1.g1"]);
    let next = site.slot("s2");
    let (guest, _) = next.run(2, &spec, Some(&made.state)).await;
    assert_eq!(first_seen(&guest).await.boot, booted.boot);
    gets_on(kind, &guest).await;
    assert_eq!(complaints(&guest), [""; 0]);
    guest.kill().await;
}

async fn a_checkpoint_that_is_late_or_called_off_leaves_nothing_and_the_guest_goes_on(
    kind: HypervisorKind,
) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let null = "null.ignores_acpi null.suspend_takes=60s";
    let (guest, mut events) = slot.run(1, &site.spec(words(kind, "", null)), None).await;
    let booted = first_seen(&guest).await;
    for when_late in [WhenLate::Continue, WhenLate::Kill] {
        let mut late = checkpoint_order(&guest, 1);
        late.budget = Span::from_millis(4);
        late.when_late = when_late;
        let e = guest.checkpoint(late).await.unwrap_err();
        assert_eq!(
            (e.reason.code, e.guest_alive),
            (ReasonCode::SuspendTooSlow, true),
            "{e}"
        );
        assert_eq!(site.states(), [""; 0]);
        gets_on(kind, &guest).await;
    }
    let (result, ()) = tokio::join!(guest.checkpoint(checkpoint_order(&guest, 1)), async {
        tokio::task::yield_now().await;
        guest.abort_suspend();
    });
    let e = result.unwrap_err();
    assert!(e.guest_alive, "{e}");
    assert_eq!(site.states(), [""; 0]);
    gets_on(kind, &guest).await;
    assert_eq!(counts_to(&guest, 0).await.boot, booted.boot);
    guest.kill().await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    let e = (guest.checkpoint(checkpoint_order(&guest, 1)).await).unwrap_err();
    assert!(!e.guest_alive, "{e}");
    assert_eq!(site.states(), [""; 0]);
}

async fn a_checkpoint_of_a_paused_guest_leaves_it_paused(kind: HypervisorKind) {
    let site = Site::new(kind);
    let slot = site.slot("s1");
    let spec = site.spec(words(kind, "", "null.ignores_acpi"));
    let (guest, mut events) = slot.run(1, &spec, None).await;
    first_seen(&guest).await;
    guest.pause().await.unwrap();
    for number in 1..=3 {
        checkpoint(&guest, number).await;
    }
    let memory = |name: &str| {
        let path = site.store.join("states").join(name).join("memory");
        std::fs::read(path).unwrap()
    };
    if kind == HypervisorKind::Null {
        assert_eq!(memory("ws-1.g1.c1"), memory("ws-1.g1.c3"), "it ran");
    }
    guest.cont().await.unwrap();
    gets_on(kind, &guest).await;
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

async fn says(events: &mut GuestEvents, wanted: Said) {
    loop {
        let event = tokio::time::timeout(LONG, events.next());
        match event.await.expect("the guest's agent says it").unwrap() {
            GuestEvent::Said(said) if said == wanted => return,
            GuestEvent::Said(_) | GuestEvent::IoError(_) | GuestEvent::Flushed => {}
            GuestEvent::Exited(how) => panic!("{how:?} instead of {wanted:?}"),
        }
    }
}

/// Waits until that stands on the guest's console.
async fn shows(guest: &Guest, line: &str) {
    let probe = eventually("that line", || console(guest).contains(line).then_some(()));
    let shown = tokio::time::timeout(LONG * 9 / 10, probe).await;
    assert!(shown.is_ok(), "no `{line}` in:\n{}", console(guest));
}

/// Waits until the guest's agent has got `words`.
async fn hears(guest: &Guest, kind: HypervisorKind, words: &Words) {
    let told = match kind {
        HypervisorKind::Qemu | HypervisorKind::Xen => format!("LEASE-TOLD {words}\r\n"),
        HypervisorKind::Null => format!("told `{words}`"),
    };
    shows(guest, &told).await;
}

fn soon() -> Words {
    Words::SuspendSoon {
        left: Span::from_secs(10),
        reason: ReasonCode::SlotEnding,
    }
}

async fn a_guest_is_told_of_itself_and_of_its_time_in_every_slot(kind: HypervisorKind) {
    let site = Site::new(kind);
    let mut spec = site.spec(words(kind, "ready context", "null.says_ready"));
    // Not only letters, and more than one value of xenstore; on QEMU as much as a request may have.
    let lines = match kind {
        HypervisorKind::Qemu | HypervisorKind::Null => 8190,
        HypervisorKind::Xen => 1000,
    };
    let user_data = format!("{}\u{e4}\n\\;\"$\t\n", "0123456\n".repeat(lines));
    spec.context.hostname = Some("its-own.name_1".to_owned());
    let mut digest = Hasher::new(Algorithm::Sha256);
    digest.update(user_data.as_bytes());
    let context = format!(
        "GUEST-CONTEXT hostname=its-own.name_1 bytes={} digest={}",
        user_data.len(),
        digest.finish()
    );
    spec.context.user_data = Some(user_data);
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &spec, None).await;
    says(&mut events, Said::Hello).await;
    if kind != HypervisorKind::Null {
        shows(&guest, &context).await;
    }
    // One at once after the other, and each is heard.
    let times: Vec<Words> = (1..=6)
        .map(|n| Words::TimeLeft {
            left: Span::from_secs(300 + n),
            reason: ReasonCode::SlotEnding,
        })
        .collect();
    guest.tell(&Words::Hello);
    times.iter().for_each(|words| guest.tell(words));
    for words in &times {
        hears(&guest, kind, words).await;
    }
    guest.tell(&soon());
    hears(&guest, kind, &soon()).await;
    says(&mut events, Said::Ready).await;
    let before = first_seen(&guest).await;
    let made = suspend(&guest).await;

    let slot = site.slot("s2");
    let (guest, mut events) = slot.run(2, &spec, Some(&made.state)).await;
    let resumed = Words::Resumed {
        away: Span::from_secs(61),
        now: Timestamp::from_secs(1_900_000_000),
    };
    guest.tell(&Words::Hello);
    guest.tell(&resumed);
    guest.tell(&soon());
    hears(&guest, kind, &resumed).await;
    says(&mut events, Said::Ready).await;
    if kind != HypervisorKind::Null {
        shows(&guest, &context).await;
        let told = console(&guest).matches("LEASE-TOLD resumed").count();
        assert_eq!(told, 1, "{}", console(&guest));
    }
    assert_eq!(first_seen(&guest).await.boot, before.boot);
    assert_eq!(complaints(&guest), [""; 0]);
    guest.kill().await;
    guest.tell(&soon()); // to nobody
}
