//! States that are worked on under their temporary names: by a flush, by a suspend, by a checkpoint.

use std::path::PathBuf;

use protocol::ids::StateId;

use super::{Guest, GuestTask, said};
use crate::broker_client::chain;
use crate::journal::{Entry, What};

/// Where a state is begun, and its entry in the journal.
#[derive(Debug)]
pub(super) struct Begun {
    state: StateId,
    path: PathBuf,
    entry: Entry,
}

impl GuestTask {
    /// Writes down where a state will be worked on, before anything of it exists.
    pub(super) fn begin_state(&mut self, state: &StateId) -> Result<(), String> {
        if self.begun.iter().any(|b| b.state == *state) {
            return Ok(());
        }
        let path = self.tools.hypervisor.state_tmp(state);
        let what = What::StoreTmp { path: path.clone() };
        let entry = self.tools.journal.intend(what).map_err(|e| chain(&e))?;
        let state = state.clone();
        self.begun.push(Begun { state, path, entry });
        Ok(())
    }

    /// Says that what was begun of this state, or of all of them, is gone, where it is.
    pub(super) async fn settle_states(&mut self, only: Option<&StateId>) {
        for begun in std::mem::take(&mut self.begun) {
            let is_meant = only.is_none_or(|only| begun.state == *only);
            if is_meant && tokio::fs::symlink_metadata(&begun.path).await.is_err() {
                said(begun.entry.gone());
            } else {
                self.begun.push(begun);
            }
        }
    }

    /// Begins to bring the guest's memory to the store.
    pub(super) fn flush(&mut self, guest: &Guest) {
        let state = guest.id().state_id().map_err(|e| chain(&e));
        match state.and_then(|state| self.begin_state(&state)) {
            Ok(()) => self.warn("flush its memory", guest.flush()),
            Err(text) => {
                tracing::warn!(lease.id = %self.lease, error = text, "the guest's memory is not flushed");
            }
        }
    }
}
