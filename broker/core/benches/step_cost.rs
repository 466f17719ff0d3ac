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

use broker_core::Event;
use protocol::time::Span;
use world::{World, config, room, site_config, spec};

const PILOTS: usize = 1000;
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
        timed(&mut times, || w.submit(&owner, spec));
    }
    report("submit", times);

    w.pass_ticking(Span::from_secs(10));
    w.honest_submits();
    let mut times = Vec::new();
    for job in 0..PILOTS {
        let p = w.start_job(job);
        w.register(p);
        timed(&mut times, || w.sync(p));
    }
    report("first sync, gets leases", times);

    // Ten thousand wait again, all slots are full.
    for n in 0..REQUESTS {
        let owner = format!("owner-{}", n % 40);
        w.submit(&owner, spec(2048 + (n as u64 % 16), Span::from_mins(50)));
    }
    for _ in 0..3 {
        for p in 0..PILOTS {
            w.progress(p, &Default::default());
            w.pilots[p].sent = None;
            w.sync(p);
        }
    }
    let mut times = Vec::new();
    for p in 0..PILOTS {
        w.pilots[p].sent = None;
        timed(&mut times, || w.sync(p));
    }
    report("sync of a full slot, nothing to say", times);

    let mut times = Vec::new();
    for _ in 0..20 {
        w.pass(Span::from_secs(2));
        timed(&mut times, || w.step(Event::Tick));
    }
    report("tick", times);

    let mut times = Vec::new();
    for _ in 0..5 {
        timed(&mut times, || w.observe("A"));
    }
    report("listing of all pilot jobs", times);
}
