//! Disks: each file gets a loop device. The file is opened with the caller's rights; the device is
//! used only if it has that very file behind it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::tool::{SHORT, path_of_open, run};

/// The path by which the kernel knows an open file.
pub fn known_as(file: &File) -> Result<PathBuf, String> {
    fs::read_link(path_of_open(file)).map_err(|e| format!("can't find a disk's path: {e}"))
}

/// Makes a loop device of an open file.
pub fn attach(file: &File) -> Result<String, String> {
    let made = run("losetup", &["--find", "--show", &path_of_open(file)], SHORT);
    let device = made.out.trim().to_owned();
    if !made.is_ok() || !device.starts_with("/dev/loop") {
        return Err(format!("can't make a loop device: {}", made.trouble()));
    }
    let told = run(
        "losetup",
        &[
            "--list",
            "--noheadings",
            "--output",
            "BACK-INO,BACK-MAJ:MIN",
            &device,
        ],
        SHORT,
    );
    let is_ours = file.metadata().is_ok_and(|m| {
        let (major, minor) = (
            nix::sys::stat::major(m.dev()),
            nix::sys::stat::minor(m.dev()),
        );
        told.out
            .split_whitespace()
            .eq([m.ino().to_string(), format!("{major}:{minor}")])
    });
    if !is_ours {
        detach(&device);
        return Err(format!(
            "{device} got another file than the one that was checked: `losetup` says `{}`, the \
             file is {}",
            told.out.trim(),
            file.metadata()
                .map_or_else(|e| e.to_string(), |m| format!("{} of {}", m.ino(), m.dev())),
        ));
    }
    Ok(device)
}

/// Frees a device: at once, or when its last user has closed it.
pub fn detach(device: &str) {
    // One that stays is found by its file in a reclaim.
    let _ = run("losetup", &["--detach", device], SHORT);
}

/// Devices that have one of these files behind them.
pub fn devices_of(files: &[PathBuf]) -> Vec<String> {
    let Ok(all) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    all.flatten()
        .filter(|entry| {
            let backing = entry.path().join("loop/backing_file");
            fs::read_to_string(backing).is_ok_and(|text| {
                let path = text.trim_end_matches('\n');
                let path = path.strip_suffix(" (deleted)").unwrap_or(path);
                files.iter().any(|f| f == Path::new(path))
            })
        })
        .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
        .collect()
}

/// True when nothing is on its way to the files of these devices.
pub fn are_quiet(devices: &[String]) -> bool {
    devices.iter().all(|device| {
        let name = device.trim_start_matches("/dev/");
        fs::read_to_string(format!("/sys/block/{name}/inflight"))
            .is_ok_and(|text| text.split_whitespace().all(|n| n == "0"))
    })
}
