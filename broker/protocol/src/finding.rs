//! What the doctors find: `pilot doctor` on a node, `pilot-broker doctor` at a site.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Guests can run; something is slower, riskier or less than it could be.
    Warning,
    /// A pilot would refuse to start here, or a promise would be broken.
    Problem,
}

impl Level {
    /// The word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: stable, lowercase, as `notice` or `disk.scratch`.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was found, in a sentence.
    pub text: String,
    /// What to do, in a sentence; none where all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What was measured or compared. Names end in their unit: `_ms`, `_mib`, `_mib_per_s`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, f64>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &str, text: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            level: Level::Ok,
            text: text.into(),
            advice: None,
            values: BTreeMap::new(),
        }
    }

    /// Could be better; `advice` says what to do.
    pub fn warning(check: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            advice: Some(advice.into()),
            ..Self::ok(check, text)
        }
    }

    /// Must not stay so; `advice` says what to do.
    pub fn problem(check: &str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            level: Level::Problem,
            advice: Some(advice.into()),
            ..Self::ok(check, text)
        }
    }

    /// The same with a figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }
}

impl fmt::Display for Finding {
    /// `warning  notice: 5.1 s were measured` and, indented below, what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, text, .. } = self;
        write!(f, "{:<8} {check}: {text}", self.level.as_str())?;
        match &self.advice {
            Some(advice) => write!(f, "\n         -> {advice}"),
            None => Ok(()),
        }
    }
}

/// The worst of all; [`Level::Ok`] of nothing.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|f| f.level).max().unwrap_or(Level::Ok)
}

/// How many there are of each, in words: `12 ok, 1 warning, no problem`.
pub fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let words = |n: usize, one: &str| match n {
        0 => format!("no {one}"),
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    format!(
        "{} ok, {}, {}",
        count(Level::Ok),
        words(count(Level::Warning), "warning"),
        words(count(Level::Problem), "problem")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_decides_and_people_can_read_it() {
        assert_eq!(worst(&[]), Level::Ok);
        let all = [
            Finding::ok("lrm", "answers").with("took_ms", 12.0),
            Finding::problem("notice", "5 s were measured", "write notice = \"5s\""),
            Finding::warning("disk.store", "slow", "use a faster one"),
        ];
        assert_eq!(worst(&all), Level::Problem);
        assert_eq!(summary(&all), "1 ok, 1 warning, 1 problem");
        assert_eq!(
            all[1].to_string(),
            "problem  notice: 5 s were measured\n         -> write notice = \"5s\""
        );
        let json = serde_json::to_string(&all[0]).unwrap();
        assert_eq!(
            json,
            r#"{"check":"lrm","level":"ok","text":"answers","values":{"took_ms":12.0}}"#
        );
        assert_eq!(serde_json::from_str::<Finding>(&json).unwrap(), all[0]);
    }
}
