//! Where pilots decline, or nothing runs in them, no more of them are sent.

use std::collections::BTreeMap;

use broker_core::{Broker, Event};
use protocol::codes::{Reason, ReasonCode};
use protocol::lease::EndOutcome;
use protocol::lrm::SubmitAnswer;
use protocol::time::Span;

use super::{MINUTE, declined, end_leases, leave, one_site, owed, pilots_in, why, why_site};
use crate::world::{World, admin, config, room, site, site_config, spec};

#[test]
fn where_the_notice_is_too_short_no_pilot_is_sent() {
    let terms = |notice| {
        let mut a = site_config("A", room(2, 6144));
        a.notice = Span::from_secs(notice);
        config(vec![a])
    };
    let mut w = World::new(terms(13));
    let id = w.submit("anna", owed(1024, Span::from_mins(40)));
    w.pass_ticking(Span::from_mins(60));
    assert!(w.take_order().is_none(), "every pilot would decline it");
    assert_eq!(
        why(&w, &id),
        "no site can take it; at site A, the notice of 13s is too short to suspend 1 GiB, which \
         needs 19s; ask the site for a longer notice, or let the request have \
         checkpoints (`checkpoint_every`) or be killed (`may_be_killed`)"
    );
    let text = why_site(&w, "A");
    assert!(
        text.starts_with(
            "no pilot submitted: no request that waits fits this site's slots: the notice of 13s \
             is too short to suspend 1 GiB"
        ),
        "{text}"
    );
    w.submit("anna", owed(512, Span::from_mins(40)));
    assert!(w.take_order().is_some(), "a smaller one can be suspended");
    let mut w = World::new(terms(13));
    w.submit("anna", spec(1024, Span::from_mins(40)));
    assert!(w.take_order().is_some(), "one that may be killed can run");
    let mut w = World::new(terms(19));
    w.submit("anna", owed(1024, Span::from_mins(40)));
    assert!(w.take_order().is_some(), "19s are enough");
}

#[test]
fn a_slot_with_a_short_notice_is_not_offered_what_it_would_decline() {
    let mut w = one_site();
    w.submit("anna", spec(512, Span::from_mins(40)));
    let pilot = w.pilot_up();
    assert_eq!(w.pilots[pilot].guests.len(), 1);
    // 30 s of notice: too short for 3 GiB, enough for 1 GiB.
    let (big, small) = (
        w.submit("anna", owed(3072, Span::from_mins(20))),
        w.submit("anna", owed(1024, Span::from_mins(20))),
    );
    w.pilots[pilot].failed_sync = true;
    w.sync(pilot);
    let got = |id| w.pilots[pilot].guests.contains_key(id);
    assert!(!got(&big) && got(&small));
}

#[test]
fn what_is_too_large_for_a_slot_is_not_offered_it_one_after_the_other() {
    let mut w = one_site();
    for _ in 0..20 {
        w.submit("anna", owed(1024, Span::from_mins(40)));
    }
    let pilot = w.pilot_up();
    let offered = w.pilots[pilot].guests.len();
    let no = declined(
        ReasonCode::SlotTooSmall,
        "too little time left in this slot",
    );
    end_leases(&mut w, pilot, &no);
    w.sync(pilot);
    assert!(
        offered > 0 && w.pilots[pilot].guests.is_empty(),
        "{offered}"
    );
    let small = w.submit("ben", owed(256, Span::from_mins(40)));
    w.sync(pilot);
    assert!(w.pilots[pilot].guests.contains_key(&small), "it is smaller");
    assert_eq!(w.pilots[pilot].guests.len(), 1);
    // One that is declined for something else makes it no larger.
    end_leases(&mut w, pilot, &declined(ReasonCode::Other, "not now"));
    w.sync(pilot);
    assert!(w.pilots[pilot].guests.is_empty());
    let small = w.submit("ben", owed(256, Span::from_mins(40)));
    w.sync(pilot);
    assert!(w.pilots[pilot].guests.contains_key(&small));
    // When another has left it there is more of it.
    let done = EndOutcome::Finished {
        reason: Reason::new(ReasonCode::GuestPoweredOff, "done"),
    };
    end_leases(&mut w, pilot, &done);
    w.sync(pilot);
    assert!(!w.pilots[pilot].guests.is_empty());
}

#[test]
fn what_every_slot_declines_is_not_sent_again_for_hours() {
    let mut w = one_site();
    let id = w.submit("anna", owed(1024, Span::from_mins(40)));
    let no = declined(ReasonCode::NoticeTooShort, "the notice is really 5s");
    assert_eq!(pilots_in(&mut w, Span::from_mins(200), &no), 1);
    assert_eq!(
        why(&w, &id).lines().next().unwrap(),
        "no site can take it; at site A, its pilots decline a request of 1 GiB: the notice is \
         really 5s; it is tried again at 17:01, or when the site's notice, margin or slot is \
         changed in the configuration"
    );
    w.submit("anna", owed(512, Span::from_mins(20)));
    assert!(w.take_order().is_some(), "a smaller one may be taken");
    w.todo.clear();
    let mut other = w.clone();
    other.config.sites[0].notice = Span::from_secs(60);
    other.broker = Broker::load(other.config.clone(), other.store.clone());
    assert!(
        !why(&other, &id).contains("decline a request"),
        "the site has changed its terms: {}",
        why(&other, &id)
    );
}

#[test]
fn a_refusal_is_forgotten_when_such_a_guest_runs_or_after_some_hours() {
    let mut w = one_site();
    let id = w.submit("anna", owed(1024, Span::from_mins(40)));
    let no = declined(ReasonCode::NoticeTooShort, "the notice is really 5s");
    assert_eq!(pilots_in(&mut w, Span::from_mins(239), &no), 1);
    w.pass_ticking(Span::from_mins(3));
    let pilot = w.pilot_up();
    assert!(w.pilots[pilot].guests.contains_key(&id), "asked again");
    end_leases(&mut w, pilot, &no);
    assert_eq!(w.store.sites[0].refusals.len(), 1);
    // Another pilot, whose slot is better, takes it after all.
    w.submit("anna", spec(1024, Span::from_mins(40)));
    w.sync(pilot);
    let needed = BTreeMap::new();
    for _ in 0..3 {
        w.progress(pilot, &needed);
        w.sync(pilot);
    }
    assert!(w.store.sites[0].refusals.is_empty());
}

#[test]
fn a_decline_by_one_slots_own_rate_holds_for_that_slot_only() {
    let mut w = one_site();
    w.submit("anna", owed(1024, Span::from_mins(40)));
    let pilot = w.pilot_up();
    let mut request = w.request(pilot);
    request.suspend_rate = Some(protocol::messages::Rate {
        mean: 1e6,
        sigma: 0.0,
        count: 3,
        planned: None,
    });
    w.deliver(request);
    let no = declined(ReasonCode::NoticeTooShort, "this disk writes 1 MB/s");
    end_leases(&mut w, pilot, &no);
    assert!(w.store.sites[0].refusals.is_empty());
}

#[test]
fn fruitless_pilots_hold_the_next_ones_back_until_a_lease_runs() {
    let mut w = one_site();
    let id = w.submit("anna", spec(4096, Span::from_mins(40)));
    let no = declined(ReasonCode::Other, "not on a Saturday");
    // At once, at once, after a minute, 15, 30 and then every 60 minutes.
    let day = pilots_in(&mut w, Span::from_mins(24 * 60), &no);
    assert!(
        (20..=29).contains(&day),
        "{day} pilots for nothing in a day"
    );
    let text = why_site(&w, "A");
    assert!(
        text.starts_with(&format!(
            "no pilot submitted: back-off after {day} pilots in a row in which nothing ran (the \
             last one declined: not on a Saturday), next try "
        )),
        "{text}"
    );
    let held = w.broker.site(w.now, &site("A")).unwrap().held_back;
    assert_eq!(held.unwrap().code, ReasonCode::Fruitless);
    assert!(why(&w, &id).contains("no pilot submitted at site A: back-off after"));
    w.pass_ticking(Span::from_mins(61));
    let pilot = w.pilot_up();
    for _ in 0..3 {
        w.progress(pilot, &BTreeMap::new());
        w.sync(pilot);
    }
    assert_eq!(w.store.sites[0].fruitless, 0, "a lease runs");
    w.submit("anna", spec(4096, Span::from_mins(40)));
    assert!(w.take_order().is_some());
}

#[test]
fn a_pilot_whose_request_was_no_good_or_that_we_withdrew_is_not_the_sites_fault() {
    let mut w = one_site();
    for _ in 0..5 {
        w.submit("anna", spec(4096, Span::from_mins(40)));
        let failed = EndOutcome::Failed {
            reason: Reason::new(ReasonCode::ImageMissing, "there is no such image"),
            permanent: true,
        };
        assert_eq!(pilots_in(&mut w, Span::from_mins(2), &failed), 1);
    }
    assert_eq!(w.store.sites[0].fruitless, 0);
    w.submit("anna", spec(4096, Span::from_mins(40)));
    let pilot = w.pilot_up();
    w.step(Event::Drain {
        site: site("A"),
        by: admin(),
    });
    w.poll(pilot);
    leave(&mut w, pilot);
    assert_eq!(w.store.sites[0].fruitless, 0);
}

#[test]
fn slots_that_are_smaller_than_asked_for_get_no_request_that_they_cannot_hold() {
    let mut w = one_site();
    let id = w.submit("anna", spec(6144, Span::from_mins(40)));
    w.pass_ticking(MINUTE);
    let order = w.take_order().unwrap();
    let (key, walltime) = (order.key.clone(), order.walltime);
    let job = w.lrm_takes(order);
    w.step(Event::LrmSubmitted {
        key: key.clone(),
        answer: SubmitAnswer::Accepted(job),
    });
    let end = w.now + walltime;
    let pilot = w.new_pilot(&key, &site("A"), room(2, 4096), end, 0);
    w.register(pilot);
    w.sync(pilot);
    leave(&mut w, pilot);
    w.pass_ticking(Span::from_mins(60));
    assert!(w.take_order().is_none(), "no slot holds it");
    let text = why(&w, &id);
    assert!(
        text.contains("at site A, the slots there have only 2 cores, 4096 MiB memory"),
        "{text}"
    );
    w.submit("anna", spec(4096, Span::from_mins(40)));
    assert!(w.take_order().is_some(), "what fits is served");
}
