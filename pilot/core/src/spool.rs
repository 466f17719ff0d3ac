//! Events that the broker has not acknowledged yet.

use std::collections::VecDeque;

use protocol::ids::EventSeq;
use protocol::messages::PilotEvent;

/// How many events one sync carries at most.
const PER_SYNC: usize = 200;

/// The events of this pilot process, numbered from 1 without gaps, kept until acknowledged.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Spool {
    last: EventSeq,
    waiting: VecDeque<PilotEvent>,
}

impl Spool {
    /// Numbers and keeps an event; the number in `event` is overwritten. Returns it as kept.
    pub fn push(&mut self, mut event: PilotEvent) -> PilotEvent {
        self.last = self.last.next();
        event.seq = self.last;
        self.waiting.push_back(event.clone());
        event
    }

    /// Forgets everything up to `seq`: the broker has it durably.
    pub fn acknowledge(&mut self, seq: EventSeq) {
        while self.waiting.front().is_some_and(|e| e.seq <= seq) {
            self.waiting.pop_front();
        }
    }

    /// What the next sync carries, oldest first.
    pub fn batch(&self) -> Vec<PilotEvent> {
        self.waiting.iter().take(PER_SYNC).cloned().collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when the broker knows all.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True when there is more than one sync carries.
    pub fn overflows_a_sync(&self) -> bool {
        self.waiting.len() > PER_SYNC
    }
}
