//! A disk that fills up in the middle of a suspend. Alone in its program: it limits the size of the
//! files that this process may write, which is how a full disk is made at an exact point.

mod guests;

use guests::{Site, complaints, counts_to, ended, first_seen, lives, order, suspend};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use pilot::hypervisor::ExitHow;
use protocol::codes::ReasonCode;
use protocol::slot_file::HypervisorKind;

#[tokio::test]
async fn a_disk_that_fills_up_during_a_suspend_costs_neither_guest_nor_state() {
    // Threads inherit it: a write beyond the limit then fails instead of killing the program.
    let mut too_large = SigSet::empty();
    too_large.add(Signal::SIGXFSZ);
    too_large.thread_block().unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, hard).unwrap();

    let site = Site::new(HypervisorKind::Qemu);
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &site.spec_with_disk(""), None).await;
    let seen = first_seen(&guest).await;
    for bytes in [20 << 20, 4 << 20, 4096] {
        limit(bytes);
        let e = guest.suspend(order(&guest)).await.unwrap_err();
        limit(hard);
        assert_eq!(
            (e.reason.code, e.guest_alive),
            (ReasonCode::DiskFull, true),
            "{e}"
        );
        assert_eq!(site.states(), [""; 0]);
        assert!(lives(guest.pid().unwrap()));
    }
    counts_to(&guest, seen.n + 3).await;
    suspend(&guest).await;
    assert_eq!(ended(&mut events).await, ExitHow::EndedByUs);
    assert_eq!(complaints(&guest), [""; 0]);
}
