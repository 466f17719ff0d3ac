//! Wrong request files, and what their writers are told. The real binary, without a broker.

use std::process::{Command, Stdio};

const GOOD: &str = "name = \"counter\"
run_time = \"2h\"

[image]
kernel = \"/dev/null\"

[[image.disk]]
size = \"1 GiB\"

[resources]
memory = \"512 MiB\"
";

/// Checks a request file and returns what stands on the standard error output.
fn told(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("r.toml"), text).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_pilot-submit"))
        .args(["check", "r.toml"])
        .current_dir(dir.path())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(
        out.status.code(),
        Some(if err.is_empty() { 0 } else { 2 }),
        "{err}"
    );
    err
}

fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    told(&GOOD.replace(from, to))
}

#[test]
fn a_right_one() {
    assert_eq!(told(GOOD), "");
}

#[test]
fn unknown_key() {
    insta::assert_snapshot!(changed("run_time", "runtime"), @"");
}

#[test]
fn key_in_the_wrong_section() {
    insta::assert_snapshot!(changed("memory = ", "network = \"user\"\nmemory = "), @"");
}

#[test]
fn unknown_word() {
    insta::assert_snapshot!(changed("name =", "network = \"usr\"\nname ="), @"");
}

#[test]
fn negative_duration() {
    insta::assert_snapshot!(changed("\"2h\"", "\"-2h\""), @"");
}

#[test]
fn number_instead_of_string() {
    insta::assert_snapshot!(changed("\"2h\"", "7200"), @"");
    insta::assert_snapshot!(changed("\"counter\"", "7"), @"");
}

#[test]
fn string_instead_of_number() {
    insta::assert_snapshot!(changed("memory = ", "cores = \"2\"\nmemory = "), @"");
}

#[test]
fn number_out_of_range() {
    insta::assert_snapshot!(changed("memory = ", "cores = -1\nmemory = "), @"");
}

#[test]
fn zero_memory() {
    insta::assert_snapshot!(changed("512 MiB", "0 MiB"), @"");
}

#[test]
fn zero_run_time() {
    insta::assert_snapshot!(changed("2h", "0s"), @"");
}

#[test]
fn nothing_to_boot() {
    insta::assert_snapshot!(changed("kernel = \"/dev/null\"", ""), @"");
}

#[test]
fn missing_section() {
    insta::assert_snapshot!(changed("[resources]\nmemory = \"512 MiB\"\n", ""), @"");
}

#[test]
fn bad_digest() {
    insta::assert_snapshot!(changed("[[image.disk]]", "kernel_digest = \"md5:d41d8\"\n[[image.disk]]"), @"");
}

#[test]
fn digest_of_nothing() {
    insta::assert_snapshot!(changed("size = ", "digest = \"sha256:00\"\nsize = "), @"");
}

#[test]
fn plain_http_without_a_digest() {
    insta::assert_snapshot!(changed("/dev/null", "http://img.example.org/k"), @"");
}

#[test]
fn disk_of_nothing() {
    insta::assert_snapshot!(changed("size = \"1 GiB\"", "format = \"qcow2\""), @"");
}

#[test]
fn not_toml() {
    insta::assert_snapshot!(changed("\"counter\"", "\"counter"), @"");
}

#[test]
fn image_that_is_not_here() {
    let err = told_image();
    insta::assert_snapshot!(err, @"");
}

/// A missing image is only noted: it may be there for the sites' nodes.
fn told_image() -> String {
    let dir = tempfile::tempdir().unwrap();
    let text = GOOD.replace("/dev/null", "/nowhere/vmlinux");
    std::fs::write(dir.path().join("r.toml"), text).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_pilot-submit"))
        .args(["check", "r.toml"])
        .current_dir(dir.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0));
    String::from_utf8(out.stderr).unwrap()
}
