//! The configuration file as it is written: every key may be left out here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lrm_adapters::pbs::Dialect;
use protocol::ids::SiteName;
use protocol::slot_file::{HypervisorSection, SlotResources};
use protocol::text::{SizeText, SpanText};
use serde::{Deserialize, Serialize};

/// Makes a section of the file: all keys optional, unknown ones refused, and `over`, which fills
/// what is missing from another instance of the section.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name {
            $(pub(super) $field: Option<$ty>,)*
        }

        impl $name {
            /// This section, with what it leaves out taken from `below`.
            pub(super) fn over(self, below: Self) -> Self {
                Self { $($field: self.$field.or(below.$field),)* }
            }
        }
    };
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) listen: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) log: Option<String>,
    pub(super) tls: Option<RawTls>,
    pub(super) http: RawHttp,
    pub(super) leases: RawLeases,
    pub(super) queue: RawQueue,
    pub(super) tokens: RawTokens,
    pub(super) console: RawConsole,
    pub(super) keep: RawKeep,
    pub(super) provision: RawProvision,
    #[serde(rename = "site-defaults")]
    pub(super) site_defaults: RawSite,
    pub(super) site: BTreeMap<SiteName, RawSite>,
}

impl RawConfig {
    /// This file, with what it leaves out taken from `below`. Sites get their defaults later.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            listen: self.listen.or(below.listen),
            state_dir: self.state_dir.or(below.state_dir),
            log: self.log.or(below.log),
            tls: self.tls.or(below.tls),
            http: self.http.over(below.http),
            leases: self.leases.over(below.leases),
            queue: self.queue.over(below.queue),
            tokens: self.tokens.over(below.tokens),
            console: self.console.over(below.console),
            keep: self.keep.over(below.keep),
            provision: self.provision.over(below.provision),
            site_defaults: self.site_defaults.with_sections_over(below.site_defaults),
            site: self.site,
        }
    }
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

section! { /// `[http]`
    RawHttp {
        body_limit: SizeText,
        request_timeout: SpanText,
        max_wait: SpanText,
    }
}
section! { /// `[leases]`
    RawLeases {
        ttl: SpanText,
        margin: SpanText,
        hold: SpanText,
    }
}
section! { /// `[queue]`
    RawQueue {
        gain: u32,
        per_user: u32,
    }
}
section! { /// `[tokens]`
    RawTokens {
        user: SpanText,
        pilot: SpanText,
    }
}
section! { /// `[console]`
    RawConsole {
        limit: SizeText,
    }
}
section! { /// `[keep]`
    RawKeep {
        pilot_logs: SpanText,
        ended: SpanText,
    }
}
section! { /// `[provision]`
    RawProvision {
        round: SpanText,
        max_per_round: u32,
        attenuation: u32,
        back_off: Vec<SpanText>,
        pause_after_failures: u32,
        pause_after_died_young: u32,
        look_up_every: SpanText,
        absent_listings: u32,
        absent_for: SpanText,
        close_after: SpanText,
        surplus_after: SpanText,
        avoid_node_after: u32,
        avoid_node_for: SpanText,
        refused_for: SpanText,
        cancel_every: SpanText,
        forgive_after: u32,
    }
}
section! { /// `[site.NAME]` and `[site-defaults]`
    RawSite {
        lrm: RawLrm,
        enabled: bool,
        preference: i32,
        overhead: SpanText,
        poll: SpanText,
        fast_poll: bool,
        command_timeout: SpanText,
        command_prefix: Vec<String>,
        walltime_min: SpanText,
        walltime_max: SpanText,
        notice: SpanText,
        margin: SpanText,
        nodes: u32,
        max_queued: u32,
        max_running: u32,
        idle_limit: SpanText,
        broker_url: String,
        broker_ca: PathBuf,
        store: PathBuf,
        scratch: PathBuf,
        program: PathBuf,
        slot: SlotResources,
        hypervisor: HypervisorSection,
        sim: RawSim,
        htcondor: RawHtcondor,
        slurm: RawSlurm,
        pbs: RawPbs,
    }
}

impl RawSite {
    /// This section, with what it and the sections in it leave out taken from `below`.
    pub(super) fn with_sections_over(mut self, mut below: Self) -> Self {
        let sim = self.sim.take().unwrap_or_default();
        let slurm = self.slurm.take().unwrap_or_default();
        let htcondor = self.htcondor.take().unwrap_or_default();
        let pbs = self.pbs.take().unwrap_or_default();
        Self {
            sim: Some(sim.over(below.sim.take().unwrap_or_default())),
            slurm: Some(slurm.over(below.slurm.take().unwrap_or_default())),
            htcondor: Some(htcondor.over(below.htcondor.take().unwrap_or_default())),
            pbs: Some(pbs.over(below.pbs.take().unwrap_or_default())),
            ..self.over(below)
        }
    }
}

/// `lrm = ".."`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawLrm {
    None,
    Sim,
    Slurm,
    Pbs,
    Htcondor,
}

section! { /// `[site.NAME.htcondor]`
    RawHtcondor {
        bin_dir: PathBuf,
        schedd: String,
        pool: String,
        accounting_group: String,
        requirements: String,
        rank: String,
        submit_lines: Vec<String>,
        transfer: RawTransfer,
        rerunnable: bool,
        job_lease: SpanText,
        keep_ended: SpanText,
    }
}

/// `transfer = ".."`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawTransfer {
    Shared,
    Copied,
}

section! { /// `[site.NAME.sim]`
    RawSim {
        dir: PathBuf,
        program: PathBuf,
        queue: String,
        rerunnable: bool,
    }
}
section! { /// `[site.NAME.slurm]`
    RawSlurm {
        bin_dir: PathBuf,
        conf: PathBuf,
        cluster: String,
        partition: String,
        account: String,
        qos: String,
        constraint: String,
        reservation: String,
        nice: u32,
        launch: RawLaunch,
        rerunnable: bool,
        options: Vec<String>,
    }
}

/// `launch = ".."`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawLaunch {
    Step,
    Batch,
}

section! { /// `[site.NAME.pbs]`
    RawPbs {
        queue: String,
        account: String,
        project: String,
        options: Vec<String>,
        rerunnable: bool,
        dialect: Dialect,
        user: String,
        bin_dir: PathBuf,
        listed_queues: Vec<String>,
        history: bool,
    }
}
