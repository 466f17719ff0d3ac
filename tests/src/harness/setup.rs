//! What an installation is made of: the configuration files of broker and simulated LRM.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What runs the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guests {
    /// None really: for what is about the cluster, not about guests.
    Null,
    /// Real ones under software emulation.
    Qemu,
    /// Real ones of a Xen host: the site's node is its dom0.
    Xen,
}

/// Another machine that is the simulated LRM's node; the LRM's daemon runs there, too.
#[derive(Debug, Clone)]
pub struct Node {
    /// Goes before a command that is to run there, as the node's user.
    pub prefix: Vec<String>,
    /// A directory that it sees under the same path: the installation lies there.
    pub place: PathBuf,
    /// A directory of its own, for the LRM's daemon.
    pub lrm: PathBuf,
    /// A directory of its own, for slots.
    pub scratch: PathBuf,
    /// Where the site's store is. None: below the installation, as for all others.
    pub store: Option<PathBuf>,
    /// Makes a port of this host's 127.0.0.1 one of its 127.0.0.1 for as long as it runs; the
    /// port's number is its last word.
    pub reach: Vec<String>,
}

/// A real batch system that is there already.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `lrm` in the site's section.
    pub lrm: &'static str,
    /// `command_prefix` there.
    pub prefix: Vec<String>,
    /// Its own section, and what else comes after the site's.
    pub section: String,
    /// A directory that its nodes see under the same path: the installation lies there. None: they
    /// see all that this host sees.
    pub place: Option<PathBuf>,
}

/// The knobs of an installation. Spans are in the form of the configuration files.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What runs the guests.
    pub guests: Guests,
    /// The broker uses PBS's commands, which `fake-lrm` plays on the simulated LRM.
    pub played_pbs: bool,
    /// Whose signals the batch system sends.
    pub profile: &'static str,
    /// Its nodes.
    pub nodes: u32,
    /// Nodes that each pilot job asks for.
    pub job_nodes: u32,
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
    /// Kept free at the end of a slot, by the site's configuration.
    pub margin: &'static str,
    /// Lines for the section `[provision]` of the broker's configuration.
    pub provision_extra: &'static str,
    /// Lines for the end of the LRM's configuration.
    pub lrm_extra: String,
    /// A real batch system in the simulated one's place.
    pub batch: Option<Batch>,
    /// Another machine in this one's place.
    pub node: Option<Node>,
    /// Pilots reach the broker through a network that can be told to misbehave.
    pub proxied: bool,
}

impl Setup {
    /// A small, quick site: one node, Slurm's signals without their lateness.
    pub fn new(guests: Guests) -> Self {
        Self {
            guests,
            played_pbs: false,
            profile: "slurm",
            nodes: 1,
            job_nodes: 1,
            walltime: "40s",
            notice: "8s",
            max_running: 1,
            idle_limit: "5s",
            lease_ttl: "12s",
            overhead: "5s",
            margin: "1s",
            provision_extra: "",
            lrm_extra: String::new(),
            batch: None,
            node: None,
            proxied: false,
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

    pub(super) fn broker_config(
        &self,
        dir: &Path,
        pilot: &Path,
        lrm: &Path,
        port: u16,
        way: Option<&str>,
    ) -> String {
        let Self {
            walltime,
            job_nodes,
            notice,
            max_running,
            idle_limit,
            lease_ttl,
            overhead,
            margin,
            provision_extra,
            ..
        } = self;
        let hypervisor = match self.guests {
            Guests::Null => "kind = \"null\"",
            Guests::Qemu => "kind = \"qemu\"\naccelerator = \"tcg\"",
            Guests::Xen => "kind = \"xen\"\nmachine = \"pv\"",
        };
        let node = self.node.as_ref();
        let here = (dir.join("lrm"), dir.join("scratch"));
        let (lrm_dir, scratch) = node.map_or(here, |n| (n.lrm.clone(), n.scratch.clone()));
        let (lrm_dir, scratch) = (lrm_dir.display(), scratch.display());
        let store = node.and_then(|n| n.store.clone());
        let store = store.unwrap_or_else(|| dir.join("store"));
        let store = store.display();
        // To reach it takes its time.
        let patience = if node.is_some() { "20s" } else { "5s" };
        let (dir, pilot, lrm) = (dir.display(), pilot.display(), lrm.display());
        let (lrm, section) = if self.played_pbs {
            let section = format!("[site.lab.pbs]\nbin_dir = \"{dir}/bin\"\nqueue = \"pilots\"");
            ("pbs", section)
        } else {
            let section = format!("[site.lab.sim]\ndir = \"{lrm_dir}\"\nprogram = \"{lrm}\"");
            ("sim", section)
        };
        let sim = Batch {
            lrm,
            prefix: node.map_or_else(Vec::new, |n| n.prefix.clone()),
            section,
            place: None,
        };
        let Batch {
            lrm: kind,
            prefix,
            section,
            place: _,
        } = self.batch.as_ref().unwrap_or(&sim);
        let way = way.map_or_else(String::new, |url| format!("broker_url = \"{url}\""));
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
lrm = "{kind}"
command_prefix = {prefix:?}
poll = "1s"
fast_poll = true
command_timeout = "{patience}"
walltime_min = "{walltime}"
walltime_max = "{walltime}"
notice = "{notice}"
margin = "{margin}"
overhead = "{overhead}"
nodes = {job_nodes}
max_queued = 1
max_running = {max_running}
idle_limit = "{idle_limit}"
store = "{store}"
scratch = "{scratch}"
program = "{pilot}"
{way}
[site.lab.slot]
cores = 2
memory = "1 GiB"
disk = "4 GiB"
[site.lab.hypervisor]
{hypervisor}
{section}
"#
        )
    }
}
