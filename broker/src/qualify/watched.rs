//! The adapter under test, with an eye on it: listings are rationed, calls are timed and counted,
//! and every job that it has submitted is remembered until it is known to be over.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lrm_adapters::{Capabilities, LocalResourceManager, Lrm};
use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, JobState, Observation, PilotJob, SubmitAnswer};
use protocol::time::{Mono, Span};
use serde::Serialize;

use crate::clock::Clock;

/// Commands that were sent. A cancel and a listing may be two commands each, see the adapters' pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Calls {
    /// Submits.
    pub submits: u32,
    /// Listings, look-ups by key included.
    pub listings: u32,
    /// Cancels.
    pub cancels: u32,
}

/// A job of ours that is not known to be over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OpenJob {
    /// None: its submit was not answered, and no listing has it.
    pub id: Option<LrmJobId>,
    /// The LRM has listed it alive, the last time that it listed it.
    pub is_listed: bool,
    /// The LRM has taken a cancel, or says that there is no such job.
    pub is_cancelled: bool,
}

/// The adapter.
pub(super) struct Watched {
    inner: Lrm,
    poll: Span,
    clock: Clock,
    state: Mutex<State>,
    /// Held while a submit is under way, which is not to be cut off.
    submitting: tokio::sync::Mutex<()>,
    /// Commands are not handed on.
    is_deaf: AtomicBool,
}

#[derive(Default)]
struct State {
    last_listing: Option<Mono>,
    jobs: BTreeMap<SubmitKey, OpenJob>,
    calls: Calls,
    slow: Option<String>,
}

impl Watched {
    /// Asks for a listing at most once every `poll`.
    pub(super) fn new(inner: Lrm, poll: Span) -> Self {
        Self {
            inner,
            poll,
            clock: Clock::new(),
            state: Mutex::default(),
            submitting: tokio::sync::Mutex::default(),
            is_deaf: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on commands are not handed on, or are again: a submit then is none.
    pub(super) fn set_deaf(&self, deaf: bool) {
        self.is_deaf.store(deaf, Ordering::Relaxed);
    }

    /// Remembers a job of an earlier run; with its id where it is listed.
    pub(super) fn adopt(&self, key: &SubmitKey, id: Option<LrmJobId>) {
        let open = OpenJob {
            is_listed: id.is_some(),
            id,
            is_cancelled: false,
        };
        self.state().jobs.insert(key.clone(), open);
    }

    /// All jobs that are not known to be over.
    pub(super) fn open(&self) -> BTreeMap<SubmitKey, OpenJob> {
        self.state().jobs.clone()
    }

    /// This job is over.
    pub(super) fn close(&self, key: &SubmitKey) {
        self.state().jobs.remove(key);
    }

    /// What was sent.
    pub(super) fn calls(&self) -> Calls {
        self.state().calls
    }

    /// The last call that took longer than the adapter promises; forgotten by this.
    pub(super) fn take_slow(&self) -> Option<String> {
        self.state().slow.take()
    }

    /// Returns when no submit is under way; none begins while the guard is held.
    pub(super) async fn between_submits(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.submitting.lock().await
    }

    /// Waits for the time of the next listing.
    async fn turn(&self) {
        let since = |state: &State| state.last_listing.map(|at| self.clock.mono().since(at));
        let passed = since(&self.state());
        if let Some(passed) = passed {
            tokio::time::sleep(self.poll.minus(passed).as_duration()).await;
        }
        let mut state = self.state();
        state.last_listing = Some(self.clock.mono());
        state.calls.listings += 1;
    }

    async fn timed<T>(&self, what: &str, call: impl Future<Output = T>) -> T {
        let began = self.clock.mono();
        let answer = call.await;
        let took = self.clock.mono().since(began);
        let bound = self.inner.capabilities().call_bound;
        if took > bound {
            let slow = format!("a {what} took {took}; the adapter promises {bound} at most");
            self.state().slow = Some(slow);
        }
        answer
    }

    fn note_cancel(&self, id: &LrmJobId, key: &SubmitKey, answer: &CancelAnswer) {
        if let CancelAnswer::Taken | CancelAnswer::NoSuchJob = answer {
            let mut state = self.state();
            // A cancel of another id of this key is a check of ours.
            if let Some(job) = state.jobs.get_mut(key)
                && job.id.as_ref() == Some(id)
            {
                job.is_cancelled = true;
            }
        }
    }

    fn note(&self, listing: &Observation) {
        let Observation::Listing(seen) = listing else {
            return;
        };
        let mut state = self.state();
        for job in seen {
            let Some(key) = &job.key else { continue };
            if matches!(job.state, JobState::Ended(_)) {
                state.jobs.remove(key);
            } else if let Some(open) = state.jobs.get_mut(key) {
                open.id = Some(job.id.clone());
                open.is_listed = true;
            }
        }
    }
}

impl LocalResourceManager for Watched {
    /// With the time that a listing waits for its turn; `timed` looks at the adapter's own bound.
    fn capabilities(&self) -> Capabilities {
        let own = self.inner.capabilities();
        Capabilities {
            call_bound: own.call_bound + self.poll,
            ..own
        }
    }

    async fn submit(&self, job: &PilotJob) -> SubmitAnswer {
        let _guard = self.submitting.lock().await;
        let open = OpenJob {
            id: None,
            is_listed: false,
            is_cancelled: false,
        };
        {
            let mut state = self.state();
            state.jobs.insert(job.key.clone(), open);
            state.calls.submits += 1;
        }
        let answer = self.timed("submit", self.inner.submit(job)).await;
        let never_sent = self.is_deaf.load(Ordering::Relaxed);
        let mut state = self.state();
        match &answer {
            SubmitAnswer::Accepted(id) => {
                if let Some(open) = state.jobs.get_mut(&job.key) {
                    open.id = Some(id.clone());
                }
            }
            SubmitAnswer::NoAnswer(_) if !never_sent => {}
            SubmitAnswer::Refused(_) | SubmitAnswer::NoAnswer(_) => {
                state.jobs.remove(&job.key);
            }
        }
        answer
    }

    async fn observe(&self) -> Observation {
        self.turn().await;
        let listing = self.timed("listing", self.inner.observe()).await;
        // A job that is not in it is not known to be over, but is not listed any more either.
        if let Observation::Listing(_) = &listing {
            let mut state = self.state();
            state
                .jobs
                .values_mut()
                .for_each(|job| job.is_listed = false);
        }
        self.note(&listing);
        listing
    }

    async fn find_by_key(&self, key: &SubmitKey) -> Observation {
        self.turn().await;
        let listing = self.timed("look-up", self.inner.find_by_key(key)).await;
        self.note(&listing);
        listing
    }

    async fn cancel(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.state().calls.cancels += 1;
        let answer = self.timed("cancel", self.inner.cancel(id, key)).await;
        self.note_cancel(id, key, &answer);
        answer
    }

    async fn withdraw(&self, id: &LrmJobId, key: &SubmitKey) -> CancelAnswer {
        self.state().calls.cancels += 1;
        let answer = self.timed("withdrawal", self.inner.withdraw(id, key)).await;
        self.note_cancel(id, key, &answer);
        answer
    }

    async fn version(&self) -> Result<String, String> {
        self.inner.version().await
    }

    fn submit_preview(&self, job: &PilotJob) -> String {
        self.inner.submit_preview(job)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lrm_adapters::sim::{SimLrm, SimLrmSettings};

    use super::*;

    /// A `sim-lrm` that writes its first word of command down and says what is in `answer`.
    fn watched(at: &Path, poll: Span) -> Watched {
        let program = at.join("sim-lrm");
        let text = format!(
            "#!/bin/sh\nshift 2\necho \"$1\" >> '{0}/ran'\ncat '{0}/answer'\n",
            at.display()
        );
        std::fs::write(&program, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let settings = SimLrmSettings::new(program, at.to_owned());
        Watched::new(Lrm::Sim(SimLrm::new(settings)), poll)
    }

    fn answer(at: &Path, jobs: &[(&str, &str)]) {
        let jobs: Vec<_> = jobs.iter().map(|(key, state)| job(key, state)).collect();
        let text = serde_json::json!({"count": jobs.len(), "jobs": jobs}).to_string();
        std::fs::write(at.join("answer"), text).unwrap();
    }

    fn job(key: &str, state: &str) -> serde_json::Value {
        serde_json::json!({
            "id": "7", "key": key, "name": key, "queue": "pilots", "state": state, "detail": "",
            "submitted": 1.0, "start": null, "end": null, "node": null, "restarts": 0,
            "exit_code": null, "cores": 1, "memory_mib": 1, "disk_mib": 1, "walltime_ms": 1000,
        })
    }

    fn ran(at: &Path) -> String {
        std::fs::read_to_string(at.join("ran")).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_second_listing_waits_for_its_turn() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path();
        answer(at, &[]);
        let lrm = watched(at, Span::from_mins(60));
        let first = lrm.observe().await;
        assert_eq!(first, Observation::Listing(Vec::new()));
        let key = SubmitKey::new("wp-conformance-1").unwrap();
        let moment = std::time::Duration::from_millis(200);
        for _ in 0..2 {
            let second = tokio::time::timeout(moment, lrm.observe()).await;
            assert!(second.is_err(), "{second:?}");
            let look_up = tokio::time::timeout(moment, lrm.find_by_key(&key)).await;
            assert!(look_up.is_err(), "{look_up:?}");
        }
        assert_eq!(ran(at), "queue\n");
        assert_eq!(lrm.calls().listings, 1);
        assert!(lrm.capabilities().call_bound > Span::from_mins(60));
    }

    #[tokio::test]
    async fn a_job_is_open_until_a_listing_says_that_it_has_ended() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path();
        let lrm = watched(at, Span::ZERO);
        let key = SubmitKey::new("wp-conformance-1").unwrap();
        lrm.adopt(&key, Some(LrmJobId::new("7").unwrap()));
        let listed = || lrm.open().get(&key).map(|job| job.is_listed);
        // Not in the listing: not over.
        answer(at, &[]);
        lrm.observe().await;
        assert_eq!(listed(), Some(false));
        answer(
            at,
            &[("wp-conformance-1", "RUNNING"), ("wp-other", "RUNNING")],
        );
        lrm.observe().await;
        assert_eq!(listed(), Some(true));
        assert_eq!(lrm.open().len(), 1, "others' jobs are not ours");
        // No answer: nothing changes.
        std::fs::write(at.join("answer"), "Segmentation fault").unwrap();
        lrm.observe().await;
        assert_eq!(listed(), Some(true));
        answer(at, &[("wp-conformance-1", "CANCELLED")]);
        lrm.observe().await;
        assert_eq!(listed(), None);
    }
}
