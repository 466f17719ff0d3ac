//! The conformance suite on the simulated LRM: every rule under every profile, with real
//! processes.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use lrm_adapters::conformance::{Action, Can, Disturbance, Program, Rig, Rule, Shape, Verdict};
use lrm_adapters::sim::testing::Daemon;
use lrm_adapters::sim::{SimLrm, SimLrmSettings};
use protocol::ids::{SiteName, SubmitKey};
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

struct SimRig {
    home: tempfile::TempDir,
    daemon: RefCell<Daemon>,
    lrm: SimLrm,
    jobs: Cell<u32>,
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
            home,
            daemon: RefCell::new(daemon),
            lrm,
            jobs: Cell::new(0),
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
        std::fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        Ok(PilotJob {
            key,
            site: SiteName::new("lab").unwrap(),
            program,
            nodes: 1,
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

/// Every rule on one rig, one after the other: what one leaves behind is the next one's trouble.
async fn whole_suite(profile: &str) {
    let rig = SimRig::new(profile);
    let mut failures = Vec::new();
    for rule in Rule::ALL {
        let verdict = rule.check(&rig).await;
        println!(
            "{profile}: rule {} {}: {verdict:?}",
            rule.number(),
            rule.title()
        );
        if verdict != Verdict::Pass {
            failures.push((rule, verdict));
        }
    }
    let log = std::fs::read_to_string(rig.daemon.borrow().log()).unwrap();
    assert!(failures.is_empty(), "{profile}: {failures:#?}\n{log}");
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
