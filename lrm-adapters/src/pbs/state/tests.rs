use protocol::time::Timestamp;

use super::super::blocks::read;
use super::*;

/// `qstat -x -f` of OpenPBS 23.06.06, job by job as it was seen in a lab.
const OPENPBS: &str = include_str!("../golden/openpbs.txt");

fn one(dialect: Dialect, text: &str) -> ObservedJob {
    let blocks = read(text).unwrap();
    assert_eq!(blocks.len(), 1, "{text}");
    job(&blocks[0], dialect).unwrap()
}

fn at(secs: i64) -> Option<Timestamp> {
    Some(Timestamp::from_secs(secs))
}

#[test]
fn every_job_of_the_lab_is_told_as_what_had_become_of_it() {
    let jobs: Vec<ObservedJob> = read(OPENPBS)
        .unwrap()
        .iter()
        .map(|b| job(b, Dialect::Openpbs).unwrap())
        .collect();
    let ended = JobState::Ended;
    let want = [
        ("2", JobState::Running, 0),
        // qdel: a script that caught the SIGTERM, and with -W force.
        ("29", ended(JobEnd::Cancelled), 0),
        ("30", ended(JobEnd::Cancelled), 0),
        ("32", ended(JobEnd::Walltime), 0),
        ("33", ended(JobEnd::Exited(5)), 0),
        // qsig -s USR1 killed the login shell.
        ("38", ended(JobEnd::Exited(128 + 10)), 0),
        // qrerun, then qdel.
        ("39", ended(JobEnd::Cancelled), 1),
        // Direct mode, qdel: the pilot's own exit code does not hide who ended it.
        ("43", ended(JobEnd::Cancelled), 0),
        ("45", ended(JobEnd::Walltime), 0),
        ("49", ended(JobEnd::Walltime), 0),
        ("53", JobState::Running, 0),
        ("55", JobState::Running, 1),
        ("57", ended(JobEnd::Preempted), 0),
        // Its MoM was killed: it waits, whatever its Exit_status of -20 says.
        ("61", JobState::Queued, 0),
    ];
    let seen: Vec<_> = jobs
        .iter()
        .map(|j| (j.id.as_str().to_owned(), j.state.clone(), j.restarts))
        .collect();
    let want: Vec<_> = want
        .into_iter()
        .map(|(id, state, restarts)| (format!("{id}.pbssrv"), state, restarts))
        .collect();
    assert_eq!(seen, want);
    let (running, queued) = (&jobs[0], jobs.last().unwrap());
    assert_eq!(running.start, at(1_795_224_284));
    assert_eq!(running.end, at(1_795_224_284 + 600));
    assert_eq!(running.node.as_ref().map(NodeName::as_str), Some("n1"));
    assert_eq!(
        (&queued.start, &queued.end, &queued.node),
        (&None, &None, &None)
    );
    assert!(queued.detail.contains("Insufficient amount"), "{queued:?}");
    // The walltime that an administrator has shortened.
    let shortened = &jobs[9];
    assert_eq!(shortened.start, at(1_795_224_707));
    assert_eq!(shortened.end, at(1_795_224_730), "obittime");
}

#[test]
fn states_that_are_not_known_are_alive() {
    let text = |state: &str, more: &str| {
        format!("Job Id: 5.s\n    Job_Name = x\n    job_state = {state}\n{more}\n")
    };
    let comment = "    comment = Job run at x on (n1) and terminated by Scheduler@s\n";
    for (state, more, want) in [
        ("Q", "", JobState::Queued),
        ("W", "", JobState::Queued),
        ("T", "", JobState::Queued),
        ("H", "    Hold_Types = u\n", JobState::Held),
        ("S", "", JobState::Suspended),
        ("U", "", JobState::Suspended),
        ("E", "", JobState::Ending),
        ("R", comment, JobState::Ending),
        ("R", "    substate = 60\n", JobState::Ending),
        ("R", "    substate = 41\n", JobState::Running),
        ("M", "", JobState::Unknown("M".to_owned())),
        ("B", "", JobState::Unknown("B".to_owned())),
        ("C", "", JobState::Unknown("C".to_owned())),
        ("?", "", JobState::Unknown("?".to_owned())),
    ] {
        let seen = one(Dialect::Openpbs, &text(state, more));
        assert_eq!(seen.state, want, "{state}");
    }
    assert!(
        one(Dialect::Openpbs, &text("H", "    Hold_Types = u\n"))
            .detail
            .contains("holds u")
    );
    let blocks = read("Job Id: 5.s\n    Job_Name = x\n\n").unwrap();
    assert!(job(&blocks[0], Dialect::Openpbs).is_err(), "no state");
}

#[test]
fn exit_statuses_of_openpbs() {
    for (substate, status, want) in [
        // Deleted while it waited.
        ("91", "", JobEnd::Cancelled),
        ("92", "0", JobEnd::Exited(0)),
        ("93", "137", JobEnd::Exited(137)),
        ("93", "254", JobEnd::LaunchFailed),
        ("93", "-1", JobEnd::LaunchFailed),
        ("93", "265", JobEnd::Exited(137)),
        ("93", "271", JobEnd::Exited(143)),
        ("93", "-20", JobEnd::NodeLost),
        ("93", "-29", JobEnd::Walltime),
    ] {
        let status = if status.is_empty() {
            String::new()
        } else {
            format!("    Exit_status = {status}\n")
        };
        let text = format!("Job Id: 5.s\n    job_state = F\n    substate = {substate}\n{status}\n");
        assert_eq!(
            one(Dialect::Openpbs, &text).state,
            JobState::Ended(want),
            "{text}"
        );
    }
    for odd in ["-11", "-28", "-27", "-99"] {
        let text = format!(
            "Job Id: 5.s\n    job_state = F\n    substate = 93\n    Exit_status = {odd}\n\n"
        );
        let seen = one(Dialect::Openpbs, &text).state;
        assert!(
            matches!(seen, JobState::Ended(JobEnd::Other(_))),
            "{seen:?}"
        );
    }
}

#[test]
fn a_torque_job_is_read_by_its_own_words() {
    // Made after the example in Torque's administrator's guide.
    let text = |state: &str, more: &str| {
        format!(
            "Job Id: 179.host.example.org\n    Job_Name = wp-b\n    Job_Owner = user@host\n    job_state = {state}\n    exec_host = node1/0\n    Resource_List.walltime = 00:10:00\n    start_time = Sat Nov 21 01:24:44 2026\n    start_count = 2\n    Variable_List = PBS_O_QUEUE=batch,WP_KEY=wp-b,\n\tPBS_O_HOST=host\n{more}\n"
        )
    };
    let running = one(Dialect::Torque, &text("R", ""));
    assert_eq!(running.id.as_str(), "179.host.example.org");
    assert_eq!(running.key, SubmitKey::new("wp-b").ok());
    assert_eq!(running.restarts, 1);
    assert_eq!(running.end, at(1_795_224_284 + 600));
    let used = "    resources_used.walltime = 00:10:03\n";
    for (more, want) in [
        ("    exit_status = 3\n".to_owned(), JobEnd::Exited(3)),
        ("    exit_status = -11\n".to_owned(), JobEnd::Walltime),
        ("    exit_status = 271\n".to_owned(), JobEnd::Cancelled),
        (format!("{used}    exit_status = 271\n"), JobEnd::Walltime),
        ("    exit_status = -8\n".to_owned(), JobEnd::LaunchFailed),
    ] {
        let seen = one(Dialect::Torque, &text("C", &more)).state;
        assert_eq!(seen, JobState::Ended(want), "{more}");
    }
    let never_started = "Job Id: 1.h\n    job_state = C\n\n";
    let seen = one(Dialect::Torque, never_started).state;
    assert_eq!(seen, JobState::Ended(JobEnd::Cancelled));
}

#[test]
fn the_key_is_the_variable_and_only_without_variables_the_name() {
    let key = |lines: &str| {
        one(
            Dialect::Openpbs,
            &format!("Job Id: 5.s\n    job_state = Q\n{lines}\n"),
        )
        .key
        .map(|k| k.to_string())
    };
    let name = "    Job_Name = wp-a\n";
    assert_eq!(key(name).as_deref(), Some("wp-a"));
    let variables = |v: &str| format!("{name}    Variable_List = {v}\n");
    assert_eq!(key(&variables("A=1,WP_KEY=wp-b")).as_deref(), Some("wp-b"));
    assert_eq!(key(&variables("A=1,XWP_KEY=wp-b")), None);
    assert_eq!(key("    Job_Name = STDIN\n"), None, "somebody's own job");
}
