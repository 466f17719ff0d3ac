//! The daemon with real processes: jobs survive it, people's commands, leftovers.

use std::path::Path;
use std::time::Duration;

use lrm_adapters::sim::testing::Daemon;

const CONFIG: &str = r#"
kill_wait = "1s"
lateness_percent = 0
requeue_hold_off = "0s"
node_timeout = "1s"
[[nodes]]
name = "n1"
cores = 2
memory = "2 GiB"
disk = "10 GiB"
"#;

struct Lab {
    home: tempfile::TempDir,
    daemon: Daemon,
}

impl Lab {
    fn new(profile: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!("profile = \"{profile}\"\n{CONFIG}");
        let binary = Path::new(env!("CARGO_BIN_EXE_sim-lrm"));
        let daemon = Daemon::start(binary, &home.path().join("lrm"), &config).unwrap();
        Self { home, daemon }
    }

    /// Runs a command that has to succeed, and returns what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let out = self.daemon.command(args).unwrap();
        assert!(out.status.success(), "{args:?}: {out:?}\n{}", self.log());
        String::from_utf8(out.stdout).unwrap()
    }

    fn code(&self, args: &[&str]) -> (Option<i32>, String) {
        let out = self.daemon.command(args).unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    }

    fn submit(&self, args: &[&str], script: &str) -> String {
        let file = self.path("script");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        let said = self.ok(&[&["submit"], args, &[&file]].concat());
        said.trim()
            .strip_prefix("submitted job ")
            .unwrap()
            .to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn state(&self, id: &str) -> String {
        let text = self.ok(&["queue", "--all", "--json"]);
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let jobs = all["jobs"].as_array().unwrap();
        let job = jobs.iter().find(|j| j["id"] == id);
        job.map_or("gone", |j| j["state"].as_str().unwrap())
            .to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.daemon.log()).unwrap()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bounded wait on a condition, not for time"
)]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not within 15 s: {what}");
}

#[test]
fn a_job_gets_what_it_is_told_and_its_output_is_kept() {
    let lab = Lab::new("slurm");
    let out = lab.path("out");
    let here = lab.home.path().display().to_string();
    let id = lab.submit(
        &[
            "--cores", "2", "--memory", "64MiB", "--output", &out, "--chdir", &here,
        ],
        "env; pwd; echo oops >&2; exit 5",
    );
    let ended = lab.code(&["wait", &id]);
    assert_eq!(ended.0, Some(5), "{}", lab.log());
    let text = lab.text("out");
    for want in [
        "SIMLRM_CORES=2",
        "SIMLRM_NODE=n1",
        "SIMLRM_RESTARTS=0",
        "SIMLRM_NOTICE_MS=1000",
        &here,
        "oops",
    ] {
        assert!(text.lines().any(|l| l == want), "no {want} in {text}");
    }
    assert_eq!(lab.state(&id), "FAILED");
}

#[test]
fn jobs_survive_the_daemon_and_are_found_again() {
    let mut lab = Lab::new("slurm");
    let go = lab.path("go");
    let out = lab.path("out");
    let script = format!("echo up; while [ ! -e '{go}' ]; do sleep 0.02; done; exit 7");
    let stays = lab.submit(&["--output", &out], &script);
    let waits = lab.submit(&["--cores", "2"], "exit 0");
    eventually("the first job runs", || lab.text("out") == "up\n");
    let end = lab.ok(&["end", &stays]);
    for _ in 0..3 {
        lab.daemon.kill();
        assert_eq!(lab.code(&["queue"]).0, Some(1));
        lab.daemon.run().unwrap();
    }
    assert_eq!(
        [lab.state(&stays), lab.state(&waits)],
        ["RUNNING", "PENDING"]
    );
    assert_eq!(lab.ok(&["end", &stays]), end);
    // It ends while nobody looks; its supervisor remembers.
    lab.daemon.kill();
    std::fs::write(&go, "").unwrap();
    eventually("the job is over", || lab.daemon.job_processes().is_empty());
    lab.daemon.run().unwrap();
    eventually("the second job ran", || lab.state(&waits) == "COMPLETED");
    let listing: serde_json::Value =
        serde_json::from_str(&lab.ok(&["queue", "--all", "--json"])).unwrap();
    assert_eq!(listing["jobs"][0]["exit_code"], 7, "{listing}");
    assert_eq!(lab.text("out"), "up\n", "the job was started twice");
}

#[test]
fn a_kill_that_falls_into_the_daemons_absence_comes_late_but_comes() {
    let mut lab = Lab::new("pbs");
    let out = lab.path("out");
    let id = lab.submit(
        &["--walltime", "1s", "--output", &out],
        "trap '' TERM; echo up; while :; do sleep 0.02; done",
    );
    eventually("it runs", || lab.text("out") == "up\n");
    lab.daemon.kill();
    lab.daemon.run().unwrap();
    eventually("it is killed", || lab.state(&id) == "TIMEOUT");
    eventually("nothing is left", || lab.daemon.job_processes().is_empty());
}

/// Which of a job's children outlive it is the profile's affair.
#[test]
fn leftovers_survive_where_they_do_in_reality() {
    for (profile, plain, session) in [
        ("slurm", true, true),
        ("slurm-cgroup", false, false),
        ("pbs", false, true),
        ("htcondor", false, false),
    ] {
        let lab = Lab::new(profile);
        let script = format!(
            "sleep 100 & echo $! > {0}
             setsid sh -c 'echo $$ > {1}.new; mv {1}.new {1}; exec sleep 100' &
             while [ ! -e {1} ]; do sleep 0.01; done; exit 0",
            lab.path("plain"),
            lab.path("session"),
        );
        let id = lab.submit(&[], &script);
        assert_eq!(lab.code(&["wait", &id]).0, Some(0), "{}", lab.log());
        let alive = |name: &str| {
            let pid: i32 = lab.text(name).trim().parse().unwrap();
            lab.daemon.job_processes().contains(&pid)
        };
        // What is to be killed is gone before the job is called over.
        assert_eq!(
            (alive("plain"), alive("session")),
            (plain, session),
            "{profile}"
        );
    }
}

#[test]
fn a_person_can_preempt_hold_release_and_drain() {
    let lab = Lab::new("slurm");
    let out = lab.path("out");
    let script = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let first = lab.submit(&["--output", &out], script);
    eventually("it runs", || lab.text("out") == "up\n");
    lab.ok(&["preempt", &first]);
    eventually("it is preempted", || lab.state(&first) == "PREEMPTED");
    assert!(lab.text("out").contains("told"), "{}", lab.text("out"));

    lab.ok(&["drain", "n1"]);
    let second = lab.submit(&[], script);
    assert_eq!(lab.state(&second), "PENDING");
    lab.ok(&["hold", &second]);
    lab.ok(&["undrain", "n1"]);
    assert_eq!(lab.state(&second), "HELD");
    lab.ok(&["release", &second]);
    assert_eq!(lab.state(&second), "RUNNING");

    let table = lab.ok(&["queue"]);
    assert!(
        table.contains("RUNNING") && !table.contains("PREEMPTED"),
        "{table}"
    );
    assert!(lab.ok(&["nodes"]).contains("1/2"), "{}", lab.ok(&["nodes"]));
}

#[test]
fn a_site_job_preempts_a_pilot_and_a_closed_node_shortens_one() {
    let lab = Lab::new("htcondor");
    let script = "while :; do sleep 0.02; done";
    let pilot = lab.submit(&["--cores", "2"], script);
    let site = lab.ok(&[
        "site-job",
        "--cores",
        "2",
        "--walltime",
        "60s",
        "--run-for",
        "0.1s",
    ]);
    let site = site
        .trim()
        .strip_prefix("submitted job ")
        .unwrap()
        .to_owned();
    eventually("the site job ran", || lab.state(&site) == "COMPLETED");
    eventually("the pilot runs again", || lab.state(&pilot) == "RUNNING");
    let out = lab.ok(&["queue", "--json"]);
    let listing: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listing["jobs"][0]["restarts"], 1, "{listing}");
    lab.ok(&["cancel", &pilot]);
    assert_eq!(lab.code(&["wait", &pilot]), (Some(5), String::new()));

    let end = lab.ok(&["close", "n1", "4000000000"]);
    assert_eq!(end, "");
    let long = ["--walltime", "100000w", "--min-walltime", "1m"];
    let short = lab.submit(&long, script);
    assert_eq!(lab.ok(&["end", &short]), "4000000000.000\n");
}

#[test]
fn a_node_without_power_takes_its_jobs_along() {
    let lab = Lab::new("slurm");
    let out = lab.path("out");
    let id = lab.submit(&["--output", &out], "echo up; setsid sleep 100 & wait");
    eventually("it runs", || lab.text("out") == "up\n");
    lab.ok(&["fail", "n1", "--how", "power"]);
    eventually("nothing is left", || lab.daemon.job_processes().is_empty());
    eventually("it is noticed", || lab.state(&id) == "NODE_FAIL");
    lab.ok(&["restore", "n1"]);
    let next = lab.submit(&[], "exit 0");
    assert_eq!(lab.code(&["wait", &next]).0, Some(0));
}

#[test]
fn wrong_orders_say_what_is_wrong() {
    let lab = Lab::new("slurm");
    let file = lab.path("plain");
    std::fs::write(&file, "no script").unwrap();
    for (args, code, want) in [
        (vec!["submit", &file], 2, "#!"),
        (vec!["submit", "/no/such/file"], 2, "/no/such/file"),
        (vec!["site-job", "--cores", "99"], 3, "no node has 99 cores"),
        (vec!["cancel", "42"], 4, "no such job"),
        (vec!["drain", "n9"], 4, "sim-lrm nodes"),
        (vec!["end", "42"], 4, "no such job"),
        (vec!["extend", "1", "-5s"], 2, "negative"),
    ] {
        let (got, said) = lab.code(&args);
        assert!(
            got == Some(code) && said.contains(want),
            "{args:?}: {got:?} {said}"
        );
    }
}

#[test]
fn a_job_that_cannot_be_started_is_not_a_job_that_failed() {
    let lab = Lab::new("slurm");
    for args in [
        ["--output", "/no/such/dir/out"],
        ["--chdir", "/no/such/dir"],
    ] {
        let id = lab.submit(&args, "exit 0");
        eventually("it is over", || lab.state(&id) == "LAUNCH_FAILED");
    }
}

#[test]
fn two_daemons_do_not_serve_one_directory() {
    let lab = Lab::new("slurm");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_sim-lrm"))
        .arg("--dir")
        .arg(lab.daemon.dir())
        .args(["serve", "--config"])
        .arg(lab.daemon.dir().join("sim-lrm.toml"))
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("another daemon"), "{said}");
    lab.ok(&["queue"]);
}

/// Whatever moment the daemon is killed at: an accepted job runs once and is told once, and a
/// submit without an answer has left one job or none.
#[test]
fn a_daemon_that_is_killed_again_and_again_runs_each_job_once() {
    let mut lab = Lab::new("slurm");
    let script = lab.path("once.sh");
    let marks = lab.home.path().display().to_string();
    let text = format!("#!/bin/sh\necho x >> '{marks}'/ran.$SIMLRM_JOB_ID\n");
    std::fs::write(&script, text).unwrap();
    let dir = lab.daemon.dir().to_owned();
    let submits = std::thread::spawn(move || {
        let mut accepted = Vec::new();
        let mut tries = 0;
        while accepted.len() < 25 {
            let n = tries;
            tries += 1;
            assert!(tries < 5000, "only {accepted:?} were accepted");
            let out = std::process::Command::new(env!("CARGO_BIN_EXE_sim-lrm"))
                .arg("--dir")
                .arg(&dir)
                .args(["submit", "--key", &format!("wp-{n}"), &script])
                .output()
                .unwrap();
            if out.status.success() {
                accepted.push(n);
            }
        }
        (tries, accepted)
    });
    for round in 0.. {
        if submits.is_finished() {
            break;
        }
        lab.daemon.run().unwrap();
        // It lives a little longer each time: long enough for so many questions.
        for _ in 0..round % 8 {
            lab.ok(&["queue"]);
        }
    }
    let (tries, accepted) = submits.join().unwrap();
    println!("accepted {} of {tries}", accepted.len());
    let listing = || -> Vec<serde_json::Value> {
        let text = lab.ok(&["queue", "--all", "--json"]);
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        all["jobs"].as_array().unwrap().clone()
    };
    let mut jobs = Vec::new();
    eventually("all jobs are over", || {
        jobs = listing();
        let alive = ["PENDING", "RUNNING", "COMPLETING"];
        let over = |j: &serde_json::Value| !alive.contains(&j["state"].as_str().unwrap());
        jobs.iter().all(over)
    });
    for job in &jobs {
        assert_eq!(job["state"], "COMPLETED", "{job}\n{}", lab.log());
    }
    for n in 0..tries {
        let key = format!("wp-{n}");
        let count = jobs.iter().filter(|j| j["key"] == key.as_str()).count();
        let fits = if accepted.contains(&n) {
            count == 1
        } else {
            count <= 1
        };
        assert!(
            fits,
            "{key}: accepted {}, {count} jobs",
            accepted.contains(&n)
        );
    }
    for job in &jobs {
        let id = job["id"].as_str().unwrap();
        assert_eq!(
            lab.text(&format!("ran.{id}")),
            "x\n",
            "{job}\n{}",
            lab.log()
        );
    }
}

#[test]
fn a_job_outlives_its_supervisor_and_its_end_is_noticed() {
    let lab = Lab::new("slurm");
    let (go, out) = (lab.path("go"), lab.path("out"));
    let script = format!("echo up; while [ ! -e '{go}' ]; do sleep 0.02; done");
    let id = lab.submit(&["--output", &out], &script);
    let run = lab.daemon.dir().join("runs/1");
    // A supervisor that dies before it has written down whom it started leaves a job that failed.
    eventually("it runs and its supervisor has said so", || {
        lab.text("out") == "up\n" && run.join("pid").exists()
    });
    let said = std::fs::read_to_string(run.join("supervisor")).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let pid = i32::try_from(said["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(lab.state(&id), "RUNNING");
    std::fs::write(&go, "").unwrap();
    eventually("its end is noticed", || lab.state(&id) == "FAILED");
}
