//! The job script and the command lines. Pure.

use protocol::lrm::PilotJob;

use super::SimLrmSettings;
use crate::job_script::{self, OnNode, ProbeWord};
use crate::sim::profiles::Launch;

/// The job's script, in the job's directory.
pub(super) const JOB: &str = "job.sh";

/// A whole `sim-lrm` command line.
pub(super) fn command(settings: &SimLrmSettings, args: &[String]) -> Vec<String> {
    let mut argv = vec![
        settings.binary.display().to_string(),
        "--dir".to_owned(),
        settings.dir.display().to_string(),
    ];
    argv.extend_from_slice(args);
    argv
}

pub(super) fn submit_args(settings: &SimLrmSettings, job: &PilotJob) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| {
        args.push(name.to_owned());
        args.push(value);
    };
    flag("--key", job.key.to_string());
    flag("--name", job.key.to_string());
    flag("--queue", settings.queue.clone());
    flag("--priority", settings.priority.to_string());
    flag("--cores", job.resources.cores.to_string());
    flag("--memory", format!("{}MiB", job.resources.memory_mib));
    flag("--disk", format!("{}MiB", job.resources.disk_mib));
    flag("--walltime", format!("{}ms", job.walltime.as_millis()));
    if job.nodes > 1 {
        flag("--nodes", job.nodes.to_string());
    }
    if let Some(min) = job.min_walltime {
        flag("--min-walltime", format!("{}ms", min.as_millis()));
    }
    let avoid = job_script::plain_names(&job.avoid);
    if !avoid.is_empty() {
        flag("--exclude", avoid.join(","));
    }
    let launch = match settings.launch {
        Launch::Batch => "batch",
        Launch::Step => "step",
    };
    flag("--launch", launch.to_owned());
    flag("--chdir", job.directory.display().to_string());
    flag(
        "--output",
        job.directory.join("pilot.log").display().to_string(),
    );
    if !settings.rerunnable {
        args.push("--no-requeue".to_owned());
    }
    args.insert(0, "submit".to_owned());
    args.push("--".to_owned());
    args.push(job.directory.join(JOB).display().to_string());
    args
}

/// What the simulated LRM tells a job by its environment.
const LINES: &str = r#"wp_job=$SIMLRM_JOB_ID
wp_start_tag=$SIMLRM_RESTARTS
wp_incarnation=$SIMLRM_JOB_ID/$SIMLRM_RESTARTS/$SIMLRM_START
wp_node=$SIMLRM_NODE
wp_cores=$SIMLRM_CORES
wp_memory_mib=$SIMLRM_MEMORY_MIB
wp_disk_mib=$SIMLRM_DISK_MIB
wp_start=$SIMLRM_START
wp_end=$SIMLRM_END"#;

/// The job.
pub(super) fn script(settings: &SimLrmSettings, job: &PilotJob) -> String {
    let mut probe: Vec<ProbeWord> = command(settings, &["end".to_owned()])
        .into_iter()
        .map(ProbeWord::Text)
        .collect();
    probe.push(ProbeWord::Job);
    let lines = match job.nodes {
        1 => LINES.to_owned(),
        _ => format!("{LINES}\nwp_rank=$SIMLRM_RANK"),
    };
    let on_node = OnNode {
        lrm: "the simulated LRM",
        lines: &lines,
        probe: Some(&probe),
    };
    job_script::script(job, &on_node)
}

#[cfg(test)]
mod tests;
