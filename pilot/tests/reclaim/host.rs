//! A node that cannot do the job says so before it takes any.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use protocol::slot::HostFacts;
use protocol::slot_file::SlotFile;

use pilot::exec_guest::Trampoline;
use pilot::host::{HostError, inspect};
use pilot::journal::Journal;

use crate::node::{Node, claim, pilot_program};

fn slot_file(node: &Node, hypervisor: &str) -> SlotFile {
    let text = format!(
        r#"
version = 1
site = "s"
submit_key = "key-1"
incarnation = "0"
node = "n"
[broker]
url = "http://127.0.0.1:1"
token_file = "/none"
[resources]
cores = 1
memory = "64 MiB"
disk = "64 MiB"
[clock]
start = 1
end = 2
notice = "0s"
[paths]
scratch = "{slot}"
store = "{store}"
[hypervisor]
{hypervisor}
"#,
        slot = node.slot().display(),
        store = node.root().join("store").display(),
    );
    SlotFile::parse("slot.toml", &text).unwrap()
}

fn inspect_now(slot: &SlotFile, journal: &Journal) -> Result<HostFacts, HostError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(inspect(slot, journal, &Trampoline::of(pilot_program())))
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_facts_name_hypervisor_version_and_accelerator() {
    let node = Node::new();
    let journal = claim(node.root()).unwrap();
    let fake = node.root().join("outside/qemu");
    script(
        &fake,
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 9.8.7 (Fake)'\n",
    );
    let qemu = format!(
        "kind = \"qemu\"\naccelerator = \"tcg\"\nbinary = \"{}\"",
        fake.display()
    );
    let before = node.snapshot();
    let facts = inspect_now(&slot_file(&node, &qemu), &journal).unwrap();
    assert_eq!(
        (
            facts.hypervisor.as_str(),
            facts.hypervisor_version.as_str(),
            facts.accelerator.as_str()
        ),
        ("qemu", "9.8.7", "tcg")
    );
    assert!(
        facts.scratch_free_mib > 0 && !facts.cpu_model.is_empty(),
        "{facts:?}"
    );
    let facts = inspect_now(&slot_file(&node, "kind = \"null\""), &journal).unwrap();
    assert_eq!(facts.hypervisor, "null");
    assert_eq!(node.snapshot(), before, "looking leaves nothing behind");
}

#[test]
fn what_is_missing_is_named_with_a_way_out() {
    let node = Node::new();
    let journal = claim(node.root()).unwrap();
    let fake = node.root().join("outside/qemu");
    let qemu = format!(
        "kind = \"qemu\"\naccelerator = \"tcg\"\nbinary = \"{}\"",
        fake.display()
    );
    let e = inspect_now(&slot_file(&node, &qemu), &journal).unwrap_err();
    assert!(e.to_string().contains("hypervisor.binary"), "{e}");
    script(&fake, "#!/bin/sh\necho 'no licence' >&2; exit 3\n");
    let e = inspect_now(&slot_file(&node, &qemu), &journal).unwrap_err();
    assert!(e.to_string().contains("no licence"), "{e}");
    let mut slot = slot_file(&node, "kind = \"null\"");
    slot.paths.store = node.root().join("nowhere");
    let e = inspect_now(&slot, &journal).unwrap_err();
    assert!(e.to_string().contains("nowhere"), "{e}");
}
