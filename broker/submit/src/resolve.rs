//! From what a person types to a workspace: its id, or the beginning of it.

use protocol::api::WorkspaceView;
use protocol::codes::ErrorCode;
use protocol::ids::WorkspaceId;

use crate::client::{Client, PageRequest, WorkspaceFilter};
use crate::failure::Failure;

/// Finds the workspace whose id is `text`, or else the only one whose id begins with it.
///
/// # Errors
/// There is none, or more than one, or the broker can't be asked.
pub async fn workspace(client: &Client, text: &str) -> Result<WorkspaceView, Failure> {
    let id = WorkspaceId::new(text).map_err(|e| Failure::Usage {
        message: e.to_string(),
        help: "`pilot-submit list` shows the ids of your workspaces".into(),
    })?;
    let not_found = match client.workspace(&id).await {
        Err(e) if e.refused() == Some(ErrorCode::NotFound) => e,
        other => return Ok(other?),
    };
    let mut found: Vec<WorkspaceView> = Vec::new();
    let mut page = PageRequest {
        limit: Some(500),
        after: None,
    };
    loop {
        let part = client
            .workspaces(&WorkspaceFilter::default(), &page)
            .await?;
        let begin_so = |w: &WorkspaceView| w.id.as_str().starts_with(text);
        found.extend(part.items.into_iter().filter(begin_so));
        match part.next {
            // A broker that gives the same place again would keep us for ever.
            Some(next) if page.after.as_ref() != Some(&next) => page.after = Some(next),
            _ => break,
        }
    }
    match found.len() {
        0 => Err(not_found.into()),
        1 => Ok(found.remove(0)),
        n => {
            let some: Vec<&str> = found.iter().take(5).map(|w| w.id.as_str()).collect();
            Err(Failure::Usage {
                message: format!("{n} workspaces have ids that begin with `{text}`"),
                help: format!("write more of it, as in {}", some.join(", ")),
            })
        }
    }
}
