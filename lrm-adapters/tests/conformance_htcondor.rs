//! The conformance suite on a real HTCondor pool of one node (`scripts/lab/condor`).

mod rig;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lrm_adapters::conformance::{Action, Can, Disturbance, Rig, Rule, Shape, TestJobs};
use lrm_adapters::htcondor::testing::Pool;
use lrm_adapters::htcondor::{Htcondor, HtcondorSettings, Transfer};
use lrm_adapters::{LocalResourceManager as _, Lrm};
use protocol::ids::SubmitKey;
use protocol::lrm::{Observation, PilotJob};
use protocol::time::Span;
use rig::{check, runs_in, test_jobs};

/// Runs the adapter's commands, or plays what `fault` beside it says.
const FAULTY: &str = r#"#!/bin/sh
fault=
[ ! -e "${0%/*}/fault" ] || read -r fault < "${0%/*}/fault"
case $fault:${2##*/} in
  lose-answer:condor_submit)
    rm -f "${0%/*}/fault"
    "$@" > /dev/null 2>&1
    echo 'Connection to submit1 closed by remote host.' >&2
    exit 255 ;;
  garble:*) "$@" | head -c 40; exit 0 ;;
  hide:condor_q) exit 0 ;;
esac
exec "$@"
"#;

/// The walltime of every test job but that of rule 10.
const WALLTIME: Span = Span::from_mins(10);

struct PoolRig<'a> {
    pool: &'a Pool,
    home: PathBuf,
    name: &'static str,
    lrm: Lrm,
    jobs: TestJobs,
}

impl<'a> PoolRig<'a> {
    fn new(pool: &'a Pool, name: &'static str, settings: HtcondorSettings) -> Self {
        // A quote and a dollar: everything is escaped.
        let home = pool.share().join(format!("{name}, it's $HOME"));
        std::fs::create_dir(&home).unwrap();
        let faulty = home.join("faulty");
        executable(&faulty, FAULTY);
        let mut prefix = vec![faulty.display().to_string()];
        prefix.extend(pool.prefix());
        let settings = HtcondorSettings {
            timeout: Span::from_secs(6),
            prefix,
            ..settings
        };
        // Without a comma, which a list of files to copy cannot hold.
        let jobs = pool.share().join("jobs of 'us' $HOME");
        Self {
            pool,
            jobs: test_jobs(&home, jobs, &format!("wp-{name}")),
            home,
            name,
            lrm: Lrm::Htcondor(Box::new(Htcondor::new(settings))),
        }
    }

    fn fault(&self, word: &str) -> Can {
        std::fs::write(self.home.join("fault"), format!("{word}\n")).map_err(|e| e.to_string())
    }

    fn command(&self, args: &[&str]) -> Can {
        self.pool.command(args).map(drop).map_err(|e| e.to_string())
    }

    fn signal(&self, name: &str, signal: &str) {
        self.pool.signal(name, signal).unwrap();
    }

    async fn check(&self, rules: &[Rule], impossible: &[Rule]) -> Vec<String> {
        check(self, self.name, rules, impossible).await
    }
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Rig for PoolRig<'_> {
    type Lrm = Lrm;

    fn lrm(&self) -> &Lrm {
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
        job.resources.cores = 100;
        Ok(job)
    }

    async fn is_alive(&self, key: &SubmitKey) -> Result<bool, String> {
        runs_in(&self.jobs.directory(key))
    }

    async fn act(&self, action: Action) -> Can {
        match action {
            Action::Preempt(id) => self.command(&["condor_vacate_job", id.as_str()]),
            Action::Requeue(id) => match &self.lrm {
                Lrm::Htcondor(lrm) if !lrm.capabilities().same_id_restart => {
                    Err("these jobs never start again".to_owned())
                }
                Lrm::Htcondor(_) => self.command(&["condor_vacate_job", id.as_str()]),
                other => Err(format!("not HTCondor: {other:?}")),
            },
            Action::Shorten(id, by) => {
                let left = WALLTIME.minus(by).as_millis() / 1000;
                let left = left.to_string();
                self.command(&["condor_qedit", id.as_str(), "AllowedJobDuration", &left])
            }
            // Nothing speaks for the node any more; its jobs run on.
            Action::LoseNode(_) => {
                self.signal("condor_master", "STOP");
                self.signal("condor_startd", "KILL");
                self.signal("condor_starter", "KILL");
                Ok(())
            }
            // The master starts it again.
            Action::Restart => {
                self.signal("condor_schedd", "KILL");
                Ok(())
            }
            Action::LoseNewestJob => {
                Err("a schedd has a job on disk before it tells its id".to_owned())
            }
        }
    }

    async fn disturb(&self, disturbance: Disturbance) -> Can {
        match disturbance {
            Disturbance::LoseSubmitAnswer => self.fault("lose-answer"),
            Disturbance::Garble => self.fault("garble"),
            Disturbance::Hide(_) => self.fault("hide"),
            Disturbance::Hang => {
                self.signal("condor_schedd", "STOP");
                Ok(())
            }
            Disturbance::Unreachable => {
                self.signal("condor_master", "STOP");
                self.signal("condor_schedd", "KILL");
                Ok(())
            }
        }
    }

    async fn calm(&self) {
        let _ = std::fs::remove_file(self.home.join("fault"));
        self.signal("condor_schedd", "CONT");
        self.signal("condor_master", "CONT");
        let up = async {
            while !matches!(self.lrm.observe().await, Observation::Listing(_)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(self.patience(), up).await.is_err() {
            println!(
                "the schedd does not come back:\n{}",
                self.pool.log("SchedLog")
            );
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
}

#[tokio::test]
async fn htcondor() {
    if !Pool::is_possible() {
        println!("NOT TESTED: a pool needs root");
        return;
    }
    let place = tempfile::Builder::new()
        .prefix("wp-condor-")
        .tempdir()
        .unwrap();
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lab/condor");
    let pool = Pool::start(&lab, place.path()).unwrap();
    println!("{}", pool.command(&["condor_version"]).unwrap());

    let once = PoolRig::new(&pool, "once", HtcondorSettings::default());
    let impossible = [Rule::Requeue, Rule::ReusedId];
    let rules: Vec<Rule> = Rule::ALL
        .iter()
        .copied()
        .filter(|r| *r != Rule::NodeLost)
        .collect();
    let mut failures = once.check(&rules, &impossible).await;

    // A schedd gives a node up when the job's lease is over: 40 min by default.
    let short = HtcondorSettings {
        job_lease: Span::from_secs(15),
        ..HtcondorSettings::default()
    };
    let short = PoolRig::new(&pool, "short", short);
    failures.extend(short.check(&[Rule::NodeLost], &[]).await);

    // Jobs that may start again under their id.
    let again = HtcondorSettings {
        rerunnable: true,
        ..HtcondorSettings::default()
    };
    let again = PoolRig::new(&pool, "again", again);
    let rules = [Rule::Preemption, Rule::Requeue, Rule::CancelRunning];
    failures.extend(again.check(&rules, &[]).await);

    // Nothing but the store is shared.
    let copied = HtcondorSettings {
        transfer: Transfer::Copied,
        ..HtcondorSettings::default()
    };
    let copied = PoolRig::new(&pool, "copied", copied);
    let rules = [Rule::SlotFile, Rule::ExitCode, Rule::Walltime];
    failures.extend(copied.check(&rules, &[]).await);

    if !failures.is_empty() {
        for log in ["SchedLog", "StartLog", "ShadowLog"] {
            println!("end of {log}:\n{}", pool.log(log));
        }
    }
    drop(pool);
    assert!(failures.is_empty(), "{failures:#?}");
}
