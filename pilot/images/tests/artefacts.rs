//! Artefacts are what their digests say, or are not used.

use std::fs;
use std::io::Write;

use image_store::{Digest, ImageError, Store, qcow2};

const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

#[test]
fn a_local_file_is_used_in_place_and_refused_when_it_is_another() {
    let (dir, store) = store();
    let path = dir.path().join("kernel");
    fs::write(&path, b"abc").unwrap();
    let sha: Digest = ABC.parse().unwrap();
    let staged = store.stage_file(&path, Some(&sha)).unwrap();
    assert_eq!((staged.path, staged.bytes), (path.clone(), 3));
    // Also when it is changed to something of the same length at once.
    fs::write(&path, b"abd").unwrap();
    let e = store.stage_file(&path, Some(&sha)).unwrap_err();
    assert!(matches!(e, ImageError::Corrupt { .. }), "{e}");
    assert!(e.to_string().contains("kernel"), "{e}");
}

#[test]
fn a_file_without_a_digest_is_read_only_when_it_is_pinned() {
    let (dir, store) = store();
    let path = dir.path().join("disk");
    fs::write(&path, b"abc").unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(9);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(old)
        .unwrap();
    assert_eq!(store.stage_file(&path, None).unwrap().digest, None);
    let pin = store.pin(&path).unwrap();
    assert_eq!(pin.hex(), blake3::hash(b"abc").to_hex().as_str());
    assert_eq!(store.stage_file(&path, None).unwrap().digest, Some(pin));
}

#[test]
fn what_is_missing_or_no_file_is_said_to_be_missing() {
    let (dir, store) = store();
    for path in [dir.path().join("nothing"), dir.path().to_owned()] {
        let e = store.stage_file(&path, None).unwrap_err();
        assert!(matches!(e, ImageError::Missing { .. }), "{e}");
    }
}

#[test]
fn an_ingested_artefact_is_found_by_its_digest_ever_after() {
    let (dir, store) = store();
    let sha: Digest = ABC.parse().unwrap();
    assert_eq!(store.blob(&sha), None);
    let mut ingest = store
        .ingest("wp-1", "https://x/abc", Some(sha.clone()))
        .unwrap();
    ingest.take(b"a").unwrap();
    ingest.write_all(b"bc").unwrap();
    let staged = ingest.finish().unwrap();
    assert_eq!(fs::read(&staged.path).unwrap(), b"abc");
    let again = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(again.blob(&sha), Some(staged));

    let mut ingest = store.ingest("wp-1", "https://x/no-digest", None).unwrap();
    ingest.take(b"xyz").unwrap();
    let staged = ingest.finish().unwrap();
    assert_eq!(store.blob(staged.digest.as_ref().unwrap()).unwrap(), staged);
}

#[test]
fn an_artefact_that_is_wrong_or_given_up_leaves_nothing() {
    let (dir, store) = store();
    let sha: Digest = ABC.parse().unwrap();
    let mut ingest = store
        .ingest("wp-1", "https://x/abc", Some(sha.clone()))
        .unwrap();
    ingest.take(b"abd").unwrap();
    let e = ingest.finish().unwrap_err();
    assert!(matches!(e, ImageError::Corrupt { .. }), "{e}");
    let mut ingest = store
        .ingest("wp-1", "https://x/abc", Some(sha.clone()))
        .unwrap();
    ingest.take(b"ab").unwrap();
    let name = fs::read_dir(dir.path().join("store/blobs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert!(
        name.file_name().to_string_lossy().starts_with(".tmp-wp-1."),
        "{name:?}"
    );
    drop(ingest);
    assert_eq!(store.blob(&sha), None);
    assert_eq!(
        fs::read_dir(dir.path().join("store/blobs"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn qemu_finds_no_fault_in_a_layer() {
    let (dir, _) = store();
    for size in [512_u64, 3 << 30, 9 << 40] {
        let path = dir.path().join(format!("{size}.qcow2"));
        qcow2::create_layer(&path, size).unwrap();
        let run = std::process::Command::new("qemu-img")
            .args(["check", "--output=json"])
            .arg(&path)
            .output();
        let out = run.expect("qemu-img runs: install qemu-utils");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && text.contains("\"check-errors\": 0"),
            "{text}"
        );
        assert!(
            !text.contains("leaks") && !text.contains("corruptions"),
            "{text}"
        );
    }
}
