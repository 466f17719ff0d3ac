//! `cancel`, `suspend`, `resume`, `pause`.

use protocol::codes::exit;

use crate::cli::Several;
use crate::client::{Client, WorkspaceAction};
use crate::failure::Failure;
use crate::output::{Detail, Output};
use crate::resolve;

/// Does the same to several workspaces. One that it can't be done to does not keep the others
/// from it; the exit code is that of the first failure.
pub async fn act(
    client: &Client,
    output: &Output,
    several: Several,
    action: WorkspaceAction,
) -> Result<i32, Failure> {
    let mut code = exit::OK;
    for text in several.ids {
        if let Err(failure) = one(client, output, &text, action).await {
            failure.print(output);
            if code == exit::OK {
                code = failure.exit_code();
            }
        }
    }
    Ok(code)
}

async fn one(
    client: &Client,
    output: &Output,
    text: &str,
    action: WorkspaceAction,
) -> Result<(), Failure> {
    let id = resolve::workspace(client, text).await?.id;
    let view = client.act(&id, action).await?;
    match output.detail {
        Detail::Json => output.json(&view)?,
        Detail::Quiet => output.line(view.id.as_str())?,
        Detail::Human => {
            let (name, state) = (&view.spec.name, view.state);
            output.line(&format!(
                "{id} ({name}): {} is asked for; it is {state}",
                action.as_str()
            ))?;
        }
    }
    Ok(())
}
