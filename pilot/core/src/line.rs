//! In which order guests are suspended, one after the other.
//!
//! Those that must not be killed come before those that may be. Within each kind the cheapest come
//! first, so that most guests are saved by any moment. When the time that is left can't hold all of a
//! kind, those come first whose loss would cost most: the set that fits and keeps most guest-running
//! time since the last state, and after it the others, in case there is time after all. A guest
//! whose suspend has failed waits behind those whose has not: a full disk or a broken file of one is
//! no reason to lose the others.

use protocol::time::Span;

use crate::guest::LeaseKey;

/// Sets are weighed one by one up to so many guests, and by value for time beyond.
const EXACT: usize = 16;

/// A guest that is to be suspended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Which.
    pub key: LeaseKey,
    /// It may be killed if there is no time.
    pub expendable: bool,
    /// How often its suspend has failed.
    pub failed: u32,
    /// Time to set aside for it.
    pub budget: Span,
    /// Guest-running time that is lost without a state of now.
    pub at_stake: Span,
}

/// Puts them in order; `left` is the time until whatever still runs is killed.
pub fn order(waiting: Vec<Waiting>, left: Span) -> Vec<Waiting> {
    let (mut may, mut must): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|w| w.expendable);
    let needed = must.iter().map(|w| w.budget).sum();
    arrange(&mut must, left);
    arrange(&mut may, left.minus(needed));
    must.extend(may);
    must
}

fn arrange(waiting: &mut [Waiting], left: Span) {
    waiting.sort_by(|a, b| (a.budget, &a.key).cmp(&(b.budget, &b.key)));
    let needed: Span = waiting.iter().map(|w| w.budget).sum();
    if needed > left {
        let chosen = choose(waiting, left);
        let by_value = |a: &Waiting, b: &Waiting| {
            let (of_a, of_b) = (a.at_stake.as_millis(), b.at_stake.as_millis());
            let worth = |of: u64, other: &Waiting| {
                u128::from(of) * u128::from(other.budget.as_millis().max(1))
            };
            worth(of_b, a).cmp(&worth(of_a, b))
        };
        waiting.sort_by(|a, b| {
            let (ca, cb) = (chosen.contains(&a.key), chosen.contains(&b.key));
            let later = |chosen: bool| !chosen;
            later(ca).cmp(&later(cb)).then_with(|| {
                if ca {
                    std::cmp::Ordering::Equal
                } else {
                    by_value(a, b)
                }
            })
        });
    }
    waiting.sort_by_key(|w| w.failed);
}

/// A set of guests: the sum of their budgets, of what is at stake, and who they are.
type Set = (Span, Span, Vec<usize>);

/// The set that fits into `left` and keeps most.
fn choose(waiting: &[Waiting], left: Span) -> Vec<LeaseKey> {
    let chosen = if waiting.len() <= EXACT {
        best(waiting, left)
    } else {
        greedy(waiting, left)
    };
    chosen.into_iter().map(|n| waiting[n].key.clone()).collect()
}

/// Keeps of all sets those that no other of at most their cost outweighs.
fn best(waiting: &[Waiting], left: Span) -> Vec<usize> {
    let mut sets: Vec<Set> = vec![(Span::ZERO, Span::ZERO, Vec::new())];
    for (n, w) in waiting.iter().enumerate() {
        let with = |(cost, stake, who): &Set| {
            let mut who = who.clone();
            who.push(n);
            (*cost + w.budget, *stake + w.at_stake, who)
        };
        let more: Vec<Set> = sets
            .iter()
            .map(with)
            .filter(|(c, _, _)| *c <= left)
            .collect();
        sets.extend(more);
        sets.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut most = None;
        sets.retain(|(_, stake, _)| {
            let better = most.is_none_or(|m| *stake > m);
            if better {
                most = Some(*stake);
            }
            better
        });
    }
    sets.pop().map(|(_, _, who)| who).unwrap_or_default()
}

fn greedy(waiting: &[Waiting], left: Span) -> Vec<usize> {
    let mut by_value: Vec<usize> = (0..waiting.len()).collect();
    let of = |n: usize| {
        (
            waiting[n].at_stake.as_millis(),
            waiting[n].budget.as_millis().max(1),
        )
    };
    by_value.sort_by(|a, b| {
        let ((stake_a, cost_a), (stake_b, cost_b)) = (of(*a), of(*b));
        let worth = |stake: u64, other: u64| u128::from(stake) * u128::from(other);
        worth(stake_b, cost_a).cmp(&worth(stake_a, cost_b))
    });
    let mut used = Span::ZERO;
    by_value.retain(|n| {
        let fits = used + waiting[*n].budget <= left;
        if fits {
            used += waiting[*n].budget;
        }
        fits
    });
    by_value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::ids::{Generation, WorkspaceId};

    fn waiting(n: usize, expendable: bool, budget: u64, at_stake: u64) -> Waiting {
        Waiting {
            key: LeaseKey {
                workspace: WorkspaceId::new(&format!("ws-{n:03}")).unwrap(),
                generation: Generation(1),
            },
            expendable,
            failed: 0,
            budget: Span::from_secs(budget),
            at_stake: Span::from_secs(at_stake),
        }
    }

    fn names(line: &[Waiting]) -> Vec<&str> {
        line.iter().map(|w| w.key.workspace.as_str()).collect()
    }

    fn secs(n: u64) -> Span {
        Span::from_secs(n)
    }

    #[test]
    fn with_time_for_all_those_that_must_not_be_killed_come_first_the_cheapest_first() {
        let all = vec![
            waiting(0, true, 1, 9000),
            waiting(1, false, 5, 10),
            waiting(2, false, 2, 5),
        ];
        assert_eq!(names(&order(all, secs(8))), ["ws-002", "ws-001", "ws-000"]);
    }

    #[test]
    fn without_time_for_all_the_least_is_lost() {
        // The cheapest first would save 1 and 2: 20 s of guest time instead of 500.
        let all = vec![
            waiting(0, false, 6, 500),
            waiting(1, false, 2, 10),
            waiting(2, false, 3, 10),
            waiting(3, true, 1, 900),
        ];
        let line = order(all.clone(), secs(7));
        assert_eq!(names(&line), ["ws-000", "ws-001", "ws-002", "ws-003"]);
        // What may be killed gets its turn by the same rule.
        let line = order(vec![all[3].clone(), waiting(4, true, 7, 30)], secs(7));
        assert_eq!(names(&line), ["ws-003", "ws-004"]);
    }

    #[test]
    fn one_whose_suspend_failed_lets_the_others_go_first() {
        let mut all = vec![waiting(0, false, 1, 100), waiting(1, false, 5, 10)];
        all[0].failed = 1;
        assert_eq!(names(&order(all.clone(), secs(60))), ["ws-001", "ws-000"]);
        assert_eq!(names(&order(all, secs(3))), ["ws-001", "ws-000"]);
    }

    fn brute_force(all: &[Waiting], left: Span) -> Span {
        let sets = 0_u32..1 << all.len();
        let of = |set: u32| {
            let members = || (0..all.len()).filter(move |n| set >> n & 1 == 1);
            let cost: Span = members().map(|n| all[n].budget).sum();
            let stake: Span = members().map(|n| all[n].at_stake).sum();
            (cost <= left).then_some(stake)
        };
        sets.filter_map(of).max().unwrap()
    }

    proptest! {
        #[test]
        fn no_other_set_would_save_more(
            guests in prop::collection::vec((1..40u64, 0..1000u64), 0..10),
            left in 0..200u64,
        ) {
            let all: Vec<_> = (guests.iter().enumerate())
                .map(|(n, (budget, at_stake))| waiting(n, false, *budget, *at_stake))
                .collect();
            let line = order(all.clone(), secs(left));
            prop_assert_eq!(line.len(), all.len());
            // As many as fit, from the front of the line.
            let (mut used, mut saved) = (Span::ZERO, Span::ZERO);
            for w in &line {
                if used + w.budget <= secs(left) {
                    used += w.budget;
                    saved += w.at_stake;
                }
            }
            prop_assert!(saved >= brute_force(&all, secs(left)), "{:?}", line);
        }

        #[test]
        fn many_guests_are_ordered_well_enough(
            guests in prop::collection::vec((1..40u64, 0..1000u64), 17..40),
            left in 40..400u64,
        ) {
            let all: Vec<_> = (guests.iter().enumerate())
                .map(|(n, (budget, at_stake))| waiting(n, false, *budget, *at_stake))
                .collect();
            let chosen = greedy(&all, secs(left));
            let cost: Span = chosen.iter().map(|n| all[*n].budget).sum();
            prop_assert!(cost <= secs(left));
            // No more than one guest's worth below the best.
            let stake: Span = chosen.iter().map(|n| all[*n].at_stake).sum();
            let one = all.iter().map(|w| w.at_stake).max().unwrap_or_default();
            let mut best = vec![0; usize::try_from(left).unwrap() + 1];
            for (budget, at_stake) in &guests {
                let budget = usize::try_from(*budget).unwrap();
                for room in (budget..best.len()).rev() {
                    best[room] = best[room].max(best[room - budget] + at_stake);
                }
            }
            prop_assert!(stake + one >= secs(*best.last().unwrap()));
            prop_assert_eq!(order(all.clone(), secs(left)).len(), all.len());
        }
    }
}
