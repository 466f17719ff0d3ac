//! What the rigs of the conformance tests have in common: awkward test jobs, a look at this
//! machine's processes, and the run over the rules.

use std::path::Path;

use lrm_adapters::conformance::{Rig, Rule, TestJobs, Verdict};
use protocol::ids::{SiteName, SubmitKey};
use protocol::lrm::PilotJob;
use protocol::resources::Resources;
use protocol::slot_file::{BrokerAccess, HypervisorKind, HypervisorSection};
use protocol::time::Span;

/// Jobs whose paths have to be escaped, with directories in `place`, which is below `home` unless
/// absolute. A whole node has four cores.
pub fn test_jobs(home: &Path, place: impl AsRef<Path>, prefix: &str) -> TestJobs {
    let small = Resources {
        cores: 1,
        memory_mib: 128,
        disk_mib: 64,
    };
    let template = PilotJob {
        // Key, program, directory, walltime and token are those of each job.
        key: SubmitKey::new("wp-template").unwrap(),
        site: SiteName::new("lab").unwrap(),
        program: home.join("pilot"),
        directory: home.to_owned(),
        resources: small,
        walltime: Span::from_mins(10),
        min_walltime: None,
        notice: Span::from_secs(2),
        margin: Span::from_millis(500),
        broker: BrokerAccess {
            url: "http://127.0.0.1:1".to_owned(),
            token_file: home.join("token"),
            ca_file: None,
        },
        hypervisor: HypervisorSection {
            kind: HypervisorKind::Null,
            accelerator: None,
            binary: None,
            machine: None,
            cpu: None,
        },
        scratch: home.join("scra\"tch"),
        store: home.join("store"),
        avoid: Vec::new(),
        nodes: 1,
    };
    let whole_node = Resources { cores: 4, ..small };
    TestJobs::new(template, whole_node, &home.join(place), prefix)
}

/// True when a process of this machine runs the program of the job in this directory.
pub fn runs_in(directory: &Path) -> Result<bool, String> {
    let mark = format!("{}/pilot\0", directory.display());
    let mut processes = std::fs::read_dir("/proc").map_err(|e| e.to_string())?;
    Ok(processes.any(|entry| {
        entry.is_ok_and(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|c| String::from_utf8_lossy(&c).contains(&mark))
        })
    }))
}

/// Checks rules one after the other: what one leaves behind is the next one's trouble. Gives those
/// that do not pass, and those that are not applicable or pass against expectation.
pub async fn check(
    rig: &impl Rig,
    name: &str,
    rules: &[Rule],
    not_applicable: &[Rule],
) -> Vec<String> {
    let mut failures = Vec::new();
    for rule in rules {
        let verdict = rule.check(rig).await;
        let line = format!(
            "{name}: rule {} {}: {verdict:?}",
            rule.number(),
            rule.title()
        );
        println!("{line}");
        let expected = match verdict {
            Verdict::Pass => !not_applicable.contains(rule),
            Verdict::NotApplicable(_) => not_applicable.contains(rule),
            Verdict::Fail(_) => false,
        };
        if !expected {
            failures.push(line);
        }
    }
    failures
}
