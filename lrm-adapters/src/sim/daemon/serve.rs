//! The daemon's loop.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::clock;
use super::config::DaemonConfig;
use super::faults::{Fault, FaultKind};
use super::orders;
use super::processes::{self, Identity};
use super::runs::{self, Ended, RunDir, Spec, environment_mark, marks};
use super::state::State;
use crate::sim::model::{Effect, Event, RunNumber, Start};
use crate::sim::profiles::{Launch, Signal, Target};
use crate::sim::wire::{self, Request, Response};

/// How often runs are looked at, besides when a supervisor says so.
const LOOK: Duration = Duration::from_millis(100);
/// The longest request that is read.
const REQUEST_LIMIT: u64 = 4 * 1024 * 1024;

/// A daemon that cannot serve (any longer).
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The directory cannot be made or used.
    #[error("could not use directory `{}`", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("directory `{}` is served by another daemon; stop that one or use another directory", dir.display())]
    Taken {
        /// Which.
        dir: PathBuf,
    },
    /// The socket cannot be made.
    #[error("could not listen on `{}`", socket.display())]
    Listen {
        /// Which.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The state cannot be read.
    #[error("could not read `{}`; move it away to start anew", file.display())]
    Load {
        /// Which file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A signal handler or process could not be set up.
    #[error("could not set up the daemon")]
    SetUp {
        /// Why not.
        source: io::Error,
    },
}

/// Serves a directory until SIGTERM or SIGINT. Jobs go on without it.
///
/// # Errors
/// The directory is taken, or cannot be used.
pub async fn serve(config: DaemonConfig, dir: &Path) -> Result<(), ServeError> {
    let used = |source| ServeError::Directory {
        dir: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir.join("runs")).map_err(used)?;
    let dir = fs::canonicalize(dir).map_err(used)?;
    let lock = File::create(dir.join("lock")).map_err(used)?;
    let _lock = take(lock)
        .await
        .ok_or_else(|| ServeError::Taken { dir: dir.clone() })?;
    let state =
        State::load_or_new(&dir, &config, clock::now()).map_err(|source| ServeError::Load {
            file: dir.join("state.json"),
            source,
        })?;
    let socket = wire::socket_path(&dir);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(|source| ServeError::Listen {
        socket: socket.clone(),
        source,
    })?;
    let program = std::env::current_exe().map_err(|source| ServeError::SetUp { source })?;
    let known = runs::all(&dir).map_err(|source| ServeError::Directory {
        dir: dir.clone(),
        source,
    })?;
    let mut daemon = Daemon {
        dir,
        known,
        program,
        state,
        reported: BTreeSet::new(),
        undelivered: BTreeMap::new(),
        unsaved: true,
    };
    tracing::info!(dir = %daemon.dir.display(), profile = daemon.state.model.config().profile.as_str(), "serves");
    daemon.act();
    daemon
        .run(listener)
        .await
        .map_err(|source| ServeError::SetUp { source })
}

/// Takes the lock of the directory. A daemon that was killed while it started a supervisor has left
/// a child that holds its lock until it becomes the supervisor: that is waited for.
async fn take(mut lock: File) -> Option<Flock<File>> {
    for _ in 0..20 {
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err((file, _)) => lock = file,
        }
        sleep(LOOK / 2).await;
    }
    None
}

/// An answer on its way to the command.
struct Reply {
    response: Response,
    fault: Option<Fault>,
}

type Asked = (Request, oneshot::Sender<Reply>);

struct Daemon {
    dir: PathBuf,
    program: PathBuf,
    state: State,
    /// Runs that have a directory.
    known: BTreeSet<RunNumber>,
    /// Runs whose end the model was told.
    reported: BTreeSet<RunNumber>,
    /// Signals to runs whose first process is not there yet.
    undelivered: BTreeMap<RunNumber, Vec<(Target, Signal)>>,
    /// The state in memory is newer than that on disk.
    unsaved: bool,
}

impl Daemon {
    async fn run(&mut self, listener: UnixListener) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (ask, mut asked) = mpsc::channel::<Asked>(64);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.state.model.next_wakeup();
            let wait = due.map_or(LOOK, |t| t.since(clock::now()).as_duration().min(LOOK));
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        tokio::spawn(converse(stream, ask.clone()));
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "could not accept a connection");
                        sleep(LOOK).await;
                    }
                },
                Some((request, reply)) = asked.recv() => {
                    let answer = self.answer(request);
                    // A command that has gone away does not want it any more.
                    let _ = reply.send(answer);
                }
                () = sleep(wait), if due.is_some() => self.step(Event::Tick),
                _ = look.tick() => self.look(),
            }
        }
        let _ = fs::remove_file(wire::socket_path(&self.dir));
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Reply {
        let now = clock::now();
        self.look();
        let fault = self.state.faults.take(now, &request);
        self.unsaved |= fault.is_some();
        let kind = fault.as_ref().map(|f| f.kind);
        let mut response = match kind {
            Some(FaultKind::Hang) => Response::Done,
            Some(FaultKind::Error) => {
                Response::Failed("unable to contact the controller (connect failure)".to_owned())
            }
            Some(
                FaultKind::Late
                | FaultKind::LostAnswer
                | FaultKind::HangAfter
                | FaultKind::Missing
                | FaultKind::OddState
                | FaultKind::Garbled,
            )
            | None => {
                let reads = matches!(
                    request,
                    Request::List { .. }
                        | Request::Nodes
                        | Request::End { .. }
                        | Request::Wait { .. }
                        | Request::Faults
                        | Request::Poke
                );
                let response = orders::carry_out(&mut self.state, now, request);
                self.unsaved |= !reads;
                response
            }
        };
        if let (Response::Jobs(jobs), Some(fault)) = (&mut response, &fault) {
            fault.falsify(jobs);
        }
        if kind == Some(FaultKind::Garbled) {
            response = Response::Garbled("{\"count\":1,\"jobs\":[{\"id\":\"1\",\"sta".to_owned());
        }
        if kind == Some(FaultKind::LostAnswer) {
            response = Response::Failed("socket timed out on send/recv operation".to_owned());
        }
        if self.act() {
            Reply { response, fault }
        } else {
            Reply {
                response: Response::Failed(
                    "the state could not be written; see the daemon's log".to_owned(),
                ),
                fault: None,
            }
        }
    }

    fn step(&mut self, event: Event) {
        let before = self.state.outbox.len();
        let quiet = event == Event::Tick;
        let _ = self.state.step(clock::now(), event);
        self.unsaved |= !quiet || self.state.outbox.len() > before;
        self.act();
    }

    /// Writes down what was decided, and then does it. False when it could not be written: then
    /// nothing is done, and both are tried again.
    fn act(&mut self) -> bool {
        if self.unsaved {
            if let Err(e) = self.state.save(&self.dir) {
                tracing::error!(error = %e, dir = %self.dir.display(), "could not write the state; tries again");
                return false;
            }
            self.unsaved = false;
        }
        for effect in std::mem::take(&mut self.state.outbox) {
            match effect {
                Effect::Start(start) => self.start(&start),
                Effect::Signal {
                    run,
                    target,
                    signal,
                } => {
                    let waiting = self.undelivered.entry(run).or_default();
                    waiting.push((target, signal));
                    self.deliver(run);
                }
                // The run's supervisor has done it before it told us of the end.
                Effect::CleanUp { run, .. } => tracing::debug!(run.number = run.0, "run is over"),
                Effect::Forget { run } => {
                    tracing::info!(run.number = run.0, "processes are forgotten and run on");
                }
            }
        }
        true
    }

    fn start(&mut self, start: &Start) {
        let Some(job) = self.state.model.job(start.job) else {
            return;
        };
        let mut runs = self.state.model.runs();
        if !runs.any(|(n, r)| n == start.run && r.job == start.job && r.attached) {
            return;
        }
        drop(runs);
        let launch = job.request.launch;
        let Some(task) = self.state.tasks.get(&start.job) else {
            return;
        };
        let spec = Spec {
            run: start.run,
            dir: self.dir.clone(),
            env: self.environment(start, launch),
            output: task.output.clone(),
            directory: task.directory.clone(),
            leftovers: self.state.model.config().profile().leftovers,
        };
        let run_dir = RunDir::new(&self.dir, start.run);
        let started = run_dir.prepare(&spec, &task.script).and_then(|()| {
            let log = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(run_dir.path().join("supervisor.log"))?;
            // Not waited for here: the runtime reaps it, and its word is in the run's directory.
            tokio::process::Command::new(&self.program)
                .arg("supervise")
                .arg(run_dir.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .map(drop)
        });
        tracing::info!(
            job.id = start.job.0, run.number = start.run.0, node = %start.node, end = %start.end,
            "starts job"
        );
        if let Err(e) = started {
            tracing::warn!(error = %e, job.id = start.job.0, "could not start the job");
            let _ = self
                .state
                .step(clock::now(), Event::LaunchFailed { run: start.run });
            self.unsaved = true;
        }
    }

    fn environment(&self, start: &Start, launch: Launch) -> BTreeMap<String, String> {
        let notice = self
            .state
            .model
            .config()
            .profile()
            .guaranteed_notice(launch);
        let epoch = |t: protocol::time::Timestamp| {
            format!("{}.{:03}", t.as_millis() / 1000, t.as_millis() % 1000)
        };
        let home = nix::unistd::User::from_uid(nix::unistd::getuid())
            .ok()
            .flatten()
            .map_or_else(|| "/".to_owned(), |u| u.dir.display().to_string());
        let (mark, run) = ("SIMLRM_RUN".to_owned(), start.run.to_string());
        let mut env: BTreeMap<String, String> = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("HOME", home),
            ("SIMLRM_DIR", self.dir.display().to_string()),
            ("SIMLRM_JOB_ID", start.job.to_string()),
            ("SIMLRM_RESTARTS", start.restarts.to_string()),
            ("SIMLRM_RANK", start.rank.to_string()),
            ("SIMLRM_NODES", start.nodes.to_string()),
            ("SIMLRM_NODE", start.node.to_string()),
            ("SIMLRM_CORES", start.resources.cores.to_string()),
            ("SIMLRM_MEMORY_MIB", start.resources.memory_mib.to_string()),
            ("SIMLRM_DISK_MIB", start.resources.disk_mib.to_string()),
            ("SIMLRM_START", epoch(start.start)),
            ("SIMLRM_END", epoch(start.end)),
            ("SIMLRM_NOTICE_MS", notice.as_millis().to_string()),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
        env.insert(mark, run);
        env
    }

    /// Sends what waits for a run, if its first process is there.
    fn deliver(&mut self, run: RunNumber) {
        let run_dir = RunDir::new(&self.dir, run);
        let Some(first) = run_dir.first() else {
            return;
        };
        let mark = environment_mark(run);
        let marks = marks(&self.dir, &mark, first, run_dir.supervisor());
        for (target, signal) in self.undelivered.remove(&run).unwrap_or_default() {
            if run_dir.ended().is_some() || !alive_or_followed(first, target) {
                continue;
            }
            let count = processes::send(&marks, target, signal);
            tracing::info!(
                run.number = run.0,
                ?target,
                ?signal,
                processes.count = count,
                "sends signal"
            );
        }
    }

    /// Looks at all runs: what has ended, what has arrived.
    fn look(&mut self) {
        let waiting: Vec<_> = self.undelivered.keys().copied().collect();
        for run in waiting {
            self.deliver(run);
        }
        let present: Vec<_> = self.state.model.runs().map(|(n, _)| n).collect();
        for run in &present {
            if self.reported.contains(run) {
                continue;
            }
            let Some(ended) = RunDir::new(&self.dir, *run).ended() else {
                continue;
            };
            tracing::info!(run.number = run.0, ?ended, "job's first process has ended");
            self.reported.insert(*run);
            self.step(match ended {
                Ended::Exited(code) => Event::Exited { run: *run, code },
                Ended::LaunchFailed => Event::LaunchFailed { run: *run },
            });
        }
        if self.unsaved || !self.state.outbox.is_empty() {
            self.act();
        }
        let live: BTreeSet<_> = self.state.model.runs().map(|(n, _)| n).collect();
        // Not before it is on disk that they are over.
        if !self.unsaved {
            for run in self.known.difference(&live) {
                self.reported.remove(run);
                self.undelivered.remove(run);
                RunDir::new(&self.dir, *run).remove();
            }
            self.known = live;
        }
    }
}

/// A signal to a first process that is gone would hit whoever has its pid now.
fn alive_or_followed(first: Identity, target: Target) -> bool {
    first.is_alive() || target == Target::Everything
}

/// One command: a request, an answer, and the fault that was drawn for it.
async fn converse(stream: UnixStream, ask: mpsc::Sender<Asked>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).take(REQUEST_LIMIT);
    let mut line = String::new();
    if lines.read_line(&mut line).await.is_err() {
        return;
    }
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(request) => loop {
            let (send, answer) = oneshot::channel();
            if ask.send((request.clone(), send)).await.is_err() {
                return;
            }
            let Ok(reply) = answer.await else {
                return;
            };
            let waits = matches!(request, Request::Wait { .. });
            if !(waits && reply.response == Response::Done) {
                break reply;
            }
            sleep(LOOK).await;
        },
        Err(e) => Reply {
            response: Response::Failed(format!("could not read the request: {e}")),
            fault: None,
        },
    };
    let text = match serde_json::to_string(&reply.response) {
        Ok(text) => text,
        Err(e) => {
            tracing::error!(error = %e, "could not write an answer");
            return;
        }
    };
    let fault = reply.fault.as_ref();
    match fault.map(|f| f.kind) {
        Some(FaultKind::Hang | FaultKind::HangAfter) => {
            // Until the command gives up.
            let mut rest = Vec::new();
            let _ = lines.read_to_end(&mut rest).await;
        }
        Some(FaultKind::Late) => {
            sleep(fault.map_or(Duration::ZERO, |f| f.by.as_duration())).await;
            let _ = write.write_all(format!("{text}\n").as_bytes()).await;
        }
        Some(
            FaultKind::Error
            | FaultKind::LostAnswer
            | FaultKind::Missing
            | FaultKind::OddState
            | FaultKind::Garbled,
        )
        | None => {
            let _ = write.write_all(format!("{text}\n").as_bytes()).await;
        }
    }
}
