//! The courtesy ledger: what we cost a site, and what follows.

use std::collections::BTreeMap;

use protocol::codes::{Reason, ReasonCode};
use protocol::ids::EventSeq;
use protocol::lease::EndOutcome;
use protocol::lrm::JobEnd;
use protocol::messages::PilotEvent;
use protocol::time::Span;

use super::{MINUTE, end_leases, leave, one_site, why_site};
use crate::world::{World, site, spec};

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
