//! Which walltime is asked for, for which requests, and at which site.

use broker_core::{Event, SiteConfig};
use protocol::lrm::SubmitAnswer;
use protocol::time::Span;
use protocol::workspace::OnEviction;

use super::{MINUTE, one_site, why_site};
use crate::world::{World, config, room, site, site_config, spec};

#[test]
fn the_least_walltime_is_enough_for_what_cannot_be_suspended() {
    let mut w = one_site();
    let mut s = spec(4096, Span::from_mins(30));
    s.policy.on_eviction = OnEviction::Fail;
    w.submit("anna", s);
    let order = w.take_order().unwrap();
    assert!(order.min_walltime >= Span::from_mins(30), "{order:?}");
    let mut w = one_site();
    w.submit("anna", spec(4096, Span::from_mins(30)));
    let order = w.take_order().unwrap();
    assert!(order.min_walltime < Span::from_mins(10), "{order:?}");
}

#[test]
fn a_request_that_is_too_long_does_not_hide_those_that_fit() {
    let mut w = one_site();
    for mins in [600, 20] {
        let mut s = spec(4096, Span::from_mins(mins));
        s.policy.on_eviction = OnEviction::Fail;
        w.submit("anna", s);
    }
    w.pass_ticking(MINUTE);
    let order = w.take_order().expect("20 minutes fit");
    assert!(order.walltime < Span::from_mins(30), "{order:?}");
    assert!(w.take_order().is_none());
}

#[test]
fn the_site_where_pilots_start_sooner_is_asked_first() {
    let sites = |mut a: SiteConfig, b: SiteConfig| {
        a.preference = 0;
        vec![a, b]
    };
    let (a, b) = (
        site_config("A", room(2, 6144)),
        site_config("B", room(2, 6144)),
    );
    let mut w = World::new(config(sites(a, b)));
    w.submit("anna", spec(4096, Span::from_mins(50)));
    w.pass_ticking(MINUTE);
    let first = w.take_order().unwrap();
    assert_eq!(first.site, site("A"), "nothing is known: in their order");
    let key = first.key.clone();
    let job = w.lrm_takes(first);
    w.step(Event::LrmSubmitted {
        key,
        answer: SubmitAnswer::Accepted(job),
    });
    w.pass_ticking(Span::from_mins(90));
    w.submit("anna", spec(4096, Span::from_mins(50)));
    w.pass_ticking(MINUTE);
    let second = w.take_order().unwrap();
    assert_eq!(second.site, site("B"), "A lets ours wait for 90 minutes");
    w.start_job(0);
    w.observe("A");
    let known = (w.store.sites.iter().find(|s| s.name == site("A"))).unwrap();
    assert!(known.queue_time.unwrap() >= Span::from_mins(90));
    assert!(why_site(&w, "A").contains("a pilot job waits 1h 32m in the queue"));
}
