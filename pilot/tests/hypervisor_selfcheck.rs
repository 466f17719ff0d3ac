//! A guest that checks itself: its clock, memory, disk and network are right before and after
//! every suspend, and the time that it misses is the time that it stood still.

#[expect(dead_code, reason = "shared by several test programs")]
mod guests;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use guests::{LONG, Site, complaints, console, eventually, suspend};
use pilot::clock;
use pilot::hypervisor::{Guest, GuestEvent};
use pilot_core::guest_words::{Said, Words};
use pilot_core::now::Now;
use protocol::slot_file::HypervisorKind;
use protocol::time::Span;
use protocol::workspace::{Network, WorkspaceSpec};
use tokio::time::timeout;

/// A guest stands still for at least so long: longer than its clocks' reading is uncertain.
const AWAY: Span = Span::from_secs(6);
/// By so much may the guest's count of whole seconds differ from ours, and its own clocks from
/// each other on a machine that is busy.
const UNCERTAIN: u64 = 4;

/// Answers `GET /N` with `N`, on the host that the guests see as 10.0.2.2. Returns its port.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    port
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let body = first
        .split(' ')
        .nth(1)
        .unwrap_or("/")
        .trim_start_matches('/');
    let length = body.len();
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn spec(site: &Site, words: &str) -> WorkspaceSpec {
    let mut spec = site.spec_with_disk(words);
    let own = spec.image.cmdline.take().unwrap();
    spec.image.cmdline = Some(own.replace(" nonet", "").replace("hb=0.05", "hb=1"));
    spec.network = Network::User;
    spec
}

/// A line of the guest about itself.
#[derive(Debug)]
struct Check {
    n: u64,
    up: u64,
    lost: u64,
}

fn checks(guest: &Guest) -> Vec<Check> {
    let text = console(guest);
    let whole = &text[..text.rfind('\n').unwrap_or(0)];
    let all = whole.lines().filter_map(|line| {
        let rest = &line[line.find("selfcheck ok ")?..];
        let word = |name: &str| rest.split_whitespace().find_map(|w| w.strip_prefix(name));
        let number = |name: &str| word(name)?.parse().ok();
        // Only those in which everything was looked at.
        (word("wall=") == Some("ok") && word("net=") != Some("-")).then_some(())?;
        Some(Check {
            n: number("n=")?,
            up: number("up=")?,
            lost: number("lost=")?,
        })
    });
    all.collect()
}

fn failures(guest: &Guest) -> Vec<String> {
    let text = console(guest);
    let wrong = text.lines().filter(|l| l.contains("selfcheck FAIL"));
    wrong.map(str::to_owned).chain(complaints(guest)).collect()
}

#[tokio::test]
async fn nothing_is_lost_but_the_time_from_suspend_to_resume() {
    let site = Site::new(HypervisorKind::Qemu);
    let spec = spec(&site, &format!("selfcheck={}", serve()));
    let mut state = None;
    let mut stopped: Option<(Now, Check)> = None;
    let mut away = Span::ZERO;
    for generation in 1..=3 {
        let slot = site.slot(&format!("s{generation}"));
        let (guest, mut events) = slot.run(generation, &spec, state.as_ref()).await;
        if state.is_none() {
            let hello = timeout(LONG, events.next())
                .await
                .expect("the agent says hello");
            assert_eq!(hello, Some(GuestEvent::Said(Said::Hello)));
        }
        guest.tell(&Words::Hello);
        if let Some((then, _)) = &stopped {
            let now = clock::now();
            let still = now.mono.since(then.mono);
            away += still;
            let now = now.wall;
            guest.tell(&Words::Resumed { away: still, now });
        }
        let what = format!("three whole checks in slot {generation}");
        eventually(&what, || {
            let bad = failures(&guest);
            assert!(
                bad.is_empty(),
                "slot {generation}: {bad:?}\n{}",
                console(&guest)
            );
            (checks(&guest).len() >= 3).then_some(())
        })
        .await;
        let all = checks(&guest);
        if let Some((_, before)) = &stopped {
            let first = &all[0];
            assert!(
                first.n > before.n && first.up >= before.up,
                "{before:?}, {first:?}"
            );
        }
        for check in &all {
            let off = check.lost.abs_diff(away.as_millis() / 1000);
            assert!(off <= UNCERTAIN, "it was away for {away} in all: {check:?}");
        }
        let then = clock::now();
        state = Some(suspend(&guest).await.state);
        let bad = failures(&guest);
        assert!(bad.is_empty(), "slot {generation}: {bad:?}");
        stopped = checks(&guest).pop().map(|last| (then, last));
        eventually("the guest has been away for a while", || {
            (clock::now().mono.since(then.mono) > AWAY).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_check_finds_what_is_broken() {
    let site = Site::new(HypervisorKind::Qemu);
    let spec = spec(&site, "selfcheck=1 spoil_selfcheck=2");
    let slot = site.slot("s1");
    let (guest, _) = slot.run(1, &spec, None).await;
    for what in ["memory: ", "disk: ", "clock: ", "network: "] {
        eventually(&format!("the guest finds a fault of its {what}"), || {
            let found = failures(&guest);
            let wanted = format!("selfcheck FAIL {what}");
            found.iter().any(|l| l.contains(&wanted)).then_some(())
        })
        .await;
    }
    guest.kill().await;
}
