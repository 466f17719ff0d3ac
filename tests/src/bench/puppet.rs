//! A pilot without a node: says to the broker what a pilot with the null driver would say.
//!
//! Each has a connection of its own, as real pilots do, and checks what it is answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::WIRE_VERSION;
use protocol::api::HandPilot;
use protocol::codes::{Reason, ReasonCode};
use protocol::ids::{
    Generation, Incarnation, NodeName, PilotBoot, SiteName, SubmitKey, WorkspaceId,
};
use protocol::lease::{EndOutcome, LeasePhase, LeaseReport};
use protocol::messages::{RegisterReply, RegisterRequest, SyncReply, SyncRequest};
use protocol::resources::Resources;
use protocol::slot::{EndSource, HostFacts, PilotPhase, SlotFacts, SlotStatus, SlotUse};
use protocol::time::{Span, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::clock;
use super::station::SITE;
use crate::harness::wire::Wire;

/// Room for one guest of [`crate::requests::null`].
const ROOM: Resources = Resources {
    cores: 1,
    memory_mib: 256,
    disk_mib: 1024,
};
const SLOT: Span = Span::from_mins(120);

/// Who has which workspace: no two may.
pub(super) type Owners = Arc<Mutex<BTreeMap<WorkspaceId, SubmitKey>>>;

/// One pilot.
#[derive(Debug)]
pub(super) struct Puppet {
    wire: Wire,
    token: String,
    key: SubmitKey,
    boot: PilotBoot,
    incarnation: Incarnation,
    number: u64,
    end: Timestamp,
    lease: Option<(WorkspaceId, Generation)>,
    owners: Owners,
}

impl Puppet {
    /// Connects and registers; gives the time that the answer took.
    pub(super) async fn register(
        broker: SocketAddr,
        given: HandPilot,
        owners: Owners,
    ) -> Result<(Self, Duration)> {
        let stream = TcpStream::connect(broker).await;
        let start = clock::wall();
        let mut it = Self {
            wire: Wire::new(stream.context("failed to reach the broker")?)?,
            token: given.token,
            boot: PilotBoot::new(given.submit_key.as_str())?,
            incarnation: Incarnation::new("1")?,
            key: given.submit_key,
            number: 0,
            end: start + SLOT,
            lease: None,
            owners,
        };
        let request = RegisterRequest {
            version: WIRE_VERSION,
            boot: it.boot.clone(),
            pilot_version: "bench".to_owned(),
            slot: SlotFacts {
                site: SiteName::new(SITE)?,
                submit_key: it.key.clone(),
                incarnation: it.incarnation.clone(),
                lrm_job_id: None,
                node: NodeName::new(it.key.as_str())?,
                resources: ROOM,
                start,
                end: it.end,
                notice: Span::from_secs(60),
                margin: Span::from_secs(2),
            },
            host: HostFacts {
                hypervisor: "null".to_owned(),
                ..HostFacts::default()
            },
        };
        let (_, took): (RegisterReply, _) = it.call("/v1/pilot/register", &request).await?;
        Ok((it, took))
    }

    /// True when a guest runs here.
    pub(super) const fn is_busy(&self) -> bool {
        self.lease.is_some()
    }

    /// One sync that is not held; gives the time that the answer took.
    pub(super) async fn sync(&mut self) -> Result<Duration> {
        self.exchange(None).await
    }

    /// One sync that says that the guest has finished.
    pub(super) async fn finish(&mut self) -> Result<Duration> {
        let reason = Reason::new(ReasonCode::GuestPoweredOff, "the guest switched itself off");
        self.exchange(Some(EndOutcome::Finished { reason })).await
    }

    async fn exchange(&mut self, end: Option<EndOutcome>) -> Result<Duration> {
        self.number += 1;
        let ends = end.is_some();
        let phase = end.map_or(LeasePhase::Running, |outcome| LeasePhase::Ended { outcome });
        let report = self
            .lease
            .clone()
            .map(|(workspace, generation)| LeaseReport {
                workspace,
                generation,
                phase,
                run: Span::from_secs(self.number),
                console_bytes: 0,
                checkpoint: None,
            });
        if ends && let Some((workspace, _)) = self.lease.take() {
            self.owners().remove(&workspace);
        }
        let request = SyncRequest {
            version: WIRE_VERSION,
            submit_key: self.key.clone(),
            incarnation: self.incarnation.clone(),
            boot: self.boot.clone(),
            number: self.number,
            no_hold: true,
            slot: SlotStatus {
                end: self.end,
                end_source: EndSource::SlotFile,
                phase: PilotPhase::Open,
                useful: SLOT.minus(Span::from_mins(5)),
            },
            free: match self.lease {
                Some(_) => Resources::default(),
                None => ROOM,
            },
            leases: report.into_iter().collect(),
            suspend_rate: None,
            costs: None,
            events: Vec::new(),
            used: SlotUse::default(),
            discarded: Vec::new(),
        };
        let (reply, took): (SyncReply, _) = self.call("/v1/pilot/sync", &request).await?;
        self.take(&reply)?;
        Ok(took)
    }

    fn take(&mut self, reply: &SyncReply) -> Result<()> {
        let key = self.key.clone();
        if reply.number != self.number || reply.leave.is_some() || reply.leases.len() > 1 {
            bail!("pilot {key} is answered with {reply:?}");
        }
        let wanted = reply.leases.first();
        match (self.lease.clone(), wanted) {
            (None, None) => {}
            (Some((mine, _)), Some(wanted)) if wanted.workspace == mine => {}
            (Some((mine, _)), _) => bail!("pilot {key} has lost {mine}, which runs there"),
            (None, Some(wanted)) => {
                let (id, generation) = (wanted.workspace.clone(), wanted.generation);
                if let Some(other) = self.owners().insert(id.clone(), key.clone()) {
                    bail!("{id} is given to {key} while it runs at {other}");
                }
                self.lease = Some((id, generation));
            }
        }
        Ok(())
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkspaceId, SubmitKey>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call<T: DeserializeOwned>(
        &mut self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<(T, Duration)> {
        let body = serde_json::to_vec(request)?;
        let begin = clock::now();
        let answer = self.wire.post(path, &self.token, &body).await?;
        let took = begin.elapsed();
        let text = || String::from_utf8_lossy(answer.body()).into_owned();
        if !answer.is_success() {
            bail!("pilot {} is refused at {path}: {}", self.key, text());
        }
        let reply = serde_json::from_slice(answer.body());
        Ok((reply.with_context(text)?, took))
    }
}
