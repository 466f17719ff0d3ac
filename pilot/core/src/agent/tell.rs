//! What a guest is told of its own time, and what its answer means.
//!
//! A guest that listens is told how long it has when it starts to listen, when that changes a lot,
//! at fixed marks before its eviction, and in the moment in which that begins. Its `ready` brings
//! the eviction forward, never further away, and only within the last of those marks.

use protocol::codes::ReasonCode;
use protocol::time::{Mono, Span};

use super::{Agent, Effect};
use crate::deadline::Plan;
use crate::guest::{Lease, Stage};
use crate::guest_words::{Said, Told, Words};

impl Agent {
    /// Takes what a guest said.
    pub(super) fn on_said(&mut self, lease: &mut Lease, said: Said) {
        if !lease.has_guest() {
            return;
        }
        match said {
            Said::Hello => {
                lease.talk.listens = true;
                lease.talk.told = None;
                self.tell(lease, Words::Hello);
            }
            Said::Ready => lease.talk.says_ready = true,
        }
    }

    /// Weighs a `ready` that has just come: it counts near the eviction, once.
    pub(super) fn weigh_ready(&mut self, lease: &mut Lease, plan: &Plan) {
        let said = std::mem::take(&mut lease.talk.says_ready);
        if !said || lease.talk.ready || !self.is_last_call(lease, plan) {
            return;
        }
        lease.talk.ready = true;
        let text = "the guest is ready to go".to_owned();
        let data = serde_json::json!({"run_ms": lease.ran_at(self.now.mono).as_millis()});
        self.record("guest_ready", Some(&lease.key), text, data);
    }

    /// The guest was loaded from its state. Its agent, if it has one, was suspended with it, and
    /// can't know that it was away.
    pub(super) fn tell_resumed(&mut self, lease: &mut Lease) {
        let away = match &lease.state {
            Some(state) => self.now.wall.since(state.at),
            None => return,
        };
        lease.talk.listens = true;
        self.tell(lease, Words::Hello);
        self.tell_away(lease, away);
    }

    /// The guest runs again after it stood still here.
    pub(super) fn tell_continued(&mut self, lease: &mut Lease) {
        let since = lease.talk.still_since.take();
        if let Some(since) = since.filter(|_| lease.talk.listens) {
            self.tell_away(lease, self.now.mono.since(since));
        }
    }

    fn tell_away(&mut self, lease: &mut Lease, away: Span) {
        lease.talk.told = None;
        let now = self.now.wall;
        self.tell(lease, Words::Resumed { away, now });
    }

    /// Tells a running guest of its time, if there is news.
    pub(super) fn tell_time(&mut self, lease: &mut Lease, plan: &Plan) {
        if !lease.talk.listens || !matches!(lease.stage, Stage::Running { .. }) {
            return;
        }
        let (at, reason) = self.goes_at(lease, plan);
        let left = at.since(self.now.mono);
        let reached = self.marks_reached(left);
        let is_news = lease.talk.told.is_none_or(|told| {
            let moved = at.since(told.at).max(told.at.since(at));
            reached > told.reached
                || moved
                    > self
                        .settings
                        .tell_change
                        .max(Span::from_millis(left.as_millis() / 4))
        });
        if !is_news {
            return;
        }
        lease.talk.told = Some(Told { at, reached });
        let words = if reached < self.settings.tell_marks.len() {
            Words::TimeLeft { left, reason }
        } else if lease.is_suspendable() && reason != ReasonCode::RunTimeUsed {
            Words::SuspendSoon { left, reason }
        } else {
            Words::StopSoon { left, reason }
        };
        self.tell(lease, words);
    }

    /// Tells a guest whose suspend or shutdown begins now, unless it knows.
    pub(super) fn tell_begin(&mut self, lease: &mut Lease, words: Words) {
        let all = self.settings.tell_marks.len() + 1;
        if !lease.talk.listens || lease.talk.told.is_some_and(|t| t.reached >= all) {
            return;
        }
        let at = self.now.mono;
        lease.talk.told = Some(Told { at, reached: all });
        self.tell(lease, words);
    }

    /// True when the guest said that it is ready, its eviction is near, and nobody is before it in
    /// the line: the time that it gives back is not taken from another's.
    pub(super) fn goes_early(&self, lease: &Lease, plan: &Plan) -> bool {
        let now = self.now.mono;
        let mut before = plan.order.iter().take_while(|key| **key != lease.key);
        lease.talk.ready
            && self.is_last_call(lease, plan)
            && before.all(|key| plan.begin.get(key).is_none_or(|begin| now >= *begin))
    }

    /// When `lease` is to be told of its time again.
    pub(super) fn next_telling(&self, lease: &Lease, plan: &Plan) -> Option<Mono> {
        if !lease.talk.listens || !matches!(lease.stage, Stage::Running { .. }) {
            return None;
        }
        let (at, _) = self.goes_at(lease, plan);
        let left = at.since(self.now.mono);
        let marks = self.settings.tell_marks.iter();
        let next = marks.copied().filter(|mark| *mark < left).max();
        Some(at.before(next.unwrap_or(Span::ZERO)))
    }

    /// Within the last mark before the eviction of the guest, or after its begin.
    fn is_last_call(&self, lease: &Lease, plan: &Plan) -> bool {
        let last = self.settings.tell_marks.iter().min();
        let begin = plan.begin.get(&lease.key);
        let near = |begin: &Mono| begin.since(self.now.mono) <= last.copied().unwrap_or_default();
        self.eviction.is_some() || begin.is_some_and(near)
    }

    /// When and why the guest has to go, as far as that can be known before.
    fn goes_at(&self, lease: &Lease, plan: &Plan) -> (Mono, ReasonCode) {
        let now = self.now.mono;
        if self.eviction.is_some() {
            return (now, self.eviction_reason().code);
        }
        let used_up = now + lease.remaining(now);
        match plan.begin.get(&lease.key) {
            Some(begin) if *begin <= used_up => (*begin, self.eviction_reason().code),
            Some(_) | None => (used_up, ReasonCode::RunTimeUsed),
        }
    }

    /// How many of the marks are reached with `left`; the end itself is the last.
    fn marks_reached(&self, left: Span) -> usize {
        let marks = self.settings.tell_marks.iter();
        marks.filter(|mark| left <= **mark).count() + usize::from(left.is_zero())
    }

    fn tell(&mut self, lease: &Lease, words: Words) {
        let lease = lease.key.clone();
        self.effects.push(Effect::Tell { lease, words });
    }
}
