use protocol::canary::CanaryLine;
use protocol::ids::{Incarnation, LrmJobId, NodeName, SiteName, SubmitKey};
use protocol::lrm::{CancelAnswer, ObservedJob, PilotJob};
use protocol::slot_file::{BrokerAccess, HypervisorKind, HypervisorSection};
use protocol::time::Timestamp;

use super::*;

const fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn job() -> PilotJob {
    PilotJob {
        key: SubmitKey::new("wp-canary-1").unwrap(),
        site: SiteName::new("lab").unwrap(),
        program: "/opt/pilot".into(),
        directory: "/state/doctor/none".into(),
        nodes: 1,
        resources: Resources {
            cores: 2,
            memory_mib: 1024,
            disk_mib: 4096,
        },
        walltime: Span::from_mins(5),
        min_walltime: None,
        notice: Span::from_secs(30),
        margin: Span::from_secs(5),
        broker: BrokerAccess {
            url: "http://127.0.0.1:1".into(),
            token_file: "/state/doctor/none/token".into(),
            ca_file: None,
        },
        hypervisor: HypervisorSection {
            kind: HypervisorKind::Null,
            accelerator: None,
            binary: None,
            machine: None,
            cpu: None,
        },
        scratch: "/scratch".into(),
        store: "/store".into(),
        avoid: Vec::new(),
    }
}

fn slot() -> SlotFacts {
    SlotFacts {
        site: SiteName::new("lab").unwrap(),
        submit_key: SubmitKey::new("wp-canary-1").unwrap(),
        incarnation: Incarnation::new("1/0").unwrap(),
        lrm_job_id: Some(LrmJobId::new("1").unwrap()),
        node: NodeName::new("n1").unwrap(),
        resources: job().resources,
        start: at(0),
        end: at(300_000),
        notice: Span::from_secs(30),
        margin: Span::from_secs(5),
    }
}

fn signal(mono_ms: u64, name: &str, ends: bool) -> CanaryLine {
    CanaryLine::Signal {
        at: at(0),
        mono_ms,
        name: name.into(),
        ends,
        from: "process 7 of user 0".into(),
    }
}

fn alive(mono_ms: u64) -> CanaryLine {
    CanaryLine::Alive { at: at(0), mono_ms }
}

/// A canary that heard these lines, was cancelled, and is over.
fn cancelled(lines: Vec<CanaryLine>) -> Evidence {
    let mut evidence = Evidence::new(job(), at(0));
    evidence.lines = vec![CanaryLine::Started {
        at: at(0),
        uid: 7,
        user: "grid".into(),
        host: "n1".into(),
        slot: slot(),
    }];
    evidence.lines.extend(lines);
    evidence.seen = Some(at(2000));
    evidence.skew = Some(Skew {
        ahead_ms: 40,
        error: Span::from_millis(100),
    });
    evidence.store_seen = Some(true);
    evidence.cancelled = Some((at(10_000), CancelAnswer::Taken));
    evidence.over = Some(at(20_000));
    evidence.survivor = Some(false);
    evidence
}

fn around(notice: u64) -> Circumstances {
    Circumstances {
        uid: 7,
        user: "grid".into(),
        notice: Span::from_secs(notice),
        margin: Span::from_secs(5),
        broker_runs: true,
        has_prefix: false,
    }
}

fn one<'a>(found: &'a [Finding], check: &str) -> &'a Finding {
    let mut all = found.iter().filter(|f| f.check == check);
    let first = all
        .next()
        .unwrap_or_else(|| panic!("no {check} in {found:#?}"));
    assert!(all.next().is_none(), "{check} twice in {found:#?}");
    first
}

/// SIGCONT says nothing; the notice runs from the first signal that ends, to the last sign of life.
fn five_seconds() -> Vec<CanaryLine> {
    vec![
        alive(500),
        signal(900, "SIGCONT", false),
        signal(1000, "SIGTERM", true),
        alive(1100),
        signal(3000, "SIGTERM", true),
        alive(6100),
    ]
}

#[test]
fn the_notice_is_judged_by_what_was_measured() {
    for (configured, level, words) in [
        (5, Level::Ok, "5.1 s were measured"),
        (3, Level::Ok, "5.1 s"),
        (6, Level::Warning, "write notice = \"5s\" to be exact"),
        (30, Level::Problem, "write notice = \"5s\""),
    ] {
        let found = all(&cancelled(five_seconds()), &around(configured));
        let notice = one(&found, "notice");
        assert_eq!(notice.level, level, "{notice}");
        assert!(notice.to_string().contains(words), "{notice}");
        assert!(
            notice
                .text
                .contains("SIGTERM from process 7 of user 0 2.0 s later"),
            "{notice}"
        );
        assert_eq!(notice.values["measured_ms"].to_bits(), 5100_f64.to_bits());
    }
}

#[test]
fn a_kill_without_a_signal_is_no_notice() {
    let silent = cancelled(vec![alive(500)]);
    let found = all(&silent, &around(30));
    assert_eq!(one(&found, "notice").level, Level::Problem, "{found:#?}");
    assert!(one(&found, "notice").to_string().contains("\"0s\""));
    let found = all(&silent, &around(0));
    assert_eq!(one(&found, "notice").level, Level::Ok, "{found:#?}");
}

#[test]
fn a_canary_that_was_left_alive_measured_at_least_that() {
    let mut lines = five_seconds();
    lines.push(CanaryLine::Ended {
        at: at(0),
        why: "it was left alive for longer than twice the notice".into(),
    });
    let found = all(&cancelled(lines), &around(2));
    let notice = one(&found, "notice");
    assert_eq!(notice.level, Level::Ok, "{notice}");
    assert!(notice.text.contains("at least"), "{notice}");
}

#[test]
fn a_healthy_site_has_nothing_to_do() {
    let found = all(&cancelled(five_seconds()), &around(5));
    assert!(
        found
            .iter()
            .all(|f| f.level == Level::Ok && f.advice.is_none()),
        "{found:#?}"
    );
}

#[test]
fn what_was_granted_is_compared_with_what_was_asked() {
    let mut evidence = cancelled(five_seconds());
    let CanaryLine::Started { slot, .. } = &mut evidence.lines[0] else {
        panic!("the first line")
    };
    slot.end = at(60_000);
    let found = all(&evidence, &around(5));
    assert_eq!(one(&found, "limits").level, Level::Warning, "{found:#?}");
    let CanaryLine::Started { slot, .. } = &mut evidence.lines[0] else {
        panic!("the first line")
    };
    slot.resources.memory_mib = 512;
    let found = all(&evidence, &around(5));
    let limits = one(&found, "limits");
    assert_eq!(limits.level, Level::Problem, "{limits}");
    assert!(
        limits.text.contains("1 GiB of memory (has 512 MiB)"),
        "{limits}"
    );
}

#[test]
fn clocks_are_judged_by_what_is_sure() {
    let level = |ahead_ms, error| {
        let error = Span::from_millis(error);
        clocks(Some(Skew { ahead_ms, error }), Span::from_secs(5)).level
    };
    assert_eq!(level(1500, 10), Level::Ok);
    assert_eq!(level(-3000, 2000), Level::Ok);
    assert_eq!(level(-3000, 100), Level::Warning);
    assert_eq!(level(9000, 100), Level::Problem);
    assert_eq!(clocks(None, Span::from_secs(5)).level, Level::Warning);
}

#[test]
fn another_account_and_a_survivor_are_told() {
    let mut evidence = cancelled(five_seconds());
    evidence.survivor = Some(true);
    let other = Circumstances {
        uid: 8,
        ..around(5)
    };
    let found = all(&evidence, &other);
    assert_eq!(one(&found, "job.account").level, Level::Warning);
    let children = one(&found, "children");
    assert_eq!(children.level, Level::Warning);
    assert!(children.to_string().contains("pilot reclaim"), "{children}");
}

#[test]
fn a_broker_that_does_not_run_is_not_the_nodes_fault() {
    let mut lines = five_seconds();
    lines.push(CanaryLine::Found(Finding::problem(
        "broker",
        "no answer",
        "x",
    )));
    let evidence = cancelled(lines);
    let found = all(&evidence, &around(5));
    assert_eq!(one(&found, "broker").level, Level::Problem);
    let found = all(
        &evidence,
        &Circumstances {
            broker_runs: false,
            ..around(5)
        },
    );
    assert_eq!(one(&found, "broker").level, Level::Warning);
}

#[test]
fn a_job_that_never_began_is_told_with_the_lrms_word_and_a_way_on() {
    let mut evidence = Evidence::new(job(), at(0));
    evidence.listed = Some(ObservedJob {
        id: LrmJobId::new("1").unwrap(),
        key: None,
        state: JobState::Ended(JobEnd::Exited(1)),
        detail: String::new(),
        start: None,
        end: None,
        node: None,
        restarts: 0,
    });
    evidence.over = Some(at(1));
    let found = all(&evidence, &around(5));
    let start = one(&found, "start");
    assert_eq!(start.level, Level::Problem);
    assert!(start.text.contains("exit code 1"), "{start}");
    assert!(
        start.advice.as_ref().unwrap().contains("/scratch"),
        "{start}"
    );
    evidence.given_up = Some(GivenUp::Queued);
    let found = all(&evidence, &around(5));
    assert_eq!(one(&found, "start").level, Level::Warning);
}

#[test]
fn a_job_that_somebody_else_ended_is_told() {
    let mut evidence = cancelled(five_seconds());
    evidence.cancelled = None;
    let found = all(&evidence, &around(5));
    assert_eq!(one(&found, "cancel").level, Level::Warning);
    assert!(found.iter().all(|f| f.check != "notice"), "{found:#?}");
}
