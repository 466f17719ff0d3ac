//! The pages under `docs/commands` are those that the programs' command lines make.
//! `cargo xtask docs` (which sets UPDATE_DOCS=1) writes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};

/// All programs that are shipped, each with the one definition of its command line.
fn programs() -> Vec<Command> {
    vec![
        pilot::cli::Cli::command(),
        broker::cli::Cli::command(),
        broker::qualify::cli::Cli::command(),
        lrm_adapters::sim::cli::Cli::command(),
        pilot_submit::cli::Cli::command(),
    ]
}

fn pages() -> BTreeMap<String, String> {
    programs()
        .into_iter()
        .map(|program| {
            let name = format!("{}.md", program.get_name());
            (name, pilot_submit::docs::page(program))
        })
        .collect()
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "UPDATE_DOCS=1 makes this test write the pages instead"
)]
fn the_pages_are_what_the_command_lines_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands");
    let pages = pages();
    let mut stale = Vec::new();
    for (name, text) in &pages {
        let path = dir.join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, text).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        if let Some(difference) = first_difference(&committed, text) {
            stale.push(format!("docs/commands/{name}: {difference}"));
        }
    }
    // A page that no program makes any more would go on to be believed.
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        if text.starts_with("<!-- Made from") && !pages.contains_key(&name) {
            stale.push(format!("docs/commands/{name}: no program makes it"));
        }
    }
    assert!(
        stale.is_empty(),
        "run `cargo xtask docs` and look at what it changes:\n{}",
        stale.join("\n")
    );
}

fn first_difference(committed: &str, made: &str) -> Option<String> {
    if committed == made {
        return None;
    }
    let line = committed
        .lines()
        .zip(made.lines())
        .position(|(old, new)| old != new)
        .unwrap_or_else(|| committed.lines().count().min(made.lines().count()));
    let show = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
    Some(format!(
        "line {} is\n  {}\nand should be\n  {}",
        line + 1,
        show(committed),
        show(made)
    ))
}

/// What stands in the environment of whoever makes the pages must not get into them.
#[test]
fn the_pages_hold_no_value_of_this_environment() {
    let page = pilot_submit::docs::page(
        Command::new("program")
            .arg(clap::arg!(--path <P>).env("PATH"))
            .subcommand(Command::new("sub").arg(clap::arg!(--other <P>).env("PATH"))),
    );
    assert_eq!(page.matches("[env: PATH]").count(), 2, "{page}");
}
