//! Names, requests and configurations as most tests need them.

use broker_core::{BrokerConfig, Caller, ProvisionPolicy, SiteConfig};
use protocol::ids::{SiteName, UserName, WorkspaceId};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use protocol::workspace::{AdvanceTo, Artefact, Image, Policy, WorkspaceSpec};

pub fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

pub fn ws(n: usize) -> WorkspaceId {
    WorkspaceId::new(&format!("ws-{n}")).unwrap()
}

pub fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

pub fn admin() -> Caller {
    Caller::Admin(user("root"))
}

pub const fn room(cores: u32, memory_mib: u64) -> Resources {
    Resources {
        cores,
        memory_mib,
        disk_mib: 1024,
    }
}

pub fn spec(memory_mib: u64, run: Span) -> WorkspaceSpec {
    WorkspaceSpec {
        name: "test".into(),
        image: Image {
            kernel: Some(Artefact {
                url: "/images/vmlinux".into(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: room(1, memory_mib),
        run_time: run,
        // So that the notice is no matter; tests of it say otherwise.
        policy: Policy {
            may_be_killed: true,
            ..Policy::default()
        },
        advance_to: AdvanceTo::Finished,
        network: Default::default(),
        context: Default::default(),
    }
}

pub fn site_config(name: &str, slot: Resources) -> SiteConfig {
    SiteConfig {
        name: site(name),
        preference: 0,
        lrm: Some("sim".into()),
        slot: Resources {
            disk_mib: 65_536,
            ..slot
        },
        walltime_min: Span::from_mins(5),
        walltime_max: Span::from_mins(60),
        notice: Span::from_secs(30),
        margin: Span::from_secs(5),
        overhead: Span::from_secs(30),
        nodes: 1,
        max_queued: 3,
        max_running: 10,
        idle_limit: Some(Span::from_mins(5)),
        enabled: true,
    }
}

pub fn config(sites: Vec<SiteConfig>) -> BrokerConfig {
    BrokerConfig {
        lease_ttl: Span::from_secs(60),
        sites,
        provision: ProvisionPolicy {
            attenuation: 1,
            ..ProvisionPolicy::default()
        },
        ..BrokerConfig::default()
    }
}

/// Starts at a round hour, so that texts are stable.
pub fn start() -> Timestamp {
    Timestamp::parse("2026-11-21T13:00:00Z").unwrap()
}
