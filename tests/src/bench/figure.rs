//! What a benchmark says: a line of JSON per figure (`scripts/xtask/src/bench.rs` reads them).

use std::time::Duration;

use serde::Serialize;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Which benchmark.
    pub bench: &'static str,
    /// What was measured, in a few words.
    pub metric: String,
    /// The figure: the median where it was measured several times.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// How many times it was measured.
    pub samples: usize,
    /// What the same machine does without us, measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// What it must reach; where there is a baseline, as a multiple of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// What a figure is compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Baseline {
    /// What it is.
    pub what: String,
    /// In the figure's unit.
    pub value: f64,
}

/// What a figure, or its ratio to the baseline, must reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Figure {
    /// A figure that was measured once.
    pub fn one(
        bench: &'static str,
        metric: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            bench,
            metric: metric.into(),
            value,
            unit,
            samples: 1,
            baseline: None,
            target: None,
        }
    }

    /// The median of several.
    pub fn median(
        bench: &'static str,
        metric: impl Into<String>,
        values: &[f64],
        unit: &'static str,
    ) -> Self {
        Self {
            samples: values.len(),
            ..Self::one(bench, metric, percentile(values, 50.0), unit)
        }
    }

    /// Compared with the median of these.
    #[must_use]
    pub fn against(mut self, what: impl Into<String>, values: &[f64]) -> Self {
        self.baseline = Some(Baseline {
            what: what.into(),
            value: percentile(values, 50.0),
        });
        self
    }

    /// It must reach this.
    #[must_use]
    pub const fn must_be(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}

/// The value below which `percent` of all values lie (nearest rank); 0 of none.
pub(super) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil();
    sorted
        .get((rank as usize).saturating_sub(1))
        .copied()
        .unwrap_or(0.0)
}

/// Milliseconds with their fraction.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// MB/s (10^6 bytes).
pub(super) fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), 50.0);
        assert_eq!(percentile(&values, 99.0), 99.0);
        assert_eq!(percentile(&values, 100.0), 100.0);
        assert_eq!(percentile(&[3.0], 1.0), 3.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }

    #[test]
    fn a_figure_is_the_line_that_is_agreed() {
        let figure = Figure::median("suspend", "256 MiB", &[1.0, 5.0, 4.0], "MB/s")
            .against("plain write", &[5.0])
            .must_be(Target::AtLeast(0.8));
        assert_eq!(
            serde_json::to_string(&figure).unwrap(),
            r#"{"bench":"suspend","metric":"256 MiB","value":4.0,"unit":"MB/s","samples":3,"baseline":{"what":"plain write","value":5.0},"target":{"at-least":0.8}}"#
        );
        let bare = Figure::one("sync", "syncs", 1.0, "/s");
        assert!(!serde_json::to_string(&bare).unwrap().contains("baseline"));
    }
}
