//! `qsub`, `qstat` and `qdel` of OpenPBS 23.06.06, as measured, and of Torque 6.1, by its manual.

mod block;
mod order;

use anyhow::{Context as _, bail};
use lrm_adapters::sim::model::{JobNumber, JobRequest};
use lrm_adapters::sim::wire::{JobOrder, JobRow, Request, Response, Task};
use protocol::ids::SubmitKey;
use protocol::lrm::JobState;

use crate::ask::{Answer, ask, jobs};
use crate::{Dialect, Play, Said};
use block::block;
use order::Order;

/// The server's name.
const SERVER: &str = "pbssrv";

fn version(play: &Play) -> Said {
    Said::out(match play.pbs {
        Dialect::Openpbs => "pbs_version = 23.06.06\n",
        Dialect::Torque => "Version: 6.1.2\nCommit: 661e092552de43a785c15d39a3634a541d86898e\n",
    })
}

/// There is no server: transcript 07.
fn no_server(command: &str) -> Said {
    match command {
        "qdel" => Said::err(
            162,
            format!("Connection refused\nCouldn't connect to cluster: {SERVER}\n"),
        ),
        "qstat" => Said::err(
            255,
            format!("Connection refused\nqstat: cannot connect to server {SERVER} (errno=15010)\n"),
        ),
        other => Said::err(
            162,
            format!(
                "Connection refused\n{other}: cannot connect to server {SERVER} (errno=15010)\n"
            ),
        ),
    }
}

/// What every command does with an answer that is none.
fn nothing(command: &str, answer: &Answer) -> anyhow::Result<Said> {
    match answer {
        Answer::Refused => Ok(no_server(command)),
        Answer::BrokenOff => Ok(Said::err(162, format!("{command}: End of File\n"))),
        Answer::Garbled => Ok(Said::out("Job Id: 1.pbssrv\n    Job_Name = wp-te")),
        Answer::Told(other) => bail!("understand the daemon: {other:?}"),
    }
}

pub(crate) fn qsub(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    if args == ["--version"] {
        return Ok(version(play));
    }
    let order = match order::read(play.pbs, args) {
        Ok(order) => order,
        Err(wrong) => return Ok(Said::err(2, format!("qsub: {wrong}\n"))),
    };
    let script = wrapper(play, &order)?;
    let key = order
        .variable("WP_KEY")
        .and_then(|k| SubmitKey::new(k).ok());
    let request = Request::Submit {
        request: JobRequest {
            name: order.name.clone(),
            key,
            queue: order.queue.clone(),
            resources: order.resources,
            nodes: 1,
            walltime: order.walltime,
            min_walltime: None,
            begin: None,
            exclude: Default::default(),
            priority: 0,
            launch: lrm_adapters::sim::profiles::Launch::Batch,
            rerunnable: order.rerunnable,
        },
        task: Task {
            script,
            output: Some(order.output),
            directory: None,
        },
    };
    match ask(play, &request) {
        Answer::Told(Response::Submitted(job)) => Ok(Said::out(format!("{job}.{SERVER}\n"))),
        Answer::Told(Response::Refused(_)) => Ok(match play.pbs {
            Dialect::Openpbs => Said::err(
                188,
                "qsub: Job violates queue and/or server resource limits\n",
            ),
            Dialect::Torque => Said::err(
                188,
                "qsub: submit error (Job exceeds queue resource limits MSG=cannot satisfy queue max ncpus requirement)\n",
            ),
        }),
        other => nothing("qsub", &other),
    }
}

/// The MoM's part: the job's environment (transcript 00), and in script mode the login shell
/// between itself and the script, which dies of a SIGTERM when the script has ended.
fn wrapper(play: &Play, order: &Order) -> anyhow::Result<String> {
    let name = shell_words::quote(&order.name).into_owned();
    let cores = match play.pbs {
        Dialect::Openpbs => "NCPUS=$SIMLRM_CORES OMP_NUM_THREADS=$SIMLRM_CORES",
        Dialect::Torque => "PBS_NUM_NODES=1 PBS_NUM_PPN=$SIMLRM_CORES PBS_NP=$SIMLRM_CORES",
    };
    let mut text = format!(
        r#"#!/bin/sh
PBS_JOBID=$SIMLRM_JOB_ID.{SERVER}
PBS_NODEFILE=$SIMLRM_DIR/aux/$PBS_JOBID
mkdir -p "$SIMLRM_DIR/aux"
printf '%s\n' "$SIMLRM_NODE" > "$PBS_NODEFILE"
export PBS_JOBID PBS_NODEFILE PBS_JOBNAME={name} PBS_QUEUE={queue} {cores}
export PBS_ENVIRONMENT=PBS_BATCH PBS_NODENUM=0 PBS_TASKNUM=1 ENVIRONMENT=BATCH
"#,
        queue = shell_words::quote(&order.queue),
    );
    match play.pbs {
        Dialect::Openpbs => {
            text.push_str(&format!("exec {}\n", shell_words::join(&order.command)));
        }
        Dialect::Torque => {
            let [script] = order.command.as_slice() else {
                bail!("find one script among {:?}", order.command);
            };
            // It is spooled: later changes of the file change nothing.
            let spool = play.sim.join("spool");
            std::fs::create_dir_all(&spool).context("make the spool directory")?;
            let copy = spool.join(format!("{}.SC", order.name));
            std::fs::copy(script, &copy).with_context(|| format!("spool `{script}`"))?;
            text.push_str(&format!(
                "told=\ntrap 'told=yes' TERM\n{} {} &\npilot=$!\nwait $pilot\ncode=$?\n\
                 while kill -0 $pilot 2> /dev/null; do wait $pilot; code=$?; done\n\
                 [ -z \"$told\" ] || exit 143\nexit $code\n",
                shell_words::quote(&order.shell),
                shell_words::quote(&copy.display().to_string()),
            ));
        }
    }
    Ok(text)
}

pub(crate) fn qstat(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    if args == ["--version"] {
        return Ok(version(play));
    }
    let (mut full, mut history) = (false, false);
    let mut wanted = Vec::new();
    for arg in args {
        match *arg {
            "-f" => full = true,
            "-x" if play.pbs == Dialect::Openpbs => history = true,
            flag if flag.starts_with('-') => bail!("play qstat with `{flag}`"),
            name => wanted.push(name),
        }
    }
    if !full {
        bail!("play qstat without -f");
    }
    let rows = match jobs(play) {
        Ok(rows) => rows,
        Err(other) => return nothing("qstat", &other),
    };
    if history && !play.history {
        // With exit code 0, and for all jobs as for one: transcript 09.
        let what = wanted.first().copied().unwrap_or(SERVER);
        return Ok(Said::err(
            0,
            format!("qstat: PBS is not configured to maintain job history {what}\n"),
        ));
    }
    let mut said = Said::default();
    let (ids, queues): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|w| w.starts_with(|c: char| c.is_ascii_digit()));
    if ids.is_empty() {
        let shown = |row: &&JobRow| {
            let over = matches!(row.seen.state, JobState::Ended(_));
            let queued_there = queues.is_empty() || queues.contains(&row.queue.as_str());
            queued_there && (!over || history || play.pbs == Dialect::Torque)
        };
        said.stdout = rows.iter().filter(shown).map(|r| block(play, r)).collect();
        return Ok(said);
    }
    for id in ids {
        let number = id.strip_suffix(&format!(".{SERVER}")).unwrap_or(id);
        let row = rows.iter().find(|r| r.seen.id.as_str() == number);
        let over = row.is_some_and(|r| matches!(r.seen.state, JobState::Ended(_)));
        match row {
            Some(row) if !over || history || play.pbs == Dialect::Torque => {
                said.stdout.push_str(&block(play, row));
            }
            Some(_) if play.history => {
                said.code = 35;
                said.stderr.push_str(&format!(
                    "qstat: {number}.{SERVER} Job has finished, use -x or -H to obtain historical job information\n"
                ));
            }
            Some(_) | None => {
                said.code = 153;
                said.stderr
                    .push_str(&format!("qstat: Unknown Job Id {number}.{SERVER}\n"));
            }
        }
    }
    Ok(said)
}

pub(crate) fn qdel(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    let [id] = args else {
        bail!("play qdel with {args:?}");
    };
    let number = id.strip_suffix(&format!(".{SERVER}")).unwrap_or(id);
    let Ok(job) = number.parse().map(JobNumber) else {
        return Ok(Said::err(
            1,
            format!("qdel: illegally formed job identifier: {id}\n"),
        ));
    };
    let order = Request::Job {
        job,
        key: None,
        order: JobOrder::Cancel,
    };
    match ask(play, &order) {
        Answer::Told(Response::Done) => Ok(Said::default()),
        Answer::Told(Response::NoSuchJob) => Ok(match ask(play, &Request::End { job }) {
            Answer::Told(Response::End(_)) if play.pbs == Dialect::Torque => Said::err(
                170,
                format!(
                    "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE {job}.{SERVER}\n"
                ),
            ),
            Answer::Told(Response::End(_)) if play.history => {
                Said::err(35, format!("qdel: Job has finished {job}.{SERVER}\n"))
            }
            _ => Said::err(153, format!("qdel: Unknown Job Id {job}.{SERVER}\n")),
        }),
        Answer::Garbled => Ok(Said::out("\u{fffd}\u{fffd}")),
        other => nothing("qdel", &other),
    }
}
