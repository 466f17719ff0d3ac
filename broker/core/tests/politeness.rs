//! What a site must not suffer from us: pilots that are of no use, too many commands, and no
//! consequence when we have hurt it. And the sentence for each cause.

#[expect(dead_code, reason = "this file uses a part of the world")]
mod world;

use std::collections::BTreeMap;

use broker_core::{Broker, Effect, Event, SiteConfig};
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{EventSeq, SubmitKey, WorkspaceId};
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::lrm::{JobEnd, Observation, SubmitAnswer};
use protocol::messages::PilotEvent;
use protocol::time::Span;
use protocol::workspace::{OnEviction, WorkspaceSpec};
use world::{World, admin, config, room, site, site_config, spec};

const MINUTE: Span = Span::from_mins(1);

fn one_site() -> World {
    World::new(config(vec![site_config("A", room(2, 6144))]))
}

/// A request that must never be killed.
fn owed(memory_mib: u64, run: Span) -> WorkspaceSpec {
    let mut s = spec(memory_mib, run);
    s.policy.may_be_killed = false;
    s
}

fn why(w: &World, id: &WorkspaceId) -> String {
    let explained = w.broker.explain(w.now, &admin(), id).unwrap();
    explained.sentences.join("\n")
}

fn why_site(w: &World, name: &str) -> String {
    let explained = w.broker.explain_site(w.now, &site(name)).unwrap();
    explained.sentences.join("\n")
}

/// The pilot ends all its leases like this, as by its own decision.
fn end_leases(w: &mut World, pilot: usize, outcome: &EndOutcome) {
    for g in w.pilots[pilot].guests.values_mut() {
        g.phase = LeasePhase::Ended {
            outcome: outcome.clone(),
        };
    }
    w.sync(pilot);
    w.sync(pilot);
}

fn declined(code: ReasonCode, text: &str) -> EndOutcome {
    EndOutcome::Declined {
        reason: Reason::new(code, text),
    }
}

/// The pilot says its last word and its job ends.
fn leave(w: &mut World, pilot: usize) {
    w.pilots[pilot].leaving = true;
    w.pilots[pilot].sent = None;
    w.sync(pilot);
    let key = w.pilots[pilot].key.clone();
    let job = w.jobs.iter().position(|j| j.order.key == key).unwrap();
    w.end_job(job, JobEnd::Exited(0));
    w.observe("A");
}

/// Each pilot that is submitted comes up at once, gets `outcome` for its leases, and leaves. How
/// many pilots that makes in `span`.
fn pilots_in(w: &mut World, span: Span, outcome: &EndOutcome) -> usize {
    let (end, before) = (w.now + span, w.jobs.len());
    while w.now < end {
        w.pass_ticking(MINUTE);
        while w.todo.iter().any(|e| matches!(e, Effect::SubmitPilot(_))) {
            let pilot = w.pilot_up();
            end_leases(w, pilot, outcome);
            leave(w, pilot);
        }
    }
    w.jobs.len() - before
}

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
         needs 19s; ask the site for a longer notice, or let the request be killed \
         (`may_be_killed`)"
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

/// A pilot that has run a guest all its life leaves like this.
fn stay(w: &mut World, overrun: Span) {
    w.pass_ticking(MINUTE);
    let pilot = w.pilot_up();
    for _ in 0..3 {
        w.progress(pilot, &BTreeMap::new());
        w.sync(pilot);
    }
    let done = EndOutcome::Finished {
        reason: Reason::new(ReasonCode::GuestPoweredOff, "done"),
    };
    end_leases(w, pilot, &done);
    w.pilots[pilot].leaving = true;
    let mut request = w.request(pilot);
    request.used.overrun = overrun;
    let event = |seq, kind: &str| PilotEvent {
        seq: EventSeq(seq),
        at: w.now,
        kind: kind.into(),
        workspace: None,
        generation: None,
        text: "directory /scratch/x".into(),
        data: serde_json::Value::Null,
    };
    if !overrun.is_zero() {
        request.events = vec![event(1, "leftovers")];
    }
    w.deliver(request);
    w.quit(pilot);
    let key = w.pilots[pilot].key.clone();
    let job = w.jobs.iter().position(|j| j.order.key == key).unwrap();
    w.end_job(job, JobEnd::Exited(0));
    w.observe("A");
}

#[test]
fn a_site_that_we_have_hurt_gets_fewer_pilots_until_we_behave() {
    let mut w = one_site();
    w.submit("anna", spec(4096, MINUTE));
    stay(&mut w, Span::from_millis(2500));
    let view = w.broker.site(w.now, &site("A")).unwrap();
    let c = view.courtesy;
    assert_eq!((c.slots, c.overruns, c.leftovers, c.owed), (1, 1, 1, 2));
    assert_eq!(c.longest_overrun, Span::from_millis(2500));
    assert_eq!(view.overrun, Span::from_millis(2500));
    for _ in 0..12 {
        w.submit("anna", spec(4096, Span::from_mins(55)));
    }
    w.pass_ticking(Span::from_mins(5));
    w.honest_submits();
    let live = |w: &World| {
        let view = w.broker.site(w.now, &site("A")).unwrap();
        view.queued + view.running
    };
    assert_eq!(
        live(&w),
        1,
        "of 3 that may wait a quarter, but one at least"
    );
    assert_eq!(
        why_site(&w, "A").lines().next().unwrap(),
        "no pilot submitted: 1 pilot queued or running, as many as we deserve after what we cost \
         it (slot wp-t-000001 was overrun by 2.5s); more after slots that do no harm"
    );
    let held = w.broker.site(w.now, &site("A")).unwrap().held_back;
    assert_eq!(held.unwrap().code, ReasonCode::Courtesy);
    let told = why_site(&w, "A");
    assert!(
        told.contains("of 1 finished slot, 1 overran by 2.5s in all; 1 thing left on nodes"),
        "{told}"
    );
    // Eight slots that do no harm, in the place of the one that waits.
    let job = w.jobs.len() - 1;
    w.end_job(job, JobEnd::Cancelled);
    w.observe("A");
    for _ in 0..8 {
        stay(&mut w, Span::ZERO);
    }
    let c = w.broker.site(w.now, &site("A")).unwrap().courtesy;
    assert_eq!((c.slots, c.owed), (9, 0), "forgiven");
    w.pass_ticking(Span::from_mins(5));
    w.honest_submits();
    assert_eq!(live(&w), 3, "as many as the site allows");
}

#[test]
fn the_notice_that_a_pilot_used_is_measured() {
    let mut w = one_site();
    w.submit("anna", spec(4096, Span::from_mins(30)));
    let pilot = w.pilot_up();
    w.pass_ticking(Span::from_secs(5));
    let mut request = w.request(pilot);
    request.events = vec![PilotEvent {
        seq: EventSeq(1),
        at: w.now,
        kind: "signal_received".into(),
        workspace: None,
        generation: None,
        text: "SIGTERM".into(),
        data: serde_json::Value::Null,
    }];
    w.deliver(request);
    w.pass(Span::from_secs(12));
    w.evict(pilot, ReasonCode::Preempted);
    w.sync(pilot);
    leave(&mut w, pilot);
    let c = w.broker.site(w.now, &site("A")).unwrap().courtesy;
    assert_eq!((c.slots, c.signalled), (1, 1));
    assert_eq!(c.longest_notice_used, Span::from_secs(12));
    assert_eq!(c.owed, 0, "the notice is ours to use");
}

#[test]
fn a_site_that_is_well_is_not_held_back() {
    let mut w = one_site();
    let view = w.broker.site(w.now, &site("A")).unwrap();
    assert_eq!(view.held_back, None);
    assert_eq!(view.why, "no pilot submitted: no request waits");
    w.submit("anna", spec(4096, Span::from_mins(30)));
    w.honest_submits();
    let view = w.broker.site(w.now, &site("A")).unwrap();
    assert_eq!(view.held_back, None);
    assert_eq!(
        view.why,
        "no pilot submitted: 1 pilot queued, starting or idle, enough for what waits"
    );
}

#[test]
fn while_a_submit_is_unanswered_no_other_is_made_and_look_ups_are_rationed() {
    let mut w = one_site();
    for _ in 0..3 {
        w.submit("anna", spec(6144, Span::from_mins(55)));
    }
    w.pass_ticking(MINUTE);
    let mut keys = Vec::new();
    while let Some(order) = w.take_order() {
        keys.push(order.key);
    }
    assert_eq!(keys.len(), 3);
    for key in keys {
        w.step(Event::LrmSubmitted {
            key,
            answer: SubmitAnswer::NoAnswer("time limit of 30s".into()),
        });
    }
    w.submit("bob", spec(6144, Span::from_mins(55)));
    let (from, mut look_ups) = (w.now, 0_u64);
    while w.now < from + Span::from_mins(10) {
        w.pass_ticking(Span::from_secs(1));
        for effect in std::mem::take(&mut w.todo) {
            match effect {
                Effect::LookUp { key, .. } => {
                    look_ups += 1;
                    let observation = Observation::NoAnswer("still hung".into());
                    w.step(Event::LrmFound { key, observation });
                }
                Effect::SubmitPilot(order) => panic!("{} was submitted", order.key),
                Effect::CancelPilot { .. } | Effect::Wake(_) => {}
            }
        }
    }
    // 5, 10, 20, 40, 80, 80 ... seconds for each of three, one at a time.
    assert!(look_ups <= 36, "{look_ups} look-ups in ten minutes");
    assert_eq!(
        why_site(&w, "A").lines().next().unwrap(),
        "no pilot submitted: the LRM gave no answer to 3 submits at 13:00, which is looked up \
         before another is made"
    );
}

#[test]
fn a_withdrawn_pilot_that_has_started_meanwhile_is_kept() {
    let mut w = one_site();
    let id = w.submit("anna", spec(4096, Span::from_mins(40)));
    w.pass_ticking(MINUTE);
    w.honest_submits();
    w.step(Event::Cancel { id, by: admin() });
    w.pass_ticking(MINUTE);
    let cancels = |w: &mut World| {
        let keys: Vec<SubmitKey> = (std::mem::take(&mut w.todo).into_iter())
            .filter_map(|e| match e {
                Effect::CancelPilot { key, .. } => Some(key),
                Effect::SubmitPilot(_) | Effect::LookUp { .. } | Effect::Wake(_) => None,
            })
            .collect();
        keys
    };
    let asked = cancels(&mut w);
    assert_eq!(asked.len(), 1);
    let answer = protocol::lrm::CancelAnswer::NoAnswer("time limit of 30s".into());
    w.step(Event::LrmCancelled {
        key: asked[0].clone(),
        answer,
    });
    let id = w.submit("anna", spec(4096, Span::from_mins(20)));
    let pilot = w.start_job(0);
    w.observe("A");
    w.register(pilot);
    w.sync(pilot);
    assert!(
        !w.pilots[pilot].guests.contains_key(&id),
        "the LRM may end it yet"
    );
    w.pass_ticking(MINUTE);
    let asked = cancels(&mut w);
    assert_eq!(asked.len(), 1, "the LRM is asked again");
    w.step(Event::LrmCancelled {
        key: asked[0].clone(),
        answer: protocol::lrm::CancelAnswer::Started,
    });
    w.sync(pilot);
    assert!(
        w.pilots[pilot].guests.contains_key(&id),
        "it is useful again"
    );
    w.pass_ticking(Span::from_mins(10));
    assert!(
        cancels(&mut w).is_empty(),
        "a running pilot is not cancelled"
    );
}

#[test]
fn a_cancel_without_an_answer_is_repeated_ever_more_rarely() {
    let mut w = one_site();
    w.submit("anna", spec(4096, Span::from_mins(40)));
    w.pass_ticking(MINUTE);
    w.honest_submits();
    w.step(Event::Drain {
        site: site("A"),
        by: admin(),
    });
    let (from, mut cancels) = (w.now, 0);
    while w.now < from + Span::from_mins(60) {
        w.pass_ticking(Span::from_secs(10));
        for effect in std::mem::take(&mut w.todo) {
            if let Effect::CancelPilot { key, .. } = effect {
                cancels += 1;
                let answer = protocol::lrm::CancelAnswer::NoAnswer("hung".into());
                w.step(Event::LrmCancelled { key, answer });
            }
        }
    }
    // At once and after 1, 3, 7, 15, 31 and 47 minutes.
    assert!((2..=7).contains(&cancels), "{cancels} cancels in an hour");
}

#[test]
fn a_pilot_that_left_counts_until_its_job_is_surely_gone() {
    let mut w = one_site();
    w.submit("anna", spec(4096, Span::from_mins(40)));
    let pilot = w.pilot_up();
    w.observe("A");
    w.pilots[pilot].leaving = true;
    w.pilots[pilot].sent = None;
    w.sync(pilot);
    let running = |w: &World| w.broker.site(w.now, &site("A")).unwrap().running;
    let gone = Event::LrmObserved {
        site: site("A"),
        observation: Observation::Listing(Vec::new()),
    };
    assert_eq!(running(&w), 1, "the LRM still lists it as running");
    w.step(gone.clone());
    w.pass_ticking(Span::from_secs(30));
    assert_eq!(running(&w), 1, "one listing without it proves nothing");
    w.step(gone);
    w.pass_ticking(Span::from_secs(40));
    assert_eq!(running(&w), 0, "gone for a minute");
}

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

/// Ten hours with a user who comes every ten minutes, an LRM that starts a job after three, listings
/// every 30 s, and a broker that is restarted every two hours.
#[test]
fn a_pilot_job_costs_one_submit_and_at_most_one_cancel() {
    let mut w = one_site();
    w.strict = false;
    w.twin = false;
    let (mut cancels, mut look_ups) = (BTreeMap::new(), 0_usize);
    let (mut ids, mut needed) = (Vec::new(), BTreeMap::new());
    for half_minute in 0..2 * 60 * 10_usize {
        w.pass_ticking(Span::from_secs(30));
        if half_minute.is_multiple_of(20) {
            let id = w.submit("anna", spec(4096, Span::from_mins(25)));
            needed.insert(id.clone(), Span::from_mins(25));
            ids.push(id);
        }
        if half_minute % 60 == 45
            && let Some(id) = ids.last().cloned()
        {
            w.step(Event::Cancel { id, by: admin() });
        }
        if half_minute % 240 == 200 {
            w.honest_submits();
            w.restart_broker();
        }
        for effect in &w.todo {
            match effect {
                Effect::CancelPilot { key, .. } => *cancels.entry(key.clone()).or_insert(0) += 1,
                Effect::LookUp { .. } => look_ups += 1,
                Effect::SubmitPilot(_) | Effect::Wake(_) => {}
            }
        }
        w.honest_rest();
        w.honest_submits();
        let now = w.now;
        for job in 0..w.jobs.len() {
            let j = &w.jobs[job];
            let waits = matches!(j.state, protocol::lrm::JobState::Queued);
            if waits && half_minute.is_multiple_of(6) {
                let pilot = w.start_job(job);
                w.register(pilot);
            } else if j.end.is_some_and(|end| end <= now) {
                w.end_job(job, JobEnd::Walltime);
            }
        }
        for pilot in 0..w.pilots.len() {
            if !w.pilots[pilot].gone && w.pilots[pilot].registered {
                w.progress(pilot, &needed);
                w.pilots[pilot].failed_sync = true;
                w.sync(pilot);
            }
        }
        w.observe("A");
    }
    // That no key is submitted twice is checked at every step.
    assert!(
        w.jobs.len() > 30,
        "{} pilot jobs prove little",
        w.jobs.len()
    );
    assert_eq!(w.submitted.len(), w.jobs.len());
    assert_eq!(w.store.pilots.len(), w.jobs.len());
    assert!(!cancels.is_empty(), "nothing was withdrawn");
    assert!(cancels.values().all(|n| *n == 1), "{cancels:?}");
    assert_eq!(look_ups, 0, "every submit was answered");
}
