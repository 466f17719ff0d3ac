//! Requests and times as most tests need them.

use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use protocol::workspace::{AdvanceTo, Artefact, Image, OnEviction, Policy, WorkspaceSpec};

use super::EPOCH;

pub fn wall(secs: u64) -> Timestamp {
    Timestamp::from_secs(EPOCH + i64::try_from(secs).unwrap())
}

/// A request for a guest of `memory_mib` that wants to run for `run_secs`.
pub fn spec(memory_mib: u64, run_secs: u64) -> WorkspaceSpec {
    WorkspaceSpec {
        name: "test".into(),
        image: Image {
            kernel: Some(Artefact {
                url: "/kernel".into(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: Resources {
            cores: 1,
            memory_mib,
            disk_mib: 0,
        },
        run_time: Span::from_secs(run_secs),
        policy: Policy::default(),
        advance_to: AdvanceTo::Finished,
        network: protocol::workspace::Network::None,
        context: protocol::workspace::Context::default(),
    }
}

/// The same with a checkpoint every so many seconds.
pub fn with_checkpoints(mut spec: WorkspaceSpec, every_secs: u64) -> WorkspaceSpec {
    spec.policy.checkpoint_every = Some(Span::from_secs(every_secs));
    spec
}

pub fn with_policy(
    mut spec: WorkspaceSpec,
    on_eviction: OnEviction,
    may_be_killed: bool,
) -> WorkspaceSpec {
    spec.policy.on_eviction = on_eviction;
    spec.policy.may_be_killed = may_be_killed;
    spec
}
