//! What a suspend costs, learned from the suspends before it: the estimate and the time that is set
//! aside, for the pilot that plans by them and for the broker that decides what is sent there.
//!
//! ```text
//! took = fixed (stop, devices, syncs, commit, kill) + bytes / rate
//! ```
//! *Samples* are kept for each node and file system of the store: the latest [`KEPT`] small ones
//! (under [`SMALL`] bytes), which tell the fixed part, and as many large ones, which tell the rate.
//! So what a disk did long ago is forgotten, and one that became slower is known after one sample.
//!
//! **Estimate.** Medians: one odd suspend moves nothing. Without small samples the fixed part is
//! the one that makes large ones of different sizes agree best, else [`notice::SUSPEND_FIXED`].
//!
//! **Budget.** With [`ENOUGH`] samples the estimate times the largest of
//! * [`FACTOR`] and a little more with few samples: times as they were measured on real disks spread
//!   from 0.57 to 1.52 of the prediction. Two sigma alone are exceeded by one suspend in forty; the
//!   aim is *never*, at no more than twice the median;
//! * mean + 2 sigma of the times, in parts of the estimate;
//! * the worst of the kept samples and a bit: what a disk has done once it may do again.
//!
//! A sample that [`FACTOR`] does not explain counts while it is among the latest [`ENOUGH`] of its size: what
//! slows a disk down lasts, but one odd suspend does not double what is set aside for the next thirty.
//!
//! Where fewer than three small or large ones tell the fixed part from the rate, the rate is taken no
//! better than without that: one odd suspend must not make the budget of a much larger one too short.
//!
//! The small ones' spread is the fixed part's own, as syncs vary by more than bytes do. With fewer
//! samples the care of [`notice`] stays: twice a pessimistic rate, and a fixed slack. A small suspend
//! is never given less than that care, but no more than the smallest large one, until small ones are known.
//! `tests/suspend_cost_replay.rs` replays disks of many kinds against these rules.

use serde::{Deserialize, Serialize};

use crate::notice;
use crate::time::Span;

/// A suspend of fewer bytes is mostly syncs and renames, and tells nothing of a rate.
pub const SMALL: u64 = 8 << 20;
/// How many small and how many large samples are kept, the latest.
pub const KEPT: usize = 32;
/// From so many samples on they are believed.
pub const ENOUGH: usize = 8;
/// So many nodes of a site that are alike say something of one that nobody knows.
pub const NODES_ENOUGH: u32 = 4;
/// A budget is at least so many times the estimate.
pub const FACTOR: f64 = 1.82;
/// And by so much more over the number of samples: a median of few may lie low.
const FEW: f64 = 1.5;
/// A budget is at least so many times the worst of the samples.
const BEYOND_WORST: f64 = 1.1;
/// And so many times one that [`FACTOR`] does not explain: the disk is about to become slower.
const BEYOND_ODD: f64 = 1.3;
/// A budget exceeds its estimate by this at least: clocks and schedulers are no better.
const LEAST_SPARE: f64 = 0.05;
/// Sizes tell the fixed part from the rate when the large ones are so many times the small ones.
const APART: f64 = 4.0;
/// So many large and so many small ones make that sure: one alone may have been an odd suspend.
const EITHER: usize = 3;
/// The shortest suspend may have been so much shorter than it should have been.
const LEAST_RATIO: f64 = 0.57;
/// The rate of one suspend is divided by this where few are known. Its budget is twice the time at that
/// rate: so the shortest of what was seen on real disks (0.57 of the prediction) leaves room for the
/// longest (1.52).
const FEW_CARE: f64 = 1.35;
/// How many fixed parts are tried, from none to what the shortest suspend allows.
const TRIED: u32 = 24;
/// One is taken when the samples are off by less than this part of what they were.
const BETTER: f64 = 0.9;

/// One suspend that was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sample {
    /// Bytes that it wrote.
    pub bytes: u64,
    /// From the order to durable.
    #[serde(rename = "took_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub took: Span,
}

impl Sample {
    /// True when it tells the fixed part and not the rate.
    pub const fn is_small(&self) -> bool {
        self.bytes < SMALL
    }
}

/// The latest samples of one node and file system, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Takes one more and forgets the oldest of its size when there are [`KEPT`]. One that took no
    /// time at all was not measured.
    pub fn push(&mut self, sample: Sample) {
        if sample.took.is_zero() {
            return;
        }
        let alike = |s: &&Sample| s.is_small() == sample.is_small();
        if self.0.iter().filter(alike).count() >= KEPT
            && let Some(oldest) = self.0.iter().position(|s| alike(&s))
        {
            self.0.remove(oldest);
        }
        self.0.push(sample);
    }

    /// The samples, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Sample> + ExactSizeIterator {
        self.0.iter()
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latest `most` small and the latest `most` large ones, oldest first.
    pub fn latest(&self, most: usize) -> Vec<Sample> {
        let (mut small, mut large) = (0, 0);
        let mut latest: Vec<Sample> = (self.0.iter().rev())
            .filter(|s| {
                let count = if s.is_small() { &mut small } else { &mut large };
                *count += 1;
                *count <= most
            })
            .copied()
            .collect();
        latest.reverse();
        latest
    }
}

impl FromIterator<Sample> for Samples {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        let mut all = Self::default();
        for sample in samples {
            all.push(sample);
        }
        all
    }
}

/// Time for a number of bytes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CostLine {
    /// For fewer than [`SMALL`] bytes, where that is known.
    #[serde(default, rename = "small_ms", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub small: Option<Span>,
    /// For any other suspend.
    #[serde(rename = "fixed_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub fixed: Span,
    /// And for its bytes, bytes a second.
    pub rate: f64,
    /// The least for any other suspend.
    #[serde(rename = "floor_ms")]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub floor: Span,
}

impl CostLine {
    /// The time for a suspend that writes `bytes`.
    pub fn of(&self, bytes: u64) -> Span {
        let small = self.small.unwrap_or_default();
        if bytes < SMALL && !small.is_zero() {
            return small;
        }
        let moving = Span::from_secs_f64(as_f64(bytes) / self.rate.max(1.0));
        small.max(self.floor).max(self.fixed + moving)
    }
}

/// What a suspend is expected to take, and what is set aside for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SuspendCost {
    /// The plain prediction.
    pub expected: Span,
    /// The time that the planner keeps free.
    pub budget: Span,
}

/// What suspends cost, by the samples that there are. [`CostModel::default`] is without any.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CostModel {
    /// The plain prediction.
    pub expected: CostLine,
    /// The time to set aside.
    pub budget: CostLine,
}

impl Default for CostModel {
    fn default() -> Self {
        Self::of(&Samples::default())
    }
}

impl CostModel {
    /// Learns from samples.
    pub fn of(samples: &Samples) -> Self {
        let (small, large): (Vec<Sample>, Vec<Sample>) = samples.iter().partition(|s| s.is_small());
        let small: Vec<f64> = small.iter().map(|s| s.took.as_secs_f64()).collect();
        let large: Vec<(f64, f64)> = large
            .iter()
            .map(|s| (as_f64(s.bytes), s.took.as_secs_f64()))
            .collect();
        let assumed = notice::SUSPEND_FIXED.as_secs_f64();
        let fixed = match median(&small) {
            Some(middle) if small.len() >= ENOUGH => middle,
            Some(middle) => middle.max(assumed),
            None => fixed_of(&large).unwrap_or(assumed),
        };
        let small_expected = (small.len() >= ENOUGH).then_some(Span::from_secs_f64(fixed));
        let small_budget = small_expected.map(|_| {
            let factor = spread(small.iter().map(|t| (*t, fixed)));
            Span::from_secs_f64((fixed * factor).max(fixed + LEAST_SPARE))
        });
        let careful = notice::budget(
            Span::from_secs_f64(small.iter().copied().fold(assumed, f64::max)),
            notice::SUSPEND_SLACK,
        );
        let line = |small, fixed, rate| CostLine {
            small,
            fixed,
            rate,
            floor: Span::ZERO,
        };
        let middle = Span::from_secs_f64(fixed);
        let Some((per_byte, factor)) = moving(&large, fixed) else {
            let rate = careful_rate(&large);
            return Self {
                expected: line(small_expected, middle, rate),
                budget: line(small_budget, careful, rate / 2.0),
            };
        };
        let mut slowness = per_byte * factor;
        if small.is_empty() && !are_apart(&large, EITHER) {
            // An odd suspend may have made too much of the fixed part, and too little of the bytes.
            let plain = moving(&large, assumed);
            slowness = plain.map_or(slowness, |(per_byte, factor)| {
                slowness.max(per_byte * factor)
            });
        }
        let mut budget = line(
            small_budget,
            Span::from_secs_f64(fixed * factor),
            1.0 / slowness,
        );
        if small_budget.is_none() {
            // What is smaller than all of them takes no longer than the smallest.
            let smallest = large.iter().map(|(b, _)| *b).fold(f64::INFINITY, f64::min);
            let of_large = Span::from_secs_f64(factor * (fixed + smallest * per_byte));
            budget.floor = careful.min(of_large);
        }
        Self {
            expected: line(small_expected, middle, 1.0 / per_byte),
            budget,
        }
    }

    /// Learns from samples of so many other nodes: this one may have another disk. Those of few
    /// nodes can make it more careful than nothing at all, never less.
    pub fn of_others(samples: &Samples, nodes: u32) -> Self {
        let (theirs, none) = (Self::of(samples), Self::default());
        if nodes >= NODES_ENOUGH {
            return theirs;
        }
        let slower = |a: CostLine, b: CostLine| CostLine {
            small: None,
            fixed: a.fixed.max(b.fixed),
            rate: a.rate.min(b.rate),
            floor: a.floor.max(b.floor),
        };
        Self {
            expected: slower(theirs.expected, none.expected),
            budget: slower(theirs.budget, none.budget),
        }
    }

    /// What a suspend of `bytes` costs.
    pub fn cost(&self, bytes: u64) -> SuspendCost {
        let expected = self.expected.of(bytes);
        SuspendCost {
            expected,
            budget: self.budget.of(bytes).max(expected),
        }
    }
}

/// Seconds per byte, and what to multiply an estimate by for its budget; none with few samples.
fn moving(large: &[(f64, f64)], fixed: f64) -> Option<(f64, f64)> {
    if large.len() < ENOUGH {
        return None;
    }
    // Where syncs are most of it, a sample may be shorter than the fixed part.
    let slopes: Vec<(f64, f64)> = (large.iter())
        .map(|(b, t)| ((t - fixed).max(t / 10.0) / b, *b))
        .collect();
    let plain = weighted_median(slopes.iter().map(|(slope, _)| (*slope, 1.0)).collect())?;
    // A sample tells the rate as far as moving bytes is what it did.
    let share = |b: f64| b * plain / (fixed + b * plain);
    let per_byte = weighted_median(slopes.iter().map(|(s, b)| (*s, share(*b))).collect())?;
    let factor = spread(large.iter().map(|(b, t)| (*t, fixed + b * per_byte)));
    Some((per_byte, factor))
}

/// The rate to plan with after a few large samples: mean less two sigma, but no worse than the worst
/// and some care, and after one or two just that.
fn careful_rate(large: &[(f64, f64)]) -> f64 {
    let rates: Vec<f64> = large.iter().map(|(b, t)| b / t).collect();
    let worst = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let (mean, sigma) = mean_and_sigma(&rates);
    match rates.len() {
        0 => notice::ASSUMED_RATE,
        1 | 2 => worst / FEW_CARE,
        _ => (mean - 2.0 * sigma).max(worst / FEW_CARE),
    }
}

/// How far times go beyond their estimates; the oldest first.
fn spread(times: impl ExactSizeIterator<Item = (f64, f64)>) -> f64 {
    let latest = times.len().saturating_sub(ENOUGH);
    let counts = |(n, (t, estimate)): &(usize, (f64, f64))| *n >= latest || *t <= FACTOR * estimate;
    let times = times.enumerate().filter(counts).map(|(_, time)| time);
    let times: Vec<(f64, f64)> = times.collect();
    let ratios: Vec<f64> = times.iter().map(|(t, estimate)| t / estimate).collect();
    let (took, estimated) = times
        .iter()
        .fold((0.0, 0.0), |(a, b), (t, e)| (a + t, b + e));
    let (mean, sigma) = mean_and_sigma(&ratios);
    let worst = ratios.iter().copied().fold(0.0, f64::max);
    let beyond = if worst > FACTOR {
        BEYOND_ODD
    } else {
        BEYOND_WORST
    };
    // Estimates that lie low have the times' mean, or that of the long ones, above them.
    let low = (took / estimated).max(mean).max(1.0);
    let factor = low * (FACTOR + FEW / as_f64(ratios.len().max(1) as u64));
    factor.max(mean + 2.0 * sigma).max(worst * beyond)
}

/// The fixed part by large samples: that with which the ratios of times to estimates differ least.
/// None when there are too few, or when the sizes are so alike that it makes no difference.
fn fixed_of(large: &[(f64, f64)]) -> Option<f64> {
    if large.len() < ENOUGH || !are_apart(large, 1) {
        return None;
    }
    let least = large.iter().map(|(_, t)| *t).fold(f64::INFINITY, f64::min);
    let off = |fixed: f64| -> f64 {
        moving(large, fixed).map_or(f64::INFINITY, |(per_byte, _)| {
            let ratios = large.iter().map(|(b, t)| t / (fixed + b * per_byte));
            ratios.map(|r| r.ln().abs()).sum()
        })
    };
    let assumed = notice::SUSPEND_FIXED.as_secs_f64();
    let most = least / LEAST_RATIO;
    let tried = (0..TRIED).map(|n| most * f64::from(n) / f64::from(TRIED));
    let tried = tried.map(|fixed| (off(fixed), fixed));
    let (least_off, best) = tried.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (least_off < off(assumed) * BETTER).then_some(best)
}

/// True when so many small ones and so many large ones are far enough apart.
fn are_apart(large: &[(f64, f64)], either: usize) -> bool {
    let mut sizes: Vec<f64> = large.iter().map(|(b, _)| *b).collect();
    sizes.sort_by(f64::total_cmp);
    let small = sizes.get(either - 1);
    let of_large = sizes.len().checked_sub(either).and_then(|n| sizes.get(n));
    small
        .zip(of_large)
        .is_some_and(|(small, of_large)| *of_large >= APART * small)
}

/// Mean and standard deviation, 0 for less than two.
pub fn mean_and_sigma(values: &[f64]) -> (f64, f64) {
    let count = as_f64(values.len() as u64);
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let sigma = if values.len() < 2 {
        0.0
    } else {
        (squares / (count - 1.0)).sqrt()
    };
    (mean, sigma)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The value below and above which lies half of the weight.
fn weighted_median(mut values: Vec<(f64, f64)>) -> Option<f64> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    values.into_iter().find_map(|(value, weight)| {
        below += weight;
        (below >= half).then_some(value)
    })
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

    fn of(samples: &[(u64, u64)]) -> CostModel {
        let sample = |(bytes, ms): &(u64, u64)| Sample {
            bytes: *bytes,
            took: Span::from_millis(*ms),
        };
        CostModel::of(&samples.iter().map(sample).collect())
    }

    fn ms(n: u64) -> Span {
        Span::from_millis(n)
    }

    #[test]
    fn before_the_first_measurement_the_rule_is_the_notices() {
        for memory in [1, 64, 1000, 4096, 100_000] {
            let bytes = notice::most_bytes(memory);
            let cost = CostModel::default().cost(bytes);
            assert_eq!(
                cost.budget,
                notice::budget_for(memory, notice::ASSUMED_RATE)
            );
            // And after one, at its rate and some care.
            let cost = of(&[(50_000_000, 1000)]).cost(bytes);
            let careful = 50e6 / FEW_CARE;
            assert_eq!(cost.budget, notice::budget_for(memory, careful));
        }
        let cost = CostModel::default().cost(400_000_000);
        assert_eq!((cost.expected, cost.budget), (ms(2030), ms(5060)));
    }

    #[test]
    fn few_samples_stay_careful_and_enough_are_believed() {
        let few = of(&[(100_000_000, 1000); ENOUGH - 1]).cost(100_000_000);
        assert!(few.budget >= ms(3000), "{few:?}");
        let enough = of(&[(100_000_000, 1000); ENOUGH]).cost(100_000_000);
        assert_eq!(enough.expected, ms(1000));
        assert!((ms(1800)..ms(2100)).contains(&enough.budget), "{enough:?}");
        // What is small is not known by that: it may need as much as before.
        let small = of(&[(100_000_000, 1000); ENOUGH]).cost(1000);
        assert_eq!(small.budget, ms(1060), "the fixed slack stays");
        let small = of(&[(100_000_000, 300); ENOUGH]).cost(1000);
        assert!(small.budget < ms(640), "but no more than a large one");
    }

    #[test]
    fn small_suspends_teach_the_fixed_part() {
        let cost = of(&[(1000, 150); ENOUGH]).cost(1 << 20);
        assert!(cost.budget < ms(330), "{cost:?}");
        let large = of(&[(1000, 150); ENOUGH]).cost(100_000_000);
        assert!(large.budget >= ms(2000), "nothing of a rate: {large:?}");
        // A disk whose syncs take seconds is known by the first of them.
        let slow = of(&[(31, 3000)]).cost(1000);
        assert!(slow.budget >= ms(7000), "{slow:?}");
    }

    #[test]
    fn sizes_that_differ_tell_the_fixed_part_from_the_rate() {
        let sizes = [16, 50, 100, 200, 400, 800, 1600, 20, 70, 300];
        let samples: Vec<_> = (sizes.iter().map(|mb| (mb * 1_000_000, 400 + mb * 2))).collect();
        let model = of(&samples);
        let fixed = model.expected.fixed;
        assert!((ms(380)..ms(420)).contains(&fixed), "{model:?}");
        assert!((model.expected.rate - 5e8).abs() < 1e7, "{model:?}");
        let small = model.cost(16_000_000).budget;
        assert!((ms(740)..ms(900)).contains(&small), "{small}, {model:?}");
    }

    /// Of one suspend that was slow for its size nothing is concluded for much larger ones. The samples
    /// are those of the simulation (8 slots, 40 requests, seed 1189).
    #[test]
    fn one_odd_size_tells_no_fixed_part() {
        let mut samples = vec![(54_919_168, 360); 10];
        samples.extend([(48_103_424, 336), (62_783_488, 447), (13_893_632, 329)]);
        let cost = of(&samples).cost(480_000_000);
        assert!(cost.budget >= ms(3000), "{cost:?}");
    }

    #[test]
    fn a_disk_that_became_slower_is_known_at_once_and_an_odd_write_is_forgotten() {
        let mut samples: Samples = [(100_000_000, 200); KEPT]
            .map(|(bytes, n)| Sample { bytes, took: ms(n) })
            .into_iter()
            .collect();
        let push = |samples: &mut Samples, n| {
            let (bytes, took) = (100_000_000, ms(n));
            samples.push(Sample { bytes, took });
            CostModel::of(samples).cost(bytes).budget
        };
        assert!(push(&mut samples, 900) >= ms(1000));
        for _ in 0..ENOUGH - 1 {
            assert!(push(&mut samples, 200) >= ms(1000), "not so soon");
        }
        assert!(push(&mut samples, 200) <= ms(400));
        assert_eq!(samples.len(), KEPT);
        let small = Sample {
            bytes: 1,
            took: ms(5),
        };
        samples.push(small);
        assert_eq!(
            samples.len(),
            KEPT + 1,
            "one size does not push the other out"
        );
        assert_eq!(samples.latest(2).len(), 3);
        assert_eq!(samples.latest(2).last(), Some(&small));
    }
}
