//! What the kernel keeps for processes beside files and mounts, and what would outlive them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

use crate::node::memory_name;

/// Memory without a name, sockets, locks, loop devices, taps and control groups that have to do with
/// what is below `root`; each as a line of text.
pub fn things_of(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    memory(&memory_name(root), &mut found);
    sockets(root, &mut found);
    locks(root, &mut found);
    loop_devices(root, &mut found);
    taps(&mut found);
    found
}

/// Processes, this one excepted, that hold a `memfd` of this name open or mapped.
fn memory(name: &str, found: &mut BTreeSet<String>) {
    let own = std::process::id().to_string();
    for process in entries("/proc") {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid == own || pid.parse::<u32>().is_err() {
            continue;
        }
        let open = entries(process.path().join("fd"))
            .iter()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|file| file.to_string_lossy().contains(name));
        let maps = fs::read_to_string(process.path().join("maps")).unwrap_or_default();
        if open || maps.contains(name) {
            found.insert(format!("memory of a guest in process {pid}"));
        }
    }
}

fn sockets(root: &Path, found: &mut BTreeSet<String>) {
    let all = fs::read_to_string("/proc/net/unix").unwrap();
    let names = all.lines().filter_map(|l| l.split_whitespace().nth(7));
    let ours = names.filter(|name| Path::new(name).starts_with(root));
    found.extend(ours.map(|name| format!("bound socket {name}")));
}

/// By device and inode, as far as the file system's device is the one that the kernel names in its
/// list; btrfs and overlays have another there.
fn locks(root: &Path, found: &mut BTreeSet<String>) {
    let mut files = BTreeSet::new();
    identities(root, &mut files);
    for line in fs::read_to_string("/proc/locks").unwrap().lines() {
        // `1: FLOCK ADVISORY WRITE 123 fd:01:456 0 EOF`, numbered anew each time.
        let lock = line.split_once(": ").map_or(line, |(_, lock)| lock);
        if lock.split_whitespace().any(|word| files.contains(word)) {
            found.insert(format!("lock {lock}"));
        }
    }
}

fn identities(directory: &Path, all: &mut BTreeSet<String>) {
    for entry in entries(directory) {
        if let Ok(found) = fs::symlink_metadata(entry.path()) {
            let (major, minor) = (major(found.dev()), minor(found.dev()));
            all.insert(format!("{major:02x}:{minor:02x}:{}", found.ino()));
            if found.is_dir() {
                identities(&entry.path(), all);
            }
        }
    }
}

fn loop_devices(root: &Path, found: &mut BTreeSet<String>) {
    for device in entries("/sys/block") {
        let file = fs::read_to_string(device.path().join("loop/backing_file"));
        if file.is_ok_and(|file| Path::new(file.trim()).starts_with(root)) {
            found.insert(format!("loop device {}", device.path().display()));
        }
    }
}

fn taps(found: &mut BTreeSet<String>) {
    let all = entries("/sys/class/net");
    let taps = all.iter().filter(|i| i.path().join("tun_flags").exists());
    found.extend(taps.map(|tap| format!("tap {}", tap.file_name().to_string_lossy())));
}

fn entries(directory: impl AsRef<Path>) -> Vec<fs::DirEntry> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .collect()
}

/// A snapshot that can't see something proves nothing about it.
#[test]
fn what_is_there_is_seen() {
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::process::{Command, Stdio};

    let node = crate::node::Node::new();
    let before = node.snapshot();
    let socket = node.root().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let locked = fs::File::create(node.root().join("locked")).unwrap();
    locked.lock().unwrap();
    let name = std::ffi::CString::new(memory_name(node.root())).unwrap();
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut memory = fs::File::from(nix::sys::memfd::memfd_create(&*name, flags).unwrap());
    memory.write_all(b"x").unwrap();
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::from(memory))
        .spawn()
        .unwrap();
    let after = node.snapshot();
    let all: Vec<&String> = after.keys().filter(|k| !before.contains_key(*k)).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let seen = |what: &str| all.iter().any(|thing| thing.starts_with(what));
    assert!(
        seen(&format!("bound socket {}", socket.display())),
        "{all:?}"
    );
    if !seen("lock ") {
        println!("NOT TESTED: locks, which are not to be seen on this file system");
    }
    assert!(seen("memory of a guest in process"), "{all:?}");
}
