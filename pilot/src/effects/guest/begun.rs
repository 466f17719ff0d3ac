//! A state that is worked on under its temporary name: by a flush, by a suspend, or by both.

use super::{Guest, GuestTask, said};
use crate::broker_client::chain;
use crate::journal::What;

impl GuestTask {
    /// Writes down where a state will be worked on, before anything of it exists.
    pub(super) fn begin_state(&mut self) -> Result<(), String> {
        if self.begun.is_some() {
            return Ok(());
        }
        let path = self.tools.hypervisor.state_tmp(&self.guest_id());
        let path = path.map_err(|e| chain(&e))?;
        let what = What::StoreTmp { path: path.clone() };
        let entry = self.tools.journal.intend(what).map_err(|e| chain(&e))?;
        self.begun = Some((path, entry));
        Ok(())
    }

    /// Says that what was begun of a state is gone, if it is.
    pub(super) async fn settle_state(&mut self) {
        if let Some((path, entry)) = self.begun.take() {
            if tokio::fs::symlink_metadata(&path).await.is_err() {
                said(entry.gone());
            } else {
                self.begun = Some((path, entry));
            }
        }
    }

    pub(super) async fn flush(&mut self, guest: &Guest) {
        match self.begin_state() {
            Ok(()) => self.warn("flush its memory", guest.flush().await),
            Err(text) => {
                tracing::warn!(lease.id = %self.lease, error = text, "the guest's memory is not flushed");
            }
        }
    }
}
