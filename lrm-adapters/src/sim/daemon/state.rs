//! What the daemon must not forget, and the file that keeps it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::DaemonConfig;
use super::faults::Faults;
use super::runs::{read_json, write_json};
use crate::sim::model::{Effect, Event, JobNumber, Model, Step};
use crate::sim::wire::Task;
use protocol::time::Timestamp;

/// Version of the file.
const VERSION: u32 = 1;

/// Everything that the daemon knows.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// The batch system.
    pub model: Model,
    /// What each job runs.
    pub tasks: BTreeMap<JobNumber, Task>,
    /// Decided, and not known to be carried out. Carrying it out twice does no harm.
    pub outbox: Vec<Effect>,
    /// How it misbehaves.
    pub faults: Faults,
}

impl State {
    /// What is in the directory, or a new batch system.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(super) fn load_or_new(
        dir: &Path,
        config: &DaemonConfig,
        now: Timestamp,
    ) -> io::Result<Self> {
        match read_json::<Self>(&dir.join("state.json")) {
            Ok(state) if state.version == VERSION => return Ok(state),
            Ok(state) => {
                return Err(io::Error::other(format!(
                    "it has version {}; this program reads version {VERSION}",
                    state.version
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let mut state = Self {
            version: VERSION,
            model: Model::new(config.model.clone()),
            tasks: BTreeMap::new(),
            outbox: Vec::new(),
            faults: Faults::new(config.faults.clone()),
        };
        for (at, request) in &config.site_jobs {
            let mut request = request.clone();
            request.begin = Some(now + *at);
            let task = site_task(request.walltime);
            let _ = state.submit(now, request, task);
        }
        Ok(state)
    }

    /// Writes it down, whole and durably.
    pub(super) fn save(&mut self, dir: &Path) -> io::Result<()> {
        let model = &self.model;
        self.tasks.retain(|job, _| model.job(*job).is_some());
        write_json(&dir.join("state.json"), self)
    }

    /// Steps the model; what is to be done goes to the outbox.
    pub(super) fn step(&mut self, now: Timestamp, event: Event) -> crate::sim::model::Answer {
        let Step { answer, effects } = self.model.step(now, event);
        self.outbox.extend(effects);
        answer
    }

    /// Submits a job with what it runs.
    pub(super) fn submit(
        &mut self,
        now: Timestamp,
        request: crate::sim::model::JobRequest,
        task: Task,
    ) -> crate::sim::model::Answer {
        let answer = self.step(now, Event::Submit(request));
        if let crate::sim::model::Answer::Submitted(job) = answer {
            self.tasks.insert(job, task);
        }
        answer
    }
}

/// What a job of the site runs: nothing, for its whole walltime.
pub(super) fn site_task(walltime: protocol::time::Span) -> Task {
    Task {
        script: format!("#!/bin/sh\nexec sleep {}\n", walltime.as_secs_f64()),
        output: None,
        directory: None,
    }
}
