//! Which notice is long enough to suspend a guest of a given memory: one rule for the pilot, which
//! decides by it whether it takes a lease, and for the broker, which sends no pilot where every
//! pilot would decline.
//!
//! ```text
//! first signal |<- suspend: 2 x (fixed + bytes / rate) + slack ->|<- kill, clean-up ->|<- margin ->| SIGKILL
//! ```
//! Measured on real disks: a prediction from a recent rate was off by a factor of 0.57 to 1.52,
//! hence the budget of twice the prediction plus a fixed slack. That is the rule until a node is
//! known; what suspends there have cost then takes its place ([`crate::suspend_cost`]).

use crate::suspend_cost::CostLine;
use crate::time::Span;

/// Kept before the kill time for clean-up of the node and the last word to the broker.
pub const CLEAN_UP: Span = Span::from_millis(1000);
/// From the kill of a guest to its being gone.
pub const KILL_COST: Span = Span::from_millis(500);
/// Fixed part of a suspend's predicted time.
pub const SUSPEND_FIXED: Span = Span::from_millis(30);
/// Added to twice the predicted time of a suspend to get its budget.
pub const SUSPEND_SLACK: Span = Span::from_secs(1);
/// Assumed write rate of suspended states before a slot's first measurement, bytes a second.
pub const ASSUMED_RATE: f64 = 200e6;

/// The most that the suspend of a guest with this much memory may have to write, bytes: all of the
/// memory and a little for its devices.
pub const fn most_bytes(memory_mib: u64) -> u64 {
    memory_mib.saturating_add(1).saturating_mul(1 << 20)
}

/// The time that is set aside for a suspend which is expected to take `expected`.
pub fn budget(expected: Span, slack: Span) -> Span {
    expected.times(2) + slack
}

/// The part of a notice that is left for suspends.
pub fn for_suspends(notice: Span, margin: Span) -> Span {
    notice.minus(margin + CLEAN_UP + KILL_COST)
}

/// The time that is set aside for a suspend while nothing is known but a pessimistic rate, in bytes
/// a second.
pub fn careful(rate: f64) -> CostLine {
    CostLine {
        small: None,
        fixed: budget(SUSPEND_FIXED, SUSPEND_SLACK),
        rate: rate / 2.0,
        floor: Span::ZERO,
    }
}

/// The time that is set aside to suspend a guest of this memory at a rate in bytes a second;
/// [`ASSUMED_RATE`] where none was measured yet.
pub fn budget_for(memory_mib: u64, rate: f64) -> Span {
    careful(rate).of(most_bytes(memory_mib))
}

/// True when a pilot that sets aside so much takes a guest of this memory that must not be killed,
/// alone in its slot.
pub fn holds(notice: Span, margin: Span, memory_mib: u64, budget: &CostLine) -> bool {
    budget.of(most_bytes(memory_mib)) <= for_suspends(notice, margin)
}

/// True when a pilot that plans with this rate takes a guest of this memory that must not be
/// killed, alone in its slot.
pub fn is_enough(notice: Span, margin: Span, memory_mib: u64, rate: f64) -> bool {
    holds(notice, margin, memory_mib, &careful(rate))
}

/// The shortest notice that is enough for a guest of this memory at this rate.
pub fn least(margin: Span, memory_mib: u64, rate: f64) -> Span {
    least_for(margin, memory_mib, &careful(rate))
}

/// The shortest notice that is enough for a guest of this memory where so much is set aside.
pub fn least_for(margin: Span, memory_mib: u64, budget: &CostLine) -> Span {
    budget.of(most_bytes(memory_mib)) + margin + CLEAN_UP + KILL_COST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_notice_is_enough_and_a_millisecond_less_is_not() {
        let margin = Span::from_secs(5);
        for memory in [1, 64, 512, 1024, 2048, 8192, 1 << 20] {
            for rate in [ASSUMED_RATE, 20e6] {
                let least = least(margin, memory, rate);
                let is_enough = |notice| is_enough(notice, margin, memory, rate);
                assert!(is_enough(least), "{memory} MiB in {least} at {rate}");
                let less = least.minus(Span::from_millis(1));
                assert!(!is_enough(less), "{memory} MiB in {less} at {rate}");
            }
        }
    }

    /// The table in `docs/operations/site.md`.
    #[test]
    fn the_table_for_site_administrators_is_right() {
        let text = include_str!("../../../docs/operations/site.md");
        for memory in [256, 512, 1024, 2048, 4096, 8192] {
            let secs = least(Span::from_secs(5), memory, ASSUMED_RATE)
                .as_millis()
                .div_ceil(1000);
            let size = if memory < 1024 {
                format!("{memory} MiB")
            } else {
                format!("{} GiB", memory / 1024)
            };
            let row = format!("| {size} | {secs} s |");
            assert!(text.contains(&row), "no `{row}` in docs/operations/site.md");
        }
    }
}
