//! Rules of checkpoints: a state is made, and its guest goes on.

use pilot::hypervisor::{ExitHow, Guest, Suspended, WhenLate};
use protocol::codes::ReasonCode;
use protocol::slot_file::HypervisorKind;
use protocol::time::Span;

use super::guests::{
    Site, checkpoint_order, complaints, console, counts_to, ended, first_seen, suspend,
};
use super::words;

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

pub async fn a_checkpoint_lets_the_guest_go_on_and_is_resumed_as_it_was(kind: HypervisorKind) {
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

pub async fn a_checkpoint_is_not_needed_by_its_guest(kind: HypervisorKind) {
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

pub async fn a_checkpoint_that_is_late_or_called_off_leaves_nothing_and_the_guest_goes_on(
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

pub async fn a_checkpoint_of_a_paused_guest_leaves_it_paused(kind: HypervisorKind) {
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
