//! How following commands bear a broker that is away: they say so once, keep trying, and say
//! when it is back.

use std::time::Duration;

use crate::client::{ClientError, Retry};
use crate::output::Output;

/// What one following command knows about the broker's absence.
#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    /// The broker has answered.
    pub fn answered(&mut self, output: &Output) {
        if self.failures > 0 {
            output.note("the broker answers again");
        }
        self.failures = 0;
    }

    /// A call failed. Returns the pause before the next try.
    ///
    /// # Errors
    /// Trying again is no use: the error itself.
    pub fn failed(&mut self, error: ClientError, output: &Output) -> Result<Duration, ClientError> {
        if !error.is_transient() {
            return Err(error);
        }
        if self.failures == 0 {
            output.note(&format!(
                "{error}; what runs goes on without us, still trying"
            ));
        }
        let pause = Retry::default().pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        Ok(pause)
    }
}
