//! `console`: the guest's console as the broker has it, over all slots.

use std::time::Duration;

use protocol::codes::exit;
use serde_json::json;

use super::follow::IDLE_PAUSE;
use super::patience::Patience;
use crate::cli::Console;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{Detail, Output};
use crate::resolve;

/// How long the broker may hold one question for more.
const HOLD: Duration = Duration::from_secs(5);

/// `console`
pub async fn command(client: &Client, output: &Output, args: &Console) -> Result<i32, Failure> {
    let view = resolve::workspace(client, &args.one.id).await?;
    let client = if args.follow {
        client.once()
    } else {
        client.clone()
    };
    let mut patience = Patience::default();
    let mut offset = args.offset;
    let mut over = view.state.is_final();
    loop {
        let hold = if args.follow && !over {
            HOLD
        } else {
            Duration::ZERO
        };
        let part = match client.console(&view.id, offset, hold).await {
            Ok(part) => part,
            Err(error) if args.follow => {
                tokio::time::sleep(patience.failed(error, output)?).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        patience.answered(output);
        if !part.bytes.is_empty() {
            show(output, offset, part.next_offset, &part.bytes)?;
        }
        let stood_still = part.bytes.is_empty() && part.next_offset <= offset;
        offset = offset.max(part.next_offset);
        match (stood_still, args.follow && !over) {
            (false, _) => {}
            (true, false) => return Ok(exit::OK),
            // The end may have come after the last bytes were asked for: ask once more then.
            (true, true) => match client.workspace(&view.id).await {
                Ok(view) => {
                    over = view.state.is_final();
                    tokio::time::sleep(IDLE_PAUSE).await;
                }
                Err(error) => tokio::time::sleep(patience.failed(error, output)?).await,
            },
        }
    }
}

fn show(output: &Output, offset: u64, next_offset: u64, bytes: &[u8]) -> Result<(), Failure> {
    match output.detail {
        Detail::Json => output.json(&json!({
            "offset": offset,
            "next_offset": next_offset,
            "text": String::from_utf8_lossy(bytes),
        }))?,
        Detail::Human | Detail::Quiet => output.bytes(bytes)?,
    }
    Ok(())
}
