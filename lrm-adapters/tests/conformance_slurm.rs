//! The conformance suite on a real Slurm: private clusters of several virtual nodes, with pilots
//! as steps and as batch processes. Rules that disturb nobody run at the same time on a node of
//! their own each; those that hurt the controller one after the other on another cluster.

mod rig;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lrm_adapters::conformance::{Action, Can, Disturbance, Rig, Rule, Shape, TestJobs};
use lrm_adapters::slurm::testing::{Cluster, is_installed};
use lrm_adapters::slurm::{Launch, Slurm, SlurmSettings};
use nix::sys::signal::Signal;
use protocol::ids::SubmitKey;
use protocol::lrm::PilotJob;
use protocol::time::Span;
use rig::{runs_in, test_jobs};

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lab/slurm");

/// Stands before Slurm's commands and plays what a cluster cannot be made to do: `garble` makes
/// them print rubbish, and the job whose id is in `hide` is left out of the listing.
const FRONT: &str = r#"#!/bin/sh
at=${0%/*}
if [ -e "$at/garble" ]; then printf '12@RUNN\377\000\n'; exit 0; fi
if [ -e "$at/hide" ]; then "/usr/bin/${0##*/}" "$@" | grep -v "^$(cat "$at/hide")@"; exit 0; fi
exec "/usr/bin/${0##*/}" "$@"
"#;

/// One node of a cluster, and an adapter that submits to it only.
struct SlurmRig<'a> {
    cluster: &'a Cluster,
    home: PathBuf,
    node: &'static str,
    lrm: Slurm,
    rerunnable: bool,
    jobs: TestJobs,
}

impl<'a> SlurmRig<'a> {
    fn new(cluster: &'a Cluster, home: &Path, node: &'static str, kind: Kind) -> Self {
        let (launch, rerunnable) = match kind {
            Kind::Step => (Launch::Step, false),
            Kind::RerunnableBatch => (Launch::Batch, true),
        };
        let home = home.join(node);
        let bin = home.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        for name in ["sbatch", "squeue", "scancel", "srun"] {
            program(&bin.join(name), FRONT);
        }
        let partition = if rerunnable {
            "pilots-requeue"
        } else {
            "pilots"
        };
        let lrm = Slurm::new(SlurmSettings {
            bin_dir: Some(bin),
            partition: Some(partition.to_owned()),
            launch,
            rerunnable,
            options: vec![format!("--nodelist={node}")],
            timeout: Span::from_secs(8),
            ..cluster.settings()
        });
        Self {
            cluster,
            // A blank, a quote, a dollar, a replacement of Slurm's: everything is escaped.
            jobs: test_jobs(&home, "jobs of 'us' $HOME %j", &format!("wp-{node}")),
            home,
            node,
            lrm,
            rerunnable,
        }
    }

    fn flag(&self, name: &str) -> PathBuf {
        self.home.join("bin").join(name)
    }

    fn slurm(&self, program: &str, args: &[&str]) -> Can {
        self.cluster.command(program, args).unwrap();
        Ok(())
    }
}

/// How pilots are submitted.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// As a site should have it.
    Step,
    /// Every setting the other way.
    RerunnableBatch,
}

fn program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

impl Rig for SlurmRig<'_> {
    type Lrm = Slurm;

    fn lrm(&self) -> &Slurm {
        &self.lrm
    }

    fn job(&self, shape: &Shape) -> Result<PilotJob, String> {
        self.jobs.make(shape)
    }

    fn keys(&self) -> Vec<SubmitKey> {
        self.jobs.keys()
    }

    fn impossible_job(&self) -> Result<PilotJob, String> {
        let mut job = self.job(&Shape::obeying())?;
        job.resources.memory_mib = 1024 * 1024;
        Ok(job)
    }

    async fn is_alive(&self, key: &SubmitKey) -> Result<bool, String> {
        runs_in(&self.jobs.directory(key))
    }

    async fn act(&self, action: Action) -> Can {
        match action {
            Action::Preempt(_) => self.slurm(
                "sbatch",
                &[
                    "--partition=site",
                    "--exclusive",
                    "--output=/dev/null",
                    "--time=1",
                    &format!("--nodelist={}", self.node),
                    "--wrap=sleep 1",
                ],
            ),
            Action::Requeue(_) if !self.rerunnable => {
                Err("pilot jobs are submitted with --no-requeue".to_owned())
            }
            Action::Requeue(id) => {
                self.slurm("scontrol", &["requeue", id.as_str()])?;
                // Slurm waits two minutes of its own accord; an administrator need not, but a
                // little: what starts in the second of the requeue is taken for the job that was
                // ended ("Job credential revoked"). Where the job's end comes in between, the
                // two minutes begin again.
                let job = format!("jobid={id}");
                for round in 0..600 {
                    let args = [
                        "-h",
                        "-t",
                        "all",
                        "-O",
                        "State:@,RestartCnt:@",
                        "-j",
                        id.as_str(),
                    ];
                    match self.cluster.command("squeue", &args).unwrap().trim() {
                        "RUNNING@1@" => return Ok(()),
                        // It may have started in this moment.
                        "PENDING@1@" if round % 50 == 10 => {
                            let args = ["update", &job, "StartTime=now+5"];
                            let _ = self.cluster.command("scontrol", &args);
                        }
                        _ => {}
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                panic!("job {id} was not started again\n{}", self.cluster.log());
            }
            Action::Shorten(id, by) => {
                let job = format!("jobid={id}");
                let minutes = format!("TimeLimit-={}", by.as_millis() / 60_000);
                self.slurm("scontrol", &["update", &job, &minutes])
            }
            Action::LoseNode(node) => {
                let daemon = format!("slurmd.{node}");
                self.cluster.end(&daemon, Signal::SIGKILL).unwrap();
                Ok(())
            }
            Action::Restart => {
                self.cluster.wait_until_saved().unwrap();
                self.cluster.end("slurmctld", Signal::SIGKILL).unwrap();
                self.cluster.revive(self.node).unwrap();
                Ok(())
            }
            Action::LoseNewestJob => {
                self.cluster.end("slurmctld", Signal::SIGKILL).unwrap();
                self.cluster.revive(self.node).unwrap();
                Ok(())
            }
        }
    }

    async fn disturb(&self, disturbance: Disturbance) -> Can {
        match disturbance {
            // The controller takes the job when it goes on: nobody is there to hear the answer.
            Disturbance::LoseSubmitAnswer | Disturbance::Hang => {
                self.cluster.signal("slurmctld", Signal::SIGSTOP).unwrap();
            }
            Disturbance::Unreachable => {
                self.cluster.end("slurmctld", Signal::SIGTERM).unwrap();
            }
            Disturbance::Garble => std::fs::write(self.flag("garble"), "").unwrap(),
            Disturbance::Hide(id) => std::fs::write(self.flag("hide"), id.as_str()).unwrap(),
        }
        Ok(())
    }

    async fn calm(&self) {
        for flag in ["garble", "hide"] {
            // Mostly there is none.
            let _ = std::fs::remove_file(self.flag(flag));
        }
        // Where it is down there is nobody to wake.
        let _ = self.cluster.signal("slurmctld", Signal::SIGCONT);
        if !is_ready(self.cluster, self.node) {
            self.cluster.revive(self.node).unwrap();
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(150)
    }
}

/// The daemons of controller and node run. The node's state is waited for by who starts them.
fn is_ready(cluster: &Cluster, node: &str) -> bool {
    let daemons = ["slurmctld".to_owned(), format!("slurmd.{node}")];
    daemons
        .iter()
        .all(|d| cluster.signal(d, Signal::SIGCONT).is_ok())
}

/// Checks some rules on one rig, one after the other; gives those that do not hold.
async fn check(rig: &SlurmRig<'_>, rules: &[Rule]) -> Vec<String> {
    let impossible: &[Rule] = if rig.rerunnable {
        &[]
    } else {
        &[Rule::Requeue]
    };
    rig::check(rig, rig.node, rules, impossible).await
}

/// None where Slurm is not installed and nobody insists on it.
#[expect(
    clippy::disallowed_methods,
    reason = "the runner says whether a machine without Slurm is good enough"
)]
fn cluster(home: &Path, options: &[&str]) -> Option<Cluster> {
    if !is_installed() {
        assert!(
            std::env::var_os("WP_REQUIRE_SLURM").is_none(),
            "Slurm is not installed: run scripts/setup"
        );
        println!("NOT TESTED: Slurm is not installed");
        return None;
    }
    Some(Cluster::start(Path::new(LAB), &home.join("slurm"), options).unwrap())
}

/// What takes a job's whole minute, and half of one more.
const LONG: &[Rule] = &[Rule::Walltime];
const QUICK: &[Rule] = &[
    Rule::FoundByKey,
    Rule::RefusedLeavesNothing,
    Rule::SlotFile,
    Rule::NoSecrets,
    Rule::ExitCode,
    Rule::CancelQueued,
    Rule::CancelRunning,
    Rule::CancelUnknown,
    Rule::MovedEnd,
    Rule::Requeue,
    Rule::Withdraw,
];
/// Each of these rigs has one node, by `--nodelist`, which beats `--exclude` (measured): in
/// `conformance_slurm_nodes`.
const ELSEWHERE: &[Rule] = &[Rule::Avoid];
const NODE: &[Rule] = &[Rule::Preemption, Rule::NodeLost];
/// What hurts the controller.
const HARSH: &[Rule] = &[
    Rule::LostAnswer,
    Rule::Unreachable,
    Rule::Hung,
    Rule::Garbled,
    Rule::Missing,
    Rule::Restarted,
    Rule::ReusedId,
];

#[tokio::test]
async fn jobs_and_their_ends() {
    let home = tempfile::tempdir().unwrap();
    let options = ["--nodes", "6", "--node-timeout", "30", "--kill-wait", "4"];
    let Some(cluster) = cluster(home.path(), &options) else {
        return;
    };
    let rig = |node, kind| SlurmRig::new(&cluster, home.path(), node, kind);
    let steps = [
        rig("n1", Kind::Step),
        rig("n3", Kind::Step),
        rig("n5", Kind::Step),
    ];
    let batch = ["n2", "n4", "n6"].map(|node| rig(node, Kind::RerunnableBatch));
    let (a, b, c, d, e, f) = tokio::join!(
        check(&steps[0], LONG),
        check(&batch[0], LONG),
        check(&steps[1], QUICK),
        check(&batch[1], QUICK),
        check(&steps[2], NODE),
        check(&batch[2], NODE),
    );
    let failures = [a, b, c, d, e, f].concat();
    assert!(failures.is_empty(), "{failures:#?}\n{}", cluster.log());
}

#[tokio::test]
async fn silence_and_crashes() {
    let home = tempfile::tempdir().unwrap();
    // Jobs start a little after their submit, so that one can be lost before.
    let options = [
        "--nodes",
        "1",
        "--set",
        "SchedulerParameters=defer,sched_interval=2,bf_interval=2",
    ];
    let Some(cluster) = cluster(home.path(), &options) else {
        return;
    };
    let rig = SlurmRig::new(&cluster, home.path(), "n1", Kind::Step);
    let failures = check(&rig, HARSH).await;
    assert!(failures.is_empty(), "{failures:#?}\n{}", cluster.log());
}

#[test]
fn no_rule_is_left_out() {
    for rule in Rule::ALL {
        let checked = [LONG, QUICK, NODE, HARSH, ELSEWHERE]
            .iter()
            .any(|some| some.contains(rule));
        assert!(checked, "{rule:?}");
    }
}
