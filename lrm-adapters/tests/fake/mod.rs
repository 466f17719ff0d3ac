//! A rig for the conformance suite: an adapter whose commands are played by `fake-lrm` on a
//! simulated LRM with real processes.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lrm_adapters::LocalResourceManager;
use lrm_adapters::conformance::{Action, Can, Disturbance, Program, Rig, Rule, Shape, Verdict};
use lrm_adapters::sim::testing::Daemon;
use protocol::ids::{LrmJobId, SiteName, SubmitKey};
use protocol::lrm::PilotJob;
use protocol::resources::Resources;
use protocol::slot_file::{BrokerAccess, HypervisorKind, HypervisorSection};
use protocol::time::Span;

/// Behaves as [`Program`] says; `BEHAVIOUR` is replaced.
const PILOT: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 90
n=0
while [ -e "started.$n" ]; do n=$((n + 1)); done
term() { : > "term.$n"; [ BEHAVIOUR = obeys ] && exit 0; }
trap term TERM
[ "$1 $2" = "run --slot" ] && cp "$3" "slot.$n.toml" || exit 91
: > "started.$n"
case BEHAVIOUR in exits-*) exit "${BEHAVIOUR_CODE}" ;; esac
while :; do sleep 0.05; done
"#;

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
    jobs: Cell<u32>,
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
            home,
            daemon: RefCell::new(daemon),
            play,
            jobs: Cell::new(0),
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
        self.jobs.set(self.jobs.get() + 1);
        let key = SubmitKey::new(&format!("wp-test-{}", self.jobs.get())).unwrap();
        // A blank, a quote and a dollar: everything is escaped.
        let directory = self.home.path().join(format!("jobs of 'us' $HOME/{key}"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("token"), "wp1.very-secret.token").unwrap();
        let (word, code) = match shape.program {
            Program::Exits(code) => (format!("exits-{code}"), code.to_string()),
            Program::Obeys => ("obeys".to_owned(), String::new()),
            Program::Ignores => ("ignores".to_owned(), String::new()),
        };
        let program = directory.join("pilot");
        let text = PILOT
            .replace("${BEHAVIOUR_CODE}", &code)
            .replace("BEHAVIOUR", &word);
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Ok(PilotJob {
            key,
            site: SiteName::new("lab").unwrap(),
            program,
            resources: Resources {
                cores: if shape.whole_node { 4 } else { 1 },
                memory_mib: 128,
                disk_mib: 64,
            },
            walltime: shape.walltime,
            min_walltime: None,
            notice: Span::from_secs(2),
            margin: Span::from_millis(500),
            broker: BrokerAccess {
                url: "http://127.0.0.1:1".to_owned(),
                token_file: directory.join("token"),
                ca_file: None,
            },
            hypervisor: HypervisorSection {
                kind: HypervisorKind::Null,
                accelerator: None,
                binary: None,
                machine: None,
                cpu: None,
            },
            scratch: self.home.path().join("scra\"tch"),
            store: self.home.path().join("store"),
            avoid: Vec::new(),
            directory,
        })
    }

    fn keys(&self) -> Vec<SubmitKey> {
        (1..=self.jobs.get())
            .map(|n| SubmitKey::new(&format!("wp-test-{n}")).unwrap())
            .collect()
    }

    fn impossible_job(&self) -> Result<PilotJob, String> {
        let mut job = self.job(&Shape::obeying())?;
        job.resources.cores = 64;
        Ok(job)
    }

    fn is_alive(&self, key: &SubmitKey) -> Result<bool, String> {
        let mark = format!("{key}/pilot\0");
        Ok(self.daemon.borrow().job_processes().iter().any(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|c| String::from_utf8_lossy(&c).contains(&mark))
        }))
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
    let mut failures = Vec::new();
    for rule in Rule::ALL {
        let verdict = rule.check(rig).await;
        println!("rule {} {}: {verdict:?}", rule.number(), rule.title());
        let wanted = match &verdict {
            Verdict::Pass => !skipped.contains(&rule.number()),
            Verdict::NotApplicable(_) => skipped.contains(&rule.number()),
            Verdict::Fail(_) => false,
        };
        if !wanted {
            failures.push((rule, verdict));
        }
    }
    assert!(
        failures.is_empty(),
        "{failures:#?}\n{}\n{}",
        rig.log(),
        rig.commands()
    );
}
