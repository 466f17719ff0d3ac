//! Consoles: pilots bring them, owners follow them.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use protocol::api::CONSOLE_NEXT_OFFSET;
use protocol::codes::{ErrorBody, ErrorCode};
use protocol::ids::{Generation, WorkspaceId};
use protocol::messages::ConsoleReply;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Pilot, User};
use super::error::ApiError;
use super::extract::{Ids, Params, RawBody};
use super::workspaces::visible;
use super::{Answer, App};
use crate::console::Consoles;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadParams {
    /// From this byte on (0).
    offset: Option<u64>,
    /// Wait so long for the first byte when there is none.
    wait_ms: Option<u64>,
}

/// A workspace's console, over all its slots. The header `Console-Next-Offset` says where to go on.
#[utoipa::path(get, path = "/v1/workspaces/{id}/console", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path), ReadParams),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream",
         headers(("Console-Next-Offset" = u64))),
        (status = "default", body = ErrorBody)))]
pub(super) async fn read(
    State(app): State<App>,
    User(caller): User,
    Ids(id): Ids<WorkspaceId>,
    Params(params): Params<ReadParams>,
) -> Answer<Response> {
    let mut news = app.wakes.workspaces.enter(&id);
    visible(&app, caller, id.clone()).await?;
    let offset = params.offset.unwrap_or(0);
    let deadline = tokio::time::sleep(app.wait(params.wait_ms).as_duration());
    tokio::pin!(deadline);
    let mut last_look = false;
    loop {
        let from = id.clone();
        let (bytes, next) = files(&app, "read a console", move |c| c.read(&from, offset)).await?;
        if !bytes.is_empty() || last_look {
            let mut headers = HeaderMap::new();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            );
            let name = HeaderName::from_static("console-next-offset");
            debug_assert!(name.as_str().eq_ignore_ascii_case(CONSOLE_NEXT_OFFSET));
            headers.insert(name, HeaderValue::from(next));
            return Ok((headers, bytes).into_response());
        }
        tokio::select! {
            () = news.woken() => {}
            () = &mut deadline => last_look = true,
            () = app.stopped() => last_look = true,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WriteParams {
    /// Where in the lease's console the body begins.
    offset: u64,
}

/// A piece of a guest's console, from its pilot.
#[utoipa::path(post, path = "/v1/pilot/console/{workspace}/{generation}", tag = "pilot", security(("token" = [])),
    params(("workspace" = WorkspaceId, Path), ("generation" = u64, Path), WriteParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = ConsoleReply), (status = "default", body = ErrorBody)))]
pub(super) async fn write(
    State(app): State<App>,
    pilot: Pilot,
    Ids((workspace, generation)): Ids<(WorkspaceId, Generation)>,
    Params(params): Params<WriteParams>,
    RawBody(bytes): RawBody,
) -> Answer<Json<ConsoleReply>> {
    let (key, id) = (pilot.key.clone(), workspace.clone());
    if !app
        .ask(move |broker, _| broker.had_lease(&key, &id, generation))
        .await?
    {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            format!("`{}` has no lease {generation} of `{workspace}`", pilot.key),
        ));
    }
    let mark = format!("lease {generation}, slot {}", pilot.key);
    let to = workspace.clone();
    let next_offset = files(&app, "keep a console", move |c| {
        c.append(&to, generation, &mark, params.offset, &bytes)
    })
    .await?;
    app.wakes.workspaces.wake(&workspace);
    Ok(Json(ConsoleReply { next_offset }))
}

/// Works on console files away from the threads that serve.
async fn files<T: Send + 'static>(
    app: &App,
    doing: &str,
    work: impl FnOnce(&Consoles) -> io::Result<T> + Send + 'static,
) -> Answer<T> {
    let consoles = Arc::clone(&app.consoles);
    match tokio::task::spawn_blocking(move || work(&consoles)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) if e.kind() == io::ErrorKind::StorageFull => {
            tracing::error!(error = %e, "failed to {doing}");
            Err(ApiError::unavailable("the broker's disk is full"))
        }
        Ok(Err(e)) => Err(ApiError::internal(doing, &e)),
        Err(e) => Err(ApiError::internal(doing, &e)),
    }
}
