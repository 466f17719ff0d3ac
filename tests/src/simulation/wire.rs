//! The network between pilots and the broker: it loses, delays, repeats, overtakes and is cut.

use broker_core::Event as BrokerEvent;
use pilot_core::agent;
use protocol::codes::ErrorCode;
use protocol::time::{Mono, Span};

use super::fault::Fault;
use super::truth::PilotNumber;
use super::world::{Coming, Sender, World};

/// A request of a pilot that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// When it was sent, on the pilot's clock.
    pub sent: Mono,
    /// Number of the sync; none for a registration.
    pub number: Option<u64>,
}

impl Wire {
    /// The pilot hears a refusal.
    pub fn refused(&self, code: ErrorCode, text: String) -> agent::Event {
        match self.number {
            Some(number) => agent::Event::SyncRefused { number, code, text },
            None => agent::Event::RegisterRefused { code, text },
        }
    }

    fn failed(&self) -> agent::Event {
        let text = "no answer".to_owned();
        match self.number {
            Some(number) => agent::Event::SyncFailed { number, text },
            None => agent::Event::RegisterFailed { text },
        }
    }
}

impl World {
    /// The pilot gets no answer: its time limit passes, or the connection is refused.
    pub(super) fn sync_unanswered(&mut self, pilot: PilotNumber, wire: &Wire, after: Span) {
        self.plan(after, Coming::Pilot(pilot, Box::new(wire.failed())));
    }

    /// An answer of the broker goes on its way.
    pub(super) fn answer_pilot(&mut self, pilot: PilotNumber, wire: &Wire, event: agent::Event) {
        if self.pilots[pilot].cut_until > self.now || self.fault(Fault::AnswerLost, 10) {
            self.sync_unanswered(pilot, wire, Span::from_secs(25));
            return;
        }
        let delay = if self.fault(Fault::AnswerLate, 5) {
            self.chance.millis(1000, 90_000)
        } else {
            self.chance.millis(1, 40)
        };
        if self.fault(Fault::AnswerRepeated, 5) {
            let again = self.chance.millis(50, 90_000);
            self.plan(again, Coming::Pilot(pilot, Box::new(event.clone())));
        }
        self.plan(delay, Coming::Pilot(pilot, Box::new(event)));
    }

    /// A request of a pilot goes on its way.
    pub(super) fn send_to_broker(&mut self, pilot: PilotNumber, event: BrokerEvent, wire: Wire) {
        if self.pilots[pilot].cut_until <= self.now && self.fault(Fault::NetworkCut, 3) {
            let cut = self.chance.millis(5_000, 900_000);
            self.pilots[pilot].cut_until = self.now + cut;
            self.tell(|| format!("the network of pilot {pilot} is cut for {cut}"));
        }
        if self.pilots[pilot].cut_until > self.now || self.fault(Fault::RequestLost, 10) {
            self.sync_unanswered(pilot, &wire, Span::from_secs(25));
            return;
        }
        let delay = self.chance.millis(1, 40);
        if self.fault(Fault::RequestRepeated, 5) {
            let again = self.chance.millis(50, 20_000);
            self.plan(
                again,
                Coming::Broker(Box::new(event.clone()), Sender::Nobody),
            );
        }
        self.plan(
            delay,
            Coming::Broker(Box::new(event), Sender::Pilot(pilot, wire)),
        );
    }
}
