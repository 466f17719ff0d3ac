//! The `sim-lrm` command line.
//!
//! Results go to stdout, everything else to stderr; exit codes are in [`words`].

mod args;
mod ask;
mod print;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use protocol::ids::NodeName;
use protocol::lrm::JobEnd;
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

pub use args::Cli;
use args::{Command, FailHow, FaultArgs, FaultCommand, SiteJobArgs, SubmitArgs};

use super::daemon::faults::Fault;
use super::daemon::{DaemonConfig, launch, serve, supervise};
use super::model::{JobNumber, JobRequest};
use super::profiles::Launch;
use super::wire::{JobOrder, NodeOrder, Request, Response, Task};
use super::words;

/// Runs the command line and says how it went.
pub fn run(cli: Cli) -> ExitCode {
    match carry_out(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("sim-lrm: failed to {e:#}");
            ExitCode::from(words::EXIT_USAGE)
        }
    }
}

fn carry_out(cli: Cli) -> anyhow::Result<u8> {
    let ask = |request: Request| -> anyhow::Result<Response> {
        let dir = cli
            .dir
            .as_deref()
            .context("find the daemon; give its directory with --dir or in SIMLRM_DIR")?;
        Ok(ask::ask(dir, cli.timeout.0, &request))
    };
    let order = |job: u64, order| {
        ask(Request::Job {
            job: JobNumber(job),
            key: None,
            order,
        })
    };
    let on_node = |node: NodeName, order| ask(Request::Node { node, order });
    let response = match cli.command {
        Command::Serve { config } => return serve_until_told(&config, cli.dir.as_deref()),
        Command::Supervise { run } => {
            log_to_stderr();
            supervise(&run).context("supervise a job")?;
            return Ok(words::EXIT_OK);
        }
        Command::Launch { script } => match launch(&script).context("start a job")? {},
        Command::Submit(args) => ask(submission(&args)?)?,
        Command::SiteJob(args) => ask(site_job(&args))?,
        Command::Queue { all, json, key } => match ask(Request::List { all, key })? {
            Response::Jobs(rows) => {
                return show(&if json {
                    print::jobs_json(&rows)
                } else {
                    print::jobs(&rows)
                });
            }
            other => other,
        },
        Command::Nodes { json } => match ask(Request::Nodes)? {
            Response::Nodes(rows) => {
                return show(&if json {
                    print::nodes_json(&rows)
                } else {
                    print::nodes(&rows)
                });
            }
            other => other,
        },
        Command::Cancel {
            job,
            if_queued,
            key,
        } => ask(Request::Job {
            job: JobNumber(job),
            key,
            order: match if_queued {
                true => JobOrder::Withdraw,
                false => JobOrder::Cancel,
            },
        })?,
        Command::Preempt { job } => order(job, JobOrder::Preempt)?,
        Command::Requeue { job } => order(job, JobOrder::Requeue)?,
        Command::Hold { job } => order(job, JobOrder::Hold)?,
        Command::Release { job } => order(job, JobOrder::Release)?,
        Command::Extend { job, by } => order(job, JobOrder::Extend(by.0))?,
        Command::Shorten { job, by } => order(job, JobOrder::Shorten(by.0))?,
        Command::Drain { node } => on_node(node, NodeOrder::Drain)?,
        Command::Undrain { node } => on_node(node, NodeOrder::Undrain)?,
        Command::Close { node, at } => on_node(node, NodeOrder::Close(Some(at)))?,
        Command::Reopen { node } => on_node(node, NodeOrder::Close(None))?,
        Command::Fail { node, how } => {
            let how = match how {
                FailHow::Lost => NodeOrder::Lost,
                FailHow::Down => NodeOrder::Down,
                FailHow::Power => NodeOrder::PowerLoss,
            };
            on_node(node, how)?
        }
        Command::Restore { node } => on_node(node, NodeOrder::Restore)?,
        Command::End { job } => ask(Request::End {
            job: JobNumber(job),
        })?,
        Command::Wait { job } => ask(Request::Wait {
            job: JobNumber(job),
        })?,
        Command::Crash => ask(Request::Crash)?,
        Command::Fault(FaultCommand::Add(args)) => ask(Request::AddFault(fault(args)))?,
        Command::Fault(FaultCommand::Clear) => ask(Request::ClearFaults)?,
        Command::Fault(FaultCommand::List) => ask(Request::Faults)?,
    };
    answer(response)
}

/// Prints an answer and chooses the exit code.
fn answer(response: Response) -> anyhow::Result<u8> {
    let refused = |why: &str| {
        eprintln!("sim-lrm: refused: {why}");
        words::EXIT_REFUSED
    };
    let code = match response {
        Response::Done => return Ok(words::EXIT_OK),
        Response::Submitted(job) => return show(&format!("submitted job {job}\n")),
        Response::End(Some(end)) => return show(&print::epoch(end)),
        Response::End(None) => return Ok(words::EXIT_OK),
        Response::Faults(faults) => return show(&print::faults(&faults)),
        Response::Over(end) => {
            show(&print::end(&end))?;
            return Ok(match end {
                JobEnd::Exited(0) => words::EXIT_OK,
                JobEnd::Exited(_)
                | JobEnd::Cancelled
                | JobEnd::Walltime
                | JobEnd::Preempted
                | JobEnd::NodeLost
                | JobEnd::LaunchFailed
                | JobEnd::Other(_) => words::EXIT_ENDED_BADLY,
            });
        }
        Response::Garbled(text) => return show(&text),
        Response::Refused(why) => refused(&why),
        Response::NoSuchJob => {
            eprintln!("sim-lrm: no such job, or it is over");
            words::EXIT_NO_SUCH_JOB
        }
        Response::Started => {
            eprintln!("sim-lrm: the job has started; nothing was done");
            words::EXIT_STARTED
        }
        Response::NoSuchNode => {
            eprintln!("sim-lrm: no such node; see `sim-lrm nodes`");
            words::EXIT_NO_SUCH_JOB
        }
        Response::Failed(why) => {
            eprintln!("error: {why}");
            return Ok(words::EXIT_NO_ANSWER);
        }
        Response::Jobs(_) | Response::Nodes(_) => {
            eprintln!("error: an answer to another question");
            return Ok(words::EXIT_NO_ANSWER);
        }
    };
    Ok(u8::try_from(code).unwrap_or(words::EXIT_NO_ANSWER))
}

fn show(text: &str) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(words::EXIT_OK),
        // `sim-lrm queue | head`
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(words::EXIT_OK),
        Err(e) => Err(e).context("write the answer"),
    }
}

fn submission(args: &SubmitArgs) -> anyhow::Result<Request> {
    let script = if args.script == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("read the script from stdin")?;
        text
    } else {
        std::fs::read_to_string(&args.script)
            .with_context(|| format!("read script `{}`", args.script.display()))?
    };
    if !script.starts_with("#!") {
        bail!(
            "submit `{}`: it is not a script; its first line has to be `#!` and an interpreter",
            args.script.display()
        );
    }
    let absolute = |path: &Option<PathBuf>| {
        path.as_ref()
            .map(std::path::absolute)
            .transpose()
            .context("find the current directory")
    };
    let name = args.name.clone().or_else(|| {
        let file = args.script.file_name()?;
        Some(file.to_string_lossy().into_owned())
    });
    Ok(Request::Submit {
        request: JobRequest {
            name: name.unwrap_or_else(|| "job".to_owned()),
            key: args.key.clone(),
            queue: args.queue.clone(),
            resources: Resources {
                cores: args.cores,
                memory_mib: args.memory,
                disk_mib: args.disk,
            },
            nodes: args.nodes,
            walltime: args.walltime.0,
            min_walltime: args.min_walltime.map(|t| t.0),
            begin: args.begin,
            exclude: args.exclude.iter().cloned().collect(),
            priority: args.priority,
            launch: args.launch.into(),
            rerunnable: !args.no_requeue,
        },
        task: Task {
            script,
            output: absolute(&args.output)?,
            directory: absolute(&args.chdir)?,
        },
    })
}

fn site_job(args: &SiteJobArgs) -> Request {
    let walltime = args.walltime.0;
    let run_for = args.run_for.map_or(walltime, |t| t.0).min(walltime);
    let mut request = JobRequest::site(
        Resources {
            cores: args.cores,
            memory_mib: args.memory,
            disk_mib: 0,
        },
        walltime,
    );
    request.queue.clone_from(&args.queue);
    request.begin = args.at;
    Request::Submit {
        request,
        task: Task {
            script: format!("#!/bin/sh\nexec sleep {}\n", run_for.as_secs_f64()),
            output: None,
            directory: None,
        },
    }
}

fn fault(args: FaultArgs) -> Fault {
    Fault {
        kind: args.kind,
        commands: args.on,
        times: (!args.always).then_some(args.times),
        until: None,
        by: args.by.map_or(Span::from_secs(5), |by| by.0),
        job: args.job.map(JobNumber),
    }
}

fn serve_until_told(config: &Path, dir: Option<&Path>) -> anyhow::Result<u8> {
    log_to_stderr();
    let text = std::fs::read_to_string(config)
        .with_context(|| format!("read configuration file `{}`", config.display()))?;
    let read = match DaemonConfig::parse(&config.display().to_string(), &text) {
        Ok(read) => read,
        Err(e) => {
            eprintln!("sim-lrm: {e}");
            return Ok(words::EXIT_USAGE);
        }
    };
    let beside = config.parent().unwrap_or(Path::new(".")).join("sim-lrm");
    let dir = dir.unwrap_or(&beside);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(serve(read, dir))
        .context("serve")?;
    Ok(words::EXIT_OK)
}

fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
}

impl From<args::LaunchArg> for Launch {
    fn from(arg: args::LaunchArg) -> Self {
        match arg {
            args::LaunchArg::Batch => Self::Batch,
            args::LaunchArg::Step => Self::Step,
        }
    }
}

/// A span as the command line reads it.
#[derive(Clone, Copy, Debug)]
pub struct SpanArg(pub Span);

fn span(text: &str) -> Result<SpanArg, String> {
    protocol::text::parse_span(text).map(SpanArg)
}

fn instant(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text)
}
