//! How a story ends when nothing goes wrong any more: every request must come to its end, and
//! nothing must be left.

use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::small::{Checked, Small};

/// What a calm world needs at most: leases of dead pilots run out, all guests get their time.
const LONG_ENOUGH: Span = Span::from_mins(40);

impl Small {
    /// Lets the world go on without faults, with a fresh pilot, until all is done.
    pub(super) fn calms(mut self) -> Checked {
        self.faults_left = 0;
        self.doomed = false;
        self.tell(|| "from here on nothing goes wrong".into());
        for pilot in 0..self.pilots.len() {
            if self.pilots[pilot].hangs.take().is_some() {
                self.pilot_step(pilot, pilot_core::agent::Event::Tick)?;
            }
        }
        self.ask_all()?;
        self.announce_pilot()?;
        let end = self.now + LONG_ENOUGH;
        while !self.is_done() && self.now < end {
            self.flow()?;
            self.tick()?;
            self.check()?;
        }
        self.flow()?;
        for w in &self.records.workspaces {
            if w.state != WorkspaceState::Done {
                return Err(format!(
                    "{} is {} after {LONG_ENOUGH} in which nothing went wrong",
                    w.id, w.state
                ));
            }
        }
        if let Some(lease) = self.records.leases.first() {
            return Err(format!("the lease of {} is never over", lease.workspace));
        }
        if let Some((pilot, lease)) = self.guests.first() {
            return Err(format!("pilot {pilot} keeps {lease}, which nobody wants"));
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        (self.records.workspaces.iter()).all(|w| w.state.is_final())
            && self.guests.is_empty()
            && self.records.leases.is_empty()
    }

    /// All messages arrive and all suspends end, in order.
    fn flow(&mut self) -> Checked {
        loop {
            if !self.writing.is_empty() {
                let writing = self.writing.remove(0);
                self.written(writing)?;
            } else if !self.deliver_first()? {
                return Ok(());
            }
        }
    }
}
