//! Pilots' calls: register once, then sync again and again.

use axum::Json;
use axum::extract::State;
use broker_core::{Event, Reply, SyncDecision};
use protocol::codes::{ErrorBody, ErrorCode};
use protocol::ids::SubmitKey;
use protocol::messages::{RegisterReply, RegisterRequest, SyncReply, SyncRequest};
use protocol::time::Timestamp;

use super::auth::Pilot;
use super::error::ApiError;
use super::extract::JsonBody;
use super::{Answer, App, wrong_reply};

/// A pilot has started in its slot.
#[utoipa::path(post, path = "/v1/pilot/register", tag = "pilot", security(("token" = [])),
    request_body = RegisterRequest,
    responses((status = 200, body = RegisterReply), (status = "default", body = ErrorBody)))]
pub(super) async fn register(
    State(app): State<App>,
    pilot: Pilot,
    JsonBody(request): JsonBody<RegisterRequest>,
) -> Answer<Json<RegisterReply>> {
    check_version(request.version)?;
    check_key(&pilot, &request.slot.submit_key)?;
    if request.slot.site != pilot.site {
        let (site, own) = (&request.slot.site, &pilot.site);
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            format!("the slot says site `{site}`, the token is for `{own}`"),
        ));
    }
    match app
        .step(Event::Register {
            request: Box::new(request),
        })
        .await?
    {
        Reply::Registered(reply) => Ok(Json(*reply)),
        other => Err(wrong_reply(&other)),
    }
}

/// What a pilot observes, answered with what is wanted of it. The answer is held back while there
/// is nothing to say.
#[utoipa::path(post, path = "/v1/pilot/sync", tag = "pilot", security(("token" = [])),
    request_body = SyncRequest,
    responses((status = 200, body = SyncReply), (status = "default", body = ErrorBody)))]
pub(super) async fn sync(
    State(app): State<App>,
    pilot: Pilot,
    JsonBody(request): JsonBody<SyncRequest>,
) -> Answer<Json<SyncReply>> {
    // The body has been read: later than when the call came in, and so on the safe side for
    // `held`, from which the pilot counts its leases.
    let received = app.clock.now();
    check_version(request.version)?;
    check_key(&pilot, &request.submit_key)?;
    // Before the step, so that news right after it is not missed.
    let mut news = app.wakes.pilots.enter(&request.submit_key);
    let again = request.clone();
    let event = Event::Sync {
        request: Box::new(request),
        received,
    };
    let mut decision = decided(app.step(event).await?)?;
    // A sync of this pilot that we hold still is of a connection that it has given up: the core
    // lets it go when it is looked at again.
    news.wake_others();
    loop {
        let until = match decision {
            SyncDecision::Answer(reply) => return Ok(Json(*reply)),
            SyncDecision::Hold { until } => until,
        };
        tokio::select! {
            () = news.woken() => {}
            () = sleep_until(&app, until) => {}
            () = app.stopped() => return last_answer(&app, again, received).await,
        }
        decision = decided(app.step(poll(&again, received)).await?)?;
    }
}

/// The broker stops: the sync is answered at once, so that the leases in it live on meanwhile.
async fn last_answer(
    app: &App,
    request: SyncRequest,
    received: Timestamp,
) -> Answer<Json<SyncReply>> {
    let request = Box::new(SyncRequest {
        no_hold: true,
        ..request
    });
    match decided(app.step(Event::Sync { request, received }).await?)? {
        SyncDecision::Answer(reply) => Ok(Json(*reply)),
        SyncDecision::Hold { .. } => Err(ApiError::unavailable("the broker is stopping")),
    }
}

fn poll(request: &SyncRequest, received: Timestamp) -> Event {
    Event::SyncPoll {
        submit_key: request.submit_key.clone(),
        incarnation: request.incarnation.clone(),
        boot: request.boot.clone(),
        number: request.number,
        received,
    }
}

async fn sleep_until(app: &App, at: Timestamp) {
    tokio::time::sleep(at.since(app.clock.now()).as_duration()).await;
}

fn decided(reply: Reply) -> Answer<SyncDecision> {
    match reply {
        Reply::Sync(decision) => Ok(decision),
        other => Err(wrong_reply(&other)),
    }
}

fn check_version(version: u32) -> Answer<()> {
    if version < protocol::OLDEST_WIRE_VERSION {
        return Err(ApiError::new(
            ErrorCode::VersionTooOld,
            format!(
                "the pilot speaks version {version}; this broker understands {} and later",
                protocol::OLDEST_WIRE_VERSION
            ),
        ));
    }
    Ok(())
}

/// A pilot speaks for its own pilot job only.
fn check_key(pilot: &Pilot, key: &SubmitKey) -> Answer<()> {
    if pilot.key == *key {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Forbidden,
        format!("the token is for `{}`, not for `{key}`", pilot.key),
    ))
}
