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
    insta::assert_snapshot!(changed("run_time", "runtime"), @r#"
    error: failed to read `r.toml`
     --> line 2, column 1
      |
    2 | runtime = "2h"
      | ^^^^^^^
    unknown field `runtime`
    help: did you mean `run_time`?
    "#);
}

#[test]
fn key_in_the_wrong_section() {
    insta::assert_snapshot!(changed("memory = ", "network = \"user\"\nmemory = "), @r#"
    error: failed to read `r.toml`
      --> line 11, column 1
       |
    11 | network = "user"
       | ^^^^^^^
    unknown field `network`
    help: `network` belongs at the top of the file, before the first [section]
    "#);
}

#[test]
fn unknown_word() {
    insta::assert_snapshot!(changed("name =", "network = \"usr\"\nname ="), @r#"
    error: failed to read `r.toml`
     --> line 1, column 11
      |
    1 | network = "usr"
      |           ^^^^^
    `usr` is not one of `none`, `user`
    help: did you mean "user"?
    "#);
}

#[test]
fn negative_duration() {
    insta::assert_snapshot!(changed("\"2h\"", "\"-2h\""), @r#"
    error: failed to read `r.toml`
     --> line 2, column 12
      |
    2 | run_time = "-2h"
      |            ^^^^^
    `-2h` is negative, or not a span of time; write a number and a unit, as in "90s", "45m" or "2h 30m"
    "#);
}

#[test]
fn number_instead_of_string() {
    insta::assert_snapshot!(changed("\"2h\"", "7200"), @r#"
    error: failed to read `r.toml`
     --> line 2, column 12
      |
    2 | run_time = 7200
      |            ^^^^
    found the number `7200`, expected a span of time in quotes, as in "90s" or "2h 30m"
    help: write it in quotes and with a unit, as in "7200s"
    "#);
    insta::assert_snapshot!(changed("\"counter\"", "7"), @r"
    error: failed to read `r.toml`
     --> line 1, column 8
      |
    1 | name = 7
      |        ^
    found integer `7`, expected a string
    help: put it in quotes
    ");
}

#[test]
fn string_instead_of_number() {
    insta::assert_snapshot!(changed("memory = ", "cores = \"2\"\nmemory = "), @r#"
    error: failed to read `r.toml`
      --> line 11, column 9
       |
    11 | cores = "2"
       |         ^^^
    found string "2", expected a whole number from 0 to 4294967295
    help: leave the quotes out
    "#);
}

#[test]
fn number_out_of_range() {
    insta::assert_snapshot!(changed("memory = ", "cores = -1\nmemory = "), @r"
    error: failed to read `r.toml`
      --> line 11, column 9
       |
    11 | cores = -1
       |         ^^
    found integer `-1`, expected a whole number from 0 to 4294967295
    ");
}

#[test]
fn zero_memory() {
    insta::assert_snapshot!(changed("512 MiB", "0 MiB"), @r#"
    error: failed to read `r.toml`
      --> line 11, column 10
       |
    11 | memory = "0 MiB"
       |          ^^^^^^^
    `resources` needs at least 1 MiB of memory; write how much the guest needs, as in "512 MiB"
    "#);
}

#[test]
fn zero_run_time() {
    insta::assert_snapshot!(changed("2h", "0s"), @r#"
    error: failed to read `r.toml`
     --> line 2, column 12
      |
    2 | run_time = "0s"
      |            ^^^^
    `run_time` is zero; say how long the guest needs to run, as in "2h"
    "#);
}

#[test]
fn nothing_to_boot() {
    insta::assert_snapshot!(changed("kernel = \"/dev/null\"", ""), @r#"
    error: failed to read `r.toml`
     --> line 4, column 2
      |
    4 | [image]
      |  ^^^^^
    `image` has neither a kernel nor a disk with a base: nothing to boot; add `kernel = "/path/to/vmlinux"`, or `[[image.disk]]` with a `base`
    "#);
}

#[test]
fn missing_section() {
    insta::assert_snapshot!(changed("[resources]\nmemory = \"512 MiB\"\n", ""), @r#"
    error: failed to read `r.toml`
    missing field `resources`
    help: add a section [resources] with `memory = "512 MiB"`
    "#);
    insta::assert_snapshot!(changed("memory = \"512 MiB\"", "cores = 2"), @r#"
    error: failed to read `r.toml`
      --> line 10, column 1
       |
    10 | [resources]
       | ^^^^^^^^^^^
    missing field `memory`
    help: add `memory = "512 MiB"`: how much the guest needs
    "#);
}

#[test]
fn bad_digest() {
    insta::assert_snapshot!(changed("[[image.disk]]", "kernel_digest = \"md5:d41d8\"\n[[image.disk]]"), @r#"
    error: failed to read `r.toml`
     --> line 7, column 17
      |
    7 | kernel_digest = "md5:d41d8"
      |                 ^^^^^^^^^^^
    the digest of `/dev/null` must be `blake3:` or `sha256:` and 64 hex digits
    "#);
}

#[test]
fn digest_of_nothing() {
    insta::assert_snapshot!(changed("size = ", "digest = \"sha256:00\"\nsize = "), @r#"
    error: failed to read `r.toml`
     --> line 8, column 10
      |
    8 | digest = "sha256:00"
      |          ^^^^^^^^^^^
    a digest is given, but nothing that it belongs to
    "#);
}

#[test]
fn plain_http_without_a_digest() {
    insta::assert_snapshot!(changed("/dev/null", "http://img.example.org/k"), @r#"
    error: failed to read `r.toml`
     --> line 5, column 10
      |
    5 | kernel = "http://img.example.org/k"
      |          ^^^^^^^^^^^^^^^^^^^^^^^^^^
    `http://img.example.org/k` is plain http and has no digest; add its digest, as in "sha256:..."
    "#);
}

#[test]
fn disk_of_nothing() {
    insta::assert_snapshot!(changed("size = \"1 GiB\"", "format = \"qcow2\""), @r#"
    error: failed to read `r.toml`
     --> line 7, column 9
      |
    7 | [[image.disk]]
      |         ^^^^
    a disk without a `base` needs a `size`, as in "4 GiB"
    "#);
}

#[test]
fn not_toml() {
    insta::assert_snapshot!(changed("\"counter\"", "\"counter"), @r#"
    error: failed to read `r.toml`
     --> line 1, column 16
      |
    1 | name = "counter
      |                ^
    invalid basic string, expected `"`
    "#);
}

#[test]
fn image_that_is_not_here() {
    let err = told_image();
    insta::assert_snapshot!(err, @"note: `/nowhere/vmlinux` is not on this machine; the sites' nodes must have it");
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
