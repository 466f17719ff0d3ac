//! What was done when, and to whom.

use std::collections::{BTreeMap, BTreeSet};

use protocol::time::{Span, Timestamp};

use super::clock;

/// Something that was done to one slot's processes, or to a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// [`super::plan::Act::kind`].
    pub kind: &'static str,
    /// When it began.
    pub from: Timestamp,
    /// When it was over; none while it lasts.
    pub to: Option<Timestamp>,
}

impl Hit {
    /// True when it touched the time between these two.
    pub fn touches(&self, from: Timestamp, to: Timestamp) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }
}

/// The record of a campaign.
#[derive(Debug, Clone, Default)]
pub struct Story {
    lines: Vec<(Timestamp, String)>,
    /// By the pilot job's key.
    slots: BTreeMap<String, Vec<Hit>>,
    /// By site.
    sites: BTreeMap<String, Vec<Hit>>,
    /// On all.
    everywhere: Vec<Hit>,
    /// Acts that met somebody, by kind.
    pub done: BTreeMap<&'static str, u64>,
}

/// Whom an act met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// A slot, by its pilot job's key.
    Slot(String),
    /// A site.
    Site(String),
    /// All slots.
    All,
    /// No slot in particular.
    Nobody,
}

impl Story {
    /// Notes something.
    pub fn say(&mut self, text: impl Into<String>) {
        self.lines.push((clock::wall(), text.into()));
    }

    /// Notes that an act of this kind has met somebody.
    pub fn hit(&mut self, kind: &'static str, met: &Met, text: impl Into<String>) {
        *self.done.entry(kind).or_default() += 1;
        let hit = Hit {
            kind,
            from: clock::wall(),
            to: None,
        };
        match met {
            Met::Slot(key) => self.slots.entry(key.clone()).or_default().push(hit),
            Met::Site(site) => self.sites.entry(site.clone()).or_default().push(hit),
            Met::All => self.everywhere.push(hit),
            Met::Nobody => {}
        }
        self.say(text);
    }

    /// Notes that what was done is undone.
    pub fn over(&mut self, kind: &'static str, met: &Met, text: impl Into<String>) {
        let now = clock::wall();
        let hits = match met {
            Met::Slot(key) => self.slots.get_mut(key),
            Met::Site(site) => self.sites.get_mut(site),
            Met::All => Some(&mut self.everywhere),
            Met::Nobody => None,
        };
        let open = hits.and_then(|h| h.iter_mut().find(|h| h.kind == kind && h.to.is_none()));
        if let Some(hit) = open {
            hit.to = Some(now);
        }
        self.say(text);
    }

    /// All that was done to a slot itself.
    pub fn hits(&self, key: &str) -> &[Hit] {
        self.slots.get(key).map_or(&[], Vec::as_slice)
    }

    /// True when an act of this kind met this slot.
    pub fn met(&self, key: &str, kind: &str) -> bool {
        self.hits(key).iter().any(|h| h.kind == kind)
    }

    /// True when something that was done to this site, or to all, touched this time.
    pub fn around(&self, site: &str, from: Timestamp, to: Timestamp, kinds: &[&str]) -> bool {
        let site = self.sites.get(site).into_iter().flatten();
        site.chain(&self.everywhere)
            .any(|h| kinds.contains(&h.kind) && h.touches(from, to))
    }

    /// True when some slot lost both its pilot and its warden: what they have made stays until
    /// somebody undoes the journal.
    pub fn has_orphans(&self) -> bool {
        let mut keys = self.slots.keys();
        keys.any(|k| self.met(k, "kill_warden") && self.met(k, "kill_pilot"))
    }

    /// Keys of the slots whose pilots were killed by the campaign.
    pub fn killed_pilots(&self) -> BTreeSet<String> {
        let keys = self.slots.keys().filter(|k| self.met(k, "kill_pilot"));
        keys.cloned().collect()
    }

    /// The story for people, by seconds from its begin.
    pub fn tell(&self) -> String {
        let begin = self.lines.first().map(|(at, _)| *at);
        let since = |at: &Timestamp| begin.map_or(Span::ZERO, |b| at.since(b)).as_secs_f64();
        let line = |(at, text): &(Timestamp, String)| format!("{:>7.1}s {at} {text}\n", since(at));
        self.lines.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_lasts_until_it_is_over() {
        let mut story = Story::default();
        let met = Met::Site("birch".to_owned());
        story.hit("fill_disk", &met, "birch is full");
        let long_after = clock::wall() + Span::from_mins(1);
        assert!(story.around("birch", long_after, long_after, &["fill_disk"]));
        story.over("fill_disk", &met, "birch has space");
        assert!(!story.around("birch", long_after, long_after, &["fill_disk"]));
        assert!(!story.around("alder", Timestamp::from_secs(0), long_after, &["fill_disk"]));
        assert_eq!(story.done["fill_disk"], 1);
        let slot = Met::Slot("k".to_owned());
        story.hit("kill_pilot", &slot, "k's pilot is killed");
        assert!(story.met("k", "kill_pilot") && !story.met("k", "stop_pilot"));
        assert!(story.tell().lines().count() == 3);
    }
}
