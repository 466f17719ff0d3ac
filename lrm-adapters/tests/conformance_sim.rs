//! The conformance suite on the simulated LRM: every rule under every profile, with real
//! processes.

mod rig;

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use lrm_adapters::conformance::{Action, Can, Disturbance, Rig, Rule, Shape, TestJobs};
use lrm_adapters::sim::testing::Daemon;
use lrm_adapters::sim::{SimLrm, SimLrmSettings};
use protocol::ids::SubmitKey;
use protocol::lrm::PilotJob;
use protocol::time::Span;
use rig::{check, runs_in, test_jobs};

struct SimRig {
    daemon: RefCell<Daemon>,
    lrm: SimLrm,
    jobs: TestJobs,
    _home: tempfile::TempDir,
}

impl SimRig {
    fn new(profile: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            r#"
            profile = "{profile}"
            kill_wait = "2s"
            lateness_percent = 0
            requeue_hold_off = "0s"
            node_timeout = "1s"
            [[nodes]]
            name = "n1"
            cores = 4
            memory = "4 GiB"
            disk = "10 GiB"
            "#
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_sim-lrm"));
        let daemon = Daemon::start(binary, &home.path().join("lrm"), &config).unwrap();
        let lrm = SimLrm::new(SimLrmSettings {
            timeout: Span::from_secs(3),
            ..daemon.settings()
        });
        Self {
            daemon: RefCell::new(daemon),
            lrm,
            // A blank, a quote and a dollar: everything is escaped.
            jobs: test_jobs(home.path(), "jobs of 'us' $HOME", "wp-test"),
            _home: home,
        }
    }

    fn command(&self, args: &[&str]) -> Can {
        let output = self.daemon.borrow().command(args).unwrap();
        assert!(
            output.status.success(),
            "sim-lrm {args:?}: {output:?}\nlog: {}",
            std::fs::read_to_string(self.daemon.borrow().log()).unwrap()
        );
        Ok(())
    }
}

impl Rig for SimRig {
    type Lrm = SimLrm;

    fn lrm(&self) -> &SimLrm {
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
        job.resources.cores = 64;
        Ok(job)
    }

    async fn is_alive(&self, key: &SubmitKey) -> Result<bool, String> {
        runs_in(&self.jobs.directory(key))
    }

    async fn act(&self, action: Action) -> Can {
        match action {
            Action::Preempt(id) => self.command(&["preempt", id.as_str()]),
            Action::Requeue(id) => self.command(&["requeue", id.as_str()]),
            Action::Shorten(id, by) => {
                self.command(&["shorten", id.as_str(), &format!("{}ms", by.as_millis())])
            }
            Action::LoseNode(node) => self.command(&["fail", node.as_str(), "--how", "lost"]),
            Action::Restart => {
                self.daemon.borrow_mut().run().unwrap();
                Ok(())
            }
            Action::LoseNewestJob => self.command(&["crash"]),
        }
    }

    async fn disturb(&self, disturbance: Disturbance) -> Can {
        match disturbance {
            Disturbance::LoseSubmitAnswer => {
                self.command(&["fault", "add", "lost-answer", "--on", "submit"])
            }
            Disturbance::Garble => self.command(&["fault", "add", "garbled", "--always"]),
            Disturbance::Hide(id) => {
                self.command(&["fault", "add", "missing", "--always", "--job", id.as_str()])
            }
            Disturbance::Hang => {
                self.daemon.borrow().freeze();
                Ok(())
            }
            Disturbance::Unreachable => {
                self.daemon.borrow_mut().kill();
                Ok(())
            }
        }
    }

    async fn calm(&self) {
        self.daemon.borrow().thaw();
        if self.daemon.borrow().pid().is_none() {
            self.daemon.borrow_mut().run().unwrap();
        }
        self.command(&["fault", "clear"]).unwrap();
        self.command(&["restore", "n1"]).unwrap();
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

async fn whole_suite(profile: &str) {
    let rig = SimRig::new(profile);
    let failures = check(&rig, profile, Rule::ALL, &[]).await;
    let log = std::fs::read_to_string(rig.daemon.borrow().log()).unwrap();
    assert!(failures.is_empty(), "{failures:#?}\n{log}");
}

#[tokio::test]
async fn slurm() {
    whole_suite("slurm").await;
}

#[tokio::test]
async fn slurm_with_cgroups() {
    whole_suite("slurm-cgroup").await;
}

#[tokio::test]
async fn pbs() {
    whole_suite("pbs").await;
}

#[tokio::test]
async fn htcondor() {
    whole_suite("htcondor").await;
}

#[test]
fn the_specification_names_every_rule() {
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/adapters/README.md"
    ))
    .unwrap();
    for rule in Rule::ALL {
        let title = rule.title();
        let line = format!(
            "{}. {}{}",
            rule.number(),
            title[..1].to_uppercase(),
            &title[1..]
        );
        assert!(
            text.contains(&line),
            "not in docs/adapters/README.md: {line}"
        );
    }
}
