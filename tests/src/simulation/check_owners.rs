//! No lease without an owner, and nothing on a node without a pilot: looked at now and then,
//! because each needs a while to be wrong.

use protocol::time::Span;

use super::options::{Promise, Violation};
use super::pilot_side::number_of;
use super::world::World;

type Checked = Result<(), Box<Violation>>;

/// What a machine may be late by, and the time between two looks.
const PATIENCE: Span = Span::from_mins(3);

impl World {
    /// A lease of a pilot that is gone runs out, and a guest whose lease the broker does not have
    /// is given up: both by the time that leases live.
    pub(super) fn check_owners(&mut self) -> Checked {
        let life = self.broker.lease_life();
        if !self.broker.is_up() {
            return Ok(());
        }
        for lease in self.broker.records.leases() {
            let Some(pilot) = number_of(&lease.boot) else {
                continue;
            };
            let Some(gone) = self.pilots[pilot].ended else {
                continue;
            };
            let had = self.now.since(gone.max(self.broker.up_since));
            if had > life + PATIENCE {
                let what = format!(
                    "lease {} of {} lives on in the broker; its pilot {pilot} is gone since {gone}, \
                     the broker is up since {}, and a lease lives for {life}",
                    lease.generation, lease.workspace, self.broker.up_since
                );
                let mut about = self.names_of(pilot);
                about.push(lease.workspace.to_string());
                return Err(self.violation(Promise::Owned, &what, &about));
            }
        }
        let mut lost = None;
        for ((pilot, key), guest) in &mut self.truth.guests {
            let boot = super::pilot_side::boot(*pilot);
            let owned = (self.broker.records.lease(&key.workspace))
                .is_some_and(|l| l.generation == key.generation && l.boot == boot);
            if owned {
                guest.unowned = None;
                continue;
            }
            let since = *guest.unowned.get_or_insert(self.now);
            if self.now.since(since) > life + PATIENCE {
                lost = Some((*pilot, key.clone(), since));
            }
        }
        if let Some((pilot, key, since)) = lost {
            let what =
                format!("{key} runs in pilot {pilot} under a lease that nobody has since {since}");
            let mut about = self.names_of(pilot);
            about.push(key.workspace.to_string());
            return Err(self.violation(Promise::Owned, &what, &about));
        }
        Ok(())
    }

    /// No guest is on a node whose pilot is gone.
    pub(super) fn check_nodes(&self) -> Checked {
        for (pilot, key) in self.truth.guests.keys() {
            if let Some(gone) = self.pilots[*pilot].ended {
                let what = format!("{key} is there, and its pilot {pilot} is gone since {gone}");
                let mut about = self.names_of(*pilot);
                about.push(key.workspace.to_string());
                return Err(self.violation(Promise::Clean, &what, &about));
            }
        }
        Ok(())
    }
}
