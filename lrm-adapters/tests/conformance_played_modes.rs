//! The played commands of PBS, Slurm and HTCondor in their bad modes. The suites
//! (`conformance_pbs`, `conformance_played_*`) run them in the normal one, with single faults.
//!
//! * slow: every answer is true and comes late, within the limit. The rules hold all the same.
//! * failing: errors and hung commands. No answer is ever read as a yes, a no or an end.
//! * lying: jobs that are missing from a listing or in a state that nobody knows.

#[expect(dead_code, reason = "this file uses a part of the rig")]
mod fake;

use std::path::Path;

use fake::{FakeRig, Play};
use lrm_adapters::conformance::{Action, Can, Disturbance, Rig, Rule, Shape, Verdict};
use lrm_adapters::htcondor::{Htcondor, HtcondorSettings};
use lrm_adapters::pbs::{Pbs, PbsSettings};
use lrm_adapters::slurm::{Slurm, SlurmSettings};
use lrm_adapters::{LocalResourceManager, Lrm};
use protocol::ids::SubmitKey;
use protocol::lrm::{CancelAnswer, JobState, Observation, ObservedJob, PilotJob, SubmitAnswer};
use protocol::time::Span;

/// The limit of each command. A slow answer takes a second of it.
const LIMIT: Span = Span::from_secs(8);

fn pbs() -> FakeRig<Lrm> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid());
    let play = Play {
        settings: serde_json::json!({
            "pbs": "openpbs", "history": true, "user": user.unwrap().unwrap().name,
        }),
        profile: "pbs",
        commands: &["qsub", "qstat", "qdel"],
        no_preemption: None,
    };
    FakeRig::new(play, |bin: &Path| {
        Lrm::Pbs(Pbs::new(PbsSettings {
            bin_dir: Some(bin.to_owned()),
            timeout: LIMIT,
            ..PbsSettings::new()
        }))
    })
}

fn slurm() -> FakeRig<Lrm> {
    let play = Play {
        settings: serde_json::json!({}),
        profile: "slurm",
        commands: &["sbatch", "squeue", "scancel", "srun"],
        no_preemption: None,
    };
    FakeRig::new(play, |bin: &Path| {
        Lrm::Slurm(Slurm::new(SlurmSettings {
            bin_dir: Some(bin.to_owned()),
            timeout: LIMIT,
            ..SlurmSettings::default()
        }))
    })
}

fn htcondor() -> FakeRig<Lrm> {
    let play = Play {
        settings: serde_json::json!({}),
        profile: "htcondor",
        commands: &["condor_submit", "condor_q", "condor_rm", "condor_version"],
        no_preemption: None,
    };
    FakeRig::new(play, |bin: &Path| {
        Lrm::Htcondor(Box::new(Htcondor::new(HtcondorSettings {
            bin_dir: Some(bin.to_owned()),
            timeout: LIMIT,
            ..HtcondorSettings::default()
        })))
    })
}

/// The same with every answer late.
struct Slow<'a>(&'a FakeRig<Lrm>);

impl Slow<'_> {
    fn begin(&self) {
        self.0
            .misbehave(&["late", "--always", "--by", "1s"])
            .unwrap();
    }
}

impl Rig for Slow<'_> {
    type Lrm = Lrm;

    fn lrm(&self) -> &Lrm {
        self.0.lrm()
    }

    fn job(&self, shape: &Shape) -> Result<PilotJob, String> {
        self.0.job(shape)
    }

    fn keys(&self) -> Vec<SubmitKey> {
        self.0.keys()
    }

    fn impossible_job(&self) -> Result<PilotJob, String> {
        self.0.impossible_job()
    }

    fn is_alive(&self, key: &SubmitKey) -> Result<bool, String> {
        self.0.is_alive(key)
    }

    async fn act(&self, action: Action) -> Can {
        self.0.act(action).await
    }

    async fn disturb(&self, _: Disturbance) -> Can {
        Err("one fault at a time, and this is the slow mode".to_owned())
    }

    async fn calm(&self) {
        self.0.calm().await;
        self.begin();
    }

    fn patience(&self) -> std::time::Duration {
        self.0.patience() * 2
    }
}

/// What can be said of an LRM that is slow and otherwise well.
const SLOWLY: &[Rule] = &[
    Rule::FoundByKey,
    Rule::RefusedLeavesNothing,
    Rule::SlotFile,
    Rule::ExitCode,
    Rule::CancelRunning,
    Rule::CancelUnknown,
    Rule::Withdraw,
    Rule::Restarted,
];

async fn slow(rig: FakeRig<Lrm>) {
    let slow = Slow(&rig);
    slow.begin();
    let mut failures = Vec::new();
    for rule in SLOWLY {
        let verdict = rule.check(&slow).await;
        println!("rule {} {}: {verdict:?}", rule.number(), rule.title());
        if verdict != Verdict::Pass {
            failures.push((rule, verdict));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}\n{}", rig.commands());
    rig.calm().await;
}

/// A job that runs, as it is listed.
async fn running(rig: &FakeRig<Lrm>) -> (PilotJob, ObservedJob) {
    let job = rig.job(&Shape::obeying()).unwrap();
    let answer = rig.lrm().submit(&job).await;
    assert!(matches!(answer, SubmitAnswer::Accepted(_)), "{answer:?}");
    let seen = listed(rig, &job, |seen| seen.state == JobState::Running).await;
    (job, seen)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where these tests wait, bounded and on a condition"
)]
async fn listed(
    rig: &FakeRig<Lrm>,
    job: &PilotJob,
    wanted: impl Fn(&ObservedJob) -> bool,
) -> ObservedJob {
    let mut last = None;
    for _ in 0..2_000 {
        let seen = rig.lrm().observe().await;
        if let Observation::Listing(jobs) = &seen
            && let Some(found) = (jobs.iter()).find(|j| j.key.as_ref() == Some(&job.key))
            && wanted(found)
        {
            return found.clone();
        }
        last = Some(seen);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("not listed as wanted: {last:?}\n{}", rig.commands())
}

async fn failing(rig: FakeRig<Lrm>) {
    let (job, before) = running(&rig).await;
    let lrm = rig.lrm();
    for fault in ["error", "lost-answer", "hang-after"] {
        rig.misbehave(&[fault, "--always"]).unwrap();
        let (all, one) = (lrm.observe().await, lrm.find_by_key(&job.key).await);
        for seen in [all, one] {
            let silent = matches!(seen, Observation::NoAnswer(_));
            assert!(silent, "{fault}: {seen:?}\n{}", rig.commands());
        }
        // Another job's key: nothing is ended, whatever is said.
        let other = rig.job(&Shape::obeying()).unwrap();
        for answer in [
            lrm.withdraw(&before.id, &other.key).await,
            lrm.cancel(&before.id, &other.key).await,
        ] {
            let silent = matches!(answer, CancelAnswer::NoAnswer(_));
            assert!(silent, "{fault}: {answer:?}\n{}", rig.commands());
        }
        let answer = lrm.submit(&other).await;
        let silent = matches!(answer, SubmitAnswer::NoAnswer(_));
        assert!(silent, "{fault}: {answer:?}\n{}", rig.commands());
        rig.calm().await;
        // Whether the job was made is told by its key, and there is one at most.
        let found = lrm.find_by_key(&other.key).await;
        let Observation::Listing(jobs) = &found else {
            panic!("{fault}: {found:?}")
        };
        let made = usize::from(fault != "error");
        assert_eq!(jobs.len(), made, "{fault}: {jobs:?}");
        for made in jobs {
            lrm.cancel(&made.id, &other.key).await;
        }
        let now = listed(&rig, &job, |_| true).await;
        assert_eq!(now, before, "{fault}");
    }
    assert_eq!(lrm.cancel(&before.id, &job.key).await, CancelAnswer::Taken);
}

async fn lying(rig: FakeRig<Lrm>) {
    let (job, before) = running(&rig).await;
    rig.misbehave(&["odd-state", "--always"]).unwrap();
    let odd = listed(&rig, &job, |_| true).await;
    assert!(matches!(odd.state, JobState::Unknown(_)), "{odd:?}");
    assert_eq!((&odd.id, &odd.key), (&before.id, &before.key));
    // Not in the listing, by key and in bulk: an empty listing, never an end.
    rig.calm().await;
    rig.misbehave(&["missing", "--always"]).unwrap();
    for seen in [
        rig.lrm().observe().await,
        rig.lrm().find_by_key(&job.key).await,
    ] {
        assert_eq!(seen, Observation::Listing(Vec::new()), "{}", rig.commands());
    }
    rig.calm().await;
    let now = listed(&rig, &job, |_| true).await;
    assert_eq!(now, before);
    let answer = rig.lrm().cancel(&before.id, &job.key).await;
    assert_eq!(answer, CancelAnswer::Taken);
}

macro_rules! modes {
    ($($lrm:ident: $slow:ident $failing:ident $lying:ident;)*) => {$(
        #[tokio::test]
        async fn $slow() {
            slow($lrm()).await;
        }

        #[tokio::test]
        async fn $failing() {
            failing($lrm()).await;
        }

        #[tokio::test]
        async fn $lying() {
            lying($lrm()).await;
        }
    )*};
}

modes! {
    pbs: a_slow_pbs a_failing_pbs a_lying_pbs;
    slurm: a_slow_slurm a_failing_slurm a_lying_slurm;
    htcondor: a_slow_htcondor a_failing_htcondor a_lying_htcondor;
}
