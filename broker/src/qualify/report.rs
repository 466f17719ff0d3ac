//! What was found, for people and for programs.

use std::fmt;

use lrm_adapters::conformance::{Rule, Verdict};
use protocol::ids::SiteName;
use serde::Serialize;

use super::watched::Calls;

/// What became of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It cannot be checked here, within the limits.
    NotApplicable,
    /// It was to be checked, and was not.
    NotChecked,
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::NotApplicable => "n/a",
            Self::NotChecked => "not checked",
        }
    }
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleReport {
    /// Its number in `docs/adapters/README.md`.
    pub rule: u32,
    /// Its name, for `--rule`.
    pub name: &'static str,
    /// Its title there.
    pub title: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it is not applicable or was not checked, or what was seen when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How it was checked, where not the LRM itself was disturbed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub means: Option<&'static str>,
}

impl RuleReport {
    fn new(rule: Rule, outcome: Outcome, why: Option<String>) -> Self {
        Self {
            rule: rule.number(),
            name: rule.name(),
            title: rule.title(),
            outcome,
            why,
            means: None,
        }
    }

    /// Of a rule that was not checked.
    pub(super) fn not_checked(rule: Rule, why: impl Into<String>) -> Self {
        Self::new(rule, Outcome::NotChecked, Some(why.into()))
    }

    /// Of one that was. `broken` is a command of the administrator's that failed meanwhile, `slow` a
    /// call that took longer than the adapter promises.
    pub(super) fn of(
        rule: Rule,
        verdict: Verdict,
        means: Option<&'static str>,
        broken: Option<String>,
        slow: Option<String>,
    ) -> Self {
        let (outcome, why) = match (verdict, broken, slow) {
            (Verdict::Fail(what), _, None) => (Outcome::Fail, Some(what)),
            (Verdict::Fail(what), _, Some(slow)) => {
                (Outcome::Fail, Some(format!("{what}; {slow}")))
            }
            (_, Some(broken), _) => (Outcome::NotChecked, Some(broken)),
            (_, None, Some(slow)) => (Outcome::Fail, Some(slow)),
            (Verdict::NotApplicable(why), None, None) => (Outcome::NotApplicable, Some(why)),
            (Verdict::Pass, None, None) => (Outcome::Pass, None),
        };
        let means = match outcome {
            Outcome::Pass | Outcome::Fail => means,
            Outcome::NotApplicable | Outcome::NotChecked => None,
        };
        Self {
            means,
            ..Self::new(rule, outcome, why)
        }
    }
}

impl fmt::Display for RuleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.outcome.word();
        write!(
            f,
            "{word:<5} {:>2} {}: {}",
            self.rule, self.name, self.title
        )?;
        if let Some(means) = self.means {
            write!(f, " ({means})")?;
        }
        match &self.why {
            Some(why) => write!(f, "\n         {why}"),
            None => Ok(()),
        }
    }
}

/// All of it; `--json` prints it. Stable.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The site.
    pub site: SiteName,
    /// Its LRM.
    pub lrm: &'static str,
    /// What its command says to `--version`.
    pub version: Option<String>,
    /// In the order in which they were checked.
    pub rules: Vec<RuleReport>,
    /// Jobs that may live on, each in a sentence.
    pub left: Vec<String>,
    /// What the LRM was asked.
    pub calls: Calls,
}

impl Report {
    /// How many rules have this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.rules.iter().filter(|r| r.outcome == outcome).count()
    }

    /// The last line for people.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{}{}: {} passed, {} failed, {} not applicable, {} not checked; {} submits, {} listings, {} \
             cancels",
            self.lrm,
            (self.version.as_ref()).map_or_else(String::new, |v| format!(" ({v})")),
            self.count(Outcome::Pass),
            self.count(Outcome::Fail),
            self.count(Outcome::NotApplicable),
            self.count(Outcome::NotChecked),
            self.calls.submits,
            self.calls.listings,
            self.calls.cancels,
        );
        for left in &self.left {
            text.push('\n');
            text.push_str(left);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verdict: Verdict, broken: Option<&str>, slow: Option<&str>) -> (Outcome, Option<String>) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let report = RuleReport::of(Rule::Hung, verdict, None, owned(broken), owned(slow));
        (report.outcome, report.why)
    }

    #[test]
    fn what_was_seen_decides_and_a_broken_command_is_no_verdict() {
        let na = || Verdict::NotApplicable("no".to_owned());
        let fail = || Verdict::Fail("seen".to_owned());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(Verdict::Pass, None, None), (Outcome::Pass, None));
        assert_eq!(
            of(Verdict::Pass, None, Some("slow")),
            (Outcome::Fail, some("slow"))
        );
        assert_eq!(
            of(Verdict::Pass, Some("hook"), None),
            (Outcome::NotChecked, some("hook"))
        );
        assert_eq!(of(na(), None, None), (Outcome::NotApplicable, some("no")));
        assert_eq!(
            of(na(), Some("hook"), None),
            (Outcome::NotChecked, some("hook"))
        );
        assert_eq!(
            of(fail(), Some("hook"), None),
            (Outcome::Fail, some("seen"))
        );
        assert_eq!(
            of(fail(), None, Some("slow")),
            (Outcome::Fail, some("seen; slow"))
        );
    }

    #[test]
    fn a_line_says_what_and_why() {
        let means = Some("the answer was dropped on this side");
        let mut report = RuleReport::of(Rule::LostAnswer, Verdict::Pass, means, None, None);
        assert_eq!(
            report.to_string(),
            "pass   3 lost-answer: a submit whose answer is lost is no answer, and its job is found \
             by its key (the answer was dropped on this side)"
        );
        report = RuleReport::of(
            Rule::LostAnswer,
            Verdict::Fail("x".to_owned()),
            None,
            None,
            None,
        );
        assert!(report.to_string().starts_with("FAIL   3 lost-answer: "));
        assert!(report.to_string().ends_with("key\n         x"));
    }
}
