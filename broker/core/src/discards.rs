//! States that nobody needs any more, by who was asked to delete them: a pilot's answer is made
//! without looking at every state of its site. Derived from the records, and kept true by
//! [`Tables`](crate::tables::Tables) alone.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{SiteName, StateId, SubmitKey};
use protocol::time::{Span, Timestamp};

use crate::records::DiscardRecord;

/// States that one pilot is asked to delete at a time.
const MOST: usize = 16;
/// After so long another pilot is asked.
const AGAIN: Span = Span::from_mins(2);

/// The states of one site.
#[derive(Clone, PartialEq, Debug, Default)]
struct OfSite {
    /// Nobody was asked.
    open: BTreeSet<StateId>,
    /// By the pilot that was asked last.
    asked: BTreeMap<SubmitKey, BTreeSet<StateId>>,
    /// Those, by when.
    since: BTreeSet<(Timestamp, StateId)>,
}

/// All states that are to be deleted.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Discards {
    all: BTreeMap<StateId, DiscardRecord>,
    sites: BTreeMap<SiteName, OfSite>,
}

impl Discards {
    /// Takes a record, in the place of the one before of that state.
    pub(crate) fn insert(&mut self, d: DiscardRecord) {
        self.remove(&d.state);
        let site = self.sites.entry(d.site.clone()).or_default();
        match &d.told {
            None => {
                site.open.insert(d.state.clone());
            }
            Some((key, at)) => {
                let of_pilot = site.asked.entry(key.clone()).or_default();
                of_pilot.insert(d.state.clone());
                site.since.insert((*at, d.state.clone()));
            }
        }
        self.all.insert(d.state.clone(), d);
    }

    /// The state is gone.
    pub(crate) fn remove(&mut self, id: &StateId) -> Option<DiscardRecord> {
        let d = self.all.remove(id)?;
        if let Some(site) = self.sites.get_mut(&d.site) {
            site.open.remove(id);
            if let Some((key, at)) = &d.told {
                site.since.remove(&(*at, id.clone()));
                if let Some(of_pilot) = site.asked.get_mut(key) {
                    of_pilot.remove(id);
                    if of_pilot.is_empty() {
                        site.asked.remove(key);
                    }
                }
            }
            if site.open.is_empty() && site.since.is_empty() {
                self.sites.remove(&d.site);
            }
        }
        Some(d)
    }

    pub(crate) fn get(&self, id: &StateId) -> Option<&DiscardRecord> {
        self.all.get(id)
    }

    pub(crate) fn contains_key(&self, id: &StateId) -> bool {
        self.all.contains_key(id)
    }

    /// All of them, by name.
    pub(crate) fn values(&self) -> impl Iterator<Item = &DiscardRecord> {
        self.all.values()
    }

    /// What a pilot at a site is to delete: what it was asked for, and what nobody else was asked
    /// for lately; the first by name.
    pub(crate) fn wanted_of(
        &self,
        now: Timestamp,
        site: &SiteName,
        pilot: &SubmitKey,
    ) -> BTreeSet<StateId> {
        let Some(site) = self.sites.get(site) else {
            return BTreeSet::new();
        };
        let own = site.asked.get(pilot).into_iter().flatten().take(MOST);
        let late = (site.since.iter())
            .take_while(|(at, _)| *at + AGAIN <= now)
            .map(|(_, id)| id);
        let mut wanted: BTreeSet<&StateId> = site.open.iter().take(MOST).collect();
        wanted.extend(own.chain(late));
        wanted.into_iter().take(MOST).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site(n: u8) -> SiteName {
        SiteName::new(&format!("site-{n}")).unwrap()
    }

    fn pilot(n: u8) -> SubmitKey {
        SubmitKey::new(&format!("wp-{n}")).unwrap()
    }

    fn minute(n: i64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + 60 * n)
    }

    /// By looking at each.
    fn plainly(d: &Discards, now: Timestamp, at: &SiteName, key: &SubmitKey) -> BTreeSet<StateId> {
        let wanted = d.values().filter(|d| d.site == *at);
        let wanted = wanted.filter(|d| match &d.told {
            Some((k, told)) => k == key || *told + AGAIN <= now,
            None => true,
        });
        wanted.take(MOST).map(|d| d.state.clone()).collect()
    }

    proptest! {
        #[test]
        fn what_is_wanted_is_what_looking_at_each_would_find(
            steps in prop::collection::vec((0u8..60, 0u8..2, 0u8..4, 0i64..6, 0u8..5), 1..200),
        ) {
            let mut all = Discards::default();
            for (state, at, key, told, what) in steps {
                let state = StateId::new(&format!("ws-{state}.g1")).unwrap();
                if what == 0 {
                    all.remove(&state);
                } else {
                    // A state stays where it is.
                    let at = all.get(&state).map_or(site(at), |d| d.site.clone());
                    let told = (what > 2).then(|| (pilot(key), minute(told)));
                    all.insert(DiscardRecord { state, site: at, told });
                }
                for (at, key) in [(0, 0), (0, 3), (1, 1)] {
                    let (at, key) = (site(at), pilot(key));
                    prop_assert_eq!(
                        all.wanted_of(minute(5), &at, &key),
                        plainly(&all, minute(5), &at, &key)
                    );
                }
            }
            let mut again = Discards::default();
            all.values().cloned().for_each(|d| again.insert(d));
            prop_assert_eq!(again, all);
        }
    }
}
