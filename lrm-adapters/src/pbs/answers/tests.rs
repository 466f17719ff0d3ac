use super::*;

fn out(code: i32, stdout: &str, stderr: &str) -> Output {
    Output {
        code: Some(code),
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    }
}

#[test]
fn a_submit_is_accepted_only_with_a_readable_id() {
    let said = "qsub: warning: x\n12.pbssrv\n";
    assert_eq!(
        submit(&out(0, said, ""), Dialect::Openpbs),
        SubmitAnswer::Accepted(LrmJobId::new("12.pbssrv").unwrap())
    );
    for garbled in [
        "",
        "12",
        "12.",
        "10[].pbssrv",
        "x12.srv",
        "\u{fffd}.\u{fffd}",
    ] {
        let answer = submit(&out(0, garbled, ""), Dialect::Openpbs);
        assert!(matches!(answer, SubmitAnswer::NoAnswer(_)), "{garbled}");
    }
}

#[test]
fn a_refusal_is_told_from_silence() {
    let unreachable = "Connection refused\nqsub: cannot connect to server pbssrv (errno=15010)\n";
    // Codes and texts as measured on OpenPBS 23.06.06.
    for (code, said, refused) in [
        (170, "qsub: Unknown queue\n", true),
        (173, "qsub: Queue is not enabled\n", true),
        (
            188,
            "qsub: Job violates queue and/or server resource limits\n",
            true,
        ),
        (
            187,
            "qsub: Unknown resource Resource_List.nosuchres\n",
            true,
        ),
        (
            166,
            "qsub: Illegal attribute or resource value Resource_List.walltime\n",
            true,
        ),
        (175, "qsub: Bad UID for job execution\n", true),
        (
            38,
            "qsub: would exceed queue generic's per-user limit\n",
            true,
        ),
        (2, "qsub: illegal -N value\n", true),
        (1, "qsub: script file:: No such file or directory\n", true),
        (1, "qsub: something else\n", false),
        (162, unreachable, false),
        (
            160,
            "Unknown Host.\nqsub: cannot connect to server pbssrv (errno=15008)\n",
            false,
        ),
        (255, "Connection to login1 closed.\n", false),
        (121, "qsub: new in the next version\n", false),
    ] {
        let answer = submit(&out(code, "", said), Dialect::Openpbs);
        let seen = matches!(answer, SubmitAnswer::Refused(_));
        assert_eq!(seen, refused, "{code} {said}: {answer:?}");
        assert!(!matches!(answer, SubmitAnswer::Accepted(_)));
    }
    for (said, refused) in [
        (
            "qsub: submit error (Unknown queue MSG=requested queue not found)\n",
            true,
        ),
        ("qsub: submit error (End of File)\n", false),
        (
            "qsub: submit error (Pbs Server is currently too busy)\n",
            false,
        ),
        (
            "qsub: cannot connect to server x (errno=111) Connection refused\n",
            false,
        ),
    ] {
        let answer = submit(&out(111, "", said), Dialect::Torque);
        assert_eq!(
            matches!(answer, SubmitAnswer::Refused(_)),
            refused,
            "{said}"
        );
    }
    // Taken and failed: it may be there.
    let answer = submit(
        &out(170, "12.pbssrv\n", "qsub: Unknown queue\n"),
        Dialect::Openpbs,
    );
    assert!(matches!(answer, SubmitAnswer::NoAnswer(_)));
}

const MINE: &str = "Job Id: 5.s\n    Job_Name = wp-a\n    Job_Owner = alice@h\n    job_state = R\n    Variable_List = WP_KEY=wp-a\n\n";

#[test]
fn a_listing_is_whole_or_no_answer() {
    let listing = |output: &Output| listing(output, Dialect::Openpbs, "alice");
    let read = |output: &Output| match listing(output) {
        Listed::Answer(Observation::Listing(jobs)) => Some(jobs.len()),
        Listed::Answer(Observation::NoAnswer(_)) => None,
        Listed::NoHistory => panic!("{output:?}"),
    };
    let forged = MINE.replace("alice", "mallory").replace("5.s", "6.s");
    assert_eq!(read(&out(0, "", "")), Some(0));
    assert_eq!(read(&out(0, MINE, "")), Some(1));
    assert_eq!(read(&out(0, &format!("{MINE}{forged}"), "")), Some(1));
    let refused = "Connection refused\nqstat: cannot connect to server pbssrv (errno=15010)\n";
    assert_eq!(read(&out(255, "", refused)), None);
    assert_eq!(read(&out(255, MINE, "closed")), None);
    assert_eq!(
        read(&out(
            0,
            "",
            "perl: error: fetch_config: DNS SRV lookup failed\n"
        )),
        None
    );
    assert_eq!(read(&out(0, &MINE[..60], "")), None, "cut off");
    assert_eq!(read(&out(0, "\u{fffd}\u{fffd}", "")), None);
    let none = Output {
        code: None,
        ..out(0, MINE, "")
    };
    assert_eq!(read(&none), None, "ended by a signal");
    // As measured: exit code 0 and no job.
    let off = out(
        0,
        "",
        "qstat: PBS is not configured to maintain job history 79.pbssrv\n",
    );
    assert_eq!(listing(&off), Listed::NoHistory);
}

#[test]
fn only_a_job_with_our_key_is_cancelled() {
    let key = SubmitKey::new("wp-a").unwrap();
    let look = |output: &Output| look(output, Dialect::Openpbs, "alice", &key);
    let no_such = Look::Answer(CancelAnswer::NoSuchJob);
    assert_eq!(look(&out(0, MINE, "")), Look::Ours(JobState::Running));
    assert_eq!(
        look(&out(0, &MINE.replace("= R", "= Q"), "")),
        Look::Ours(JobState::Queued)
    );
    assert_eq!(look(&out(0, &MINE.replace("wp-a", "wp-b"), "")), no_such);
    assert_eq!(look(&out(0, &MINE.replace("alice", "bob"), "")), no_such);
    assert_eq!(look(&out(0, &MINE.replace("= R", "= F"), "")), no_such);
    let finished =
        "qstat: 71.pbssrv Job has finished, use -x or -H to obtain historical job information\n";
    assert_eq!(look(&out(35, "", finished)), no_such);
    assert_eq!(look(&out(1, "", finished)), no_such);
    assert_eq!(
        look(&out(153, "", "qstat: Unknown Job Id 9.pbssrv\n")),
        no_such
    );
    for silence in [
        out(255, "", "Connection refused\n"),
        out(0, "", ""),
        out(0, &MINE[..60], ""),
        out(0, "", "qstat: Unknown Job Id 9.pbssrv\n"),
    ] {
        let seen = look(&silence);
        assert!(
            matches!(seen, Look::Answer(CancelAnswer::NoAnswer(_))),
            "{silence:?}: {seen:?}"
        );
    }
}

#[test]
fn answers_of_qdel() {
    assert_eq!(cancel(&out(0, "", "")), CancelAnswer::Taken);
    for (code, said) in [
        (153, "qdel: Unknown Job Id 99999.pbssrv\n"),
        (35, "qdel: Job has finished 64.pbssrv\n"),
        (
            170,
            "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 5.s\n",
        ),
    ] {
        assert_eq!(
            cancel(&out(code, "", said)),
            CancelAnswer::NoSuchJob,
            "{said}"
        );
    }
    let foreign = cancel(&out(159, "qdel: Unauthorized Request  65.pbssrv\n", ""));
    assert!(matches!(foreign, CancelAnswer::Refused(_)));
    for (code, said) in [
        (
            162,
            "Connection refused\nCouldn't connect to cluster: pbssrv\n",
        ),
        (1, "?"),
        (35, "?"),
    ] {
        let seen = cancel(&out(code, "", said));
        assert!(
            matches!(seen, CancelAnswer::NoAnswer(_)),
            "{code} {said}: {seen:?}"
        );
    }
}
