//! The HTTP API under `/v1`: thin handlers that check who calls, ask the owner task, and answer.
//!
//! The paths, bodies and who may call are listed in `protocol::api`; the OpenAPI description is
//! generated from the handlers here and served at `/v1/openapi.json`.

mod admin;
mod auth;
mod consoles;
pub mod error;
mod events;
mod extract;
mod pilot;
mod workspaces;

use std::any::Any;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use broker_core::{Broker, Event, Reply};
use protocol::codes::{ErrorBody, ErrorCode};
use protocol::time::{Span, Timestamp};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Clock;
use crate::config::Settings;
use crate::console::Consoles;
use crate::owner::{Owner, Unavailable};
use crate::store::Reader;
use crate::tokens::Issuer;
use crate::wakes::Wakes;
use error::ApiError;

/// Rows of a page when the caller says nothing, and at most.
const PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;

/// What every handler can reach.
#[derive(Clone, Debug)]
pub struct App {
    /// Decisions.
    pub owner: Owner,
    /// Logs and revocations.
    pub reader: Reader,
    /// Tokens.
    pub issuer: Arc<Issuer>,
    /// Time.
    pub clock: Arc<Clock>,
    /// News.
    pub wakes: Arc<Wakes>,
    /// Consoles.
    pub consoles: Arc<Consoles>,
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Becomes true when the broker stops.
    pub stopping: watch::Receiver<bool>,
}

/// An answer of this API.
type Answer<T> = Result<T, ApiError>;

impl App {
    /// Lets the core take an event; a refusal becomes an error.
    async fn step(&self, event: Event) -> Answer<Reply> {
        match self.owner.step(event).await? {
            Reply::Refused(body) => Err(ApiError(body)),
            reply => Ok(reply),
        }
    }

    /// Asks the core.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Broker, Timestamp) -> T + Send + 'static,
    ) -> Answer<T> {
        Ok(self.owner.ask(question).await?)
    }

    /// Ends when the broker stops.
    async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // A sender that is gone has stopped, too.
        let _ = stopping.wait_for(|stop| *stop).await;
    }

    /// A wait that a caller asks for, within the limit.
    fn wait(&self, wait_ms: Option<u64>) -> Span {
        Span::from_millis(wait_ms.unwrap_or(0)).min(self.settings.http.max_wait)
    }
}

impl From<Unavailable> for ApiError {
    fn from(why: Unavailable) -> Self {
        Self::unavailable(why.to_string())
    }
}

/// A reply of the core that does not belong to the event that was sent.
fn wrong_reply(reply: &Reply) -> ApiError {
    tracing::error!(?reply, "the core gave a reply of the wrong kind");
    ApiError::new(
        ErrorCode::Internal,
        "the broker's core gave no answer; its log says more",
    )
}

fn page_size(limit: Option<u32>) -> Answer<u32> {
    match limit {
        Some(0) => Err(ApiError::bad_request("`limit` is 0; the least is 1")),
        Some(n) => Ok(n.min(LARGEST_PAGE)),
        None => Ok(PAGE),
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "pilot-broker",
    description = "Queues workspaces (virtual machines) and runs them in slots of batch systems."
))]
struct Description;

/// All calls and their description.
fn calls() -> OpenApiRouter<App> {
    let waiting = OpenApiRouter::new()
        .routes(routes!(events::list))
        .routes(routes!(consoles::read))
        .routes(routes!(pilot::sync));
    let prompt = OpenApiRouter::new()
        .routes(routes!(workspaces::submit, workspaces::list))
        .routes(routes!(workspaces::show))
        .routes(routes!(workspaces::cancel))
        .routes(routes!(workspaces::suspend))
        .routes(routes!(workspaces::resume))
        .routes(routes!(workspaces::pause))
        .routes(routes!(workspaces::explain))
        .routes(routes!(admin::sites))
        .routes(routes!(admin::explain_site))
        .routes(routes!(admin::drain))
        .routes(routes!(admin::undrain))
        .routes(routes!(admin::pilots, admin::hand_pilot))
        .routes(routes!(admin::slots))
        .routes(routes!(admin::health))
        .routes(routes!(admin::openapi))
        .routes(routes!(pilot::register))
        .routes(routes!(consoles::write));
    let description = with_tokens(Description::openapi());
    OpenApiRouter::with_openapi(description)
        .merge(waiting)
        .merge(prompt)
}

fn with_tokens(mut description: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    description
}

/// The OpenAPI description of this API.
pub fn description() -> utoipa::openapi::OpenApi {
    calls().into_openapi()
}

/// The whole service.
pub fn router(app: App) -> Router {
    let (router, _) = calls().split_for_parts();
    router
        .fallback(no_such_call)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), in_time))
        .layer(DefaultBodyLimit::max(app.settings.http.body_limit))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(app)
}

/// Gives up what takes too long: the longest wait that any call may ask for, and the time that a
/// call may take beside.
async fn in_time(State(app): State<App>, request: Request, next: Next) -> Response {
    let http = app.settings.http;
    let longest = http.request_timeout + http.max_wait.max(app.settings.core.hold);
    let what = format!("{} {}", request.method(), request.uri().path());
    match tokio::time::timeout(longest.as_duration(), next.run(request)).await {
        Ok(response) => {
            tracing::debug!(
                http.call = what,
                http.status = response.status().as_u16(),
                "answered"
            );
            response
        }
        Err(_) => {
            tracing::warn!(http.call = what, "gave a call up after {longest}");
            ApiError::unavailable(format!("the call took longer than {longest}")).into_response()
        }
    }
}

async fn no_such_call(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is no call `{method} {path}`"),
    )
    .help("GET /v1/openapi.json lists all calls")
}

async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::bad_request(format!("`{path}` does not take {method}"))
        .help("GET /v1/openapi.json lists all calls")
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands it over by value"
)]
fn panicked(what: Box<dyn Any + Send>) -> Response {
    let text = what
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| what.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(panic = text, "a handler panicked");
    let detail = "the broker has a fault; its log says more".to_owned();
    let body = ErrorBody {
        code: ErrorCode::Internal,
        detail,
        help: None,
    };
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}
