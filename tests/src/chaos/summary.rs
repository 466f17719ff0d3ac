//! What a campaign comes to: for programs as JSON, and for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// How the time that suspends took compares with the time that was set aside for them: 1 is all of
/// it, more is too late.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// Suspends that were measured.
    pub count: usize,
    /// Half of them took less than this part of their budget.
    pub p50: f64,
    /// Nine in ten did.
    pub p90: f64,
    /// 99 in a hundred did.
    pub p99: f64,
    /// The slowest one.
    pub max: f64,
}

impl Ratios {
    /// Of these figures.
    pub fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let at = |per_cent: usize| {
            let rank = (all.len() * per_cent).div_ceil(100).max(1);
            all.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            count: all.len(),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

/// The whole campaign. The names are stable.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// What the plan was drawn from.
    pub seed: u64,
    /// How long faults were made.
    pub minutes: f64,
    /// Guests that had to leave a slot, by suspend or kill, and whose pilot lived to say so.
    pub evictions: u64,
    /// Slots of which something was there after the kill time, or that the batch system had to
    /// SIGKILL although they had their full notice; must be 0.
    pub overruns: u64,
    /// Things that were left on the nodes; must be 0.
    pub leftovers: u64,
    /// Requests without an end, and guests that were killed without a state although they could
    /// have been suspended; must be 0.
    pub lost: u64,
    /// Guests that were seen, or say that they were, in two slots at once; must be 0.
    pub doubled: u64,
    /// Suspends by outcome: `committed`, `failed` (the guest lived on), `discarded` (and the guest
    /// killed), `cut_short` (the pilot was killed).
    pub suspends: BTreeMap<&'static str, u64>,
    /// Time that suspends took over time that was set aside.
    pub actual_budget: Ratios,
    /// What was done, by kind; for the network, calls that it happened to.
    pub faults: BTreeMap<&'static str, u64>,
    /// Requests by final state.
    pub requests: BTreeMap<String, u64>,
    /// Broken promises, in sentences.
    pub violations: Vec<String>,
}

fn listed<K: fmt::Display>(of: &BTreeMap<K, u64>) -> String {
    let words: Vec<String> = of.iter().map(|(k, n)| format!("{n} {k}")).collect();
    words.join(", ")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  seed {}, {} minutes", self.seed, self.minutes)?;
        writeln!(f, "  requests: {}", listed(&self.requests))?;
        writeln!(f, "  faults: {}", listed(&self.faults))?;
        writeln!(
            f,
            "  evictions {}; suspends: {}",
            self.evictions,
            listed(&self.suspends)
        )?;
        let r = self.actual_budget;
        writeln!(
            f,
            "  time over budget of {} suspends: half below {:.2}, 90 % below {:.2}, 99 % below {:.2}, most {:.2}",
            r.count, r.p50, r.p90, r.p99, r.max
        )?;
        write!(
            f,
            "  overruns {}, leftovers {}, lost {}, doubled {}, broken promises {}",
            self.overruns,
            self.leftovers,
            self.lost,
            self.doubled,
            self.violations.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_others_read() {
        let json = serde_json::to_value(Summary::default()).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        let want = [
            "actual_budget",
            "doubled",
            "evictions",
            "faults",
            "leftovers",
            "lost",
            "minutes",
            "overruns",
            "requests",
            "seed",
            "suspends",
            "violations",
        ];
        assert_eq!(keys, want);
        let ratios = json["actual_budget"].as_object().unwrap();
        let ratios: Vec<&String> = ratios.keys().collect();
        assert_eq!(ratios, ["count", "max", "p50", "p90", "p99"]);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let all = (1..=100).rev().map(|n| f64::from(n) / 100.0).collect();
        let r = Ratios::of(all);
        assert_eq!(
            (r.count, r.p50, r.p90, r.p99, r.max),
            (100, 0.5, 0.9, 0.99, 1.0)
        );
        let one = Ratios::of(vec![0.3]);
        assert_eq!((one.p50, one.max), (0.3, 0.3));
        assert_eq!(Ratios::of(Vec::new()), Ratios::default());
    }
}
