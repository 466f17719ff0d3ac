//! `lrm-conformance` against a real Slurm, with its administrator's help.

use anyhow::Result;
use e2e::harness::qualify::{PLAYED, only};
use e2e::harness::slurm::{Again, SlurmSite};
use e2e::harness::{Guests, Installation, Setup};

#[tokio::test]
async fn a_real_slurm_is_qualified() -> Result<()> {
    let options = ["--nodes", "1", "--node-timeout", "30", "--kill-wait", "4"];
    let Some(slurm) = SlurmSite::start(&options)? else {
        return Ok(());
    };
    let it = Installation::start(&Setup {
        walltime: "10m",
        notice: "3s",
        batch: Some(slurm.lrm(Again::Never)),
        ..Setup::new(Guests::Null)
    })
    .await?;
    let done = it
        .qualify(&[slurm.administrator(), only(&PLAYED)].concat())
        .await?;
    done.all_pass_but(&[]).map_err(|e| e.context(slurm.log()))?;
    let report = done.report()?;
    assert_eq!(report.lrm, "Slurm");
    assert!(
        report
            .version
            .as_ref()
            .is_some_and(|v| v.starts_with("slurm")),
        "{report:#?}"
    );
    let jobs = slurm.pilot_jobs()?;
    let alive = ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING"];
    assert!(
        jobs.iter().all(|j| !alive.contains(&j.state.as_str())),
        "{jobs:?}"
    );
    it.nothing_of_conformance_is_left().await
}
