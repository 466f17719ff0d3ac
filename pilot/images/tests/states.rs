//! A state is whole and verified, or it does not exist.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use image_store::{
    ChunkSet, Committed, DiskEntry, Effort, Manifest, Platform, SavedMemory, StateError,
    StateWriter, Store, VerifiedState,
};
use protocol::ids::{Generation, StateId, WorkspaceId};
use protocol::time::{Span, Timestamp};

fn id(text: &str) -> StateId {
    StateId::new(text).unwrap()
}

fn manifest(layers: &[&str]) -> Manifest {
    Manifest {
        version: 0,
        state: id("to-be-filled-in"),
        workspace: WorkspaceId::new("ws-1").unwrap(),
        generation: Generation(3),
        platform: Platform {
            hypervisor: "qemu".into(),
            version: "7.2.22".into(),
            machine: "pc-q35-7.2".into(),
            cpu: "qemu64".into(),
            accelerator: "tcg".into(),
        },
        cores: 1,
        memory_mib: 128,
        devices: vec!["virtio-blk-pci".into()],
        disks: vec![DiskEntry {
            size_bytes: 1 << 20,
            base: None,
            layers: layers.iter().map(|&l| l.to_owned()).collect(),
        }],
        run: Span::from_secs(60),
        created: Timestamp::from_secs(1),
        files: Vec::new(),
    }
}

/// Bytes of the guest's memory.
const RAM: u64 = 8 << 20;

/// A guest's memory, in use for its first 3 MB and its last byte.
fn ram() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(RAM).unwrap();
    for n in 0..300_u32 {
        let part = n.to_le_bytes().repeat(2500);
        file.write_all_at(&part, u64::from(n) * 10_000).unwrap();
    }
    file.write_all_at(&[1], RAM - 1).unwrap();
    file
}

fn save(w: &StateWriter, name: &str) -> Result<SavedMemory, StateError> {
    let mut image = w.memory_image(name, RAM)?;
    image.bring(&ram(), &ChunkSet::all(RAM), Effort::Full, &|| false)?;
    image.finish()
}

/// Makes a state of a memory, devices and a disk layer.
fn make(store: &Store, name: &str) -> Committed {
    let mut w = StateWriter::begin(store, &id(name)).unwrap();
    w.add_memory(save(&w, "memory").unwrap()).unwrap();
    w.add_bytes("devices", b"devices").unwrap();
    fs::write(w.path("disk-0.0.qcow2"), b"layer").unwrap();
    w.add("disk-0.0.qcow2").unwrap();
    w.commit(manifest(&["disk-0.0.qcow2"])).unwrap()
}

fn open(store: &Store, id: &StateId, manifest: &str) -> Result<VerifiedState, StateError> {
    store.find_state(id, manifest)?.verify()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_state_that_was_made_is_opened_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let made = make(&store, "ws-1.g3");
    // 46 chunks of the first 3 MB, the last one, devices and layer.
    assert_eq!(made.bytes, 47 * 65_536 + 7 + 5);
    assert_eq!(made.written, made.bytes);
    let state = open(&store, &id("ws-1.g3"), &made.manifest).unwrap();
    assert_eq!(state.manifest().bytes(), made.bytes);
    assert_eq!(state.manifest().run, Span::from_secs(60));
    assert_eq!(state.manifest().version, 2);
    assert_eq!(names(store.states_dir()), ["ws-1.g3"]);
    assert!(matches!(
        StateWriter::begin(&store, &id("ws-1.g3")),
        Err(StateError::Exists { .. })
    ));
}

#[test]
fn the_memory_is_verified_on_its_way_to_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let made = make(&store, "ws-1.g3");
    let found = || store.find_state(&id("ws-1.g3"), &made.manifest).unwrap();
    let into = tempfile::tempfile().unwrap();
    into.set_len(RAM).unwrap();
    let (state, image) = found().verify_but("memory").unwrap();
    assert_eq!(state.manifest().bytes(), made.bytes);
    image.load(&into, &|| true).unwrap();
    let content = |file: &File| {
        let mut all = vec![0; 8 << 20];
        file.read_exact_at(&mut all, 0).unwrap();
        all
    };
    assert!(content(&into) == content(&ram()));
    for no_memory in ["devices", "none"] {
        match found().verify_but(no_memory) {
            Err(StateError::Corrupt { file, .. }) => assert_eq!(file, no_memory),
            other => panic!("{no_memory}: {other:?}"),
        }
    }
    // A few blocks after which nobody wants it any more.
    let left = AtomicU32::new(1);
    let wanted = || {
        left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
            .is_ok()
    };
    let unwanted = image.load(&tempfile::tempfile().unwrap(), &wanted);
    assert!(
        matches!(unwanted, Err(StateError::Io { .. })),
        "{unwanted:?}"
    );

    // Only what is not loaded is looked at before.
    let path = store.state_dir(&id("ws-1.g3")).join("memory");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[1 << 20] ^= 4;
    fs::write(&path, &flipped).unwrap();
    let (_, image) = found().verify_but("memory").unwrap();
    let altered = image.load(&tempfile::tempfile().unwrap(), &|| true);
    assert!(
        matches!(&altered, Err(StateError::Corrupt { file, .. }) if file == "memory"),
        "{altered:?}"
    );
    fs::write(&path, &whole[1..]).unwrap();
    let short = found().verify_but("memory");
    assert!(
        matches!(&short, Err(StateError::Corrupt { file, .. }) if file == "memory"),
        "{short:?}"
    );
}

#[test]
fn a_state_that_is_called_off_stops_the_saving_of_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut w = StateWriter::begin(&store, &id("ws-1.g3")).unwrap();
    let early = save(&w, "memory").unwrap();
    assert!(w.decision().call_off());
    let late = save(&w, "late");
    assert!(
        matches!(late, Err(StateError::CalledOff { .. })),
        "{late:?}"
    );
    let taken = w.add_memory(early);
    assert!(
        matches!(taken, Err(StateError::CalledOff { .. })),
        "{taken:?}"
    );
    drop(w);
    assert_eq!(names(store.states_dir()), [""; 0]);
}

#[test]
fn every_way_to_damage_a_state_is_found_and_named() {
    type Damage = fn(&Path);
    let damages: [(&str, &str, Damage); 8] = [
        ("one flipped bit", "memory", |d| {
            let mut f = OpenOptions::new()
                .write(true)
                .read(true)
                .open(d.join("memory"))
                .unwrap();
            let byte = fs::read(d.join("memory")).unwrap()[1_500_000] ^ 1;
            f.seek(SeekFrom::Start(1_500_000)).unwrap();
            f.write_all(&[byte]).unwrap();
        }),
        ("the last byte cut", "memory", |d| {
            let f = OpenOptions::new()
                .write(true)
                .open(d.join("memory"))
                .unwrap();
            f.set_len(RAM - 1).unwrap();
        }),
        ("emptied", "memory", |d| {
            fs::write(d.join("memory"), b"").unwrap()
        }),
        ("missing memory", "memory", |d| {
            fs::remove_file(d.join("memory")).unwrap()
        }),
        ("missing layer", "disk-0.0.qcow2", |d| {
            fs::remove_file(d.join("disk-0.0.qcow2")).unwrap();
        }),
        ("a link instead of a file", "disk-0.0.qcow2", |d| {
            fs::rename(d.join("disk-0.0.qcow2"), d.join("x")).unwrap();
            std::os::unix::fs::symlink("x", d.join("disk-0.0.qcow2")).unwrap();
        }),
        ("an altered manifest", "manifest.json", |d| {
            let text = fs::read_to_string(d.join("manifest.json")).unwrap();
            fs::write(d.join("manifest.json"), text.replace("128", "256")).unwrap();
        }),
        ("a missing manifest", "manifest.json", |d| {
            fs::remove_file(d.join("manifest.json")).unwrap();
        }),
    ];
    for (what, file, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = make(&store, "ws-1.g3");
        damage(&store.state_dir(&id("ws-1.g3")));
        match open(&store, &id("ws-1.g3"), &made.manifest) {
            Err(StateError::Corrupt { file: found, .. }) => assert_eq!(found, file, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_manifest_of_another_version_or_that_leads_out_of_the_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    make(&store, "ws-1.g3");
    let path = store.state_dir(&id("ws-1.g3")).join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let open = |text: &str| {
        fs::write(&path, text).unwrap();
        let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
        open(&store, &id("ws-1.g3"), &hash).unwrap_err()
    };
    let e = open(&text.replace("\"version\": 2,", "\"version\": 3,"));
    assert!(
        matches!(
            e,
            StateError::UnknownVersion {
                version: 3,
                known: 2,
                ..
            }
        ),
        "{e}"
    );
    let e = open(&text.replace("\"name\": \"memory\"", "\"name\": \"../memory\""));
    assert!(e.to_string().contains("../memory"), "{e}");
    let e = open(&text.replace("\"state\": \"ws-1.g3\"", "\"state\": \"ws-2.g3\""));
    assert!(e.to_string().contains("ws-2.g3"), "{e}");
    let e = open("{");
    assert!(matches!(e, StateError::Corrupt { .. }), "{e}");
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let w = StateWriter::begin(&store, &id("ws-1.g3")).unwrap();
    fs::write(w.path("memory"), b"half").unwrap();
    drop(w);
    assert_eq!(names(store.states_dir()), [""; 0]);

    let mut w = StateWriter::begin(&store, &id("ws-1.g3")).unwrap();
    fs::write(w.path("memory"), b"whole").unwrap();
    w.add("memory").unwrap();
    let decision = w.decision();
    assert!(decision.call_off());
    assert!(matches!(
        w.commit(manifest(&[])),
        Err(StateError::CalledOff { .. })
    ));
    assert_eq!(names(store.states_dir()), [""; 0]);

    let mut w = StateWriter::begin(&store, &id("ws-1.g3")).unwrap();
    fs::write(w.path("memory"), b"whole").unwrap();
    w.add("memory").unwrap();
    let decision = w.decision();
    w.commit(manifest(&[])).unwrap();
    assert!(
        !decision.call_off(),
        "a state was called off after its commit"
    );
    assert_eq!(names(store.states_dir()), ["ws-1.g3"]);
}

#[test]
fn a_commit_finds_what_changed_behind_its_back() {
    type Meddle = fn(&Path);
    let meddlers: [(&str, Meddle); 3] = [
        ("long instead of", |d| {
            fs::write(d.join("memory"), b"longer than it was").unwrap()
        }),
        ("not added", |d| fs::write(d.join("stranger"), b"").unwrap()),
        ("is gone", |d| fs::remove_file(d.join("memory")).unwrap()),
    ];
    for (words, meddle) in meddlers {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut w = StateWriter::begin(&store, &id("ws-1.g3")).unwrap();
        fs::write(w.path("memory"), b"whole").unwrap();
        w.add("memory").unwrap();
        meddle(&store.state_tmp(&id("ws-1.g3")));
        let e = w.commit(manifest(&[])).unwrap_err().to_string();
        assert!(e.contains(words), "{words}: {e}");
        assert_eq!(names(store.states_dir()), [""; 0]);
    }
}

#[test]
fn layers_of_an_earlier_state_are_shared_and_outlive_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let first = make(&store, "ws-1.g3");
    let old = open(&store, &id("ws-1.g3"), &first.manifest).unwrap();
    let known = old.manifest().file("disk-0.0.qcow2").unwrap();
    let mut w = StateWriter::begin(&store, &id("ws-1.g4")).unwrap();
    w.bring("disk-0.0.qcow2", &old.path("disk-0.0.qcow2"), Some(known))
        .unwrap();
    let top = dir.path().join("top");
    fs::write(&top, b"new layer").unwrap();
    w.bring("disk-0.1.qcow2", &top, None).unwrap();
    let second = w
        .commit(manifest(&["disk-0.0.qcow2", "disk-0.1.qcow2"]))
        .unwrap();
    assert_eq!((second.bytes, second.written), (14, 0));
    store.discard(&id("ws-1.g3")).unwrap();
    store.discard(&id("ws-1.g3")).unwrap();
    assert_eq!(names(store.states_dir()), ["ws-1.g4"]);
    open(&store, &id("ws-1.g4"), &second.manifest).unwrap();
    assert!(matches!(
        open(&store, &id("ws-1.g3"), &first.manifest),
        Err(StateError::Missing { .. })
    ));
}

#[test]
fn a_layer_that_is_not_what_it_was_is_not_brought() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let first = make(&store, "ws-1.g3");
    let old = open(&store, &id("ws-1.g3"), &first.manifest).unwrap();
    let known = old.manifest().file("disk-0.0.qcow2").unwrap();
    let other = dir.path().join("other");
    fs::write(&other, b"longer than before").unwrap();
    let mut w = StateWriter::begin(&store, &id("ws-1.g4")).unwrap();
    let e = w.bring("disk-0.0.qcow2", &other, Some(known)).unwrap_err();
    assert!(matches!(e, StateError::Corrupt { .. }), "{e}");
}

#[test]
fn only_what_nobody_has_touched_for_long_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    make(&store, "ws-1.g3");
    fs::create_dir(store.states_dir().join(".tmp-ws-2.g1")).unwrap();
    fs::write(store.states_dir().join(".tmp-ws-2.g1/memory"), b"x").unwrap();
    let hour = Duration::from_secs(3600);
    let now = fs::metadata(store.states_dir())
        .unwrap()
        .modified()
        .unwrap();
    assert!(store.sweep_tmp(hour, now).unwrap().is_empty());
    let removed = store.sweep_tmp(hour, now + 2 * hour).unwrap();
    assert_eq!(removed, [store.states_dir().join(".tmp-ws-2.g1")]);
    assert_eq!(names(store.states_dir()), ["ws-1.g3"]);
}
