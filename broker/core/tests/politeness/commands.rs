//! How many commands a pilot job costs: submits, look-ups, cancels.

use std::collections::BTreeMap;

use broker_core::{Effect, Event};
use protocol::ids::SubmitKey;
use protocol::lrm::{JobEnd, Observation, SubmitAnswer};
use protocol::time::Span;

use super::{MINUTE, one_site, why_site};
use crate::world::{World, admin, site, spec};

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
