//! The committed pages under `docs/commands` are those that the command line makes.

use std::fs;
use std::path::Path;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "UPDATE_DOCS=1 makes this test write the pages instead"
)]
fn the_pages_are_up_to_date() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands");
    for (name, text) in pilot_submit::docs::markdown() {
        let path = dir.join(&name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "docs/commands/{name} is not what the command line says; run this test with UPDATE_DOCS=1"
        );
    }
}

/// The TOML blocks of the request file's page are right requests.
#[test]
fn the_examples_of_the_request_file_are_right() {
    let page = include_str!("../../../docs/configuration/request.md");
    let examples: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let spec = protocol::workspace_file::parse_request("example", "/dir", example);
        assert!(spec.is_ok(), "{example}\n{spec:?}");
    }
}
