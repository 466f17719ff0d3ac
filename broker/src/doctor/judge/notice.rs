//! The notice: what was measured by a cancel against what is configured.

use std::fmt::Write as _;

use protocol::canary::CanaryLine;
use protocol::finding::Finding;
use protocol::time::Span;

use super::super::evidence::Evidence;
use super::{Circumstances, millis};

/// An LRM that ends jobs so much too early is exact enough: the margin covers it.
const EXACT: Span = Span::from_secs(1);

/// What the canary heard after its first signal, by the node's monotonic clock.
#[derive(Clone, PartialEq, Debug)]
struct Heard {
    /// From the first signal that ends jobs to the last sign of life.
    lived: Span,
    /// The signals, in words.
    story: String,
}

pub(super) fn judge(evidence: &Evidence, around: &Circumstances) -> Option<Finding> {
    let check = "notice";
    // A cancel that was not taken measures nothing, and one before the start neither.
    evidence.cancelled.as_ref()?;
    let configured = around.notice;
    let Some(Heard { lived, story }) = heard(&evidence.lines) else {
        evidence.over?;
        let text = "no signal came before the kill";
        return Some(if configured.is_zero() {
            Finding::ok(check, format!("{text}, as configured (notice = \"0s\")"))
        } else {
            Finding::problem(
                check,
                format!("notice = \"{configured}\" is configured, and {text}"),
                "write notice = \"0s\", or see in the adapter's page why the signal does not \
                 reach the pilot",
            )
            .with("configured_ms", millis(configured))
        });
    };
    let whole = Span::from_secs(lived.as_millis() / 1000);
    let told = format!(
        "notice = \"{configured}\" is configured, {} were measured",
        secs(lived)
    );
    let finding = if let Some(why) = evidence.left() {
        Finding::ok(check, format!("{told} at least: {why}. It heard {story}"))
    } else if evidence.over.is_none() {
        Finding::warning(
            check,
            format!("{told} so far, and the job is not over. It heard {story}"),
            "see what the LRM says of the job",
        )
    } else if lived + EXACT < configured {
        Finding::problem(
            check,
            format!("{told}. It heard {story}"),
            format!("write notice = \"{whole}\", or have the LRM wait longer between its signals"),
        )
    } else if lived < configured {
        Finding::warning(
            check,
            format!(
                "{told}; the margin of {} covers that. It heard {story}",
                around.margin
            ),
            format!("write notice = \"{whole}\" to be exact"),
        )
    } else {
        Finding::ok(check, format!("{told}. It heard {story}"))
    };
    Some(
        finding
            .with("configured_ms", millis(configured))
            .with("measured_ms", millis(lived)),
    )
}

fn heard(lines: &[CanaryLine]) -> Option<Heard> {
    let mut first: Option<u64> = None;
    let mut last = 0;
    let mut story = String::new();
    for line in lines {
        match line {
            CanaryLine::Signal {
                mono_ms,
                name,
                ends,
                from,
                ..
            } => {
                if *ends {
                    first.get_or_insert(*mono_ms);
                }
                let after = Span::from_millis(mono_ms.saturating_sub(first.unwrap_or(*mono_ms)));
                if !story.is_empty() {
                    story.push_str(", ");
                }
                let _ = write!(story, "{name} from {from}");
                if !after.is_zero() {
                    let _ = write!(story, " {} later", secs(after));
                }
                last = last.max(*mono_ms);
            }
            CanaryLine::Alive { mono_ms, .. } => last = last.max(*mono_ms),
            CanaryLine::Started { .. }
            | CanaryLine::Found(_)
            | CanaryLine::Ready { .. }
            | CanaryLine::Pong { .. }
            | CanaryLine::Ended { .. } => {}
        }
    }
    let lived = Span::from_millis(last.saturating_sub(first?));
    Some(Heard { lived, story })
}

/// With a tenth of a second: what is measured is not more exact.
fn secs(span: Span) -> String {
    format!("{:.1} s", span.as_secs_f64())
}
