//! `events`: what has happened to a workspace.

use std::time::Duration;

use protocol::codes::exit;
use protocol::ids::EventSeq;
use protocol::workspace::WorkspaceState;

use super::follow::IDLE_PAUSE;
use super::patience::Patience;
use crate::cli::Events;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Detail, Output, describe};
use crate::resolve;

/// How long the broker may hold one question for more.
const HOLD: Duration = Duration::from_secs(10);

/// `events`
pub async fn command(client: &Client, output: &Output, args: &Events) -> Result<i32, Failure> {
    let view = resolve::workspace(client, &args.one.id).await?;
    let client = if args.follow {
        client.once()
    } else {
        client.clone()
    };
    let mut patience = Patience::default();
    let mut after = EventSeq(args.after);
    let mut over = view.state.is_final();
    loop {
        let hold = if args.follow && !over {
            HOLD
        } else {
            Duration::ZERO
        };
        let page = match client.events(&view.id, after, Some(500), hold).await {
            Ok(page) => page,
            Err(error) if args.follow => {
                tokio::time::sleep(patience.failed(error, output)?).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        patience.answered(output);
        let before = after;
        for event in &page.items {
            after = after.max(event.seq);
            over |= event.state.is_some_and(WorkspaceState::is_final);
            match output.detail {
                Detail::Json => output.json(event)?,
                Detail::Quiet => output.line(&event.seq.to_string())?,
                Detail::Human => output.line(&describe::event(event, output))?,
            }
        }
        if after == before {
            if over || !args.follow {
                return Ok(exit::OK);
            }
            tokio::time::sleep(IDLE_PAUSE).await;
        }
    }
}
