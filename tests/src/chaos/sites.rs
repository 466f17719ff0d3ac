//! The sites of a campaign: drawn from the seed, so that notices, walltimes and signal profiles
//! differ from one to the next.
//!
//! Requests for null guests want two cores and hardly any memory, those for real guests one core
//! and more memory than the null sites' slots have: so each goes to the sites that can run it.

use std::fmt::Write as _;
use std::path::Path;

use crate::simulation::Chance;

/// A site with a batch system of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: &'static str,
    /// Whose signals its batch system sends.
    pub profile: &'static str,
    /// Real guests, or null ones.
    pub real: bool,
    /// Nodes, and pilots that may run at once.
    pub nodes: u32,
    /// Between the batch system's first signal and its SIGKILL, seconds.
    pub kill_wait_s: u64,
    /// What it promises of that, seconds.
    pub notice_s: u64,
    /// The walltime of its pilot jobs, seconds.
    pub walltime_s: u64,
}

/// Guests that a null slot holds at once.
pub const NULL_GUESTS: u32 = 5;
/// Cores that a null guest asks for.
pub const NULL_CORES: u32 = 2;
/// Memory that a null guest asks for, MiB.
pub const NULL_MEMORY_MIB: u64 = 8;
/// Memory that a real guest asks for, MiB.
pub const REAL_MEMORY_MIB: u64 = 192;
/// How long a lease lives.
pub const LEASE_TTL_S: u64 = 10;
/// The profiles.
const PROFILES: [&str; 4] = ["slurm", "slurm-cgroup", "pbs", "htcondor"];

/// Three sites with null guests and one with real ones.
pub fn draw(seed: u64) -> Vec<Site> {
    // Not the numbers of the plan again.
    let mut chance = Chance::new(seed ^ 0x51fe);
    let first = chance.between(0, 3);
    let mut profiles = PROFILES;
    profiles.rotate_left(usize::try_from(first).unwrap_or(0));
    let mut site = |name, profile, real| {
        let (kill_wait, walltime) = match real {
            true => (chance.between(14, 18), chance.between(36, 48)),
            false => (chance.between(9, 12), chance.between(13, 20)),
        };
        Site {
            name,
            profile,
            real,
            nodes: if real { 1 } else { 3 },
            kill_wait_s: kill_wait,
            // Some batch systems kill a little early.
            notice_s: kill_wait - 1,
            walltime_s: walltime,
        }
    };
    vec![
        site("alder", profiles[0], false),
        site("birch", profiles[1], false),
        site("cedar", profiles[2], false),
        site("maple", profiles[3], true),
    ]
}

impl Site {
    /// The batch system's configuration.
    pub fn lrm_config(&self) -> String {
        let mut text = format!(
            "profile = \"{}\"\nkill_wait = \"{}s\"\nlateness_percent = 20\n\
             requeue_hold_off = \"1s\"\nnode_timeout = \"3s\"\nmin_job_age = \"12h\"\n",
            self.profile, self.kill_wait_s
        );
        for node in 1..=self.nodes {
            let _ = write!(
                text,
                "[[nodes]]\nname = \"{}{node}\"\ncores = 10\nmemory = \"2 GiB\"\ndisk = \"20 GiB\"\n",
                self.name
            );
        }
        text
    }

    /// Its section of the broker's configuration. `place` is the installation's directory, `way`
    /// how pilots reach the broker.
    fn broker_section(&self, place: &Path, pilot: &Path, lrm: &Path, way: &str) -> String {
        let Self {
            name,
            nodes,
            notice_s,
            walltime_s,
            ..
        } = self;
        // Twice the overhead is more than what a pilot that has measured nothing finds worth a stay.
        let (cores, memory, overhead, hypervisor) = match self.real {
            true => (1, 512, 5, "kind = \"qemu\"\naccelerator = \"tcg\""),
            false => (NULL_GUESTS * NULL_CORES, 128, 4, "kind = \"null\""),
        };
        let (place, pilot, lrm) = (place.display(), pilot.display(), lrm.display());
        format!(
            r#"[site.{name}]
lrm = "sim"
poll = "1s"
fast_poll = true
command_timeout = "5s"
walltime_min = "{walltime_s}s"
walltime_max = "{walltime_s}s"
notice = "{notice_s}s"
margin = "1s"
overhead = "{overhead}s"
max_queued = 1
max_running = {nodes}
idle_limit = "3s"
broker_url = "{way}"
store = "{place}/store/{name}"
scratch = "{place}/scratch/{name}"
program = "{pilot}"
[site.{name}.slot]
cores = {cores}
memory = "{memory} MiB"
disk = "4 GiB"
[site.{name}.hypervisor]
{hypervisor}
[site.{name}.sim]
dir = "{place}/lrm/{name}"
program = "{lrm}"
"#
        )
    }
}

/// The broker's configuration: leases, back-offs and rounds scaled down to slots of seconds.
pub fn broker_config(
    sites: &[Site],
    place: &Path,
    pilot: &Path,
    lrm: &Path,
    port: u16,
    way: &str,
) -> String {
    let sections: String = sites
        .iter()
        .map(|s| s.broker_section(place, pilot, lrm, way))
        .collect();
    format!(
        r#"listen = "127.0.0.1:{port}"
state_dir = "{}/broker"
[leases]
ttl = "{LEASE_TTL_S}s"
margin = "2s"
hold = "2s"
[provision]
round = "500ms"
attenuation = 1
look_up_every = "1s"
absent_for = "10s"
surplus_after = "5s"
back_off = ["0s", "1s", "2s"]
pause_after_failures = 100000
pause_after_died_young = 100000
avoid_node_after = 100000
close_after = "10s"
cancel_every = "3s"
refused_for = "5s"
{sections}"#,
        place.display()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_profiles_are_there_and_every_notice_is_enough_for_its_guests() {
        for seed in 0..50 {
            let sites = draw(seed);
            assert_eq!(sites, draw(seed));
            let profiles: BTreeSet<&str> = sites.iter().map(|s| s.profile).collect();
            assert_eq!(profiles.len(), 4, "{sites:?}");
            for site in sites {
                let memory = if site.real {
                    REAL_MEMORY_MIB
                } else {
                    NULL_MEMORY_MIB
                };
                let second = protocol::time::Span::from_secs(1);
                let notice = protocol::time::Span::from_secs(site.notice_s);
                let rate = protocol::notice::ASSUMED_RATE;
                assert!(
                    protocol::notice::is_enough(notice, second, memory, rate),
                    "{site:?}"
                );
            }
        }
    }
}
