//! A thousand pilots and ten thousand requests: all get their turn, each once. What a step costs
//! at that size is measured by `cargo bench -p broker-core`.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use protocol::time::Span;
use world::{World, config, room, site_config, spec};

#[test]
fn a_thousand_pilots_empty_a_queue_of_ten_thousand() {
    let mut site = site_config("A", room(10, 20_480));
    (site.max_queued, site.max_running) = (1000, 1000);
    let mut config = config(vec![site]);
    config.provision.max_per_round = 1000;
    let mut w = World::new(config);
    (w.twin, w.strict) = (false, false);
    for n in 0..10_000 {
        // Forty owners; a third asks for more memory than a full slot has left.
        let memory = if n % 3 == 0 { 2560 } else { 1024 };
        w.submit(
            &format!("owner-{}", n % 40),
            spec(memory, Span::from_mins(50)),
        );
    }
    w.pass_ticking(Span::from_secs(10));
    w.honest_submits();
    let jobs = w.jobs.len();
    assert!(
        (900..=1000).contains(&jobs),
        "{jobs} pilots for ten thousand times fifty minutes"
    );
    let mut granted = BTreeSet::new();
    for job in 0..jobs {
        let p = w.start_job(job);
        w.register(p);
        w.sync(p).expect("there is work");
        for (id, guest) in &w.pilots[p].guests {
            assert!(granted.insert(id.clone()), "{id} was given away twice");
            assert_eq!(guest.generation.0, 1);
        }
    }
    let by_slot: BTreeMap<_, usize> = (w.pilots.iter()).fold(BTreeMap::new(), |mut m, p| {
        *m.entry(p.guests.len()).or_default() += 1;
        m
    });
    assert!(
        granted.len() > 8_500,
        "{} of 10000, slots by guests: {by_slot:?}",
        granted.len()
    );
    w.broker.check().unwrap();
}
