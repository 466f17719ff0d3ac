//! The conformance suite on the Slurm adapter over played commands, in the words that were measured
//! on Slurm 22.05: for machines that have no Slurm.

mod fake;
mod rig;

use std::path::Path;

use fake::{FakeRig, Play, whole_suite};
use lrm_adapters::slurm::{Launch, Slurm, SlurmSettings};
use protocol::time::Span;

fn play(profile: &'static str) -> Play {
    Play {
        settings: serde_json::json!({}),
        profile,
        commands: &["sbatch", "squeue", "scancel", "srun"],
        no_preemption: None,
    }
}

fn adapter(launch: Launch) -> impl FnOnce(&Path) -> Slurm {
    move |bin| {
        Slurm::new(SlurmSettings {
            bin_dir: Some(bin.to_owned()),
            launch,
            rerunnable: true,
            timeout: Span::from_secs(5),
            ..SlurmSettings::default()
        })
    }
}

#[tokio::test]
async fn a_pilot_that_is_a_step() {
    whole_suite(&FakeRig::new(play("slurm"), adapter(Launch::Step)), &[]).await;
}

#[tokio::test]
async fn a_pilot_that_is_the_batch_process() {
    whole_suite(
        &FakeRig::new(play("slurm-cgroup"), adapter(Launch::Batch)),
        &[],
    )
    .await;
}
