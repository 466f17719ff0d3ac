//! The pages `docs/commands/PROGRAM.md`, made from the definitions of the command lines.

use clap::Command;

/// The page of any program: its help and that of each of its subcommands that is not hidden.
pub fn page(program: Command) -> String {
    let mut command = without_environment(program)
        .term_width(100)
        .color(clap::ColorChoice::Never);
    command.build();
    let mut text = format!(
        "<!-- Made from the command line's definition; change it there, then run `cargo xtask docs`. -->\n# {}\n",
        command.get_name()
    );
    section(&mut text, &mut command, true);
    text
}

/// Help names the environment variables that it reads; a page must not have their values here.
fn without_environment(command: Command) -> Command {
    command
        .mut_args(|arg| arg.hide_env_values(true))
        .mut_subcommands(without_environment)
}

/// The options of every command stand in the first section only.
fn section(text: &mut String, command: &mut Command, first: bool) {
    let help = command.render_long_help().to_string();
    let help = match help.split_once("\nGlobal options:\n") {
        Some((own, _)) if !first => own,
        _ => &help,
    };
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!(
        "\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    ));
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .to_owned();
    for sub in command.get_subcommands_mut() {
        if sub.is_hide_set() || sub.get_name() == "help" {
            continue;
        }
        text.push_str(&format!("\n## {name} {}\n", sub.get_name()));
        section(text, sub, false);
    }
}
