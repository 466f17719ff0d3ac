//! `run`, `queue`, `check`, `digest`: request files and what becomes of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::api::WorkspaceView;
use protocol::codes::exit;
use protocol::ids::IdempotencyKey;
use protocol::workspace::WorkspaceSpec;
use serde_json::json;
use uuid::Uuid;

use super::follow::{Interrupts, follow};
use crate::cli::{Check, Files, Queue, QueueOptions, Run};
use crate::client::{Client, ClientError, ClientSettings, Retry};
use crate::clock;
use crate::failure::Failure;
use crate::output::{Detail, Output};
use crate::request;

/// `run`
pub async fn run(settings: &ClientSettings, output: &Output, args: &Run) -> Result<i32, Failure> {
    let queue = Submitter::new(settings, output, &args.how)?;
    let spec = request::read(&args.file, args.how.pin, output)?;
    let key = queue.key(0, 1)?;
    let mut interrupts = Interrupts::new()?;
    let view = queue.submit(&key, &spec, &mut interrupts).await?;
    match output.detail {
        Detail::Json => output.json(&json!({"workspace": view, "idempotency_key": key}))?,
        Detail::Quiet => output.line(view.id.as_str())?,
        Detail::Human if args.detach => output.line(view.id.as_str())?,
        Detail::Human => output.line(&format!("{} is queued as {}", view.spec.name, view.id))?,
    }
    if args.detach {
        return Ok(exit::OK);
    }
    follow(&Client::new(settings)?, output, &view, &mut interrupts).await
}

/// `queue`
pub async fn queue(
    settings: &ClientSettings,
    output: &Output,
    args: &Queue,
) -> Result<i32, Failure> {
    let queue = Submitter::new(settings, output, &args.how)?;
    let specs = read_all(&args.files, args.how.pin, output)?;
    let count = specs.len();
    let mut interrupts = Interrupts::new()?;
    for (i, (file, spec)) in specs.into_iter().enumerate() {
        let key = queue.key(i, count)?;
        let view = queue.submit(&key, &spec, &mut interrupts).await?;
        match output.detail {
            Detail::Json => {
                output.json(&json!({"workspace": view, "idempotency_key": key, "file": file}))?
            }
            Detail::Quiet | Detail::Human => output.line(view.id.as_str())?,
        }
    }
    Ok(exit::OK)
}

/// `check`
pub fn check(output: &Output, args: &Check) -> Result<i32, Failure> {
    for (file, spec) in read_all(&args.files, args.pin, output)? {
        match output.detail {
            Detail::Json => output.json(&json!({"file": file, "spec": spec}))?,
            Detail::Quiet => {}
            Detail::Human => output.line(&format!("{}: all right", file.display()))?,
        }
    }
    Ok(exit::OK)
}

/// `digest`
pub fn digest(output: &Output, args: &Files) -> Result<i32, Failure> {
    for file in &args.files {
        let digest = request::digest(file)?;
        match output.detail {
            Detail::Json => output.json(&json!({"file": file, "digest": digest}))?,
            Detail::Quiet => output.line(&digest)?,
            Detail::Human => output.line(&format!("{digest}  {}", file.display()))?,
        }
    }
    Ok(exit::OK)
}

/// Reads all files before anything is queued.
fn read_all<'f>(
    files: &'f [PathBuf],
    pin: bool,
    output: &Output,
) -> Result<Vec<(&'f Path, WorkspaceSpec)>, Failure> {
    files
        .iter()
        .map(|f| Ok((f.as_path(), request::read(f, pin, output)?)))
        .collect()
}

/// Submits with a key that was made once, says when the broker is away, and never loses the key.
struct Submitter<'o> {
    client: Client,
    give_up_after: Duration,
    key: String,
    output: &'o Output,
}

impl<'o> Submitter<'o> {
    fn new(
        settings: &ClientSettings,
        output: &'o Output,
        how: &QueueOptions,
    ) -> Result<Self, Failure> {
        let once = ClientSettings {
            retry: Retry::never(),
            ..settings.clone()
        };
        Ok(Self {
            client: Client::new(&once)?,
            give_up_after: settings.retry.give_up_after,
            key: match &how.idempotency_key {
                Some(key) => key.as_str().to_owned(),
                None => Uuid::new_v4().to_string(),
            },
            output,
        })
    }

    /// The key of file `i` of `count`: the same for the same files in a repeated call.
    fn key(&self, i: usize, count: usize) -> Result<IdempotencyKey, Failure> {
        let key = match count {
            1 => self.key.clone(),
            _ => format!("{}.{}", self.key, i + 1),
        };
        IdempotencyKey::new(&key).map_err(|e| Failure::Usage {
            message: e.to_string(),
            help: "write a shorter `--idempotency-key`".into(),
        })
    }

    async fn submit(
        &self,
        key: &IdempotencyKey,
        spec: &WorkspaceSpec,
        interrupts: &mut Interrupts,
    ) -> Result<WorkspaceView, Failure> {
        tokio::select! {
            submitted = self.keep_trying(key, spec) => submitted,
            () = interrupts.next() => Err(Failure::Interrupted {
                help: format!("it may have been queued: {}", self.again()),
            }),
        }
    }

    async fn keep_trying(
        &self,
        key: &IdempotencyKey,
        spec: &WorkspaceSpec,
    ) -> Result<WorkspaceView, Failure> {
        let begun = clock::mono();
        let mut failures = 0;
        let mut surely_not_done = true;
        loop {
            let error = match self.client.submit(key, spec).await {
                Ok(view) => return Ok(view),
                Err(error) => error,
            };
            surely_not_done &= error.surely_not_done();
            let pause = Retry::default().pause(failures);
            let left = self.give_up_after.saturating_sub(begun.elapsed());
            if !error.is_transient() || pause > left {
                return Err(self.explain(error, surely_not_done));
            }
            if failures == 0 {
                let left = left.as_secs();
                self.output
                    .note(&format!("{error}; still trying for {left}s"));
            }
            failures += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// Where an earlier attempt may have been carried out, the key is what finds it again.
    fn explain(&self, error: ClientError, surely_not_done: bool) -> Failure {
        if surely_not_done {
            return Failure::Client(error);
        }
        let help = format!("it may have been queued: {}", self.again());
        Failure::Submit { error, help }
    }

    fn again(&self) -> String {
        format!(
            "repeat the command with `--idempotency-key {}` to find it or to queue it now, never both",
            self.key
        )
    }
}
