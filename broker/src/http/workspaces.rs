//! Users' calls on workspaces.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use broker_core::{Caller, Event, Reply, WorkspaceFilter};
use protocol::api::{Explanation, IDEMPOTENCY_KEY, Page, WorkspaceView};
use protocol::codes::ErrorBody;
use protocol::ids::{IdempotencyKey, UserName, WorkspaceId};
use protocol::workspace::{WorkspaceSpec, WorkspaceState};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::User;
use super::error::ApiError;
use super::extract::{Ids, JsonBody, Params};
use super::{Answer, App, page_size, wrong_reply};

/// Queues a workspace. The same key with the same request finds the first one again.
#[utoipa::path(post, path = "/v1/workspaces", tag = "workspaces", security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated call find the first one's workspace")),
    request_body = WorkspaceSpec,
    responses((status = 201, body = WorkspaceView), (status = "default", body = ErrorBody)))]
pub(super) async fn submit(
    State(app): State<App>,
    User(caller): User,
    headers: HeaderMap,
    JsonBody(spec): JsonBody<WorkspaceSpec>,
) -> Answer<(StatusCode, Json<WorkspaceView>)> {
    let key = headers
        .get(IDEMPOTENCY_KEY)
        .map(|value| {
            let text = std::str::from_utf8(value.as_bytes())
                .map_err(|_| ApiError::bad_request("the idempotency key is not UTF-8"))?;
            IdempotencyKey::new(text).map_err(|e| ApiError::bad_request(e.to_string()))
        })
        .transpose()?;
    let event = Event::Submit {
        id: new_id()?,
        owner: caller.name().clone(),
        key,
        spec: Box::new(spec),
    };
    Ok((StatusCode::CREATED, view(app.step(event).await?)?))
}

/// An id that no other workspace has.
fn new_id() -> Answer<WorkspaceId> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let text: String = "ws-".chars().chain(random.chars().take(12)).collect();
    WorkspaceId::new(&text).map_err(|e| ApiError::internal("make a workspace id", &e))
}

fn view(reply: Reply) -> Answer<Json<WorkspaceView>> {
    match reply {
        Reply::Workspace(view) => Ok(Json(*view)),
        other => Err(wrong_reply(&other)),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only in this state.
    #[param(value_type = Option<WorkspaceState>)]
    state: Option<String>,
    /// Only with this name.
    name: Option<String>,
    /// Only of this owner; an administrator sees all otherwise.
    #[param(value_type = Option<String>)]
    owner: Option<UserName>,
    /// At most so many rows (100; at most 1000).
    limit: Option<u32>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Workspaces in order of acceptance: a user's own, an administrator's all.
#[utoipa::path(get, path = "/v1/workspaces", tag = "workspaces", security(("token" = [])),
    params(ListParams),
    responses((status = 200, body = Page<WorkspaceView>), (status = "default", body = ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    User(caller): User,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<WorkspaceView>>> {
    let state = params
        .state
        .map(|s| s.parse())
        .transpose()
        .map_err(ApiError::bad_request)?;
    let limit = usize::try_from(page_size(params.limit)?).unwrap_or(usize::MAX);
    let filter = WorkspaceFilter {
        owner: params.owner,
        state,
        name: params.name,
        limit,
        after: params.after,
    };
    Ok(Json(
        app.ask(move |broker, _| broker.workspaces(&caller, &filter))
            .await?,
    ))
}

/// One workspace.
#[utoipa::path(get, path = "/v1/workspaces/{id}", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path)),
    responses((status = 200, body = WorkspaceView), (status = "default", body = ErrorBody)))]
pub(super) async fn show(
    State(app): State<App>,
    User(caller): User,
    Ids(id): Ids<WorkspaceId>,
) -> Answer<Json<WorkspaceView>> {
    Ok(Json(visible(&app, caller, id).await?))
}

/// The workspace, if it exists and the caller may see it.
pub(super) async fn visible(app: &App, caller: Caller, id: WorkspaceId) -> Answer<WorkspaceView> {
    let missing = ApiError::not_found("workspace", &id);
    app.ask(move |broker, _| broker.workspace(&caller, &id))
        .await?
        .ok_or(missing)
}

/// Ends a workspace.
#[utoipa::path(post, path = "/v1/workspaces/{id}/cancel", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path)),
    responses((status = 200, body = WorkspaceView), (status = "default", body = ErrorBody)))]
pub(super) async fn cancel(
    State(app): State<App>,
    User(by): User,
    Ids(id): Ids<WorkspaceId>,
) -> Answer<Json<WorkspaceView>> {
    view(app.step(Event::Cancel { id, by }).await?)
}

/// Suspends a workspace and keeps it out of the queue until it is resumed.
#[utoipa::path(post, path = "/v1/workspaces/{id}/suspend", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path)),
    responses((status = 200, body = WorkspaceView), (status = "default", body = ErrorBody)))]
pub(super) async fn suspend(
    State(app): State<App>,
    User(by): User,
    Ids(id): Ids<WorkspaceId>,
) -> Answer<Json<WorkspaceView>> {
    view(app.step(Event::Suspend { id, by }).await?)
}

/// Lets a workspace go on after a suspend or a pause.
#[utoipa::path(post, path = "/v1/workspaces/{id}/resume", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path)),
    responses((status = 200, body = WorkspaceView), (status = "default", body = ErrorBody)))]
pub(super) async fn resume(
    State(app): State<App>,
    User(by): User,
    Ids(id): Ids<WorkspaceId>,
) -> Answer<Json<WorkspaceView>> {
    view(app.step(Event::Resume { id, by }).await?)
}

/// Stops a workspace's guest and keeps it in memory.
#[utoipa::path(post, path = "/v1/workspaces/{id}/pause", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path)),
    responses((status = 200, body = WorkspaceView), (status = "default", body = ErrorBody)))]
pub(super) async fn pause(
    State(app): State<App>,
    User(by): User,
    Ids(id): Ids<WorkspaceId>,
) -> Answer<Json<WorkspaceView>> {
    view(app.step(Event::Pause { id, by }).await?)
}

/// Why a workspace is where it is.
#[utoipa::path(get, path = "/v1/workspaces/{id}/explain", tag = "workspaces", security(("token" = [])),
    params(("id" = WorkspaceId, Path)),
    responses((status = 200, body = Explanation), (status = "default", body = ErrorBody)))]
pub(super) async fn explain(
    State(app): State<App>,
    User(caller): User,
    Ids(id): Ids<WorkspaceId>,
) -> Answer<Json<Explanation>> {
    let missing = ApiError::not_found("workspace", &id);
    let explanation = app
        .ask(move |broker, now| broker.explain(now, &caller, &id))
        .await?;
    explanation.map(Json).ok_or(missing)
}
