//! `lrm-conformance` against a real HTCondor pool, with its administrator's help.

use anyhow::Result;
use e2e::harness::condor::CondorSite;
use e2e::harness::qualify::{PLAYED, only};
use e2e::harness::{Guests, Installation, Setup};

#[tokio::test]
async fn a_real_htcondor_is_qualified() -> Result<()> {
    let Some(site) = CondorSite::start(None)? else {
        return Ok(());
    };
    let setup = Setup {
        walltime: "10m",
        ..site.setup(Guests::Null, "shared")
    };
    let it = Installation::start_with(&setup, site.binaries.clone()).await?;
    let done = it
        .qualify(&[site.administrator(), only(&PLAYED)].concat())
        .await?;
    done.all_pass_but(&[])
        .map_err(|e| e.context(site.pool.log("SchedLog")))?;
    let report = done.report()?;
    assert_eq!(report.lrm, "HTCondor");
    let version = report.version.clone().unwrap_or_default();
    assert!(version.contains("CondorVersion"), "{report:#?}");
    site.has_no_living_job().await?;
    it.nothing_of_conformance_is_left().await
}
