//! Who calls: every call but health and the description takes one of these three.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use broker_core::Caller;
use protocol::codes::ErrorCode;
use protocol::ids::{SiteName, SubmitKey};

use super::App;
use super::error::ApiError;
use crate::tokens::{Claims, Identity};

/// A user or an administrator.
pub(super) struct User(pub(super) Caller);

/// An administrator.
pub(super) struct Admin(pub(super) Caller);

/// The pilot of one pilot job.
pub(super) struct Pilot {
    pub(super) key: SubmitKey,
    pub(super) site: SiteName,
}

async fn claims(parts: &Parts, app: &App) -> Result<Claims, ApiError> {
    let refuse = |detail: String| ApiError::new(ErrorCode::Unauthenticated, detail);
    let header = parts.headers.get(AUTHORIZATION).ok_or_else(|| {
        refuse("the call has no token".to_owned())
            .help("send `Authorization: Bearer TOKEN`; `pilot-broker token create` makes tokens")
    })?;
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| refuse("the Authorization header is not `Bearer TOKEN`".to_owned()))?;
    let claims = app
        .issuer
        .check(token, app.clock.now())
        .map_err(|e| refuse(e.to_string()))?;
    let revoked = app
        .reader
        .is_revoked(&claims.id)
        .await
        .map_err(|e| ApiError::internal("check a token", &e))?;
    if revoked {
        return Err(refuse(format!("the token {} was revoked", claims.id)));
    }
    Ok(claims)
}

fn not_for(kind: &str) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, format!("this call is not for {kind}"))
}

impl FromRequestParts<App> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        match claims(parts, app).await?.who {
            Identity::User { sub } => Ok(Self(Caller::User(sub))),
            Identity::Admin { sub } => Ok(Self(Caller::Admin(sub))),
            Identity::Pilot { .. } => Err(not_for("pilots")),
        }
    }
}

impl FromRequestParts<App> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        match claims(parts, app).await?.who {
            Identity::User { .. } => {
                Err(not_for("users").help("it needs an administrator's token"))
            }
            Identity::Admin { sub } => Ok(Self(Caller::Admin(sub))),
            Identity::Pilot { .. } => Err(not_for("pilots")),
        }
    }
}

impl FromRequestParts<App> for Pilot {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        match claims(parts, app).await?.who {
            Identity::User { .. } | Identity::Admin { .. } => {
                Err(not_for("users").help("it needs the token of a pilot job"))
            }
            Identity::Pilot { sub, site } => Ok(Self { key: sub, site }),
        }
    }
}
