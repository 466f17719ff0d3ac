//! The job's scripts and the command lines. Pure.
//!
//! No word of a command holds a character that a shell would read, but for the paths that a site
//! chooses: a command that goes through `ssh` is read by a shell there.

use std::path::{Path, PathBuf};

use protocol::ids::SubmitKey;
use protocol::lrm::PilotJob;
use protocol::time::Span;

use super::{Launch, SlurmSettings};
use crate::contract::Cancel;
use crate::job_script::{self, OnNode, ProbeWord};

/// PATH of the job: `--export` with names of its own is the one form that takes nothing from the
/// submitting process (measured: `NONE` does not).
const JOB_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The fields of a listing, in the order in which [`super::parse`] reads them. The reason may hold
/// anything but what separates; the name is last and may hold that, too. A suffix without a size
/// makes a field as wide as it needs to be. `exit_code` is a wait status.
const FIELDS: &str = "JobID:@,State:@,exit_code:@,RestartCnt:@,StartTime:@,EndTime:@,\
                      PreemptTime:@,BatchHost:@,Reason:@,Name:@end";

/// The words with which each of Slurm's commands begins.
fn command(settings: &SlurmSettings, name: &str, env: &[&str]) -> Vec<String> {
    let mut argv = vec!["env".to_owned()];
    argv.extend(env.iter().map(|&e| e.to_owned()));
    if let Some(conf) = &settings.conf {
        argv.push(format!("SLURM_CONF={}", conf.display()));
    }
    argv.push(match &settings.bin_dir {
        Some(dir) => dir.join(name).display().to_string(),
        None => name.to_owned(),
    });
    // One word for command and environment where there is nothing to set.
    if argv.len() == 2 {
        argv.remove(0);
    }
    argv
}

/// What version it is: of the command, and by Slurm's rules at most two ahead of the controller's.
pub(super) fn version(settings: &SlurmSettings) -> Vec<String> {
    let mut argv = command(settings, "sbatch", &[]);
    argv.push("--version".to_owned());
    argv
}

/// Seconds since the epoch: without this, the caller's time zone and no word on which it is.
const EPOCH: &[&str] = &["SLURM_TIME_FORMAT=%s"];

/// The listing of all jobs of the account, ended ones included.
pub(super) fn list(settings: &SlurmSettings, cluster: Option<&str>) -> Vec<String> {
    let mut argv = command(settings, "squeue", EPOCH);
    argv.extend(cluster.map(|c| format!("--clusters={c}")));
    argv.extend(["--me", "--noheader", "--states=all"].map(str::to_owned));
    argv.push(format!("--Format={FIELDS}"));
    argv
}

/// The same for the jobs of one key. By name: an unknown id is an error, and of several ids the
/// unknown ones are left out without a word.
pub(super) fn find(
    settings: &SlurmSettings,
    cluster: Option<&str>,
    key: &SubmitKey,
) -> Vec<String> {
    let mut argv = list(settings, cluster);
    argv.push(format!("--name={key}"));
    argv
}

/// Ends one job: SIGTERM, and after the cluster's `KillWait` SIGKILL. One that is to be ended only
/// while it waits and does not is left alone without a word (measured on 22.05).
pub(super) fn cancel(
    settings: &SlurmSettings,
    cluster: Option<&str>,
    number: &str,
    how: Cancel,
) -> Vec<String> {
    let mut argv = command(settings, "scancel", &[]);
    argv.extend(cluster.map(|c| format!("--clusters={c}")));
    match how {
        Cancel::Always => {}
        Cancel::WhileWaiting => argv.push("--state=PENDING".to_owned()),
    }
    argv.push(number.to_owned());
    argv
}

/// Submits the script that [`files`] names first.
pub(super) fn submit(settings: &SlurmSettings, job: &PilotJob) -> Vec<String> {
    let mut argv = command(settings, "sbatch", &[]);
    let mut flag = |name: &str, value: &str| argv.push(format!("--{name}={value}"));
    if let Some(cluster) = &settings.cluster {
        flag("clusters", cluster);
    }
    let key = job.key.as_str();
    flag("job-name", key);
    flag("comment", key);
    flag("chdir", &job.directory.display().to_string());
    flag("output", &log_pattern(&job.directory));
    flag("open-mode", "append");
    flag("export", &format!("PATH={JOB_PATH}"));
    flag("nodes", &job.nodes.to_string());
    flag("ntasks", &job.nodes.to_string());
    if job.nodes > 1 {
        flag("ntasks-per-node", "1");
    }
    flag("cpus-per-task", &job.resources.cores.to_string());
    flag("mem", &format!("{}M", job.resources.memory_mib));
    let walltime = whole_minutes(job.walltime);
    flag("time", &walltime.to_string());
    if let Some(min) = job.min_walltime.map(whole_minutes)
        && min < walltime
    {
        flag("time-min", &min.to_string());
    }
    let wishes = [
        ("partition", &settings.partition),
        ("account", &settings.account),
        ("qos", &settings.qos),
        ("constraint", &settings.constraint),
        ("reservation", &settings.reservation),
    ];
    for (name, value) in wishes {
        if let Some(value) = value {
            flag(name, value);
        }
    }
    let avoid = job_script::plain_names(&job.avoid);
    if !avoid.is_empty() {
        flag("exclude", &avoid.join(","));
    }
    if let Some(nice) = settings.nice {
        flag("nice", &nice.to_string());
    }
    argv.push("--parsable".to_owned());
    let requeue = if settings.rerunnable {
        "--requeue"
    } else {
        "--no-requeue"
    };
    argv.push(requeue.to_owned());
    argv.extend(settings.options.iter().cloned());
    argv.push(first_file(settings, job).display().to_string());
    argv
}

/// Slurm counts walltimes in minutes and rounds up itself; `0` would mean no limit.
fn whole_minutes(span: Span) -> u64 {
    span.as_millis().div_ceil(60_000).max(1)
}

/// In file names of jobs, `%` begins a replacement, also in their directories.
fn log_pattern(directory: &Path) -> String {
    let log = directory.join("pilot.log").display().to_string();
    log.replace('%', "%%")
}

fn first_file(settings: &SlurmSettings, job: &PilotJob) -> PathBuf {
    job.directory.join(match settings.launch {
        Launch::Step => "batch.sh",
        Launch::Batch => "job.sh",
    })
}

/// The files of a job with their contents, the batch script first.
pub(super) fn files(settings: &SlurmSettings, job: &PilotJob) -> Vec<(PathBuf, String)> {
    let script = (job.directory.join("job.sh"), script(settings, job));
    match settings.launch {
        Launch::Batch => vec![script],
        Launch::Step => {
            let batch = batch(settings, job, &script.0);
            vec![(first_file(settings, job), batch), script]
        }
    }
}

/// The batch script of a pilot that is a step. The step gets the whole job; it writes the log
/// itself, so that nothing is lost when `srun` goes first.
///
/// Of a job on several nodes it is one step with a task on each: a task that ends, well or badly,
/// ends no other (`--kill-on-bad-exit=0`, and `--wait=0` where a site has set `WaitTime`). The
/// nodes may have been given different numbers of processors: each task gets what was asked for.
fn batch(settings: &SlurmSettings, job: &PilotJob, script: &Path) -> String {
    let srun = command(settings, "srun", &[]);
    let script = script.display().to_string();
    let (nodes, cores) = (job.nodes, job.resources.cores);
    let tasks = match nodes {
        1 => format!("--ntasks=1 --cpus-per-task=\"${{SLURM_CPUS_ON_NODE:-{cores}}}\""),
        _ => {
            format!("--ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cores} --wait=0")
        }
    };
    format!(
        "#!/bin/sh\n# Pilot job {key} of site {site}: its only step.\nexec {srun} --nodes={nodes} \
         {tasks} --mpi=none --export=ALL \
         --input=none --kill-on-bad-exit=0 --output={log} --open-mode=append {script}\n",
        key = job.key,
        site = job.site,
        srun = shell_words::join(srun),
        log = shell_words::quote(&log_pattern(&job.directory)),
        script = shell_words::quote(&script),
    )
}

/// The job itself.
fn script(settings: &SlurmSettings, job: &PilotJob) -> String {
    let mut ask = command(settings, "squeue", EPOCH);
    ask.push("-h".to_owned());
    let probe: Vec<ProbeWord> = ask
        .iter()
        .map(|word| ProbeWord::Text(word.clone()))
        .chain([
            ProbeWord::from("-j"),
            ProbeWord::Variable("SLURM_JOB_ID"),
            ProbeWord::from("-o"),
            ProbeWord::from("%e"),
        ])
        .collect();
    let lines = lines(settings, job, &shell_words::join(&ask));
    let on_node = OnNode {
        lrm: "Slurm",
        lines: &lines,
        probe: Some(&probe),
    };
    job_script::script(job, &on_node)
}

/// What Slurm tells a job. 22.05 has no variable for start and end, later versions do: where
/// there is none, Slurm is asked once. Without an answer the walltime counts from now; of a job
/// that may have been cut to fit, the shortest.
fn lines(settings: &SlurmSettings, job: &PilotJob, ask: &str) -> String {
    let of = settings
        .cluster
        .as_ref()
        .map_or_else(String::new, |c| format!(";{c}"));
    let granted = job.min_walltime.unwrap_or(job.walltime);
    let memory = job.resources.memory_mib;
    let disk = job.resources.disk_mib;
    let secs = whole_minutes(granted) * 60;
    let rank = match job.nodes {
        1 => "",
        _ => "\nwp_rank=$SLURM_PROCID",
    };
    format!(
        r#"wp_job="$SLURM_JOB_ID{of}"
wp_restarts=${{SLURM_RESTART_COUNT:-0}}
wp_node=${{SLURMD_NODENAME:-$(uname -n)}}
wp_start_tag=$wp_restarts.$wp_node
wp_cores=$SLURM_CPUS_ON_NODE
wp_memory_mib=${{SLURM_MEM_PER_NODE:-{memory}}}
wp_disk_mib={disk}
wp_start=${{SLURM_JOB_START_TIME:-}}
wp_end=${{SLURM_JOB_END_TIME:-}}
if [ -z "$wp_start" ] || [ -z "$wp_end" ]; then
  wp_told=$(timeout 20 {ask} -j "$SLURM_JOB_ID" -o '%S %e' 2>/dev/null </dev/null || true)
  wp_start=${{wp_start:-${{wp_told% *}}}}
  wp_end=${{wp_end:-${{wp_told#* }}}}
fi
case $wp_start in '' | *[!0-9]*) wp_start=$(date +%s) ;; esac
case $wp_end in '' | *[!0-9]*) wp_end=$((wp_start + {secs})) ;; esac
wp_incarnation=$SLURM_JOB_ID/$wp_restarts/$wp_node/$wp_start{rank}"#
    )
}

#[cfg(test)]
mod tests;
