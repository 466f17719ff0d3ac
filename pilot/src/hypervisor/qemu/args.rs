//! QEMU's command line, made from what was staged. Pure.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use protocol::ids::WorkspaceId;
use protocol::workspace::{DiskFormat, Network};
use serde_json::json;

use crate::hypervisor::stage::{Parts, StagedDisk};

/// What all guests of a slot are started with.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub accelerator: String,
    pub machine: String,
    pub cpu: String,
}

/// Files of one guest beside its disks.
#[derive(Clone, Debug)]
pub(super) struct GuestFiles {
    pub console: PathBuf,
    pub user_data: PathBuf,
    pub meta_data: PathBuf,
}

/// Denied to QEMU: new privileges, other programs, other limits.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The arguments. The guest is not let go yet: it waits for `cont`, and with a state before that
/// for `migrate-incoming`. QMP speaks on standard input, a socket.
pub(super) fn arguments(machine: &Machine, parts: &Parts, files: &GuestFiles) -> Vec<OsString> {
    let spec = &parts.request.spec;
    let id = &parts.request.guest.workspace;
    let mut a: Vec<OsString> = Vec::new();
    let mut put = |words: &[&dyn AsRef<OsStr>]| {
        a.extend(words.iter().map(|w| w.as_ref().to_owned()));
    };
    put(&[
        &"-name",
        &format!("guest={}", escape(parts.request.marker.as_str())),
    ]);
    put(&[&"-uuid", &uuid_of(id)]);
    put(&[&"-nodefaults", &"-no-user-config", &"-display", &"none"]);
    put(&[&"-S", &"-no-reboot", &"-no-shutdown"]);
    put(&[&"-sandbox", &SANDBOX]);
    put(&[&"-accel", &machine.accelerator]);
    put(&[&"-machine", &machine.machine, &"-cpu", &machine.cpu]);
    put(&[&"-smp", &spec.resources.cores.to_string()]);
    put(&[&"-m", &format!("{}M", spec.resources.memory_mib)]);
    put(&[&"-rtc", &"base=utc,clock=host"]);
    put(&[
        &"-chardev",
        &"socket,id=qmp,fd=0",
        &"-mon",
        &"chardev=qmp,mode=control",
    ]);
    put(&[
        &"-chardev",
        &with_path("file,id=console,append=on,path=", &files.console, ""),
    ]);
    put(&[&"-serial", &"chardev:console"]);
    let fw_cfg =
        |name: &str, path: &Path| with_path(&format!("name=opt/guest/{name},file="), path, "");
    put(&[&"-fw_cfg", &fw_cfg("meta-data", &files.meta_data)]);
    put(&[&"-fw_cfg", &fw_cfg("user-data", &files.user_data)]);
    if let Some(kernel) = &parts.kernel {
        put(&[&"-kernel", kernel]);
        if let Some(initrd) = &parts.initrd {
            put(&[&"-initrd", initrd]);
        }
        put(&[&"-append", &spec.image.cmdline.as_deref().unwrap_or("")]);
    }
    for (n, disk) in parts.disks.iter().enumerate() {
        for node in blockdevs(n, disk) {
            put(&[&"-blockdev", &node]);
        }
    }
    for device in devices(parts.disks.len(), spec.network, id) {
        if device.starts_with("virtio-net") {
            put(&[&"-netdev", &"user,id=net0"]);
        }
        put(&[&"-device", &device]);
    }
    if parts.state.is_some() {
        put(&[&"-incoming", &"defer"]);
    }
    a
}

/// The devices of a guest, in order: what a state is only good for.
pub(super) fn devices(disks: usize, network: Network, id: &WorkspaceId) -> Vec<String> {
    let mut all: Vec<String> = (0..disks)
        .map(|n| {
            format!(
                "virtio-blk-pci,id=disk{n},drive=disk{n},bootindex={}",
                n + 1
            )
        })
        .collect();
    match network {
        Network::None => {}
        Network::User => {
            let mac = mac_of(id);
            all.push(format!(
                "virtio-net-pci,id=nic0,netdev=net0,mac={mac},romfile="
            ));
        }
    }
    all.push("virtio-balloon-pci,id=balloon0,free-page-reporting=on".to_owned());
    all
}

/// The block nodes of a disk from the base up; the topmost is called `disk<n>`. Each says itself
/// what is below it, whatever the headers say.
fn blockdevs(n: usize, disk: &StagedDisk) -> Vec<String> {
    let mut nodes = Vec::new();
    let mut below = serde_json::Value::Null;
    let mut read_only =
        |name: String, path: &Path, format: DiskFormat, below: &serde_json::Value| {
            nodes.push(json!({
                "driver": "file", "node-name": format!("{name}-file"), "read-only": true,
                "filename": path,
            }));
            let file = format!("{name}-file");
            nodes.push(match format {
                DiskFormat::Raw => json!({
                    "driver": "raw", "node-name": name, "read-only": true, "file": file,
                }),
                DiskFormat::Qcow2 => json!({
                    "driver": "qcow2", "node-name": name, "read-only": true, "file": file,
                    "backing": below,
                }),
            });
            name.into()
        };
    if let Some(base) = &disk.base {
        below = read_only(format!("disk{n}-base"), &base.path, base.pin.format, &below);
    }
    for (layer, frozen) in disk.frozen.iter().enumerate() {
        below = read_only(
            format!("disk{n}-{layer}"),
            &frozen.path,
            DiskFormat::Qcow2,
            &below,
        );
    }
    nodes.push(json!({
        "driver": "file", "node-name": format!("disk{n}-file"), "discard": "unmap",
        "filename": disk.top,
    }));
    nodes.push(json!({
        "driver": "qcow2", "node-name": format!("disk{n}"), "discard": "unmap",
        "file": format!("disk{n}-file"), "backing": below,
    }));
    nodes.iter().map(ToString::to_string).collect()
}

/// A comma ends an option of QEMU unless it is doubled.
fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = before.as_bytes().to_vec();
    for &b in path.as_os_str().as_bytes() {
        bytes.push(b);
        if b == b',' {
            bytes.push(b);
        }
    }
    bytes.extend(after.bytes());
    OsString::from_vec(bytes)
}

/// The same in every slot, so that the guest keeps its identity.
fn uuid_of(id: &WorkspaceId) -> String {
    let hash = blake3::hash(id.as_str().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

fn mac_of(id: &WorkspaceId) -> String {
    let hash = blake3::hash(id.as_str().as_bytes());
    let b = hash.as_bytes();
    format!("52:54:00:{:02x}:{:02x}:{:02x}", b[16], b[17], b[18])
}
