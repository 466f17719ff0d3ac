//! Nodes that a submit leaves out, on a real Slurm of two nodes: the rig of the conformance suite
//! has one node for each set of rules and cannot show where else a job goes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use lrm_adapters::LocalResourceManager as _;
use lrm_adapters::slurm::Slurm;
use lrm_adapters::slurm::testing::{Cluster, is_installed};
use protocol::ids::{LrmJobId, NodeName, SiteName, SubmitKey};
use protocol::lrm::{JobState, Observation, PilotJob, SubmitAnswer};
use protocol::resources::Resources;
use protocol::slot_file::{BrokerAccess, HypervisorKind, HypervisorSection};
use protocol::time::Span;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lab/slurm");

fn job(home: &Path, key: &str, avoid: &[&str]) -> PilotJob {
    let directory = home.join(key);
    std::fs::create_dir_all(&directory).unwrap();
    let program = directory.join("pilot");
    std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    PilotJob {
        key: SubmitKey::new(key).unwrap(),
        site: SiteName::new("lab").unwrap(),
        program,
        resources: Resources {
            cores: 1,
            memory_mib: 64,
            disk_mib: 1,
        },
        walltime: Span::from_mins(10),
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
        scratch: home.join("scratch"),
        store: home.join("store"),
        avoid: avoid.iter().map(|n| NodeName::new(n).unwrap()).collect(),
        nodes: 1,
        directory,
    }
}

/// Waits until the job runs, and says where.
async fn node_of(slurm: &Slurm, id: &LrmJobId, cluster: &Cluster) -> NodeName {
    for _ in 0..24_000 {
        if let Observation::Listing(jobs) = slurm.observe().await
            && let Some(job) = jobs.into_iter().find(|j| j.id == *id)
            && job.state == JobState::Running
        {
            return job.node.expect("a running job has a node");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("job {id} does not run:\n{}", cluster.log());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the runner says whether a machine without Slurm is good enough, and a cluster is waited for"
)]
#[tokio::test]
async fn a_node_that_is_to_be_avoided_is_left_out_and_one_that_is_gone_is_no_obstacle() {
    if !is_installed() {
        assert!(
            std::env::var_os("WP_REQUIRE_SLURM").is_none(),
            "Slurm is not installed: run scripts/setup"
        );
        println!("NOT TESTED: Slurm is not installed");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(
        Path::new(LAB),
        &home.path().join("slurm"),
        &["--nodes", "2"],
    )
    .unwrap();
    let slurm = Slurm::new(cluster.settings());
    for (key, avoid, goes_to) in [
        ("wp-1", vec!["n1"], Some("n2")),
        ("wp-2", vec!["n2"], Some("n1")),
        // A node that the cluster has given up, and a name that is none.
        ("wp-3", vec!["n1", "gone"], None),
        ("wp-4", vec!["n1;", "-"], None),
    ] {
        let job = job(home.path(), key, &avoid);
        let answer = slurm.submit(&job).await;
        let SubmitAnswer::Accepted(id) = answer else {
            panic!("{key}: {answer:?}")
        };
        let node = node_of(&slurm, &id, &cluster).await;
        if let Some(wanted) = goes_to {
            assert_eq!(node.as_str(), wanted, "{key}");
        }
        slurm.cancel(&id, &job.key).await;
    }
    let answer = slurm.submit(&job(home.path(), "wp-5", &["n1", "n2"])).await;
    let SubmitAnswer::Refused(why) = answer else {
        panic!("{answer:?}")
    };
    assert!(why.contains("failed lately: n1, n2"), "{why}");
}
