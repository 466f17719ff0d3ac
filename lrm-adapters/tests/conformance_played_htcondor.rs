//! The conformance suite on the HTCondor adapter over played commands, in the words that were
//! measured on HTCondor 23.9: for machines that have no HTCondor.

mod fake;
mod rig;

use fake::{FakeRig, Play, whole_suite};
use lrm_adapters::htcondor::{Htcondor, HtcondorSettings};
use protocol::time::Span;

#[tokio::test]
async fn jobs_that_may_start_again() {
    let play = Play {
        settings: serde_json::json!({}),
        profile: "htcondor",
        commands: &["condor_submit", "condor_q", "condor_rm"],
        no_preemption: None,
    };
    let rig = FakeRig::new(play, |bin| {
        Htcondor::new(HtcondorSettings {
            bin_dir: Some(bin.to_owned()),
            rerunnable: true,
            timeout: Span::from_secs(5),
            ..HtcondorSettings::default()
        })
    });
    whole_suite(&rig, &[]).await;
}
