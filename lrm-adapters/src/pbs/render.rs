//! The job, the script that asks for its end, and the command lines. Pure.

use protocol::ids::LrmJobId;
use protocol::lrm::PilotJob;

use super::dialect::Dialect;
use super::{KEY_VARIABLE, PbsSettings};
use crate::job_script::{self, OnNode, ProbeWord};

/// The script in the job's directory that becomes the pilot.
pub(super) const JOB: &str = "job.sh";
/// The script in the job's directory that asks PBS for the end.
pub(super) const SLOT_END: &str = "slot-end.sh";

/// A PBS command by its name.
pub(super) fn tool(settings: &PbsSettings, name: &str) -> String {
    match &settings.bin_dir {
        Some(dir) => dir.join(name).display().to_string(),
        None => name.to_owned(),
    }
}

/// What version it is; needs no server.
pub(super) fn version(settings: &PbsSettings) -> Vec<String> {
    vec![tool(settings, "qstat"), "--version".to_owned()]
}

/// `qstat` with times in UTC: it prints them without a zone. By `env` and not by our own
/// environment, which a prefix such as `ssh` does not hand on.
fn qstat(settings: &PbsSettings) -> Vec<String> {
    let mut argv = ["env", "TZ=UTC", "LC_ALL=C"].map(str::to_owned).to_vec();
    argv.push(tool(settings, "qstat"));
    argv.push("-f".to_owned());
    argv
}

/// The bulk listing. `-x` with `history`; never ids, so that it is one request to the server.
pub(super) fn listing(settings: &PbsSettings, dialect: Dialect, history: bool) -> Vec<String> {
    let mut argv = qstat(settings);
    // In Torque `-x` means XML.
    if history && dialect == Dialect::Openpbs {
        argv.push("-x".to_owned());
    }
    argv.extend(settings.listed_queues.iter().cloned());
    argv
}

/// A look at one job.
pub(super) fn look(settings: &PbsSettings, id: &LrmJobId) -> Vec<String> {
    let mut argv = qstat(settings);
    argv.push(id.to_string());
    argv
}

/// The cancel. Never with `-W force`: that can leave processes on the node.
pub(super) fn cancel(settings: &PbsSettings, id: &LrmJobId) -> Vec<String> {
    vec![tool(settings, "qdel"), id.to_string()]
}

/// The submit.
pub(super) fn submit(settings: &PbsSettings, dialect: Dialect, job: &PilotJob) -> Vec<String> {
    let mut argv = vec![tool(settings, "qsub")];
    let mut flag = |name: &str, value: String| {
        argv.push(name.to_owned());
        argv.push(value);
    };
    flag("-N", job.key.to_string());
    // A part of a second more than was asked for is better than one less.
    let walltime = job.walltime.as_millis().div_ceil(1000);
    let (cores, memory) = (job.resources.cores, job.resources.memory_mib);
    match dialect {
        Dialect::Openpbs => flag("-l", format!("select=1:ncpus={cores}:mem={memory}mb")),
        Dialect::Torque => flag("-l", format!("nodes=1:ppn={cores},mem={memory}mb")),
    }
    flag("-l", format!("walltime={walltime}"));
    flag("-r", if settings.rerunnable { "y" } else { "n" }.to_owned());
    flag("-m", "n".to_owned());
    flag("-j", "oe".to_owned());
    flag("-o", job.directory.join("pilot.log").display().to_string());
    flag("-v", format!("{KEY_VARIABLE}={}", job.key));
    for (name, value) in [
        ("-q", &settings.queue),
        ("-A", &settings.account),
        ("-P", &settings.project),
    ] {
        if let Some(value) = value {
            flag(name, value.clone());
        }
    }
    let script = job.directory.join(JOB).display().to_string();
    match dialect {
        // No login shell between PBS and the pilot: its exit code is the job's.
        Dialect::Openpbs => {
            argv.extend(settings.options.iter().cloned());
            argv.extend(["--".to_owned(), "/bin/sh".to_owned(), script]);
        }
        Dialect::Torque => {
            flag("-S", "/bin/sh".to_owned());
            argv.extend(settings.options.iter().cloned());
            argv.push(script);
        }
    }
    argv
}

/// Why this job cannot be asked for in this dialect.
pub(super) fn unfit(settings: &PbsSettings, dialect: Dialect, job: &PilotJob) -> Option<String> {
    if job.nodes > 1 {
        return Some(super::ONE_NODE.to_owned());
    }
    (dialect == Dialect::Torque && settings.project.is_some()).then(|| {
        "Torque has no projects (its -P means another user); leave `project` out of the site's [pbs] section and use `account`"
            .to_owned()
    })
}

/// The script that becomes the pilot.
pub(super) fn script(job: &PilotJob) -> String {
    let ask = job.directory.join(SLOT_END).display().to_string();
    let quoted = shell_words::quote(&ask).into_owned();
    let (cores, memory, disk) = (
        job.resources.cores,
        job.resources.memory_mib,
        job.resources.disk_mib,
    );
    let walltime = job.walltime.as_millis() / 1000;
    let lines = format!(
        r#"wp_job=$PBS_JOBID
wp_begun=$(date +%s)
wp_node=$(sed -n 1p "$PBS_NODEFILE")
wp_cores=${{NCPUS:-${{PBS_NUM_PPN:-{cores}}}}}
wp_memory_mib={memory}
wp_disk_mib={disk}
# "restarts start end" by PBS; nothing where the node cannot ask.
wp_told=$(/bin/sh {quoted} "$wp_job" all || true)
if [ -n "$wp_told" ]; then
  read -r wp_restarts wp_start wp_end <<WP_TOLD
$wp_told
WP_TOLD
else
  wp_restarts=x wp_start=$wp_begun wp_end=$((wp_begun + {walltime}))
fi
# Two starts in one second have two process ids.
wp_start_tag=$wp_restarts-$wp_begun-$$
wp_incarnation=$wp_job/$wp_restarts/$wp_begun/$$"#
    );
    let probe = [
        ProbeWord::from("/bin/sh"),
        ProbeWord::Text(ask),
        ProbeWord::Job,
    ];
    let on_node = OnNode {
        lrm: "PBS",
        lines: &lines,
        probe: Some(&probe),
    };
    job_script::script(job, &on_node)
}

/// The script that asks for the end.
pub(super) fn slot_end(settings: &PbsSettings) -> String {
    let dir = settings
        .bin_dir
        .as_ref()
        .map(|dir| format!("{}:", shell_words::quote(&dir.display().to_string())))
        .unwrap_or_default();
    include_str!("slot-end.sh").replace("BIN_DIR", &dir)
}

#[cfg(test)]
mod tests;
