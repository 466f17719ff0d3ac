//! The pilot's main loop: waits for whatever happens first, asks the agent, begins the effects.
//!
//! One thread: guests die with the thread that started them, so it has to be the main one.

mod error;
mod start;

use std::time::Duration;

use pilot_core::agent::{Agent, Event};
use protocol::canary::is_canary;
use protocol::time::{Mono, Span};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub use error::RunError;

use crate::cli::RunArgs;
use crate::clock;
use crate::effects::Effects;
use crate::signals::Signals;
use crate::warden::Warden;
use start::{Paths, Started};

/// The loop looks around at least so often: its timer stands still while the host sleeps.
const LONGEST_NAP: Span = Span::from_secs(5);
/// How long the warden may take to leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs in the slot of the slot file until there is nothing more to do. Returns the exit code.
///
/// # Errors
/// The pilot could not start; what it had made until then is removed again.
pub fn run(args: &RunArgs) -> Result<i32, RunError> {
    let slot = start::read_slot_file(&args.slot)?;
    if is_canary(&slot.submit_key) {
        return Ok(crate::canary::run(&slot));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::Runtime { source })?;
    let tasks = tokio::task::LocalSet::new();
    let result = tasks.block_on(&runtime, async {
        let signals = Signals::listen().map_err(|source| RunError::Runtime { source })?;
        let paths = Paths::of(&slot);
        let (events, reports) = unbounded_channel();
        let Started {
            agent,
            effects,
            warden,
        } = start::start(&slot, &paths, events).await?;
        let code = Drive {
            agent,
            effects,
            signals,
            reports,
            warden: &warden,
            told: None,
            fence: None,
        }
        .run()
        .await;
        warden.goodbye(GOODBYE);
        Ok(code)
    });
    // A thread that hangs on a dead file server must not keep the pilot in its slot.
    drop(tasks);
    runtime.shutdown_background();
    result
}

struct Drive<'a> {
    agent: Agent,
    effects: Effects,
    signals: Signals,
    reports: UnboundedReceiver<Event>,
    warden: &'a Warden,
    /// The deadline that the warden knows.
    told: Option<Mono>,
    /// The fence that the warden knows.
    fence: Option<Mono>,
}

impl Drive<'_> {
    async fn run(mut self) -> i32 {
        let mut event = Event::Started;
        loop {
            tracing::trace!(?event, "step");
            let effects = self.agent.step(clock::now(), event);
            // Before the effects: no guest starts of which the warden does not know.
            self.tell_warden();
            for effect in effects {
                if let Some(code) = self.effects.begin(&self.agent, effect) {
                    return code;
                }
            }
            event = self.wait().await;
        }
    }

    async fn wait(&mut self) -> Event {
        let nap = self
            .agent
            .next_wakeup()
            .map_or(LONGEST_NAP, |at| clock::until(at).min(LONGEST_NAP));
        tokio::select! {
            biased;
            (which, from) = self.signals.next() => Event::Signal { which, from },
            Some(event) = self.reports.recv() => event,
            () = tokio::time::sleep(nap.as_duration()) => Event::Tick,
        }
    }

    /// The warden steps in a little after the time at which we should be gone, and ends the guests
    /// when their leases run out.
    fn tell_warden(&mut self) {
        let fence = self.agent.fence_at();
        if self.fence != fence {
            self.fence = fence;
            let remaining = fence.map(|at| clock::until(at).as_duration());
            if let Err(e) = self.warden.fence(remaining) {
                tracing::warn!(error = %e, "nobody ends the guests should this process be stopped");
            }
        }
        let kill_at = self.agent.clock().kill_at();
        if self.told == Some(kill_at) {
            return;
        }
        self.told = Some(kill_at);
        let remaining = start::warden_time(self.agent.clock());
        if let Err(e) = self.warden.deadline(remaining.as_duration()) {
            tracing::warn!(error = %e, "guests are left with their parent-death signal");
        }
    }
}
