//! QEMU's command line, made from what was staged. Pure.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use pilot_core::guest_words::PORT;
use protocol::ids::WorkspaceId;
use protocol::workspace::{DiskFormat, Network};
use serde_json::json;

use crate::hypervisor::memory::GuestMemory;
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
/// for `migrate-incoming`. QMP speaks on standard input, a socket; standard output is the guest's
/// memory; the descriptor `lease` is the guest's lease port, if it has one.
pub(super) fn arguments(
    machine: &Machine,
    parts: &Parts,
    files: &GuestFiles,
    lease: Option<RawFd>,
) -> Vec<OsString> {
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
    put(&[
        &"-object",
        &format!(
            "memory-backend-file,id=memory,size={}M,mem-path={},share=on",
            spec.resources.memory_mib,
            GuestMemory::PATH_AS_OUTPUT
        ),
    ]);
    let with_memory = format!("{},memory-backend=memory", machine.machine);
    put(&[&"-machine", &with_memory, &"-cpu", &machine.cpu]);
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
    } else if spec.image.kernel.is_some() {
        // A guest's kernel knows these files by their numbers, in the order of their names, and QEMU
        // has one more of them, before ours, when it loads a kernel.
        put(&[&"-fw_cfg", &"name=opt/guest/by-number,string=resumed"]);
    }
    for (n, disk) in parts.disks.iter().enumerate() {
        for node in blockdevs(n, disk) {
            put(&[&"-blockdev", &node]);
        }
    }
    if let Some(fd) = lease {
        put(&[&"-chardev", &format!("socket,id=lease,fd={fd}")]);
    }
    for device in &parts.devices {
        if device.starts_with("virtio-net") {
            put(&[&"-netdev", &"user,id=net0"]);
        }
        put(&[&"-device", device]);
    }
    if parts.state.is_some() {
        put(&[&"-incoming", &"defer"]);
    }
    a
}

/// The devices of the lease port; they come after all others, which so keep their addresses.
pub(super) fn lease_port() -> [String; 2] {
    [
        "virtio-serial-pci,id=serial0".to_owned(),
        format!("virtserialport,id=lease0,bus=serial0.0,nr=1,chardev=lease,name={PORT}"),
    ]
}

/// True when a lease port is among the devices: states of earlier versions have none.
pub(super) fn has_lease_port(devices: &[String]) -> bool {
    devices.iter().any(|d| d.starts_with("virtserialport"))
}

/// The devices of a guest but for its lease port, in order: what a state is only good for.
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

pub(in crate::hypervisor) fn mac_of(id: &WorkspaceId) -> String {
    let hash = blake3::hash(id.as_str().as_bytes());
    let b = hash.as_bytes();
    format!("52:54:00:{:02x}:{:02x}:{:02x}", b[16], b[17], b[18])
}

#[cfg(test)]
mod tests {
    use image_store::BasePin;
    use serde_json::Value;

    use super::*;
    use crate::hypervisor::stage::{Base, DiskKind, Frozen};

    #[test]
    fn every_layer_says_itself_what_is_below_it() {
        let pin = BasePin {
            url: "/images/base.qcow2".to_owned(),
            format: DiskFormat::Qcow2,
            bytes: 1,
            digest: None,
            changed_ms: None,
        };
        let frozen = |path: &str| Frozen {
            path: path.into(),
            known: None,
        };
        let disk = StagedDisk {
            kind: DiskKind::Layers,
            size_bytes: 1 << 20,
            base: Some(Base {
                path: "/store/base,1".into(),
                pin,
            }),
            frozen: vec![frozen("/store/0"), frozen("/store/1")],
            top: "/scratch/top".into(),
        };
        let nodes: Vec<Value> = blockdevs(3, &disk)
            .iter()
            .map(|n| serde_json::from_str(n).unwrap())
            .collect();
        let chain: Vec<(&str, &Value)> = nodes
            .iter()
            .filter(|n| n["driver"] == "qcow2")
            .map(|n| (n["node-name"].as_str().unwrap(), &n["backing"]))
            .collect();
        // The base's own header must not make QEMU open anything: its backing is null, not absent.
        assert_eq!(
            chain,
            [
                ("disk3-base", &Value::Null),
                ("disk3-0", &"disk3-base".into()),
                ("disk3-1", &"disk3-0".into()),
                ("disk3", &"disk3-1".into()),
            ]
        );
        assert!(
            nodes
                .iter()
                .filter(|n| n["driver"] == "qcow2")
                .all(|n| n.get("backing").is_some())
        );
        let writable: Vec<&Value> = nodes
            .iter()
            .filter(|n| n["read-only"] != true)
            .map(|n| &n["node-name"])
            .collect();
        assert_eq!(writable, ["disk3-file", "disk3"]);
        assert_eq!(nodes[0]["filename"], "/store/base,1");
    }

    #[test]
    fn a_comma_in_a_path_starts_no_option() {
        let text = with_path("file,path=", Path::new("/a,b"), ",x=1");
        assert_eq!(text, "file,path=/a,,b,x=1");
        assert_eq!(escape("a,b"), "a,,b");
    }

    #[test]
    fn a_workspace_keeps_its_identity_and_shares_it_with_no_other() {
        let (a, b) = ("ws-1".parse().unwrap(), "ws-2".parse().unwrap());
        assert_eq!(uuid_of(&a), uuid_of(&a));
        assert_ne!(uuid_of(&a), uuid_of(&b));
        assert_ne!(mac_of(&a), mac_of(&b));
        assert!(mac_of(&a).starts_with("52:54:00:"));
        assert_eq!(devices(1, Network::User, &a).len(), 3);
    }
}
