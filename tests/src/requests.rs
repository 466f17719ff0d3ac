//! Requests that the tests, the demo and the benchmarks queue.

use std::path::Path;

use protocol::resources::Resources;
use protocol::time::Span;
use protocol::workspace::{
    AdvanceTo, Artefact, Context, Disk, DiskFormat, Image, Network, Policy, WorkspaceSpec,
};

/// A request for the null hypervisor: nothing boots, time passes.
pub fn null(name: &str, run_time: Span) -> WorkspaceSpec {
    WorkspaceSpec {
        name: name.to_owned(),
        image: Image {
            kernel: Some(Artefact {
                url: "/proc/self/exe".into(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: Resources {
            cores: 1,
            memory_mib: 64,
            disk_mib: 64,
        },
        run_time,
        policy: Policy::default(),
        advance_to: AdvanceTo::default(),
        network: Network::default(),
        context: Context::default(),
    }
}

/// The guest that `scripts/guest/build` makes: counts in memory and on its disk, one a second, to
/// `count_to`, and switches itself off. It fills `fill_mib` of its memory with random data first.
pub fn counter(
    guest: &Path,
    name: &str,
    memory_mib: u64,
    fill_mib: u64,
    count_to: u64,
) -> WorkspaceSpec {
    let file = |name: &str| Artefact {
        url: guest.join(name).display().to_string(),
        digest: None,
    };
    WorkspaceSpec {
        image: Image {
            kernel: Some(file("vmlinux")),
            initrd: Some(file("initrd.cpio")),
            cmdline: Some(format!(
                "{CMDLINE} nonet fill={fill_mib} count_to={count_to}"
            )),
            disks: vec![Disk {
                base: Some(file("disk.raw")),
                format: DiskFormat::Raw,
                size_mib: None,
            }],
        },
        resources: Resources {
            cores: 1,
            memory_mib,
            disk_mib: 256,
        },
        ..null(name, Span::from_secs(count_to * 3 + 60))
    }
}

/// The same guest for a Xen host.
pub fn counter_on_xen(guest: &Path, name: &str, memory_mib: u64, count_to: u64) -> WorkspaceSpec {
    let mut spec = counter(guest, name, memory_mib, 0, count_to);
    spec.image.cmdline = Some(format!("{XEN_CMDLINE} nonet count_to={count_to}"));
    spec
}

/// The console of a Xen guest, and what makes it start quickly there.
const XEN_CMDLINE: &str =
    "console=hvc0 quiet panic=-1 audit=0 apparmor=0 cryptomgr.notests random.trust_cpu=on";

/// Options that make a Debian kernel start quickly under software emulation.
const CMDLINE: &str = "console=ttyS0 quiet nokaslr mitigations=off init_on_alloc=0 tsc=reliable \
    no_timer_check random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1 audit=0 \
    apparmor=0 8250.nr_uarts=1 noreplace-smp i8042.noaux i8042.nokbd i8042.nopnp panic=-1 reboot=t";
