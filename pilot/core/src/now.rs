//! The current instant on both clocks. Owner: whoever calls [`crate::agent::Agent::step`].

use protocol::time::{Mono, Timestamp};

/// Now, on the monotonic clock (which decides) and on the wall clock (which people read and in
/// which the LRM tells the slot's end).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Monotonic; goes on while the host sleeps or the process is stopped.
    pub mono: Mono,
    /// Wall clock; may jump.
    pub wall: Timestamp,
}

impl Now {
    /// When `wall` comes by the monotonic clock, if the wall clock is right now.
    pub fn mono_of(&self, wall: Timestamp) -> Mono {
        if wall >= self.wall {
            self.mono + wall.since(self.wall)
        } else {
            self.mono.before(self.wall.since(wall))
        }
    }
}
