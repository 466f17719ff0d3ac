//! The slot file: TOML that the rendered job (or a person) writes for `pilot run --slot FILE`.
//!
//! It is the only thing that a pilot knows about its LRM. Unknown keys are refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, LrmJobId, NodeName, SiteName, SubmitKey};
use crate::resources::Resources;
use crate::slot::SlotFacts;
use crate::text::{FileError, SizeText, SpanText, parse_toml};
use crate::time::{Span, Timestamp};

/// The whole slot file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotFile {
    /// Version of this format: 1.
    pub version: u32,
    /// The site's name at the broker.
    pub site: SiteName,
    /// The pilot job's key.
    pub submit_key: SubmitKey,
    /// Which start of the job this is: anything that differs between two starts.
    pub incarnation: Incarnation,
    /// The job's id at its LRM; leave it out for a pilot that is started by hand.
    pub lrm_job_id: Option<LrmJobId>,
    /// The node's name.
    pub node: NodeName,
    /// How to reach the broker.
    pub broker: BrokerAccess,
    /// What may be used on the node.
    pub resources: SlotResources,
    /// When the slot starts and ends.
    pub clock: ClockSection,
    /// How to ask for the end again while the slot runs.
    pub probe: Option<ProbeSection>,
    /// Directories.
    pub paths: PathsSection,
    /// What runs the guests.
    pub hypervisor: HypervisorSection,
}

/// `[broker]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerAccess {
    /// As `https://broker.example.org:8443`; plain `http` only to a loopback address.
    pub url: String,
    /// File with the one-slot token; mode 0600.
    pub token_file: PathBuf,
    /// PEM file with the authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

/// `[resources]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotResources {
    /// Cores.
    pub cores: u32,
    /// Memory, as "2 GiB".
    pub memory: SizeText,
    /// Scratch disk, as "20 GiB".
    pub disk: SizeText,
}

/// `[clock]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockSection {
    /// Start of the slot: RFC 3339 in quotes, or epoch seconds.
    pub start: Timestamp,
    /// End of the slot (when the LRM's first signal comes): RFC 3339 in quotes, or epoch seconds.
    pub end: Timestamp,
    /// Guaranteed time between the LRM's first signal and its SIGKILL; "0s" if there is none.
    pub notice: SpanText,
    /// Safety kept before every deadline; "2s" if left out.
    pub margin: Option<SpanText>,
}

/// `[probe]`: a command that prints the slot's end (epoch seconds or RFC 3339), or nothing when
/// it does not know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSection {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// How often to ask; "30s" if left out.
    pub every: Option<SpanText>,
    /// How long to wait for an answer; "10s" if left out.
    pub timeout: Option<SpanText>,
}

/// `[paths]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathsSection {
    /// Directory of this slot alone, on the node's own disk. Made if missing, removed at the end.
    pub scratch: PathBuf,
    /// The site's store of images and suspended states, visible on all its nodes.
    pub store: PathBuf,
    /// Directory that outlives the slot, where pilots of this account on this node find each
    /// other's leftovers; the parent of `scratch` if left out.
    pub node_state: Option<PathBuf>,
}

/// `[hypervisor]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HypervisorSection {
    /// Which driver.
    pub kind: HypervisorKind,
    /// QEMU only, and needed there: never guessed.
    pub accelerator: Option<Accelerator>,
    /// Program; `qemu-system-x86_64` from PATH if left out. For Xen: the helper that does what only
    /// root may, [`XEN_HELPER`] if left out.
    pub binary: Option<PathBuf>,
    /// QEMU: machine type that guests are pinned to; `pc-q35-7.2` if left out. Xen: `pv` or `pvh`;
    /// `pvh` if left out where the processor can, else `pv`.
    pub machine: Option<String>,
    /// QEMU only: CPU model; `qemu64` if left out.
    pub cpu: Option<String>,
}

/// Where the pilot's helper for Xen is where nothing else is said.
pub const XEN_HELPER: &str = "/usr/lib/workspace-pilot/pilot-xen-helper";

impl HypervisorSection {
    /// The first key whose value contradicts the driver, and what to do about it.
    pub fn contradiction(&self) -> Option<(&'static str, String)> {
        let meaningless = |key| {
            let text = "means nothing with `kind = \"xen\"`; leave it out".to_owned();
            Some((key, text))
        };
        match self.kind {
            HypervisorKind::Qemu if self.accelerator.is_none() => Some((
                "accelerator",
                "is missing; write \"tcg\" or \"kvm\": it is never guessed".to_owned(),
            )),
            HypervisorKind::Xen if self.accelerator.is_some() => meaningless("accelerator"),
            HypervisorKind::Xen if self.cpu.is_some() => meaningless("cpu"),
            HypervisorKind::Xen => {
                let machine = self.machine.as_deref()?;
                let text = format!("is `{machine}`; write \"pv\" or \"pvh\", or leave it out");
                (!matches!(machine, "pv" | "pvh")).then_some(("machine", text))
            }
            HypervisorKind::Qemu | HypervisorKind::Null => None,
        }
    }
}

/// The drivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorKind {
    /// QEMU, with or without KVM.
    Qemu,
    /// Xen; the node is its control domain.
    Xen,
    /// No guest at all: for tests of scale.
    Null,
}

/// How QEMU runs the guest's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// Software emulation.
    Tcg,
    /// The kernel's.
    Kvm,
}

impl Accelerator {
    /// The word in QEMU's `-accel`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

impl SlotFile {
    /// Reads and checks a slot file.
    ///
    /// # Errors
    /// Not TOML, an unknown or missing key, or values that contradict each other.
    pub fn parse(file: &str, text: &str) -> Result<Self, FileError> {
        let slot: Self = parse_toml(file, text)?;
        let fail = |message: String| FileError {
            file: file.to_owned(),
            message,
        };
        if slot.version != 1 {
            return Err(fail(format!(
                "`version` is {}; this pilot reads version 1",
                slot.version
            )));
        }
        if slot.clock.end <= slot.clock.start {
            return Err(fail(format!(
                "`clock.end` ({}) is not after `clock.start` ({})",
                slot.clock.end, slot.clock.start
            )));
        }
        if let Some((key, text)) = slot.hypervisor.contradiction() {
            return Err(fail(format!("`hypervisor.{key}` {text}")));
        }
        if slot.probe.as_ref().is_some_and(|p| p.command.is_empty()) {
            return Err(fail(
                "`probe.command` is empty; name a program, or leave [probe] out".to_owned(),
            ));
        }
        Ok(slot)
    }

    /// The facts that are sent at registration.
    pub fn facts(&self) -> SlotFacts {
        SlotFacts {
            site: self.site.clone(),
            submit_key: self.submit_key.clone(),
            incarnation: self.incarnation.clone(),
            lrm_job_id: self.lrm_job_id.clone(),
            node: self.node.clone(),
            resources: Resources {
                cores: self.resources.cores,
                memory_mib: self.resources.memory.0,
                disk_mib: self.resources.disk.0,
            },
            start: self.clock.start,
            end: self.clock.end,
            notice: self.clock.notice.0,
            margin: self.clock.margin.map_or(Span::from_secs(2), |m| m.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
version = 1
site = "lab"
submit_key = "wp-1"
incarnation = "lab/12/0"
lrm_job_id = "12"
node = "n1"
[broker]
url = "http://127.0.0.1:1"
token_file = "/run/t"
[resources]
cores = 2
memory = "1 GiB"
disk = "4 GiB"
[clock]
start = 1763712000
end = "2025-11-21T09:00:00Z"
notice = "30s"
[paths]
scratch = "/scratch/12"
store = "/store"
[hypervisor]
kind = "qemu"
accelerator = "tcg"
"#;

    #[test]
    fn a_good_file_is_read_and_written_back_the_same() {
        let slot = SlotFile::parse("slot.toml", GOOD).unwrap();
        assert_eq!(slot.facts().resources.memory_mib, 1024);
        assert_eq!(slot.facts().margin, Span::from_secs(2));
        let text = toml::to_string(&slot).unwrap();
        assert_eq!(SlotFile::parse("slot.toml", &text).unwrap(), slot);
    }

    #[test]
    fn instants_may_have_a_fraction_of_a_second() {
        let text = GOOD.replace("start = 1763712000\n", "start = 1763712000.317\n");
        let slot = SlotFile::parse("slot.toml", &text).unwrap();
        assert_eq!(slot.clock.start, Timestamp::from_millis(1_763_712_000_317));
    }

    #[test]
    fn xen_takes_what_means_something_there() {
        let with = |lines: &str| {
            let text = GOOD
                .replace("kind = \"qemu\"", "kind = \"xen\"")
                .replace("accelerator = \"tcg\"", lines);
            SlotFile::parse("slot.toml", &text)
        };
        for fine in [
            "",
            "machine = \"pv\"",
            "machine = \"pvh\"",
            "binary = \"/x\"",
        ] {
            let slot = with(fine).unwrap();
            assert_eq!(slot.hypervisor.kind, HypervisorKind::Xen);
        }
        for (wrong, want) in [
            (
                "accelerator = \"tcg\"",
                "`hypervisor.accelerator` means nothing",
            ),
            ("cpu = \"host\"", "`hypervisor.cpu` means nothing"),
            ("machine = \"pc-q35-7.2\"", "write \"pv\" or \"pvh\""),
        ] {
            let e = with(wrong).unwrap_err().to_string();
            assert!(e.contains(want), "{wrong}: {e}");
        }
    }

    #[test]
    fn wrong_files_say_what_is_wrong() {
        for (from, to, want) in [
            ("cores = 2", "cores = -2", "cores"),
            ("notice = \"30s\"", "notice = \"-30s\"", "negative"),
            ("node = \"n1\"", "node = \"n1\"\nnod = 1", "unknown field"),
            ("accelerator = \"tcg\"", "", "never guessed"),
            (
                "end = \"2025-11-21T09:00:00Z\"",
                "end = 1763712000",
                "not after",
            ),
            ("version = 1", "version = 2", "version 1"),
        ] {
            let e = SlotFile::parse("slot.toml", &GOOD.replace(from, to))
                .unwrap_err()
                .to_string();
            assert!(e.contains(want) && e.contains("slot.toml"), "{to}: {e}");
        }
    }
}
