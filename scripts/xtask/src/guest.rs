//! Part `guest`: makes the test guest, lets it check itself in a real QEMU, then runs the tests that
//! boot real guests.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::command::{Log, Step};
use crate::nextest::{self, Kind};
use crate::parts::{Tally, minutes, verdict};
use crate::workshop::Workshop;

/// A boot under software emulation takes 3 s here, on a busy machine ten times that.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What of the console must be there and must not be there after a boot with some knobs.
struct Expectation {
    knobs: &'static str,
    what: &'static str,
    present: &'static [&'static str],
    absent: &'static [&'static str],
}

/// Each boot goes on with the disk of the one before.
const BOOTS: &[Expectation] = &[
    Expectation {
        knobs: "hb=0.1 count_to=3",
        what: "counts in RAM and on its disk, configures its network, powers off",
        present: &[
            "GUEST-READY ",
            "COUNT n=1 ",
            "COUNT n=3 ",
            "disk=3",
            "GUEST-DONE n=3",
        ],
        absent: &["GUEST-CORRUPT", "GUEST-DISK-WRONG", "COUNT n=4"],
    },
    Expectation {
        knobs: "hb=0.1 count_to=4 nonet fill=32 dirty=64",
        what: "a second boot counts from 1 in RAM and goes on upon its disk, under load",
        present: &["COUNT n=1 ", "disk=7", "GUEST-FILLED", "GUEST-DONE n=4"],
        absent: &["GUEST-CORRUPT", "GUEST-DISK-WRONG", "GUEST-NET"],
    },
    Expectation {
        knobs: "hb=0.1 count_to=4 nonet spoil_memory=2 spoil_disk=3",
        what: "notices that its memory or its disk is not what it was",
        present: &[
            "GUEST-CORRUPT the pattern in memory changed n=2",
            "GUEST-DISK-WRONG n=3 want=9 found=999999",
        ],
        absent: &["GUEST-DISK-WRONG n=2"],
    },
];

/// Makes the test guest, if it is not there.
pub fn build(workshop: &Workshop, log: &mut Log) -> Result<()> {
    let script = workshop.root.join("scripts/guest/build");
    let out = workshop.guest().display().to_string();
    Step::new(&workshop.root, script, &[out], minutes(5))
        .run(log)
        .map(|_| ())
}

/// The whole part.
pub fn run(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    build(workshop, log)?;
    let own = check(workshop, log)?;
    Ok(own.and(nextest::run(workshop, log, Kind::Guest)?))
}

fn check(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    let scratch = workshop.target.join("guest-check");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)
            .with_context(|| format!("failed to remove {}", scratch.display()))?;
    }
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("failed to make {}", scratch.display()))?;
    let disk = scratch.join("disk.qcow2").display().to_string();
    let base = workshop.guest().join("disk.raw").display().to_string();
    let create = [
        "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &disk,
    ];
    Step::new(&workshop.root, "qemu-img", &create, minutes(1)).run(log)?;

    let mut tally = Tally::default();
    for boot in BOOTS {
        let console = boot_once(workshop, &disk, boot.knobs, log)?;
        tally = tally.and(verdict(
            log,
            &faults(boot, &console),
            &format!("the guest {}", boot.what),
        ));
    }
    std::fs::remove_dir_all(&scratch)
        .with_context(|| format!("failed to remove {}", scratch.display()))?;
    Ok(tally)
}

fn boot_once(workshop: &Workshop, disk: &str, knobs: &str, log: &mut Log) -> Result<Vec<String>> {
    let guest = workshop.guest();
    let read = |name: &str| {
        let path = guest.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
    };
    let file = |name: &str| path_text(&guest, name);
    let command_line = format!("{} {knobs}", read("cmdline")?.trim());
    let drive = format!("driver=qcow2,node-name=d0,file.driver=file,file.filename={disk}");
    let (kernel, initrd) = (file("vmlinux"), file("initrd.cpio"));
    let arguments = [
        "-accel",
        "tcg",
        "-machine",
        "q35",
        "-cpu",
        "qemu64",
        "-m",
        "256",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-kernel",
        &kernel,
        "-initrd",
        &initrd,
        "-append",
        &command_line,
        "-netdev",
        "user,id=n0",
        "-device",
        "virtio-net-pci,netdev=n0,romfile=",
        "-blockdev",
        &drive,
        "-device",
        "virtio-blk-pci,drive=d0",
    ];
    Step::new(&workshop.root, "qemu-system-x86_64", &arguments, BOOT_LIMIT).run(log)
}

fn path_text(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

fn faults(boot: &Expectation, console: &[String]) -> Vec<String> {
    let seen = |text: &str| console.iter().any(|line| line.contains(text));
    let missing = boot.present.iter().filter(|text| !seen(text));
    let unwanted = boot.absent.iter().filter(|text| seen(text));
    missing
        .map(|text| {
            format!(
                "booted with `{}`, the guest did not say `{text}`",
                boot.knobs
            )
        })
        .chain(
            unwanted.map(|text| format!("booted with `{}`, the guest said `{text}`", boot.knobs)),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_unwanted_words_are_faults() {
        let boot = &BOOTS[0];
        assert_eq!(faults(boot, &[]).len(), boot.present.len());
        let console: Vec<String> = boot
            .present
            .iter()
            .chain(&["GUEST-CORRUPT x"])
            .map(ToString::to_string)
            .collect();
        assert_eq!(faults(boot, &console).len(), 1);
    }
}
