//! A merged layer reads like the chain that it was made of, by QEMU's own word.

use std::path::{Path, PathBuf};
use std::process::Command;

use image_store::qcow2;
use serde_json::{Value, json};

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} does not run ({e}): install qemu-utils"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {text}{err}");
    text
}

fn layer(path: &Path, below: &Value) -> Value {
    json!({"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": below})
}

fn image(node: &Value) -> String {
    format!("json:{node}")
}

#[test]
fn a_merged_layer_reads_like_its_chain() {
    const MIB: u64 = 1 << 20;
    let size = 1300 * MIB; // three entries of the first-level table
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.raw");
    std::fs::write(&base, vec![0xAA; 9 << 20]).unwrap();
    let raw = json!({"driver": "raw", "file": {"driver": "file", "filename": base}});
    let bottom = raw.clone();

    let writes = [
        vec!["write -P 1 0 3M", "write -P 2 600M 70k", "write -z 5M 1M"],
        vec!["write -P 3 1M 128k", "write -z 2M 64k", "write -P 4 5M 64k"],
        vec!["write -P 5 1299M 1M", "write -P 6 600M 4k", "discard 0 64k"],
    ];
    let (mut layers, mut chain): (Vec<PathBuf>, Value) = (Vec::new(), raw);
    for (n, commands) in writes.iter().enumerate() {
        let path = dir.path().join(format!("{n}.qcow2"));
        qcow2::create_layer(&path, size).unwrap();
        chain = layer(&path, &chain);
        let file = image(&chain);
        let mut args: Vec<&str> = commands.iter().flat_map(|c| ["-c", c]).collect();
        args.extend(["-d", "unmap", &file]);
        run("qemu-io", &args);
        layers.push(path);
    }
    let merged = dir.path().join("merged.qcow2");
    let paths: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    qcow2::merge(&paths, &merged).unwrap();

    let check = run("qemu-img", &["check", &merged.display().to_string()]);
    assert!(check.contains("No errors"), "{check}");
    let flat = layer(&merged, &bottom);
    run("qemu-img", &["compare", &image(&chain), &image(&flat)]);
    let bytes = std::fs::metadata(&merged).unwrap().len();
    assert!(
        bytes < 8 * MIB,
        "{bytes} bytes: it holds more than the layers do"
    );
    assert!(
        qcow2::merge(&paths, &merged).is_err(),
        "it overwrote a file"
    );
}

#[test]
fn what_was_not_made_here_is_not_merged() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
    qcow2::create_layer(&ours, 1 << 20).unwrap();
    let path = other.display().to_string();
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=4k",
            &path,
            "1M",
        ],
    );
    let out = dir.path().join("out");
    for layers in [&[ours.as_path(), &other][..], &[other.as_path()], &[]] {
        assert!(qcow2::merge(layers, &out).is_err());
        assert!(!out.exists());
    }
}
