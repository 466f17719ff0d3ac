//! The rule of what a guest is told, and what it says.

use image_store::{Algorithm, Hasher};
use pilot::hypervisor::{Guest, GuestEvent, GuestEvents};
use pilot_core::guest_words::{Said, Words};
use protocol::codes::ReasonCode;
use protocol::slot_file::HypervisorKind;
use protocol::time::{Span, Timestamp};

use super::guests::{LONG, Site, complaints, console, eventually, first_seen, suspend};
use super::words;

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

pub async fn a_guest_is_told_of_itself_and_of_its_time_in_every_slot(kind: HypervisorKind) {
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
