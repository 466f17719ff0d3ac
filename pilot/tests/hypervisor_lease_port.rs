//! The guest's lease port: states from before there was such a port are still resumed. What is said
//! there is a rule of the contract (`hypervisor_conformance`).

#[expect(dead_code, reason = "shared by several test programs")]
mod guests;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use guests::{Site, complaints, counts_to, first_seen, suspend};
use pilot_core::guest_words::Words;
use protocol::codes::ReasonCode;
use protocol::slot_file::HypervisorKind;
use protocol::time::Span;

fn soon() -> Words {
    Words::SuspendSoon {
        left: Span::from_secs(10),
        reason: ReasonCode::SlotEnding,
    }
}

/// A QEMU that makes guests as they were made before they had a lease port.
const EARLIER: &str = r#"#!/bin/sh
n=$#
while [ "$n" -gt 0 ]; do
  option=$1; shift; n=$((n - 1))
  case $option in
    -chardev | -device)
      value=$1; shift; n=$((n - 1))
      case $value in
        *id=lease,* | virtio-serial-pci* | virtserialport*) ;;
        *) set -- "$@" "$option" "$value" ;;
      esac
      ;;
    *) set -- "$@" "$option" ;;
  esac
done
exec qemu-system-x86_64 "$@"
"#;

#[tokio::test]
async fn a_state_of_a_guest_without_the_port_is_resumed_without_it() {
    let site = Site::new(HypervisorKind::Qemu);
    let spec = site.spec_with_disk("");
    let earlier = site.root.path().join("earlier-qemu");
    fs::write(&earlier, EARLIER).unwrap();
    fs::set_permissions(&earlier, fs::Permissions::from_mode(0o755)).unwrap();
    let mut section = site.section();
    section.binary = Some(earlier);
    let slot = site.slot_with("s1", &section);
    let (guest, _) = slot.run(1, &spec, None).await;
    let before = first_seen(&guest).await;
    let mut state = suspend(&guest).await.state;
    let file = site.store.join("states/ws-1.g1/manifest.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let devices = manifest["devices"].as_array_mut().unwrap();
    let all = devices.len();
    devices.retain(|d| !port(d.as_str().unwrap()));
    assert_eq!(devices.len() + 2, all, "{devices:?}");
    let text = serde_json::to_vec(&manifest).unwrap();
    state.manifest = blake3::hash(&text).to_hex().to_string();
    fs::write(&file, text).unwrap();

    let mut last = before.n;
    for generation in 2..=3 {
        let slot = site.slot(&format!("s{generation}"));
        let (guest, _) = slot.run(generation, &spec, Some(&state)).await;
        guest.tell(&soon()); // to nobody
        let now = counts_to(&guest, last + 2).await;
        assert_eq!(now.boot, before.boot);
        last = now.n;
        assert_eq!(complaints(&guest), [""; 0]);
        state = suspend(&guest).await.state;
    }
}

fn port(device: &str) -> bool {
    device.starts_with("virtio-serial-pci") || device.starts_with("virtserialport")
}
