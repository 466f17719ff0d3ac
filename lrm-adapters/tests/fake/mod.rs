//! A rig for the conformance suite: an adapter whose commands are played by `fake-lrm` on a
//! simulated LRM with real processes.

use std::cell::RefCell;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lrm_adapters::LocalResourceManager;
use lrm_adapters::conformance::{Action, Can, Disturbance, Rig, Rule, Shape, TestJobs};
use lrm_adapters::sim::testing::Daemon;
use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::PilotJob;

use crate::rig::{check, runs_in, test_jobs};

/// What is played.
pub struct Play {
    /// What `fake-lrm.json` has beside the daemon's directory.
    pub settings: serde_json::Value,
    /// The signal profile of the simulated LRM.
    pub profile: &'static str,
    /// The commands.
    pub commands: &'static [&'static str],
    /// This LRM cannot preempt, and why.
    pub no_preemption: Option<&'static str>,
}

/// The rig.
pub struct FakeRig<L> {
    home: tempfile::TempDir,
    daemon: RefCell<Daemon>,
    play: Play,
    lrm: L,
    jobs: TestJobs,
}

impl<L> FakeRig<L> {
    /// Starts the daemon, makes the commands, and the adapter from their directory.
    pub fn new(play: Play, adapter: impl FnOnce(&Path) -> L) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            r#"
            profile = "{}"
            kill_wait = "2s"
            lateness_percent = 0
            requeue_hold_off = "0s"
            node_timeout = "1s"
            [[nodes]]
            name = "n1"
            cores = 4
            memory = "4 GiB"
            disk = "10 GiB"
            "#,
            play.profile
        );
        let binary = Path::new(env!("CARGO_BIN_EXE_sim-lrm"));
        let daemon = Daemon::start(binary, &home.path().join("lrm"), &config).unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for command in play.commands {
            symlink(fake_lrm(), bin.join(command)).unwrap();
        }
        let mut file = play.settings.clone();
        file["sim"] = daemon.dir().display().to_string().into();
        std::fs::write(bin.join("fake-lrm.json"), file.to_string()).unwrap();
        Self {
            lrm: adapter(&bin),
            // A blank, a quote and a dollar: everything is escaped.
            jobs: test_jobs(home.path(), "jobs of 'us' $HOME", "wp-test"),
            home,
            daemon: RefCell::new(daemon),
            play,
        }
    }

    fn command(&self, args: &[&str]) -> Can {
        let output = self.daemon.borrow().command(args).unwrap();
        assert!(
            output.status.success(),
            "sim-lrm {args:?}: {output:?}\nlog: {}",
            self.log()
        );
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.daemon.borrow().log()).unwrap()
    }

    /// Has the daemon misbehave: the words after `sim-lrm fault add`.
    pub fn misbehave(&self, fault: &[&str]) -> Can {
        self.command(&[&["fault", "add"], fault].concat())
    }

    /// The commands that were run, one a line.
    pub fn commands(&self) -> String {
        std::fs::read_to_string(self.home.path().join("bin/commands.log")).unwrap_or_default()
    }
}

/// The program, beside this one.
fn fake_lrm() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let path = me.ancestors().nth(2).unwrap().join("examples/fake-lrm");
    assert!(
        path.is_file(),
        "{} is missing; build it with `cargo build -p lrm-adapters --examples`",
        path.display()
    );
    path
}

/// The number of a job in the simulated LRM: what stands before the server's name.
fn number(id: &LrmJobId) -> &str {
    id.as_str().split('.').next().unwrap_or_default()
}

impl<L: LocalResourceManager> Rig for FakeRig<L> {
    type Lrm = L;

    fn lrm(&self) -> &L {
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
            Action::Preempt(id) => match self.play.no_preemption {
                None => self.command(&["preempt", number(&id)]),
                Some(why) => Err(why.to_owned()),
            },
            Action::Requeue(id) => self.command(&["requeue", number(&id)]),
            Action::Shorten(id, by) => {
                let by = format!("{}ms", by.as_millis());
                self.command(&["shorten", number(&id), &by])
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
            Disturbance::Garble => self.misbehave(&["garbled", "--always"]),
            Disturbance::Hide(id) => {
                let id = number(&id);
                self.command(&["fault", "add", "missing", "--always", "--job", id])
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
        Duration::from_secs(100)
    }
}

/// Every rule on one rig, one after the other. `skipped` are the numbers of those that are not
/// applicable; all others have to pass.
pub async fn whole_suite<L: LocalResourceManager>(rig: &FakeRig<L>, skipped: &[u32]) {
    let skipped: Vec<Rule> = (Rule::ALL.iter().copied())
        .filter(|rule| skipped.contains(&rule.number()))
        .collect();
    let failures = check(rig, rig.play.profile, Rule::ALL, &skipped).await;
    assert!(
        failures.is_empty(),
        "{failures:#?}\n{}\n{}",
        rig.log(),
        rig.commands()
    );
}
