//! What a step costs with 1,000 pilots and 10,000 waiting requests: `cargo bench -p broker-core`.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a bench reads the clock and stops at the first surprise"
)]

#[expect(dead_code, reason = "the bench uses a part of the world")]
#[path = "../tests/world/mod.rs"]
mod world;

use std::time::{Duration, Instant};

use broker_core::{Event, Reply, SyncDecision};
use protocol::time::Span;
use world::{World, config, room, site_config, spec};

const REQUESTS: usize = 10_000;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!(
        "{what:<44} {:>7} steps   p50 {:>9.1?}   p99 {:>9.1?}   max {:>9.1?}",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}

fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let out = work();
    times.push(begin.elapsed());
    out
}

/// A sync, of which only the broker's step is timed.
fn timed_sync(w: &mut World, p: usize, times: &mut Vec<Duration>) {
    w.pilots[p].sent = None;
    let event = Event::Sync {
        request: Box::new(w.request(p)),
        received: w.now,
    };
    let step = timed(times, || w.broker.step(w.now, event));
    if let Reply::Sync(SyncDecision::Answer(reply)) = step.reply {
        w.answered(p, &reply);
    }
}

/// An event, of which only the broker's step is timed.
fn timed_step(w: &mut World, event: Event, times: &mut Vec<Duration>) {
    let step = timed(times, || w.broker.step(w.now, event));
    assert!(!matches!(step.reply, Reply::Refused(_)));
}

fn main() {
    let mut site = site_config("A", room(4, 8192));
    (site.max_queued, site.max_running) = (1000, 1000);
    let mut config = config(vec![site]);
    config.provision.max_per_round = 1000;
    let mut w = World::new(config);
    (w.twin, w.strict) = (false, false);
    let mut times = Vec::new();
    for n in 0..REQUESTS {
        let owner = format!("owner-{}", n % 40);
        let spec = spec(2048 + (n as u64 % 16), Span::from_mins(50));
        let event = Event::Submit {
            id: world::ws(n),
            owner: world::user(&owner),
            key: None,
            spec: Box::new(spec),
        };
        timed_step(&mut w, event, &mut times);
    }
    report("submit", times);

    w.pass_ticking(Span::from_secs(10));
    w.honest_submits();
    let mut times = Vec::new();
    for job in 0..w.jobs.len() {
        let p = w.start_job(job);
        w.register(p);
        timed_sync(&mut w, p, &mut times);
    }
    report("first sync, gets leases", times);

    // Ten thousand wait again, all slots are full.
    for n in 0..REQUESTS {
        let owner = format!("owner-{}", n % 40);
        let event = Event::Submit {
            id: world::ws(REQUESTS + n),
            owner: world::user(&owner),
            key: None,
            spec: Box::new(spec(2048 + (n as u64 % 16), Span::from_mins(50))),
        };
        timed_step(&mut w, event, &mut Vec::new());
    }
    for _ in 0..3 {
        for p in 0..w.pilots.len() {
            w.progress(p, &Default::default());
            timed_sync(&mut w, p, &mut Vec::new());
        }
    }
    let mut times = Vec::new();
    for p in 0..w.pilots.len() {
        timed_sync(&mut w, p, &mut times);
    }
    report("sync of a full slot, nothing to say", times);

    let mut times = Vec::new();
    for _ in 0..20 {
        w.pass(Span::from_secs(2));
        timed_step(&mut w, Event::Tick, &mut times);
    }
    report("tick", times);

    let mut times = Vec::new();
    for _ in 0..5 {
        let event = Event::LrmObserved {
            site: world::site("A"),
            observation: w.listing(&world::site("A")),
        };
        timed_step(&mut w, event, &mut times);
    }
    report("listing of all pilot jobs", times);
}
