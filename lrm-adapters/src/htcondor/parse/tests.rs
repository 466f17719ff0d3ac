//! Output of HTCondor 23.9.6, taken from a real pool; jobs of other states left out here and
//! there, and nothing else changed.

use super::*;

const MIXED: &str = include_str!("goldens/mixed.json");
const IN_GRACE: &str = include_str!("goldens/in_grace.json");
const WALLTIME_HELD: &str = include_str!("goldens/walltime_held.json");
const WALLTIME_REMOVED: &str = include_str!("goldens/walltime_removed.json");

fn out(code: i32, stdout: &str, stderr: &str) -> Output {
    Output {
        code: Some(code),
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    }
}

fn jobs(text: &str) -> Vec<ObservedJob> {
    match listing(&out(0, text, "")) {
        Observation::Listing(jobs) => jobs,
        Observation::NoAnswer(why) => panic!("{why}"),
    }
}

fn job(text: &str, key: &str) -> ObservedJob {
    let key = SubmitKey::new(key).unwrap();
    let found = jobs(text)
        .into_iter()
        .find(|j| j.key.as_ref() == Some(&key));
    found.unwrap_or_else(|| panic!("no {key}"))
}

/// The job of a golden after a change of its text.
fn changed(text: &str, key: &str, from: &str, to: &str) -> ObservedJob {
    assert!(text.contains(from), "{from}");
    job(&text.replace(from, to), key)
}

fn refused(answer: &SubmitAnswer) -> bool {
    matches!(answer, SubmitAnswer::Refused(_))
}

fn unanswered(answer: &SubmitAnswer) -> bool {
    matches!(answer, SubmitAnswer::NoAnswer(_))
}

#[test]
fn a_submit_is_accepted_only_with_one_readable_id() {
    let id = LrmJobId::new("14.0").unwrap();
    for good in ["14.0 - 14.0\n", "welcome to submit1\n14.0 - 14.0\n"] {
        assert_eq!(
            submit(&out(0, good, "WARNING: the line 'x' was unused")),
            SubmitAnswer::Accepted(id.clone())
        );
    }
    for garbled in ["", "14.0", "3.0 - 3.2\n", "a.0 - a.0", "14.0 - "] {
        assert!(unanswered(&submit(&out(0, garbled, ""))), "{garbled}");
    }
}

#[test]
fn a_submit_is_refused_only_where_the_job_cannot_exist() {
    for certain in [
        "\nERROR: on Line 3 of submit file: \n\nERROR: Failed to parse command file (line 3).\n",
        "\nERROR: Executable file /nonexistent/pilot does not exist\n",
        "\nERROR: Cannot allocate a cluster id\n",
        "ERROR: Parse error in expression: \n\tRequirements = ((Foo ==)",
        "\nERROR: Failed to commit job submission into the queue.\nERROR: this site has no node with more than 64 cores\n",
    ] {
        assert!(refused(&submit(&out(1, "", certain))), "{certain}");
    }
    for uncertain in [
        "",
        "\nERROR: Can't find address of local schedd\n",
        "\nERROR: Failed to commit job submission into the queue.\n",
        "\nERROR: Failed to connect to local queue manager\nSECMAN:2011:Connection closed during command authorization. Probably due to an unknown command.\n",
        "\nERROR: Failed to commit job submission into the queue.\nERROR: x\nSECMAN:2007:Failed to end classad message.\n",
    ] {
        assert!(unanswered(&submit(&out(1, "", uncertain))), "{uncertain}");
    }
    let killed = Output {
        code: None,
        ..out(0, "14.0 - 14.0\n", "")
    };
    assert!(unanswered(&submit(&killed)));
}

#[test]
fn nothing_with_exit_code_0_is_an_empty_listing_and_all_else_is_no_answer() {
    assert_eq!(jobs(""), []);
    assert_eq!(jobs("[\n]\n"), []);
    let down = "\n-- Failed to fetch ads from: <127.0.0.1:9618?sock=schedd_1> : vm\nSECMAN:2007:Failed to end classad message.\n";
    for bad in [
        out(1, "", down),
        out(1, "", "Error: Can't find address for schedd vm\n"),
        out(0, "", down),
        out(1, MIXED, ""),
        out(0, &MIXED[..MIXED.len() / 2], ""),
        out(0, "not JSON", ""),
        out(0, r#"[{"JobStatus": 2}]"#, ""),
    ] {
        let read = listing(&bad);
        assert!(matches!(read, Observation::NoAnswer(_)), "{read:?}");
    }
}

#[test]
fn a_running_job_has_its_node_start_and_end() {
    let job = job(MIXED, "wp-g-wall");
    assert_eq!(job.state, JobState::Running);
    assert_eq!(job.node, Some(NodeName::new("wp-condor").unwrap()));
    let (start, end) = (job.start.unwrap(), job.end.unwrap());
    assert_eq!(end.since(start), protocol::time::Span::from_mins(10));
    assert_eq!(job.restarts, 0);
}

#[test]
fn jobs_that_wait_have_neither_start_nor_node() {
    let idle = job(MIXED, "wp-g-never");
    assert_eq!(
        (idle.state, idle.start, idle.end, idle.node),
        (JobState::Queued, None, None, None)
    );
    let held = job(MIXED, "wp-g-hold");
    assert_eq!(held.state, JobState::Held);
    assert_eq!(held.detail, "submitted on hold at user's request");
}

#[test]
fn ends_are_told_apart() {
    let end = |key| job(MIXED, key).state;
    assert_eq!(end("wp-g-exit"), JobState::Ended(JobEnd::Exited(3)));
    assert_eq!(
        end("wp-g-kill"),
        JobState::Ended(JobEnd::Other("killed by signal 9".to_owned()))
    );
    assert_eq!(end("wp-g-rm"), JobState::Ended(JobEnd::Cancelled));
    assert_eq!(end("wp-g-vac"), JobState::Ended(JobEnd::Preempted));
    let bad = job(MIXED, "wp-g-bad");
    assert_eq!(bad.state, JobState::Ended(JobEnd::LaunchFailed));
    assert!(bad.detail.contains("invalid interpreter"), "{}", bad.detail);
}

#[test]
fn a_job_that_has_a_slot_is_not_over() {
    let job = job(IN_GRACE, "wp-g-rm");
    assert_eq!(job.state, JobState::Ending);
    assert_eq!(job.detail, "via condor_rm (by user pilot)");
    assert!(job.node.is_some());
}

#[test]
fn the_walltime_is_over_when_the_job_has_left_its_slot() {
    let over = JobState::Ended(JobEnd::Walltime);
    // Told to end, and still there.
    assert_eq!(job(MIXED, "wp-g-wall2").state, JobState::Ending);
    assert_eq!(job(WALLTIME_HELD, "wp-g-wall2").state, over);
    let removed = job(WALLTIME_REMOVED, "wp-g-wall2");
    assert_eq!(removed.state, over);
    assert!(
        removed.detail.contains("allowed job duration"),
        "{removed:?}"
    );
    // Somebody else's hold is not ours to read as an end.
    let other = changed(
        WALLTIME_HELD,
        "wp-g-wall2",
        "\"HoldReasonCode\": 46",
        "\"HoldReasonCode\": 1",
    );
    assert_eq!(other.state, JobState::Held);
}

#[test]
fn an_idle_job_that_has_run_is_on_its_way_out_unless_it_may_run_again() {
    let idle = |text: &str| text.replace("\"JobStatus\": 5,", "\"JobStatus\": 1,");
    assert_eq!(
        job(&idle(WALLTIME_HELD), "wp-g-wall2").state,
        JobState::Ending
    );
    let rerun = idle(WALLTIME_HELD)
        .replace(
            "\"WorkspacePilotRerun\": false",
            "\"WorkspacePilotRerun\": true",
        )
        .replace("\"NumJobStarts\": 1", "\"NumJobStarts\": 2");
    let waiting = job(&rerun, "wp-g-wall2");
    assert_eq!(waiting.state, JobState::Queued);
    assert_eq!((waiting.start, waiting.restarts), (None, 1));
}

#[test]
fn a_lost_node_is_told_from_a_preemption() {
    let lost = changed(
        MIXED,
        "wp-g-vac",
        "\"VacateReasonCode\": 1005",
        "\"VacateReasonCode\": 1008",
    );
    assert_eq!(lost.state, JobState::Ended(JobEnd::NodeLost));
}

#[test]
fn unknown_states_are_alive() {
    let odd = changed(
        WALLTIME_HELD,
        "wp-g-wall2",
        "\"JobStatus\": 5,",
        "\"JobStatus\": 12,",
    );
    assert_eq!(odd.state, JobState::Unknown("JobStatus 12".to_owned()));
}

#[test]
fn an_expression_for_a_number_is_no_number() {
    let odd = changed(
        MIXED,
        "wp-g-wall",
        "\"AllowedJobDuration\": 600",
        "\"AllowedJobDuration\": \"\\/Expr(10 * 60)\\/\"",
    );
    assert_eq!(odd.end, None);
}

#[test]
fn a_removal_that_found_nothing_is_judged_by_what_the_queue_has() {
    let said = out(
        1,
        "",
        "\nCouldn't find/remove all jobs matching constraint (x)\n",
    );
    assert!(!is_removed(&said));
    assert_eq!(
        not_removed(&[], &said, Cancel::Always),
        CancelAnswer::NoSuchJob
    );
    let of = |text, key| not_removed(&[job(text, key)], &said, Cancel::Always);
    assert_eq!(of(IN_GRACE, "wp-g-rm"), CancelAnswer::Taken);
    assert_eq!(of(MIXED, "wp-g-exit"), CancelAnswer::NoSuchJob);
    assert!(matches!(of(MIXED, "wp-g-wall"), CancelAnswer::NoAnswer(_)));
    let withdrawn = |text, key| not_removed(&[job(text, key)], &said, Cancel::WhileWaiting);
    assert_eq!(withdrawn(MIXED, "wp-g-wall"), CancelAnswer::Started);
    assert_eq!(withdrawn(IN_GRACE, "wp-g-rm"), CancelAnswer::Taken);
    assert_eq!(withdrawn(MIXED, "wp-g-exit"), CancelAnswer::NoSuchJob);
    assert!(is_removed(&out(
        0,
        "All jobs matching constraint (x) have been marked for removal\n",
        ""
    )));
}
