//! The one module that makes error answers: status, stable code, detail, help.
//!
//! What went wrong inside is logged here, once, and never sent.

use std::fmt::Display;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::codes::{ErrorBody, ErrorCode};

/// A refusal or failure of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError(pub ErrorBody);

impl ApiError {
    /// A refusal with its code and what is wrong.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(ErrorBody {
            code,
            detail: detail.into(),
            help: None,
        })
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// The body or a parameter is not what the call takes.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, detail)
    }

    /// There is no such thing, or the caller may not know of it: the same answer for both.
    pub fn not_found(what: &str, id: &dyn Display) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no {what} `{id}`"))
    }

    /// The broker can't do it now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, detail).help("try again in a few seconds")
    }

    /// A fault of ours: logged with its chain, told without it.
    pub fn internal(doing: &str, fault: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %Chain(fault), "failed to {doing}");
        Self::new(
            ErrorCode::Internal,
            format!("the broker failed to {doing}; its log says more"),
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = self.0.code;
        let mut response = (status, Json(self.0)).into_response();
        if code == ErrorCode::Unauthenticated {
            let value = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// An error with all its causes, joined by colons.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}
