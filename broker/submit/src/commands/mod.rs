//! The commands: each asks the broker and shows the answer.

mod act;
mod console;
mod events;
mod follow;
mod generate;
mod infrastructure;
mod patience;
mod queue;
mod show;

use crate::cli::{Cli, Command};
use crate::client::{Client, WorkspaceAction};
use crate::config::{self, Environment};
use crate::failure::Failure;
use crate::output::Output;

/// Carries out a command line and returns the exit code.
///
/// # Errors
/// Everything that has a message for the user.
pub async fn run(cli: Cli, environment: &Environment, output: &Output) -> Result<i32, Failure> {
    let client = || -> Result<Client, Failure> {
        let settings = config::client(&cli.global, environment, output)?;
        Ok(Client::new(&settings)?)
    };
    let act = async |several, action| act::act(&client()?, output, several, action).await;
    match cli.command {
        Command::Run(args) => {
            let settings = config::client(&cli.global, environment, output)?;
            queue::run(&settings, output, &args).await
        }
        Command::Queue(args) => {
            let settings = config::client(&cli.global, environment, output)?;
            queue::queue(&settings, output, &args).await
        }
        Command::Follow(args) => follow::command(&client()?, output, &args).await,
        Command::Check(args) => queue::check(output, &args),
        Command::Digest(args) => queue::digest(output, &args),
        Command::List(args) => show::list(&client()?, output, args).await,
        Command::Show(args) => show::show(&client()?, output, &args).await,
        Command::Explain(args) => show::explain(&client()?, output, &args).await,
        Command::Console(args) => console::command(&client()?, output, &args).await,
        Command::Events(args) => events::command(&client()?, output, &args).await,
        Command::Cancel(args) => act(args, WorkspaceAction::Cancel).await,
        Command::Suspend(args) => act(args, WorkspaceAction::Suspend).await,
        Command::Resume(args) => act(args, WorkspaceAction::Resume).await,
        Command::Pause(args) => act(args, WorkspaceAction::Pause).await,
        Command::Sites(args) => infrastructure::sites(&client()?, output, args).await,
        Command::Pilots(args) => infrastructure::pilots(&client()?, output, &args).await,
        Command::Slots(args) => infrastructure::slots(&client()?, output, &args).await,
        Command::Admin(args) => infrastructure::admin(&client()?, output, args).await,
        Command::Completions(args) => generate::completions(args.shell, output),
        Command::Man(args) => generate::man(&args.dir),
    }
}
