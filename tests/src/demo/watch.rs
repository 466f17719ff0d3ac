//! Tells on the terminal what happens, as it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pilot_submit::client::PageRequest;
use protocol::api::{EventView, PilotState};
use protocol::ids::{EventSeq, SubmitKey, WorkspaceId};
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

use super::stage::Stage;
use crate::harness::wait::until;
use crate::harness::{CounterLog, Installation};

/// What is said to be near.
const DEADLINE_NEAR: Span = Span::from_secs(12);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// What has been told so far.
#[derive(Debug)]
pub struct Watch {
    begin: Instant,
    pilots: BTreeMap<SubmitKey, PilotState>,
    near: BTreeSet<SubmitKey>,
    patience: Duration,
}

/// One workspace that is watched.
#[derive(Debug, Default)]
pub struct Followed {
    /// Its events so far.
    pub events: Vec<EventView>,
    /// Its counter.
    pub counter: CounterLog,
    console: Vec<u8>,
    offset: u64,
    resumed: bool,
    /// From a preemption to a node without a pilot or hypervisor.
    pub preempted_to_empty: Duration,
}

impl Watch {
    /// Begins now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the demo tells people how time passes"
    )]
    pub fn begin() -> Self {
        Self {
            begin: Instant::now(),
            pilots: BTreeMap::new(),
            near: BTreeSet::new(),
            patience: Duration::from_secs(180),
        }
    }

    /// From now on nothing that is waited for may take longer.
    pub fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Waits until no pilot and no hypervisor runs any more, and notes how long that took.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn until_the_pilot_is_gone(
        &self,
        it: &Installation,
        stage: &Stage,
        since: Duration,
        followed: &mut Followed,
    ) -> Result<()> {
        until(
            "the preempted pilot to be gone",
            self.patience,
            async || Ok(stage.is_empty(it)?.then_some(())),
        )
        .await?;
        followed.preempted_to_empty = self.now().saturating_sub(since);
        let took = followed.preempted_to_empty.as_secs_f64();
        self.say(
            "slot",
            &format!("the node is empty {took:.1}s after the preemption"),
        );
        Ok(())
    }

    /// Prints a line with the time since the beginning.
    pub fn say(&self, who: &str, what: &str) {
        println!(
            "{:>7.1}s  {who:<8} {what}",
            self.begin.elapsed().as_secs_f64()
        );
    }

    /// Tells what happens to a workspace until `enough`.
    ///
    /// # Errors
    /// The broker does not answer, or it takes too long.
    pub async fn follow(
        &mut self,
        it: &Installation,
        id: &WorkspaceId,
        followed: &mut Followed,
        enough: impl Fn(&Followed, WorkspaceState) -> bool,
    ) -> Result<WorkspaceState> {
        let until = self.begin.elapsed() + self.patience;
        loop {
            let state = it.show(id).await?.state;
            self.look_at_console(it, id, followed).await?;
            self.look_at_events(it, id, followed).await?;
            self.look_at_pilots(it).await?;
            if enough(followed, state) {
                return Ok(state);
            }
            if state.is_final() {
                bail!("{id} ended as {state} too early\n{}", it.story(id).await?);
            }
            if self.begin.elapsed() > until {
                bail!(
                    "nothing more happens\n{}\n{}",
                    it.story(id).await?,
                    it.tail("broker")
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Tells what happens to the pilots until none is left.
    ///
    /// # Errors
    /// The broker does not answer, or it takes too long.
    pub async fn until_pilots_are_gone(&mut self, it: &Installation) -> Result<()> {
        let until = self.begin.elapsed() + self.patience;
        loop {
            self.look_at_pilots(it).await?;
            if self.pilots.values().all(|s| *s == PilotState::Ended) {
                return Ok(());
            }
            if self.begin.elapsed() > until {
                bail!("a pilot does not leave\n{}", it.tail("broker"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look_at_pilots(&mut self, it: &Installation) -> Result<()> {
        self.look_at_slots(it).await?;
        let page = it
            .admin
            .pilots(None, &PageRequest::default())
            .await
            .context("failed to list pilots")?;
        for pilot in page.items {
            let before = self.pilots.insert(pilot.submit_key.clone(), pilot.state);
            if before == Some(pilot.state) {
                continue;
            }
            let job = pilot
                .lrm_job_id
                .map(|j| format!(" as job {j}"))
                .unwrap_or_default();
            let why = pilot.reason.map(|r| format!(": {r}")).unwrap_or_default();
            let key = &pilot.submit_key;
            let what = match pilot.state {
                PilotState::Submitting => format!("pilot {key} is being submitted"),
                PilotState::Queued => format!("pilot {key} is queued{job}"),
                PilotState::Started => format!("pilot {key} was started{job}"),
                PilotState::Active => format!("pilot {key} has landed and asks for work"),
                PilotState::Lost => format!("pilot {key} is not heard of{why}"),
                PilotState::Ended => format!("pilot {key} has given its slot back{why}"),
            };
            self.say("slot", &what);
        }
        Ok(())
    }

    async fn look_at_slots(&mut self, it: &Installation) -> Result<()> {
        let page = it.admin.slots(None, &PageRequest::default()).await;
        for slot in page.context("failed to list slots")?.items {
            let left = slot.status.end.since(slot.heard);
            let near = slot.state == PilotState::Active && left < DEADLINE_NEAR;
            if near && self.near.insert(slot.submit_key.clone()) {
                let key = &slot.submit_key;
                self.say("slot", &format!("the end of {key} comes near: {left} left"));
            }
        }
        Ok(())
    }

    async fn look_at_events(
        &self,
        it: &Installation,
        id: &WorkspaceId,
        followed: &mut Followed,
    ) -> Result<()> {
        loop {
            let after = followed.events.last().map_or(EventSeq(0), |e| e.seq);
            let page = it.user.events(id, after, None, Duration::ZERO).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            for event in page.items {
                // A pilot's word and the transition that follows from it read the same.
                if followed
                    .events
                    .last()
                    .is_none_or(|before| before.text != event.text)
                {
                    self.say("guest", &event.text);
                }
                followed.resumed |= event.state == Some(WorkspaceState::Resuming);
                followed.events.push(event);
            }
        }
    }

    async fn look_at_console(
        &self,
        it: &Installation,
        id: &WorkspaceId,
        followed: &mut Followed,
    ) -> Result<()> {
        loop {
            let part = it.user.console(id, followed.offset, Duration::ZERO).await?;
            followed.offset = part.next_offset;
            if part.bytes.is_empty() {
                return Ok(());
            }
            followed.console.extend_from_slice(&part.bytes);
            while let Some(end) = followed.console.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = followed.console.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                let first = followed.counter.last.is_none();
                let counted = followed.counter.take(&line);
                // Every fifth count, and the first of each stay.
                let telling = counted.is_some_and(|c| c.n % 5 == 0 || first || followed.resumed);
                if telling || line.starts_with("GUEST-") {
                    self.say("console", &line);
                    followed.resumed &= !telling;
                }
            }
        }
    }
}
