//! Sites, pilot jobs, slots, health, and the description of all calls.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use broker_core::{Event, Reply};
use protocol::api::{
    Explanation, HandPilot, HandPilotRequest, Page, PilotView, SiteView, SlotView,
};
use protocol::codes::ErrorBody;
use protocol::ids::SiteName;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::{Admin, User};
use super::error::ApiError;
use super::extract::{Ids, JsonBody, Params};
use super::{Answer, App, page_size, wrong_reply};
use crate::tokens::Identity;

/// All sites.
#[utoipa::path(get, path = "/v1/sites", tag = "sites", security(("token" = [])),
    responses((status = 200, body = Page<SiteView>), (status = "default", body = ErrorBody)))]
pub(super) async fn sites(State(app): State<App>, _: User) -> Answer<Json<Page<SiteView>>> {
    let items = app.ask(|broker, now| broker.sites(now)).await?;
    Ok(Json(Page { items, next: None }))
}

/// Why pilots are, or are not, submitted at a site.
#[utoipa::path(get, path = "/v1/sites/{name}/explain", tag = "sites", security(("token" = [])),
    params(("name" = SiteName, Path)),
    responses((status = 200, body = Explanation), (status = "default", body = ErrorBody)))]
pub(super) async fn explain_site(
    State(app): State<App>,
    _: User,
    Ids(name): Ids<SiteName>,
) -> Answer<Json<Explanation>> {
    let missing = ApiError::not_found("site", &name);
    let explanation = app
        .ask(move |broker, now| broker.explain_site(now, &name))
        .await?;
    explanation.map(Json).ok_or(missing)
}

fn site_view(reply: Reply) -> Answer<Json<SiteView>> {
    match reply {
        Reply::Site(view) => Ok(Json(*view)),
        other => Err(wrong_reply(&other)),
    }
}

/// Submits no more pilots at a site, withdraws the queued ones, lets the running ones leave.
#[utoipa::path(post, path = "/v1/sites/{name}/drain", tag = "sites", security(("token" = [])),
    params(("name" = SiteName, Path)),
    responses((status = 200, body = SiteView), (status = "default", body = ErrorBody)))]
pub(super) async fn drain(
    State(app): State<App>,
    Admin(by): Admin,
    Ids(site): Ids<SiteName>,
) -> Answer<Json<SiteView>> {
    site_view(app.step(Event::Drain { site, by }).await?)
}

/// Ends a drain, and a pause after too many failures.
#[utoipa::path(post, path = "/v1/sites/{name}/undrain", tag = "sites", security(("token" = [])),
    params(("name" = SiteName, Path)),
    responses((status = 200, body = SiteView), (status = "default", body = ErrorBody)))]
pub(super) async fn undrain(
    State(app): State<App>,
    Admin(by): Admin,
    Ids(site): Ids<SiteName>,
) -> Answer<Json<SiteView>> {
    site_view(app.step(Event::Undrain { site, by }).await?)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BySite {
    /// Only of this site.
    #[param(value_type = Option<String>)]
    site: Option<SiteName>,
    /// At most so many rows (100; at most 1000).
    limit: Option<u32>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Pilot jobs, oldest first.
#[utoipa::path(get, path = "/v1/pilots", tag = "sites", security(("token" = [])),
    params(BySite),
    responses((status = 200, body = Page<PilotView>), (status = "default", body = ErrorBody)))]
pub(super) async fn pilots(
    State(app): State<App>,
    _: User,
    Params(p): Params<BySite>,
) -> Answer<Json<Page<PilotView>>> {
    let limit = usize::try_from(page_size(p.limit)?).unwrap_or(usize::MAX);
    let page = app
        .ask(move |broker, _| broker.pilots(p.site.as_ref(), limit, p.after.as_deref()))
        .await?;
    Ok(Json(page))
}

/// A key and one-slot token for a pilot that is started by hand.
#[utoipa::path(post, path = "/v1/pilots", tag = "sites", security(("token" = [])),
    request_body = HandPilotRequest,
    responses((status = 201, body = HandPilot), (status = "default", body = ErrorBody)))]
pub(super) async fn hand_pilot(
    State(app): State<App>,
    Admin(by): Admin,
    JsonBody(request): JsonBody<HandPilotRequest>,
) -> Answer<(StatusCode, Json<HandPilot>)> {
    let site = request.site;
    match app
        .step(Event::HandPilot {
            site: site.clone(),
            by,
        })
        .await?
    {
        Reply::HandPilot { key } => {
            let who = Identity::Pilot {
                sub: key.clone(),
                site,
            };
            let expiry = app.clock.now() + app.settings.tokens.pilot;
            let (token, _) = app.issuer.issue(who, expiry);
            Ok((
                StatusCode::CREATED,
                Json(HandPilot {
                    submit_key: key,
                    token,
                }),
            ))
        }
        other => Err(wrong_reply(&other)),
    }
}

/// Slots, oldest first.
#[utoipa::path(get, path = "/v1/slots", tag = "sites", security(("token" = [])),
    params(BySite),
    responses((status = 200, body = Page<SlotView>), (status = "default", body = ErrorBody)))]
pub(super) async fn slots(
    State(app): State<App>,
    _: User,
    Params(p): Params<BySite>,
) -> Answer<Json<Page<SlotView>>> {
    let limit = usize::try_from(page_size(p.limit)?).unwrap_or(usize::MAX);
    let page = app
        .ask(move |broker, _| broker.slots(p.site.as_ref(), limit, p.after.as_deref()))
        .await?;
    Ok(Json(page))
}

/// That the broker serves.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Says that the broker serves and can read its state.
#[utoipa::path(get, path = "/v1/health", tag = "service",
    responses((status = 200, body = Health), (status = "default", body = ErrorBody)))]
pub(super) async fn health(State(app): State<App>) -> Answer<Json<Health>> {
    app.ask(|_, _| ()).await?;
    Ok(Json(Health { status: "ok" }))
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI", body = serde_json::Value)))]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::description())
}
