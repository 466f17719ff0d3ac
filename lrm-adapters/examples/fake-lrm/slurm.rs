//! `sbatch`, `squeue`, `scancel` and `srun` of Slurm 22.05, as measured.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use lrm_adapters::sim::model::{JobNumber, JobRequest};
use lrm_adapters::sim::profiles::Launch;
use lrm_adapters::sim::wire::{JobOrder, JobRow, Request, Response, Task};
use lrm_adapters::sim::words::state_word;
use protocol::ids::{NodeName, SubmitKey};
use protocol::lrm::{JobEnd, JobState};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

use crate::ask::{Answer, ask, jobs};
use crate::{Play, Said};

/// What a command says about an answer that is none: transcript 03.
fn nothing(before: &str, answer: &Answer) -> anyhow::Result<Said> {
    match answer {
        Answer::Refused => Ok(Said::err(
            1,
            format!("{before}: Unable to contact slurm controller (connect failure)\n"),
        )),
        Answer::BrokenOff => Ok(Said::err(
            1,
            format!("{before}: Socket timed out on send/recv operation\n"),
        )),
        Answer::Garbled => Ok(Said::out("1@RUNN")),
        Answer::Told(other) => bail!("understand the daemon: {other:?}"),
    }
}

const SUBMIT_FAILED: &str = "sbatch: error: Batch job submission failed";

pub(crate) fn sbatch(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    if args == ["--version"] {
        return Ok(Said::out("slurm-wlm 22.05.8\n"));
    }
    let mut request = JobRequest {
        name: "sbatch".to_owned(),
        key: None,
        queue: "pilots".to_owned(),
        resources: Resources {
            cores: 1,
            memory_mib: 0,
            disk_mib: 0,
        },
        nodes: 1,
        walltime: Span::from_mins(10),
        min_walltime: None,
        begin: None,
        exclude: BTreeSet::new(),
        priority: 0,
        launch: Launch::Batch,
        rerunnable: true,
    };
    let (mut output, mut directory, mut script, mut is_parsable) = (None, None, None, false);
    for arg in args {
        let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
        match name {
            "--job-name" => value.clone_into(&mut request.name),
            "--cpus-per-task" => request.resources.cores = value.parse().context("read cores")?,
            "--mem" => {
                let mib = value.strip_suffix('M').unwrap_or(value);
                request.resources.memory_mib = mib.parse().context("read memory")?;
            }
            "--time" => request.walltime = Span::from_mins(value.parse().context("read --time")?),
            "--time-min" => {
                let least = value.parse().context("read --time-min")?;
                request.min_walltime = Some(Span::from_mins(least));
            }
            "--partition" => value.clone_into(&mut request.queue),
            "--exclude" => {
                let names = value.split(',').map(NodeName::new);
                request.exclude = names.collect::<Result<_, _>>().context("read --exclude")?;
            }
            "--output" => output = Some(PathBuf::from(value.replace("%%", "%"))),
            "--chdir" => directory = Some(PathBuf::from(value)),
            "--requeue" => request.rerunnable = true,
            "--no-requeue" => request.rerunnable = false,
            "--parsable" => is_parsable = true,
            "--comment" | "--open-mode" | "--export" | "--nodes" | "--ntasks" | "--account"
            | "--qos" | "--constraint" | "--reservation" | "--nice" => {}
            flag if flag.starts_with("--") => {
                return Ok(Said::err(
                    255,
                    format!("sbatch: unrecognized option '{arg}'\n"),
                ));
            }
            _ => script = Some(PathBuf::from(arg)),
        }
    }
    if !request.exclude.is_empty() {
        let nodes = match ask(play, &Request::Nodes) {
            Answer::Told(Response::Nodes(rows)) => rows,
            other => return nothing(SUBMIT_FAILED, &other),
        };
        let is_known = |name: &NodeName| nodes.iter().any(|row| row.name == *name);
        if !request.exclude.iter().all(is_known) {
            return Ok(Said::err(
                1,
                format!("{SUBMIT_FAILED}: Invalid node name specified\n"),
            ));
        }
    }
    let script = script.context("find the script")?;
    let text = std::fs::read_to_string(&script).context("read the script")?;
    if text.contains("\nexec srun ") || text.contains("/srun ") {
        request.launch = Launch::Step;
    }
    request.key = SubmitKey::new(&request.name).ok();
    // It is spooled: later changes of the file change nothing.
    let spool = play.sim.join("spool");
    std::fs::create_dir_all(&spool).context("make the spool directory")?;
    let copy = spool.join(format!("{}.sh", request.name));
    std::fs::copy(&script, &copy).context("spool the script")?;
    let task = Task {
        script: wrapper(&shell_words::quote(&copy.display().to_string())),
        output,
        directory,
    };
    match ask(play, &Request::Submit { request, task }) {
        Answer::Told(Response::Submitted(job)) if is_parsable => Ok(Said::out(format!("{job}\n"))),
        Answer::Told(Response::Submitted(job)) => {
            Ok(Said::out(format!("Submitted batch job {job}\n")))
        }
        Answer::Told(Response::Refused(_)) => Ok(Said::err(
            1,
            format!("{SUBMIT_FAILED}: Requested node configuration is not available\n"),
        )),
        other => nothing(SUBMIT_FAILED, &other),
    }
}

/// slurmd's part: the job's environment (transcript 11).
fn wrapper(script: &str) -> String {
    format!(
        r#"#!/bin/sh
export SLURM_JOB_ID=$SIMLRM_JOB_ID SLURM_JOBID=$SIMLRM_JOB_ID
export SLURMD_NODENAME=$SIMLRM_NODE SLURM_JOB_NODELIST=$SIMLRM_NODE SLURM_NNODES=1
export SLURM_CPUS_ON_NODE=$SIMLRM_CORES SLURM_MEM_PER_NODE=$SIMLRM_MEMORY_MIB
# It is not set in the first start.
[ "$SIMLRM_RESTARTS" = 0 ] || export SLURM_RESTART_COUNT="$SIMLRM_RESTARTS"
exec /bin/sh {script}
"#
    )
}

/// Becomes the step: here the same process, as the simulated LRM signals the step's first one.
pub(crate) fn srun(args: &[&str]) -> anyhow::Result<Said> {
    let value = |name: &str| {
        args.iter()
            .find_map(|arg| arg.strip_prefix(name)?.strip_prefix('='))
    };
    let program = args
        .iter()
        .position(|arg| !arg.starts_with("--"))
        .context("find the step's program")?;
    let mut command = Command::new(args[program]);
    command.args(&args[program + 1..]);
    if let Some(log) = value("--output") {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log.replace("%%", "%"))
            .context("open the step's output")?;
        command.stderr(file.try_clone().context("open the step's output")?);
        command.stdout(file);
    }
    let e = command.exec();
    Ok(Said::err(
        2,
        format!("slurmstepd: error: execve(): {}: {e}\n", args[program]),
    ))
}

pub(crate) fn squeue(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    let rows = match jobs(play) {
        Ok(rows) => rows,
        Err(other) => return nothing("slurm_load_jobs error", &other),
    };
    let (mut all, mut format, mut long, mut named, mut number) = (false, None, None, None, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
        match name {
            "--me" | "--noheader" | "-h" => {}
            "--states" => all = value == "all",
            "--Format" => long = Some(value),
            "--name" => named = Some(value),
            "-j" => number = rest.next().copied(),
            "-o" => format = rest.next().copied(),
            other => bail!("play squeue with `{other}`"),
        }
    }
    if number.is_some_and(|n| rows.iter().all(|r| r.seen.id.as_str() != n)) {
        return Ok(Said::err(
            1,
            "slurm_load_jobs error: Invalid job id specified\n",
        ));
    }
    let shown = rows.iter().filter(|row| {
        let over = matches!(row.seen.state, JobState::Ended(_));
        (all || !over)
            && named.is_none_or(|n| row.name == n)
            && number.is_none_or(|n| row.seen.id.as_str() == n)
    });
    let mut text = String::new();
    for row in shown {
        match (long, format) {
            (Some(long), _) => {
                for item in long.split(',') {
                    let (name, suffix) = item.split_once(':').unwrap_or((item, ""));
                    let _ = write!(text, "{}{suffix}", field(name, row)?);
                }
            }
            (None, Some(format)) => {
                let told = format
                    .replace("%S", &time(row.seen.start))
                    .replace("%e", &time(row.seen.end));
                text.push_str(&told);
            }
            (None, None) => bail!("play squeue without a format"),
        }
        text.push('\n');
    }
    Ok(Said::out(text))
}

fn field(name: &str, row: &JobRow) -> anyhow::Result<String> {
    let seen = &row.seen;
    Ok(match name {
        "JobID" => seen.id.to_string(),
        "State" => match &seen.state {
            JobState::Held => "PENDING".to_owned(),
            // A job that its node daemon could not start has failed.
            JobState::Ended(JobEnd::LaunchFailed) => "FAILED".to_owned(),
            other => state_word(other).to_owned(),
        },
        "exit_code" => match seen.state {
            // A wait status; 53 is the "signal" of a job that could not be started.
            JobState::Ended(JobEnd::Exited(code)) if code > 128 => (code - 128).to_string(),
            JobState::Ended(JobEnd::Exited(code)) => (code << 8).to_string(),
            JobState::Ended(JobEnd::LaunchFailed) => "53".to_owned(),
            _ => "0".to_owned(),
        },
        "RestartCnt" => seen.restarts.to_string(),
        "StartTime" => time(seen.start),
        "EndTime" => time(seen.end),
        "PreemptTime" if seen.detail.contains("preempted") => time(Some(row.submitted)),
        "PreemptTime" => "N/A".to_owned(),
        "BatchHost" => seen
            .node
            .as_ref()
            .map_or_else(|| "n/a".to_owned(), ToString::to_string),
        "Reason" => match &seen.state {
            JobState::Queued => "Resources",
            JobState::Held => "JobHeldUser",
            JobState::Ended(JobEnd::Exited(1..)) => "NonZeroExitCode",
            JobState::Ended(JobEnd::Walltime) => "TimeLimit",
            _ => "None",
        }
        .to_owned(),
        "Name" => row.name.clone(),
        other => bail!("play squeue with the field `{other}`"),
    })
}

/// Epoch seconds with `SLURM_TIME_FORMAT=%s`; without it as Slurm writes it, in a zone that is
/// five hours off, so that an adapter that forgets it is found out.
#[expect(
    clippy::disallowed_methods,
    reason = "a real squeue reads this variable, and it is the point of the test"
)]
fn time(at: Option<Timestamp>) -> String {
    let Some(at) = at else {
        return "N/A".to_owned();
    };
    let is_epoch = std::env::var_os("SLURM_TIME_FORMAT").is_some_and(|f| f == "%s");
    let secs = at.as_millis() / 1000;
    if is_epoch {
        secs.to_string()
    } else {
        let text = Timestamp::from_secs(secs)
            .before(Span::from_secs(5 * 3600))
            .to_string();
        text.trim_end_matches('Z').to_owned()
    }
}

pub(crate) fn scancel(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    let (id, order) = match args {
        [id] => (id, JobOrder::Cancel),
        ["--state=PENDING", id] => (id, JobOrder::Withdraw),
        other => bail!("play scancel with {other:?}"),
    };
    let Ok(job) = id.parse().map(JobNumber) else {
        return Ok(Said::err(
            1,
            format!("scancel: error: Invalid job id {id}\n"),
        ));
    };
    let order = Request::Job {
        job,
        key: None,
        order,
    };
    match ask(play, &order) {
        Answer::Told(Response::Done) => Ok(Said::default()),
        // Of an unknown id, as of one that is over, nothing is said (transcript 08).
        Answer::Told(Response::NoSuchJob) => Ok(Said::default()),
        // Nor of one that is not in the wanted state.
        Answer::Told(Response::Started) => Ok(Said::default()),
        other => Ok(Said {
            code: 8,
            ..nothing(
                &format!("scancel: error: Kill job error on job id {id}"),
                &other,
            )?
        }),
    }
}
