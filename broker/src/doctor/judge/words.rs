//! Findings about the way to the canary, and after it.

use std::path::Path;

use protocol::finding::Finding;
use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::CancelAnswer;
use protocol::time::Span;

use super::millis;

#[expect(clippy::cast_precision_loss, reason = "jobs are few")]
pub(in super::super) fn answers(name: &str, jobs: usize, took: Span) -> Finding {
    Finding::ok(
        "lrm",
        format!("{name} answers in {took} and lists {jobs} jobs of ours"),
    )
    .with("took_ms", millis(took))
    .with("jobs", jobs as f64)
}

pub(in super::super) fn version(name: &str, told: &Result<String, String>) -> Finding {
    match told {
        Ok(version) => Finding::ok("lrm.version", format!("{name} says that it is `{version}`")),
        Err(why) => Finding::warning(
            "lrm.version",
            format!("{name} does not tell its version: {why}"),
            "pilots work without; give the version by hand when you report something",
        ),
    }
}

pub(in super::super) fn no_answer(why: &str) -> Finding {
    Finding::problem(
        "lrm",
        format!("the LRM gives no answer: {why}"),
        "run the command by hand under this account; see `command_prefix`, `command_timeout` and \
         the section of the LRM in the configuration. Nothing was submitted",
    )
}

pub(in super::super) fn no_directory(why: &str) -> Finding {
    Finding::problem(
        "state-dir",
        format!("the canary's directory could not be made: {why}"),
        "the account must be able to write to `state_dir`. Nothing was submitted",
    )
}

pub(in super::super) fn submitted(id: &LrmJobId, took: Span) -> Finding {
    Finding::ok("submit", format!("the LRM took the job as {id} in {took}"))
        .with("took_ms", millis(took))
}

pub(in super::super) fn refused(why: &str) -> Finding {
    Finding::problem(
        "submit",
        format!("the LRM refuses the job: {why}"),
        "see the job with `pilot-broker submit-preview`, and correct what the LRM names",
    )
}

pub(in super::super) fn answer_lost(id: &LrmJobId, why: &str) -> Finding {
    Finding::warning(
        "submit",
        format!("the submit was not answered ({why}); the job was found by its key as {id}"),
        "the broker does the same; if it happens often, raise `command_timeout`",
    )
}

pub(in super::super) fn in_doubt(key: &SubmitKey, why: &str) -> Finding {
    Finding::problem(
        "submit",
        format!("the submit was not answered ({why}), and no job with the key {key} is listed"),
        "the job may exist: look for it, and run the doctor again, which cancels what it finds of it",
    )
}

pub(in super::super) fn not_over(id: &LrmJobId, directory: &Path) -> Finding {
    Finding::problem(
        "clean-up",
        format!("job {id} is not over by the LRM's word"),
        format!(
            "cancel it by hand; the next doctor removes `{}`",
            directory.display()
        ),
    )
}

pub(in super::super) fn not_removed(directory: &Path, why: &str) -> Finding {
    Finding::warning(
        "clean-up",
        format!("`{}` could not be removed: {why}", directory.display()),
        "remove it by hand",
    )
}

pub(in super::super) fn earlier_unknown(key: &SubmitKey, why: &str) -> Finding {
    Finding::warning(
        "earlier",
        format!("what became of the earlier canary {key} is not known: {why}"),
        "the next doctor looks again",
    )
}

pub(in super::super) fn earlier_cancelled(
    key: &SubmitKey,
    id: &LrmJobId,
    answer: &CancelAnswer,
) -> Finding {
    let said = match answer {
        CancelAnswer::Taken => "the LRM took the cancel".to_owned(),
        CancelAnswer::NoSuchJob => "the LRM does not know it any more".to_owned(),
        CancelAnswer::Started => "the LRM would end it only while it waits".to_owned(),
        CancelAnswer::Refused(why) | CancelAnswer::NoAnswer(why) => why.clone(),
    };
    Finding::warning(
        "earlier",
        format!("the canary {key} of an earlier doctor was still listed as {id}: {said}"),
        "no more, if its directory is gone from `state_dir`; otherwise the next doctor looks again",
    )
}

pub(in super::super) fn earlier_removed(key: &SubmitKey) -> Finding {
    Finding::ok(
        "earlier",
        format!("removed what an earlier doctor had left of its canary {key}"),
    )
}
