//! From what is known about a canary to findings: pure, and every sentence in one place.

mod notice;
#[cfg(test)]
mod tests;
mod words;

pub(super) use words::{
    answer_lost, answers, earlier_cancelled, earlier_removed, earlier_unknown, in_doubt, no_answer,
    no_directory, not_over, not_removed, refused, submitted, version,
};

use protocol::finding::{Finding, Level};
use protocol::lrm::{JobEnd, JobState};
use protocol::resources::Resources;
use protocol::slot::SlotFacts;
use protocol::time::Span;

use super::evidence::{Evidence, GivenUp, Skew, output_tail};

/// Clocks that differ by more are told.
const APART: Span = Span::from_secs(2);

/// What is judged against.
#[derive(Clone, Debug)]
pub(super) struct Circumstances {
    /// The account that the doctor runs under.
    pub uid: u32,
    /// Its name.
    pub user: String,
    /// The notice that is configured.
    pub notice: Span,
    /// The safety that is configured.
    pub margin: Span,
    /// Something takes connections where the broker is to serve.
    pub broker_runs: bool,
    /// LRM commands run through a prefix, which may change the account.
    pub has_prefix: bool,
}

/// All that the evidence says.
pub(super) fn all(evidence: &Evidence, around: &Circumstances) -> Vec<Finding> {
    let Some((uid, user, host, slot)) = evidence.started() else {
        return vec![never_began(evidence)];
    };
    let waited = evidence
        .seen
        .map_or(Span::ZERO, |seen| seen.since(evidence.submitted));
    let mut found = vec![
        Finding::ok(
            "start",
            format!(
                "the canary said its first word on node {} after {waited}",
                slot.node
            ),
        )
        .with("waited_ms", millis(waited)),
        account(uid, user, around),
        slot_file(evidence, slot, host),
        limits(evidence, slot),
        clocks(evidence.skew, around.margin),
    ];
    found.extend(evidence.findings().map(|f| of_node(f, around)));
    found.push(store_shared(evidence));
    found.push(cancel(evidence));
    found.extend(notice::judge(evidence, around));
    found.extend(children(evidence));
    found.extend(evidence.given_up.and_then(|why| given_up(evidence, why)));
    found
}

/// There is not a word of it.
fn never_began(evidence: &Evidence) -> Finding {
    let check = "start";
    if let Some(why) = evidence.given_up
        && let Some(finding) = given_up(evidence, why)
    {
        return finding;
    }
    let said = output_tail(&evidence.job.directory);
    let said = if said.is_empty() {
        "it printed nothing".to_owned()
    } else {
        format!("its output ends in: {said}")
    };
    Finding::problem(
        check,
        format!(
            "the job ended before the canary began ({}); {said}",
            listed(evidence)
        ),
        format!(
            "on a node, can this account run `{}`, write to scratch `{}` and see `{}`? \
             `pilot-broker submit-preview` prints the job",
            evidence.job.program.display(),
            evidence.job.scratch.display(),
            evidence.job.directory.display()
        ),
    )
}

fn given_up(evidence: &Evidence, why: GivenUp) -> Option<Finding> {
    let check = "start";
    match why {
        GivenUp::Queued => Some(Finding::warning(
            check,
            format!(
                "the canary did not start in the time given ({})",
                listed(evidence)
            ),
            "run the doctor again with a longer --wait, or ask the site why the job waits",
        )),
        GivenUp::Silent => Some(Finding::problem(
            check,
            format!(
                "the job runs by the LRM's word and says nothing ({}); {}",
                listed(evidence),
                output_tail(&evidence.job.directory)
            ),
            format!(
                "do nodes see `{}`? Where they do not, run `pilot doctor` on a node instead",
                evidence.job.directory.display()
            ),
        )),
        GivenUp::NotReady => Some(Finding::problem(
            "node",
            "the canary did not get to the end of looking at the node",
            "see the findings that it made; a disk or a server that hangs is the likely cause",
        )),
        GivenUp::Interrupted => Some(Finding::warning(
            "interrupted",
            "the doctor was told to stop, and has withdrawn its canary",
            "run it again",
        )),
        // Told when cleaning up.
        GivenUp::NotOver => None,
    }
}

/// The LRM's own words for the job's state.
fn listed(evidence: &Evidence) -> String {
    match &evidence.listed {
        None => "the LRM does not list it".to_owned(),
        Some(job) => {
            let state = match &job.state {
                JobState::Queued => "queued",
                JobState::Held => "held",
                JobState::Running => "running",
                JobState::Suspended => "suspended",
                JobState::Ending => "ending",
                JobState::Unknown(word) => word,
                JobState::Ended(JobEnd::Exited(code)) => {
                    return format!("ended with exit code {code}");
                }
                JobState::Ended(JobEnd::Cancelled) => "cancelled",
                JobState::Ended(JobEnd::Walltime) => "ended by its walltime",
                JobState::Ended(JobEnd::Preempted) => "preempted",
                JobState::Ended(JobEnd::NodeLost) => "ended with its node",
                JobState::Ended(JobEnd::LaunchFailed) => "could not be started",
                JobState::Ended(JobEnd::Other(why)) => return format!("ended: {why}"),
            };
            if job.detail.is_empty() {
                state.to_owned()
            } else {
                format!("{state}: {}", job.detail)
            }
        }
    }
}

fn account(uid: u32, user: &str, around: &Circumstances) -> Finding {
    let check = "job.account";
    let text = format!("jobs run as {user} (user number {uid})");
    if uid == around.uid {
        return Finding::ok(check, text);
    }
    let text = format!(
        "{text}, this doctor as {} (user number {})",
        around.user, around.uid
    );
    let advice = if around.has_prefix {
        "with `command_prefix` this may be meant: pilots must be able to read their directories \
         under `state_dir`"
    } else {
        "run doctor and broker under the account that the jobs get: pilots must be able to read \
         their directories under `state_dir`"
    };
    Finding::warning(check, text, advice)
}

fn slot_file(evidence: &Evidence, slot: &SlotFacts, host: &str) -> Finding {
    let check = "slot-file";
    if slot.submit_key != evidence.job.key || slot.site != evidence.job.site {
        return Finding::problem(
            check,
            format!(
                "the slot file names job {} of site {}",
                slot.submit_key, slot.site
            ),
            "two jobs share a scratch directory; give each node its own, or report this",
        );
    }
    let id = slot.lrm_job_id.as_ref().map(ToString::to_string);
    let node = if slot.node.as_str() == host {
        format!("node {host}")
    } else {
        format!("node {} (host {host})", slot.node)
    };
    Finding::ok(
        check,
        format!(
            "the job saw itself as {} on {node}, from {} to {}",
            id.as_deref().unwrap_or("a job without an id"),
            slot.start,
            slot.end
        ),
    )
}

fn limits(evidence: &Evidence, slot: &SlotFacts) -> Finding {
    let check = "limits";
    let (asked, granted) = (evidence.job.resources, slot.resources);
    let walltime = slot.end.since(slot.start);
    let text = format!(
        "asked for {asked} for {}, granted {granted} for {walltime}",
        evidence.job.walltime
    );
    let finding = if let Some(less) = shortfall(&granted, &asked) {
        Finding::problem(
            check,
            format!("{text}: {less}"),
            "a pilot offers only what it got; correct [site.NAME.slot] or the queue's limits",
        )
    } else if walltime + Span::from_secs(1) < evidence.job.walltime {
        Finding::warning(
            check,
            text,
            "the LRM cut the walltime: lower `walltime_max` to what the queue allows",
        )
    } else {
        Finding::ok(check, text)
    };
    finding
        .with("asked_walltime_ms", millis(evidence.job.walltime))
        .with("granted_walltime_ms", millis(walltime))
        .with("granted_cores", f64::from(granted.cores))
        .with("granted_memory_mib", float(granted.memory_mib))
        .with("granted_disk_mib", float(granted.disk_mib))
}

fn shortfall(granted: &Resources, asked: &Resources) -> Option<String> {
    granted
        .shortfall(asked)
        .map(|less| format!("the slot lacks {less}"))
}

fn clocks(skew: Option<Skew>, margin: Span) -> Finding {
    let check = "clock.node";
    let Some(Skew { ahead_ms, error }) = skew else {
        return Finding::warning(
            check,
            "the node did not see a file of this host in time, so the clocks were not compared",
            "do nodes see `state_dir`? If so, its file system shows changes very late",
        );
    };
    let apart = Span::from_millis(ahead_ms.unsigned_abs());
    let way = if ahead_ms < 0 { "behind" } else { "ahead of" };
    let text = format!("the node's clock is {apart} {way} this host's, give or take {error}");
    let sure = apart.minus(error);
    let advice = "keep both clocks with NTP: slots end by the LRM's clock, and pilots read the \
                  node's";
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let ahead = ahead_ms as f64;
    let finding = if sure > margin.max(APART) {
        Finding::problem(
            check,
            format!("{text}; that is more than the margin of {margin}"),
            advice,
        )
    } else if sure > APART {
        Finding::warning(check, text, advice)
    } else {
        Finding::ok(check, text)
    };
    finding
        .with("ahead_ms", ahead)
        .with("error_ms", millis(error))
}

/// The canary's own finding, seen from here.
fn of_node(finding: &Finding, around: &Circumstances) -> Finding {
    // A broker that does not run yet is not the node's fault.
    if finding.check == "broker" && finding.level == Level::Problem && !around.broker_runs {
        return Finding::warning(
            "broker",
            format!("{}; it does not run here either", finding.text),
            "start the broker and run the doctor again, to see whether nodes reach it",
        );
    }
    finding.clone()
}

fn store_shared(evidence: &Evidence) -> Finding {
    let check = "store.shared";
    let store = evidence.job.store.display();
    Finding::ok(
        check,
        match evidence.store_seen {
            Some(true) => format!("this host sees the same store `{store}` as the node"),
            Some(false) => format!(
                "this host does not see the node's store `{store}`; only the site's nodes need to"
            ),
            None => "not looked at: the canary did not get so far".to_owned(),
        },
    )
}

fn cancel(evidence: &Evidence) -> Finding {
    use protocol::lrm::CancelAnswer;
    let check = "cancel";
    match &evidence.cancelled {
        None => Finding::warning(
            check,
            format!(
                "the job ended before it was cancelled ({}): {}",
                listed(evidence),
                evidence.left().unwrap_or("not by itself")
            ),
            "run the doctor again; if it happens again, ask the site who ends the jobs",
        ),
        Some((_, CancelAnswer::Taken)) => Finding::ok(
            check,
            format!("the LRM took the cancel; the job is {}", listed(evidence)),
        ),
        Some((_, CancelAnswer::NoSuchJob)) => Finding::problem(
            check,
            "the LRM says that there is no such job",
            "may this account cancel its jobs? Are the broker's host and the nodes in one cluster?",
        ),
        Some((_, CancelAnswer::Started)) => Finding::problem(
            check,
            "the LRM would end the job only while it waits",
            "that is no answer to a cancel: report it with the LRM's name and version",
        ),
        Some((_, CancelAnswer::Refused(why) | CancelAnswer::NoAnswer(why))) => Finding::problem(
            check,
            format!("the job could not be cancelled: {why}"),
            "the account that submits must be allowed to cancel its own jobs",
        ),
    }
}

fn children(evidence: &Evidence) -> Option<Finding> {
    let check = "children";
    match evidence.survivor {
        None => None,
        Some(false) => Some(Finding::ok(
            check,
            "a process that left the job's session was ended with the job; files that a killed \
             pilot leaves are removed by the next one, or by `pilot reclaim` in an epilogue",
        )),
        Some(true) => Some(Finding::warning(
            check,
            "a process that left the job's session survived the job's end",
            "guests cannot do that (the kernel ends them with their pilot), but nothing of the \
             LRM's stops others: call `pilot reclaim --node-state SCRATCH` in the node's epilogue, \
             or have the LRM track jobs by control groups",
        )),
    }
}

fn millis(span: Span) -> f64 {
    float(span.as_millis())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
const fn float(n: u64) -> f64 {
    n as f64
}
