//! What a suspend costs on this node, by what was measured here and what the broker knew before:
//! the prediction and the time that is set aside. The rules are [`protocol::suspend_cost`]'s.

use std::collections::VecDeque;

use protocol::messages::{CostReport, KnownCosts, Rate};
use protocol::notice;
use protocol::suspend_cost::{CostModel, ENOUGH, Sample, Samples, mean_and_sigma};
use protocol::time::Span;

pub use protocol::suspend_cost::SuspendCost;

/// What is known of the suspends of this node.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rates {
    samples: Samples,
    /// They are from other nodes of the site.
    are_others: bool,
    model: CostModel,
    /// The middle one of the rates of large samples that were measured here, bytes a second.
    middle: Option<f64>,
    /// How many were measured in this slot.
    measured: u32,
    /// The latest of those.
    own: VecDeque<Sample>,
}

impl Rates {
    /// Takes what was known before. What was measured in this slot is later, and stays.
    pub fn know(&mut self, known: &KnownCosts) {
        if known.of_node {
            let own = self.own.iter().copied();
            self.samples = known.samples.iter().copied().chain(own).collect();
            self.model = CostModel::of(&self.samples);
        } else if self.own.is_empty() {
            self.samples = known.samples.iter().copied().collect();
            self.are_others = true;
            self.model = CostModel::of_others(&self.samples, known.nodes);
        }
        self.find_middle();
    }

    /// Takes a measurement: what a suspend wrote and how long it took.
    pub fn learn(&mut self, bytes: u64, took: Span) {
        if took.is_zero() {
            return;
        }
        let sample = Sample { bytes, took };
        if std::mem::take(&mut self.are_others) {
            // This disk speaks for itself from now on.
            self.samples = Samples::default();
        }
        self.samples.push(sample);
        self.model = CostModel::of(&self.samples);
        self.find_middle();
        self.measured = self.measured.saturating_add(1);
        if self.own.len() >= CostReport::MOST {
            self.own.pop_front();
        }
        self.own.push_back(sample);
    }

    /// The rate that was measured in this slot, once there is one. Suspends of few bytes tell none.
    pub fn measured(&self) -> Option<Rate> {
        let large = self.own.iter().filter(|s| !s.is_small());
        let rates: Vec<f64> = large
            .map(|s| as_f64(s.bytes) / s.took.as_secs_f64())
            .collect();
        let (mean, sigma) = mean_and_sigma(&rates);
        (!rates.is_empty()).then_some(Rate {
            mean,
            sigma,
            count: self.measured,
            // Brokers that know no `costs` count with twice the time at this rate.
            planned: Some(self.model.budget.rate * 2.0),
        })
    }

    /// What the broker is told.
    pub fn report(&self) -> CostReport {
        CostReport {
            measured: self.measured,
            samples: self.own.iter().copied().collect(),
            budget: self.model.budget,
        }
    }

    /// What it costs to suspend `bytes`.
    pub fn cost(&self, bytes: u64) -> SuspendCost {
        self.model.cost(bytes)
    }

    /// What a suspend of `bytes` is likely to take. The less was measured, the longer is what is
    /// expected, which is right for when to begin. But a guest that has to go all the same is not
    /// given up as long as the middle one of the rates that were really measured here would do; a
    /// few may have met a bad moment of the disk.
    pub fn likely(&self, bytes: u64) -> Span {
        let rate = self.middle.unwrap_or(notice::ASSUMED_RATE);
        let takes = notice::SUSPEND_FIXED + Span::from_secs_f64(as_f64(bytes) / rate);
        takes.min(self.cost(bytes).expected)
    }

    fn find_middle(&mut self) {
        let here = self.samples.iter().filter(|s| !s.is_small());
        let mut rates: Vec<f64> = here
            .map(|s| as_f64(s.bytes) / s.took.as_secs_f64())
            .collect();
        rates.sort_by(f64::total_cmp);
        let least = match rates.len() {
            ENOUGH.. => 0.0,
            _ => notice::ASSUMED_RATE,
        };
        let middle = rates.get(rates.len() / 2).map(|rate| rate.max(least));
        self.middle = middle.filter(|_| !self.are_others);
    }

    /// How many suspends that is known by.
    pub const fn count(&self) -> usize {
        self.samples.len()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a byte count is only used for a rate"
)]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn ms(n: u64) -> Span {
        Span::from_millis(n)
    }

    /// The broker sends no pilot where this one would decline, by the same numbers.
    #[test]
    fn the_budget_is_the_brokers_before_and_after_the_first_measurement() {
        for memory in [1, 64, 1000, 4096, 100_000] {
            let cost = Rates::default().cost(notice::most_bytes(memory));
            let brokers = notice::budget_for(memory, notice::ASSUMED_RATE);
            assert_eq!(cost.budget, brokers);
            let mut measured = Rates::default();
            measured.learn(50_000_000, ms(1000));
            let told = measured.report().budget;
            let cost = measured.cost(notice::most_bytes(memory));
            assert_eq!(cost.budget, told.of(notice::most_bytes(memory)));
            let planned = measured.measured().unwrap().planned.unwrap();
            assert_eq!(cost.budget, notice::budget_for(memory, planned));
        }
        let s = Settings::default();
        let left = notice::for_suspends(Span::from_secs(30), Span::from_secs(5));
        assert_eq!(left, Span::from_secs(25).minus(s.clean_up + s.kill_cost));
    }

    #[test]
    fn what_was_known_before_is_used_at_once_and_what_is_measured_replaces_it() {
        let mut rates = Rates::default();
        let sample = Sample {
            bytes: 100_000_000,
            took: ms(500),
        };
        rates.know(&KnownCosts {
            of_node: true,
            nodes: 1,
            samples: vec![sample; ENOUGH],
        });
        assert_eq!(rates.count(), ENOUGH);
        let before = rates.cost(100_000_000);
        assert_eq!(before.expected, ms(500));
        assert!(before.budget <= ms(1050), "{before:?}");
        assert_eq!(rates.measured(), None, "nothing was measured in this slot");
        assert_eq!(rates.report().measured, 0);
        rates.learn(100_000_000, ms(2000));
        let after = rates.cost(100_000_000);
        assert!(after.budget >= ms(2200), "a slow write counts: {after:?}");
        assert_eq!(rates.measured().unwrap().count, 1);
        for _ in 0..60 {
            rates.learn(100_000_000, ms(200));
        }
        let later = rates.cost(100_000_000);
        assert!(later.budget <= ms(400), "{later:?}");
        let report = rates.report();
        assert_eq!(
            (report.measured, report.samples.len()),
            (61, CostReport::MOST)
        );
        rates.learn(31, ms(28));
        rates.learn(0, Span::ZERO);
        assert_eq!(rates.measured().unwrap().count, 62);
    }

    /// What is given up is lost; what is tried in vain too, and no more.
    #[test]
    fn one_bad_moment_of_a_disk_gives_no_guest_up() {
        let mut rates = Rates::default();
        let bytes = 400_000_000;
        for _ in 0..ENOUGH - 1 {
            rates.learn(bytes, ms(400_000));
            assert!(rates.likely(bytes) <= ms(2100), "{}", rates.likely(bytes));
            assert!(rates.cost(bytes).budget > ms(400_000));
        }
        rates.learn(bytes, ms(400_000));
        assert!(rates.likely(bytes) >= ms(390_000), "it is so slow");
    }

    /// Nodes may have disks of their own: few others make nobody bold, and the first own word counts.
    #[test]
    fn what_other_nodes_say_makes_careful_and_never_bold_unless_there_are_many() {
        let bytes = notice::most_bytes(1024);
        let none = Rates::default().cost(bytes);
        let of = |nodes, rate: u64| KnownCosts {
            of_node: false,
            nodes,
            samples: vec![
                Sample {
                    bytes: 1 << 30,
                    took: ms((1 << 30) / (rate * 1000)),
                };
                4
            ],
        };
        for (nodes, rate, careful) in [(1, 800, false), (3, 800, false), (1, 50, true)] {
            let mut rates = Rates::default();
            rates.know(&of(nodes, rate));
            let cost = rates.cost(bytes);
            assert_eq!(cost.budget > none.budget, careful, "{nodes} {rate}");
            assert!(cost.budget >= none.budget, "{nodes} nodes, {rate} MB/s");
            assert!(
                rates.likely(bytes) <= none.expected,
                "it is tried all the same"
            );
        }
        let mut rates = Rates::default();
        rates.know(&of(4, 800));
        assert!(rates.cost(bytes).budget < none.budget);
        rates.learn(1 << 30, ms(10_000));
        assert!(rates.cost(bytes).budget > none.budget);
        assert_eq!(rates.count(), 1);
    }
}
