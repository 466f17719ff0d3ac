//! The slot's clock: all ends that anyone has told, and what follows from them.
//!
//! Three LRM sources (slot file, probe, broker) tell the same thing at different times. Each
//! replaces its own older word, in both directions. Between them the earliest counts, so that a
//! stale late word never hides a fresh early one; a word that its source has not repeated for
//! `word_stale_after` yields to fresher ones, and the slot file yields to any other. All other
//! sources, and signals, only ever shorten.
//!
//! An end is converted to the monotonic clock once, when it is first told: a jump of the wall
//! clock moves nothing.

use std::collections::BTreeMap;

use protocol::slot::EndSource;
use protocol::time::{Mono, Span, Timestamp};

use crate::now::Now;

/// An end of the slot by one source's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// As it was told.
    pub told: Timestamp,
    /// The same on our monotonic clock.
    pub at: Mono,
    /// When it was last repeated.
    heard: Mono,
}

/// All that is known about the slot's end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotClock {
    notice: Span,
    margin: Span,
    stale_after: Span,
    words: BTreeMap<EndSource, Word>,
    signalled: Option<Signalled>,
}

/// The end by the LRM's first signal: signal plus notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Signalled {
    at: Mono,
    wall: Timestamp,
    kill: Mono,
}

impl SlotClock {
    /// A clock that knows the slot file's word.
    pub fn new(now: Now, end: Timestamp, notice: Span, margin: Span, stale_after: Span) -> Self {
        let word = Word {
            told: end,
            at: now.mono_of(end),
            heard: now.mono,
        };
        Self {
            notice,
            margin,
            stale_after,
            words: BTreeMap::from([(EndSource::SlotFile, word)]),
            signalled: None,
        }
    }

    /// Takes a source's word. Returns true when the slot's end has moved by it.
    pub fn hear(&mut self, now: Now, source: EndSource, told: Timestamp) -> bool {
        let before = self.end();
        let known = self.words.get(&source).copied();
        let word = match (known, is_lrm(source)) {
            (Some(old), _) if old.told == told => Word {
                heard: now.mono,
                ..old
            },
            (Some(old), false) if now.mono_of(told) >= old.at => old,
            (_, _) => Word {
                told,
                at: now.mono_of(told),
                heard: now.mono,
            },
        };
        self.words.insert(source, word);
        let kill = self.kill_at();
        if let Some(s) = &mut self.signalled {
            s.kill = s.kill.min(kill);
        }
        self.end() != before
    }

    /// The LRM has signalled: it kills after its notice, or when it would have anyway. From now
    /// on every word about the slot's end, and every repeated signal, can only shorten that.
    /// Returns true when the kill time has moved.
    pub fn signal(&mut self, now: Now) -> bool {
        let before = self.kill_at();
        let kill = before.min(now.mono + self.notice.minus(self.margin));
        match &mut self.signalled {
            Some(s) => s.kill = s.kill.min(kill),
            None => {
                self.signalled = Some(Signalled {
                    at: now.mono + self.notice,
                    wall: now.wall + self.notice,
                    kill,
                });
            }
        }
        self.kill_at() != before
    }

    /// True once the LRM has signalled.
    pub fn is_signalled(&self) -> bool {
        self.signalled.is_some()
    }

    /// The word of the LRM that counts, and its source.
    pub fn lrm_end(&self) -> (EndSource, Word) {
        let told = [EndSource::Probe, EndSource::Broker]
            .into_iter()
            .filter_map(|s| self.words.get(&s).map(|w| (s, *w)));
        let newest = told.clone().map(|(_, w)| w.heard).max();
        told.filter(|(_, w)| newest.is_some_and(|n| n.since(w.heard) <= self.stale_after))
            .min_by_key(|(_, w)| w.at)
            .unwrap_or((EndSource::SlotFile, self.words[&EndSource::SlotFile]))
    }

    /// The slot's end: the earliest of all words, and who told it.
    pub fn end(&self) -> (Timestamp, EndSource) {
        let (source, word) = self.earliest();
        match self.signalled {
            Some(s) if s.at < word.at => (s.wall, EndSource::Signal),
            Some(_) | None => (word.told, source),
        }
    }

    /// The slot's end on the monotonic clock.
    pub fn end_at(&self) -> Mono {
        let at = self.earliest().1.at;
        self.signalled.map_or(at, |s| s.at.min(at))
    }

    fn earliest(&self) -> (EndSource, Word) {
        let others = self
            .words
            .iter()
            .filter(|(s, _)| !is_lrm(**s))
            .map(|(s, w)| (*s, *w));
        others.fold(self.lrm_end(), |a, b| if b.1.at < a.1.at { b } else { a })
    }

    /// When we want to be gone: before the slot's end, or within the notice once the LRM has
    /// signalled.
    pub fn vacate_at(&self) -> Mono {
        self.earliest().1.at.before(self.margin).min(self.kill_at())
    }

    /// When nothing of ours may be left: end plus guaranteed notice, or signal plus notice,
    /// less the margin.
    pub fn kill_at(&self) -> Mono {
        let (_, lrm) = self.lrm_end();
        let planned = (lrm.at + self.notice).before(self.margin);
        let others = self.words.iter().filter(|(s, _)| !is_lrm(**s));
        others
            .map(|(_, w)| w.at.before(self.margin))
            .chain(self.signalled.map(|s| s.kill))
            .fold(planned, Mono::min)
    }

    /// The notice that the site guarantees.
    pub fn notice(&self) -> Span {
        self.notice
    }

    /// The safety kept before every deadline.
    pub fn margin(&self) -> Span {
        self.margin
    }
}

const fn is_lrm(source: EndSource) -> bool {
    match source {
        EndSource::SlotFile | EndSource::Probe | EndSource::Broker => true,
        EndSource::Signal | EndSource::SitePolicy | EndSource::Credential | EndSource::Drain => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now {
            mono: Mono::from_millis(secs * 1000),
            wall: Timestamp::from_secs(1_000_000 + i64::try_from(secs).unwrap()),
        }
    }

    fn wall(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }

    fn mono(secs: u64) -> Mono {
        Mono::from_millis(secs * 1000)
    }

    fn clock() -> SlotClock {
        SlotClock::new(
            at(0),
            wall(600),
            Span::from_secs(30),
            Span::from_secs(2),
            Span::from_secs(120),
        )
    }

    #[test]
    fn an_lrm_source_moves_the_end_both_ways() {
        let mut c = clock();
        assert_eq!((c.vacate_at(), c.kill_at()), (mono(598), mono(628)));
        assert!(c.hear(at(10), EndSource::Probe, wall(700)));
        assert_eq!(c.end(), (wall(700), EndSource::Probe));
        assert!(c.hear(at(20), EndSource::Probe, wall(100)));
        assert_eq!(c.kill_at(), mono(128));
        assert!(!c.hear(at(30), EndSource::Probe, wall(100)));
    }

    #[test]
    fn a_stale_late_word_does_not_hide_a_fresh_early_one() {
        let mut c = clock();
        c.hear(at(10), EndSource::Broker, wall(600));
        c.hear(at(20), EndSource::Probe, wall(40)); // preempted
        c.hear(at(21), EndSource::Broker, wall(660)); // listed before that
        assert_eq!(c.end(), (wall(40), EndSource::Probe));
    }

    #[test]
    fn a_source_that_fell_silent_yields() {
        let mut c = clock();
        c.hear(at(10), EndSource::Probe, wall(500));
        c.hear(at(100), EndSource::Broker, wall(900));
        assert_eq!(c.end().0, wall(500));
        c.hear(at(131), EndSource::Broker, wall(900));
        assert_eq!(c.end(), (wall(900), EndSource::Broker));
    }

    #[test]
    fn a_jump_of_the_wall_clock_moves_nothing() {
        let mut c = clock();
        c.hear(at(10), EndSource::Probe, wall(600));
        let before = (c.vacate_at(), c.kill_at());
        let jumped = Now {
            mono: mono(20),
            wall: wall(5000),
        };
        assert!(!c.hear(jumped, EndSource::Probe, wall(600)));
        assert_eq!((c.vacate_at(), c.kill_at()), before);
    }

    #[test]
    fn signals_and_other_sources_only_shorten() {
        let mut c = clock();
        assert!(c.signal(at(100)));
        assert_eq!(c.kill_at(), mono(128));
        assert!(!c.signal(at(110)), "a later signal must not lengthen");
        c.hear(at(111), EndSource::Probe, wall(9000));
        assert_eq!((c.kill_at(), c.vacate_at()), (mono(128), mono(128)));
        assert_eq!(c.end(), (wall(130), EndSource::Signal));

        let mut c = clock();
        c.signal(at(610));
        c.hear(at(611), EndSource::Probe, wall(9000));
        assert_eq!(c.kill_at(), mono(628), "no later than known at the signal");
        c.hear(at(612), EndSource::Probe, wall(590));
        c.hear(at(613), EndSource::Probe, wall(9000));
        assert_eq!(
            c.kill_at(),
            mono(618),
            "no later than ever told since the signal"
        );

        let mut c = clock();
        c.hear(at(0), EndSource::Drain, wall(50));
        c.hear(at(1), EndSource::Drain, wall(70));
        assert_eq!(c.kill_at(), mono(48), "no notice is promised for a drain");
    }

    #[test]
    fn without_notice_a_signal_means_now() {
        let s = Span::from_secs;
        let mut c = SlotClock::new(at(0), wall(600), Span::ZERO, s(2), s(120));
        assert_eq!(c.kill_at(), mono(598));
        c.signal(at(100));
        assert_eq!(c.kill_at(), mono(100));
    }
}
