//! A workspace's log, by page, and followed by long poll.

use axum::Json;
use axum::extract::State;
use broker_core::records::{EventRecord, Log};
use protocol::api::{EventView, Page};
use protocol::codes::ErrorBody;
use protocol::ids::{EventSeq, WorkspaceId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::User;
use super::error::ApiError;
use super::extract::{Ids, Params};
use super::workspaces::visible;
use super::{Answer, App, page_size};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// Only events after this number (0).
    after: Option<u64>,
    /// At most so many (100; at most 1000).
    limit: Option<u32>,
    /// Wait so long for the first one when there are none.
    wait_ms: Option<u64>,
}

/// The events of a workspace, oldest first.
#[utoipa::path(get, path = "/v1/workspaces/{id}/events", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path), EventParams),
    responses((status = 200, body = Page<EventView>), (status = "default", body = ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    User(caller): User,
    Ids(id): Ids<WorkspaceId>,
    Params(params): Params<EventParams>,
) -> Answer<Json<Page<EventView>>> {
    let limit = page_size(params.limit)?;
    let after = EventSeq(params.after.unwrap_or(0));
    let mut news = app.wakes.workspaces.enter(&id);
    visible(&app, caller, id.clone()).await?;
    let log = Log::Workspace(id);
    let deadline = tokio::time::sleep(app.wait(params.wait_ms).as_duration());
    tokio::pin!(deadline);
    loop {
        let events = app
            .reader
            .events(&log, after, limit)
            .await
            .map_err(|e| ApiError::internal("read the events", &e))?;
        if !events.is_empty() || deadline.is_elapsed() {
            let full = events.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
            let next = events.last().filter(|_| full).map(|e| e.seq.to_string());
            return Ok(Json(Page {
                items: events.into_iter().map(view).collect(),
                next,
            }));
        }
        tokio::select! {
            () = news.woken() => {}
            () = &mut deadline => {}
            () = app.stopped() => return Ok(Json(Page { items: Vec::new(), next: None })),
        }
    }
}

fn view(event: EventRecord) -> EventView {
    EventView {
        seq: event.seq,
        at: event.at,
        kind: event.kind,
        state: event.state,
        generation: event.generation,
        slot: event.slot,
        text: event.text,
        data: event.data,
    }
}
