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
