use protocol::lrm::{JobEnd, JobState};

use super::*;

/// `squeue` 22.05.8 with our format, on a cluster with a job in each state that could be made;
/// two of them are not ours and have awkward names.
const LISTING: &str = include_str!("listing-22.05.txt");

fn out(code: i32, stdout: &str, stderr: &str) -> Output {
    Output {
        code: Some(code),
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    }
}

fn jobs(text: &str) -> Vec<ObservedJob> {
    match listing(&out(0, text, ""), None) {
        Observation::Listing(jobs) => jobs,
        Observation::NoAnswer(why) => panic!("{why}\n{text}"),
    }
}

fn told(name: &str) -> ObservedJob {
    let key = SubmitKey::new(name).unwrap();
    let found = jobs(LISTING)
        .into_iter()
        .find(|j| j.key.as_ref() == Some(&key));
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn every_state_that_was_seen_is_understood() {
    let ended = |name: &str| match told(name).state {
        JobState::Ended(end) => end,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(jobs(LISTING).len(), 18);
    assert_eq!(ended("wp-cancelled"), JobEnd::Cancelled);
    assert_eq!(ended("wp-done"), JobEnd::Exited(0));
    assert_eq!(ended("wp-exit7"), JobEnd::Exited(7));
    assert_eq!(
        ended("wp-segv"),
        JobEnd::Other("ended by signal 11".to_owned())
    );
    assert_eq!(ended("wp-nolog"), JobEnd::LaunchFailed);
    assert_eq!(ended("wp-lost"), JobEnd::NodeLost);
    assert_eq!(ended("wp-timeout"), JobEnd::Walltime);
    assert_eq!(ended("wp-preempted"), JobEnd::Preempted);
    assert_eq!(told("wp-ending").state, JobState::Ending);
    assert_eq!(told("wp-asleep").state, JobState::Suspended);
    assert_eq!(told("wp-requeued").state, JobState::Running);
    assert_eq!(told("wp-waits").state, JobState::Queued);
    assert_eq!(told("wp-held").state, JobState::Held);
    assert_eq!(told("wp-held").detail, "JobHeldUser");
    assert_eq!(told("wp-lost").detail, "NODE_FAIL: NodeDown");
}

#[test]
fn a_running_job_has_times_and_a_node_and_a_waiting_one_only_guesses() {
    let job = told("wp-requeued");
    assert_eq!(job.id.as_str(), "16");
    assert_eq!(job.node.as_ref().map(NodeName::as_str), Some("n3"));
    assert_eq!(job.start, Some(Timestamp::from_secs(1_795_263_962)));
    assert_eq!(job.end, Some(Timestamp::from_secs(1_795_264_030)));
    // Slurm tells when it means to start it.
    let waits = told("wp-waits");
    assert_eq!((waits.start, waits.end, waits.node), (None, None, None));
}

/// Its walltime is five minutes: the preemption, with a grace time of four seconds, moved the end.
#[test]
fn the_end_of_a_job_that_is_being_preempted_is_the_grace_time_s() {
    let job = told("wp-requeued");
    assert_eq!(
        job.end.unwrap().since(job.start.unwrap()).as_millis(),
        68_000
    );
}

#[test]
fn a_listing_that_is_not_whole_is_no_answer() {
    for cut in 1..LISTING.len() {
        if !LISTING.is_char_boundary(cut) || LISTING[..cut].ends_with(RECORD_END) {
            continue;
        }
        let seen = listing(&out(0, &LISTING[..cut], ""), None);
        assert!(matches!(seen, Observation::NoAnswer(_)), "cut at {cut}");
    }
    for bad in [
        "rubbish",
        "rubbish@end\n",
        "\u{fffd}\u{fffd}@end\n",
        "12@@0@0@1@2@N/A@n1@None@wp-1@end\n",
        "12@RUNNING@0@x@1@2@N/A@n1@None@wp-1@end\n",
        "x@RUNNING@0@0@1@2@N/A@n1@None@wp-1@end\n",
        "12@RUNNING@0@0@1@2@N/A@n1@None@end\n",
        "slurm_load_jobs error: x@end\n",
    ] {
        let seen = listing(&out(0, bad, ""), None);
        assert!(matches!(seen, Observation::NoAnswer(_)), "{bad}: {seen:?}");
    }
}

#[test]
fn a_complaint_is_never_an_empty_listing() {
    for (code, stderr) in [
        (
            1,
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        ),
        (
            1,
            "slurm_load_jobs error: Socket timed out on send/recv operation",
        ),
        (1, "slurm_load_jobs error: Invalid job id specified"),
        (
            1,
            "squeue: fatal: Could not establish a configuration source",
        ),
        (0, "squeue: error: Problem talking to database"),
        (
            255,
            "ssh: connect to host login1 port 22: Connection refused",
        ),
    ] {
        let seen = listing(&out(code, "", stderr), None);
        assert!(matches!(seen, Observation::NoAnswer(_)), "{stderr}");
    }
    assert!(jobs("").is_empty());
}

#[test]
fn words_that_nobody_has_seen_are_alive() {
    let line = |state: &str, reason: &str| format!("12@{state}@0@0@1@2@N/A@n1@{reason}@wp-1@end\n");
    let state = |state: &str, reason: &str| jobs(&line(state, reason)).remove(0).state;
    for word in ["REVOKED", "EXPEDITING", "MELTING"] {
        assert_eq!(state(word, "None"), JobState::Unknown(word.to_owned()));
    }
    for reason in [
        "launch failed requeued held",
        "job_requeued_in_held_state",
        "JobHeldAdmin",
    ] {
        assert_eq!(state("PENDING", reason), JobState::Held, "{reason}");
    }
    for reason in [
        "Nodes required for job are DOWN, DRAINED or reserved @home",
        "Priority",
    ] {
        assert_eq!(state("PENDING", reason), JobState::Queued);
        assert_eq!(jobs(&line("PENDING", reason)).remove(0).detail, reason);
    }
    assert_eq!(state("SPECIAL_EXIT", "x"), JobState::Held);
    assert_eq!(state("CONFIGURING", "None"), JobState::Running);
    assert_eq!(state("STOPPED", "None"), JobState::Suspended);
    assert_eq!(
        state("TIMEOUT", "TimeLimit"),
        JobState::Ended(JobEnd::Walltime)
    );
    assert_eq!(
        state("BOOT_FAIL", "x"),
        JobState::Ended(JobEnd::LaunchFailed)
    );
    for word in ["OUT_OF_MEMORY", "DEADLINE"] {
        assert!(matches!(
            state(word, "x"),
            JobState::Ended(JobEnd::Other(_))
        ));
    }
    let other = line("FAILED", "x").replace("@0@0@", "@3:0@0@");
    assert_eq!(
        jobs(&other).remove(0).state,
        JobState::Ended(JobEnd::Exited(3))
    );
}

#[test]
fn a_cluster_s_name_is_part_of_its_ids() {
    let text = format!("CLUSTER: big\n{LISTING}");
    let Observation::Listing(jobs) = listing(&out(0, &text, ""), Some("big")) else {
        panic!("not read");
    };
    assert_eq!(split_id(&jobs[0].id), ("16", Some("big")));
    let none = listing(&out(0, "CLUSTER: big\n", ""), Some("big"));
    assert_eq!(none, Observation::Listing(Vec::new()));
}

#[test]
fn a_submit_is_accepted_only_with_a_readable_id() {
    for (said, id) in [
        ("12\n", "12"),
        ("12;lab\n", "12;lab"),
        ("welcome\n12\n", "12"),
    ] {
        let id = LrmJobId::new(id).unwrap();
        assert_eq!(submit(&out(0, said, "")), SubmitAnswer::Accepted(id));
    }
    for said in [
        "",
        "0\n",
        "Submitted batch job 12\n",
        "12;\n",
        "12;a b\n",
        "1x\n",
    ] {
        let answer = submit(&out(0, said, ""));
        assert!(matches!(answer, SubmitAnswer::NoAnswer(_)), "{said}");
    }
}

#[test]
fn a_refusal_is_slurm_s_own_verdict_and_nothing_else() {
    let failed = "sbatch: error: Batch job submission failed: ";
    for (code, stderr) in [
        (1, "Invalid partition name specified"),
        (1, "Requested node configuration is not available"),
        (
            1,
            "Requested time limit is invalid (missing or exceeds some limit)",
        ),
        (
            1,
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        ),
        (
            1,
            "Invalid account or account/partition combination specified",
        ),
        (1, "Required partition not available (inactive or drain)"),
    ] {
        let answer = submit(&out(code, "", &format!("{failed}{stderr}\n")));
        assert!(matches!(answer, SubmitAnswer::Refused(_)), "{stderr}");
    }
    for (code, stderr) in [
        (
            255,
            "sbatch: unrecognized option '--nosuchoption'\nTry \"sbatch --help\"",
        ),
        (255, "sbatch: error: Invalid --time specification\n"),
        (
            1,
            "sbatch: error: Invalid generic resource (gres) specification\n",
        ),
        (127, "env: 'sbatch': No such file or directory\n"),
    ] {
        let answer = submit(&out(code, "", stderr));
        assert!(matches!(answer, SubmitAnswer::Refused(_)), "{stderr}");
    }
    for (code, stderr) in [
        (1, "Socket timed out on send/recv operation"),
        (1, "Unable to contact slurm controller (connect failure)"),
        (1, "Protocol authentication error"),
        (1, "Unspecified error"),
        (1, "Zero Bytes were transmitted or received"),
    ] {
        let answer = submit(&out(code, "", &format!("{failed}{stderr}\n")));
        assert!(matches!(answer, SubmitAnswer::NoAnswer(_)), "{stderr}");
    }
    let ssh = out(
        255,
        "",
        "ssh: connect to host login1 port 22: Connection refused",
    );
    assert!(matches!(submit(&ssh), SubmitAnswer::NoAnswer(_)));
    let killed = Output {
        code: None,
        ..out(0, "12\n", "")
    };
    assert!(matches!(submit(&killed), SubmitAnswer::NoAnswer(_)));
}

#[test]
fn a_cancel_tells_a_foreign_job_and_no_answer_apart() {
    let error = |words: &str| format!("scancel: error: Kill job error on job id 12: {words}\n");
    assert_eq!(cancel(&out(0, "", "")), CancelAnswer::Taken);
    let gone = out(1, "", &error("Invalid job id specified"));
    assert_eq!(cancel(&gone), CancelAnswer::NoSuchJob);
    let foreign = out(210, "", &error("Access/permission denied"));
    assert!(matches!(cancel(&foreign), CancelAnswer::Refused(_)));
    let silent = error("Unable to contact slurm controller (connect failure)");
    assert!(matches!(
        cancel(&out(8, "", &silent)),
        CancelAnswer::NoAnswer(_)
    ));
}

/// It used its grace time to end by itself: Slurm calls that completed.
#[test]
fn a_preempted_job_that_ends_in_its_grace_time_is_preempted() {
    assert_eq!(
        told("wp-graceful").state,
        JobState::Ended(JobEnd::Preempted)
    );
    assert_eq!(told("wp-requeued").detail, "being preempted");
}

/// Slurm keeps a record of a submit that asks for more than there is. As a job it would look as
/// if the submit had been taken after all.
#[test]
fn a_refused_submit_is_no_job() {
    assert!(LISTING.contains("@wp-refused@end"));
    let key = SubmitKey::new("wp-refused").unwrap();
    assert!(jobs(LISTING).iter().all(|j| j.key.as_ref() != Some(&key)));
}
