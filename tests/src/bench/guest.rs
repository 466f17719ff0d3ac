//! What the benchmarks do with guests: queue them, wait for them, look at what goes by.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pilot_submit::client::WorkspaceAction;
use protocol::api::WorkspaceView;
use protocol::ids::{EventSeq, IdempotencyKey, WorkspaceId};
use protocol::lease::{EndOutcome, LeasePhase};
use protocol::workspace::{WorkspaceSpec, WorkspaceState};

use super::station::Station;
use super::tap::Passed;
use crate::harness::CounterLog;
use crate::harness::wait::{PATIENCE, until};

/// The user's view of the guests at a station.
pub(super) struct Guests<'a>(&'a Station);

impl<'a> Guests<'a> {
    pub(super) const fn of(station: &'a Station) -> Self {
        Self(station)
    }

    pub(super) async fn queue(&self, spec: &WorkspaceSpec) -> Result<WorkspaceId> {
        let key = IdempotencyKey::new(&spec.name)?;
        Ok(self.0.user.submit(&key, spec).await?.id)
    }

    pub(super) async fn cancel(&self, id: &WorkspaceId) -> Result<()> {
        self.act(id, WorkspaceAction::Cancel).await
    }

    pub(super) async fn act(&self, id: &WorkspaceId, action: WorkspaceAction) -> Result<()> {
        self.0.user.act(id, action).await?;
        Ok(())
    }

    /// Waits until the workspace is in `state`.
    pub(super) async fn reaches(
        &self,
        id: &WorkspaceId,
        state: WorkspaceState,
    ) -> Result<WorkspaceView> {
        let what = format!("{id} to be {state}");
        let view = until(&what, PATIENCE, async || {
            let view = self.0.user.workspace(id).await?;
            Ok((view.state == state || view.state.is_final()).then_some(view))
        })
        .await?;
        if view.state != state {
            bail!("{id} is {}: {:?}", view.state, view.reason);
        }
        Ok(view)
    }

    /// Waits until the guest's console has these words.
    pub(super) async fn says(&self, id: &WorkspaceId, words: &str) -> Result<()> {
        let what = format!("the guest to say {words}");
        until(&what, PATIENCE, async || {
            Ok(self.console(id).await?.contains(words).then_some(()))
        })
        .await
    }

    /// Waits until the guest counts on from now.
    pub(super) async fn counts_on(&self, id: &WorkspaceId) -> Result<()> {
        let before = CounterLog::read(&self.console(id).await?).last;
        until("the guest to count on", PATIENCE, async || {
            let now = CounterLog::read(&self.console(id).await?).last;
            Ok((now > before).then_some(()))
        })
        .await
    }

    /// Fails unless the guest has counted on without a break.
    pub(super) async fn is_unbroken(&self, id: &WorkspaceId) -> Result<()> {
        let log = CounterLog::read(&self.console(id).await?);
        if !log.is_unbroken() {
            bail!("the guest is not what it was: {log:?}");
        }
        Ok(())
    }

    /// Bytes that its latest suspend wrote, and how long it took until they were durable and
    /// verified, by the pilot's word.
    pub(super) async fn last_suspend(&self, id: &WorkspaceId) -> Result<(u64, Duration)> {
        let (mut after, mut last) = (EventSeq(0), None);
        loop {
            let page = self.0.user.events(id, after, None, Duration::ZERO).await?;
            let Some(end) = page.items.last() else { break };
            after = end.seq;
            let measured = page.items.iter().rfind(|e| e.kind == "suspend_measured");
            last = measured.map(|e| e.data.clone()).or(last);
        }
        let data = last.context("no suspend was measured")?;
        let field = |name: &str| {
            let value = data.get(name).and_then(serde_json::Value::as_u64);
            value.with_context(|| format!("the suspend's measurement has no `{name}`"))
        };
        Ok((field("written")?, Duration::from_millis(field("took_ms")?)))
    }

    async fn console(&self, id: &WorkspaceId) -> Result<String> {
        let (mut bytes, mut offset) = (Vec::new(), 0);
        loop {
            let part = self.0.user.console(id, offset, Duration::ZERO).await?;
            if part.bytes.is_empty() {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            bytes.extend_from_slice(&part.bytes);
            offset = part.next_offset;
        }
    }
}

/// The broker's first answer with a lease for this workspace.
pub(super) fn granted(passed: &Passed, id: &WorkspaceId) -> Option<()> {
    let Passed::Answer(reply) = passed else {
        return None;
    };
    let found = reply.leases.iter().find(|l| l.workspace == *id)?;
    found.order.as_ref().map(drop)
}

/// The pilot's first word that the workspace is in `phase`.
pub(super) fn phase(passed: &Passed, id: &WorkspaceId, phase: &LeasePhase) -> Option<()> {
    let Passed::Sync(request) = passed else {
        return None;
    };
    let found = request.leases.iter().find(|l| l.workspace == *id)?;
    match &found.phase {
        LeasePhase::Ended {
            outcome: EndOutcome::Failed { reason, .. } | EndOutcome::Declined { reason },
        } => {
            eprintln!("bench: the pilot does not run {id}: {reason}");
            None
        }
        now => (now == phase).then_some(()),
    }
}
