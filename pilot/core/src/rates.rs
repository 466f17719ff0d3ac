//! What a suspend costs on this node: measured rates, and the prediction and budget from them.
//! The rule and its numbers are [`protocol::notice`]'s, which the broker follows as well.

use protocol::messages::Rate;
use protocol::notice;
use protocol::time::Span;

use crate::settings::Settings;

/// A suspend of fewer bytes is mostly syncs and renames: no rate follows from it.
const LEAST_TOLD: u64 = 8 << 20;

/// Measured write rates of suspends in this slot.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rates {
    count: u32,
    mean: f64,
    squares: f64,
    least: f64,
}

/// What a suspend is expected to take, and what is set aside for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SuspendCost {
    /// The plain prediction.
    pub expected: Span,
    /// The time that the planner keeps free.
    pub budget: Span,
}

impl Rates {
    /// Takes a measurement. One of few bytes tells what every suspend costs, and nothing of a rate.
    pub fn learn(&mut self, bytes: u64, took: Span) {
        if bytes < LEAST_TOLD || took.is_zero() {
            return;
        }
        let rate = as_f64(bytes) / took.as_secs_f64();
        self.least = if self.count == 0 {
            rate
        } else {
            self.least.min(rate)
        };
        self.count = self.count.saturating_add(1);
        let delta = rate - self.mean;
        self.mean += delta / f64::from(self.count);
        self.squares += delta * (rate - self.mean);
    }

    /// The measured rate, once there is one.
    pub fn measured(&self) -> Option<Rate> {
        (self.count > 0).then(|| Rate {
            mean: self.mean,
            sigma: self.sigma(),
            count: self.count,
            planned: self.planned(),
        })
    }

    fn sigma(&self) -> f64 {
        if self.count < 2 {
            0.0
        } else {
            (self.squares / f64::from(self.count - 1)).sqrt()
        }
    }

    /// The rate to plan with, bytes a second.
    pub fn low(&self, settings: &Settings) -> f64 {
        self.planned().unwrap_or(settings.assumed_rate)
    }

    /// The rate to plan with by what was measured: mean less two sigma, but with few measurements
    /// no better than half of the worst.
    fn planned(&self) -> Option<f64> {
        match self.count {
            0 => None,
            1 | 2 => Some(self.least / 2.0),
            _ => Some((self.mean - 2.0 * self.sigma()).max(self.least / 2.0)),
        }
    }

    /// What it costs to suspend `bytes`.
    pub fn cost(&self, settings: &Settings, bytes: u64) -> SuspendCost {
        let rate = self.low(settings).max(1.0);
        let expected = settings.suspend_fixed + Span::from_secs_f64(as_f64(bytes) / rate);
        SuspendCost {
            expected,
            budget: notice::budget(expected, settings.suspend_slack),
        }
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

    /// The broker sends no pilot where this one would decline, by the same numbers.
    #[test]
    fn the_budget_is_the_brokers_before_and_after_the_first_measurement() {
        let s = Settings::default();
        for memory in [1, 64, 1000, 4096, 100_000] {
            let cost = Rates::default().cost(&s, notice::most_bytes(memory));
            let brokers = notice::budget_for(memory, notice::ASSUMED_RATE);
            assert_eq!(cost.budget, brokers);
            let mut measured = Rates::default();
            measured.learn(50_000_000, Span::from_millis(1000));
            let told = measured.measured().unwrap().planned.unwrap();
            let cost = measured.cost(&s, notice::most_bytes(memory));
            assert_eq!(cost.budget, notice::budget_for(memory, told));
        }
        let left = notice::for_suspends(Span::from_secs(30), Span::from_secs(5));
        assert_eq!(left, Span::from_secs(25).minus(s.clean_up + s.kill_cost));
    }

    #[test]
    fn the_planned_rate_is_pessimistic_and_learns() {
        let s = Settings::default();
        let mut r = Rates::default();
        assert_eq!(r.measured(), None);
        assert_eq!(r.cost(&s, 400_000_000).expected, Span::from_millis(2030));
        assert_eq!(r.cost(&s, 400_000_000).budget, Span::from_millis(5060));
        r.learn(100_000_000, Span::from_millis(100));
        assert!((r.low(&s) - 5e8).abs() < 1.0, "half of the only sample");
        for _ in 0..20 {
            r.learn(100_000_000, Span::from_millis(100));
        }
        assert!(
            r.low(&s) > 9e8,
            "a steady disk is trusted: {:?}",
            r.measured()
        );
        r.learn(100_000_000, Span::from_millis(1000));
        assert!(r.low(&s) < 7e8, "one slow write counts: {:?}", r.measured());
        r.learn(0, Span::from_secs(1));
        r.learn(100_000_000, Span::ZERO);
        r.learn(31, Span::from_millis(28));
        assert_eq!(r.measured().unwrap().count, 22);
    }
}
