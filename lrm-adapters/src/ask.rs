//! From a command to an answer of the contract: what all adapters do alike. A command without an
//! answer is "no answer", and one that was never started has done nothing.

use std::path::PathBuf;

use protocol::ids::SubmitKey;
use protocol::lrm::{CancelAnswer, Observation, SubmitAnswer};

use crate::command::{Output, Runner};
use crate::job_script;

impl Runner {
    /// Runs a submit; `read` says what its output means.
    pub(crate) async fn submit(
        &self,
        args: &[String],
        read: impl FnOnce(&Output) -> SubmitAnswer,
    ) -> SubmitAnswer {
        match self.run(args).await {
            Ok(output) => read(&output),
            Err(e) if e.did_nothing() => SubmitAnswer::Refused(e.to_string()),
            Err(e) => SubmitAnswer::NoAnswer(e.to_string()),
        }
    }

    /// Runs a listing; `read` says what its output means.
    pub(crate) async fn list(
        &self,
        args: &[String],
        read: impl FnOnce(&Output) -> Observation,
    ) -> Observation {
        match self.run(args).await {
            Ok(output) => read(&output),
            Err(e) => Observation::NoAnswer(e.to_string()),
        }
    }

    /// Runs a cancel; `read` says what its output means.
    pub(crate) async fn cancel(
        &self,
        args: &[String],
        read: impl FnOnce(&Output) -> CancelAnswer,
    ) -> CancelAnswer {
        match self.run(args).await {
            Ok(output) => read(&output),
            Err(e) => CancelAnswer::NoAnswer(e.to_string()),
        }
    }
}

/// The jobs of a listing that carry a key which can be ours; the others are the account's own, or
/// the site's.
pub(crate) fn ours(observation: Observation) -> Observation {
    only(observation, |key| key.is_some())
}

/// The jobs of a listing that carry this key.
pub(crate) fn with_key(observation: Observation, key: &SubmitKey) -> Observation {
    only(observation, |found| found == Some(key))
}

fn only(observation: Observation, wanted: impl Fn(Option<&SubmitKey>) -> bool) -> Observation {
    match observation {
        Observation::Listing(mut jobs) => {
            jobs.retain(|job| wanted(job.key.as_ref()));
            Observation::Listing(jobs)
        }
        Observation::NoAnswer(why) => Observation::NoAnswer(why),
    }
}

/// Writes a job's files before its submit, away from the threads that serve.
///
/// # Errors
/// Which of them could not be written, as a sentence: there is no job then.
pub(crate) async fn write(files: Vec<(PathBuf, String)>) -> Result<(), String> {
    let work = move || {
        files.into_iter().try_for_each(|(path, text)| {
            job_script::write_script(&path, &text)
                .map_err(|e| format!("could not write `{}`: {e}", path.display()))
        })
    };
    (tokio::task::spawn_blocking(work).await)
        .unwrap_or_else(|e| Err(format!("could not write the job: {e}")))
}

#[cfg(test)]
mod tests {
    use protocol::time::Span;

    use super::*;

    #[tokio::test]
    async fn what_was_never_started_is_refused_and_what_broke_off_is_no_answer() {
        let runner = Runner::new(Span::from_millis(200));
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let accept = |_: &Output| SubmitAnswer::Refused("read".into());
        let answer = runner.submit(&words("/no/such/sbatch"), accept).await;
        assert!(
            matches!(&answer, SubmitAnswer::Refused(why) if why.contains("/no/such/sbatch")),
            "{answer:?}"
        );
        let hung = words("sleep 600");
        let answer = runner.submit(&hung, accept).await;
        assert!(matches!(answer, SubmitAnswer::NoAnswer(_)), "{answer:?}");
        let answer = runner.list(&hung, |_| Observation::Listing(vec![])).await;
        assert!(matches!(answer, Observation::NoAnswer(_)), "{answer:?}");
        let answer = runner.cancel(&hung, |_| CancelAnswer::Taken).await;
        assert!(matches!(answer, CancelAnswer::NoAnswer(_)), "{answer:?}");
        let answer = Runner::new(Span::from_secs(60))
            .cancel(&words("true"), |output| {
                assert_eq!(output.code, Some(0));
                CancelAnswer::Taken
            })
            .await;
        assert_eq!(answer, CancelAnswer::Taken);
    }

    #[tokio::test]
    async fn the_first_file_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "missing/b", "c"].map(|name| (dir.path().join(name), name.to_owned()));
        let why = write(files.into()).await.unwrap_err();
        assert!(why.contains("missing/b"), "{why}");
        assert!(dir.path().join("a").exists() && !dir.path().join("c").exists());
    }
}
