//! What an installation is made of: the configuration files of broker and simulated LRM.

use std::fmt::Write as _;
use std::path::Path;

/// What runs the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guests {
    /// None really: for what is about the cluster, not about guests.
    Null,
    /// Real ones under software emulation.
    Qemu,
}

/// Whose commands the broker uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// Those of the simulated LRM itself.
    Sim,
    /// OpenPBS's, played on the simulated LRM by `fake-lrm`.
    PlayedPbs,
}

/// The knobs of an installation. Spans are in the form of the configuration files.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What runs the guests.
    pub guests: Guests,
    /// Whose commands the broker uses.
    pub batch: Batch,
    /// Whose signals the batch system sends.
    pub profile: &'static str,
    /// Its nodes.
    pub nodes: u32,
    /// The walltime of a pilot job.
    pub walltime: &'static str,
    /// The notice that the site promises, and keeps.
    pub notice: &'static str,
    /// Pilots that may run at once.
    pub max_running: u32,
    /// A pilot without work leaves after so long.
    pub idle_limit: &'static str,
    /// How long a lease lives without a sync.
    pub lease_ttl: &'static str,
    /// What a stay costs, by the site's configuration; a lease must gain twice that.
    pub overhead: &'static str,
    /// Lines for the section `[provision]` of the broker's configuration.
    pub provision_extra: &'static str,
    /// Lines for the end of the LRM's configuration.
    pub lrm_extra: String,
}

impl Setup {
    /// A small, quick site: one node, Slurm's signals without their lateness.
    pub fn new(guests: Guests) -> Self {
        Self {
            guests,
            batch: Batch::Sim,
            profile: "slurm",
            nodes: 1,
            walltime: "40s",
            notice: "8s",
            max_running: 1,
            idle_limit: "5s",
            lease_ttl: "12s",
            overhead: "5s",
            provision_extra: "",
            lrm_extra: String::new(),
        }
    }

    pub(super) fn lrm_config(&self) -> String {
        let mut text = format!(
            "profile = \"{}\"\nkill_wait = \"{}\"\nlateness_percent = 0\nrequeue_hold_off = \"1s\"\n\
             node_timeout = \"3s\"\nmin_job_age = \"60s\"\n",
            self.profile, self.notice
        );
        for node in 1..=self.nodes {
            let _ = write!(
                text,
                "[[nodes]]\nname = \"n{node}\"\ncores = 2\nmemory = \"2 GiB\"\ndisk = \"20 GiB\"\n"
            );
        }
        text + &self.lrm_extra
    }

    pub(super) fn broker_config(&self, dir: &Path, pilot: &Path, lrm: &Path, port: u16) -> String {
        let Self {
            walltime,
            notice,
            max_running,
            idle_limit,
            lease_ttl,
            overhead,
            provision_extra,
            ..
        } = self;
        let hypervisor = match self.guests {
            Guests::Null => "kind = \"null\"",
            Guests::Qemu => "kind = \"qemu\"\naccelerator = \"tcg\"",
        };
        let (dir, pilot, lrm) = (dir.display(), pilot.display(), lrm.display());
        let (name, section) = match self.batch {
            Batch::Sim => ("sim", format!("dir = \"{dir}/lrm\"\nprogram = \"{lrm}\"")),
            Batch::PlayedPbs => (
                "pbs",
                format!("bin_dir = \"{dir}/bin\"\nqueue = \"pilots\""),
            ),
        };
        format!(
            r#"listen = "127.0.0.1:{port}"
state_dir = "{dir}/broker"
[leases]
ttl = "{lease_ttl}"
margin = "2s"
hold = "2s"
[provision]
round = "500ms"
attenuation = 1
look_up_every = "1s"
absent_for = "10s"
surplus_after = "5s"
back_off = ["0s", "2s", "4s"]
close_after = "10s"
{provision_extra}
[site.lab]
lrm = "{name}"
poll = "1s"
command_timeout = "5s"
walltime_min = "{walltime}"
walltime_max = "{walltime}"
notice = "{notice}"
margin = "1s"
overhead = "{overhead}"
max_queued = 1
max_running = {max_running}
idle_limit = "{idle_limit}"
store = "{dir}/store"
scratch = "{dir}/scratch"
program = "{pilot}"
[site.lab.slot]
cores = 2
memory = "1 GiB"
disk = "4 GiB"
[site.lab.hypervisor]
{hypervisor}
[site.lab.{name}]
{section}
"#
        )
    }
}
