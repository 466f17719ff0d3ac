//! Commands that need no broker.

use std::path::Path;

use serde_json::Value;

use super::{REQUEST, User};

#[test]
fn digests_are_computed_and_pinned() {
    let user = User::new();
    std::fs::write(user.path("vmlinux"), "kernel").unwrap();
    let text = REQUEST.replace("/dev/null", "vmlinux");
    std::fs::write(user.path("r.toml"), text).unwrap();
    let digest = format!("blake3:{}", blake3::hash(b"kernel"));
    let done = user.run("", &["digest", "vmlinux"]);
    assert_eq!(done.out, format!("{digest}  vmlinux\n"));
    let done = user.run("", &["check", "--pin", "--json", "r.toml"]);
    let line: Value = serde_json::from_str(&done.out).unwrap();
    let kernel = &line["spec"]["image"]["kernel"];
    assert_eq!(kernel["digest"], digest.as_str());
    let url = Path::new(kernel["url"].as_str().unwrap());
    assert!(url.is_absolute() && url.ends_with("vmlinux"), "{url:?}");
    std::fs::remove_file(user.path("vmlinux")).unwrap();
    let done = user.run("", &["check", "r.toml"]);
    assert_eq!(done.code, Some(0));
    assert!(done.err.contains("is not on this machine"), "{done:?}");
    assert_eq!(user.run("", &["check", "--pin", "r.toml"]).code, Some(2));
}

#[test]
fn completions_and_man_pages_come_from_the_definition() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = user.run("", &["completions", shell]);
        assert!(
            done.code == Some(0) && done.out.contains("idempotency-key"),
            "{done:?}"
        );
    }
    assert_eq!(user.run("", &["man", "pages"]).code, Some(0));
    let page = std::fs::read_to_string(user.path("pages/pilot-submit.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
    assert!(user.path("pages/pilot-submit-run.1").exists());
}
