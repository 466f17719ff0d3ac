//! Calls to the broker. A refusal is an answer; everything else that is not an answer is
//! "no answer", which says nothing about whether the broker has acted.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use protocol::codes::{ErrorBody, ErrorCode};
use protocol::messages::{ConsoleReply, RegisterReply, RegisterRequest, SyncReply, SyncRequest};
use protocol::slot_file::BrokerAccess;
use protocol::time::Timestamp;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use serde::de::DeserializeOwned;

use crate::hypervisor::GuestId;

/// The slot's way to its broker.
#[derive(Clone, Debug)]
pub struct BrokerClient {
    http: Client,
    base: Url,
}

/// The broker can't be called at all: something in the slot file is wrong.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The URL can't be used.
    #[error("use `broker.url` = `{url}`: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A file can't be read.
    #[error("read {what} {}", path.display())]
    File {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The token file has something else in it.
    #[error("use the token in {}: it must be one line of plain text", path.display())]
    Token {
        /// Where.
        path: PathBuf,
    },
    /// The client can't be made.
    #[error("set up the connection to the broker")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
}

/// A call that did not bring what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// The broker said no.
    #[error("{text}")]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        text: String,
    },
    /// No answer, or one that can't be read.
    #[error("{0}")]
    NoAnswer(String),
}

impl BrokerClient {
    /// A client for this broker.
    ///
    /// # Errors
    /// URL, token or authorities can't be used.
    pub fn new(access: &BrokerAccess) -> Result<Self, AccessError> {
        let base = base_url(&access.url)?;
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer(&access.token_file)?);
        let client = |source| AccessError::Client { source };
        let mut builder = Client::builder()
            .default_headers(headers)
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("workspace-pilot/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            builder = builder.no_proxy(); // loopback only
        }
        if let Some(path) = &access.ca_file {
            let pem = read("the authorities", path)?;
            let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(client)?;
            builder = builder.tls_certs_only(all);
        }
        let http = builder.build().map_err(client)?;
        Ok(Self { http, base })
    }

    /// `GET /v1/health`: that the broker answers, and the time by its host's clock, cut to the
    /// second; none where something between us leaves that out.
    ///
    /// # Errors
    /// Something else answers there, or nothing within `limit`.
    pub async fn health(&self, limit: Duration) -> Result<Option<Timestamp>, CallError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}v1/health", self.base.path()));
        let answer = self.http.get(url).timeout(limit).send().await;
        let answer = answer.map_err(|e| CallError::NoAnswer(chain(&e)))?;
        if !answer.status().is_success() {
            return Err(CallError::NoAnswer(format!(
                "it answered {}, as no broker does",
                answer.status()
            )));
        }
        let date = answer.headers().get(reqwest::header::DATE);
        Ok(date
            .and_then(|value| value.to_str().ok())
            .and_then(Timestamp::parse_http_date))
    }

    /// `POST /v1/pilot/register`.
    ///
    /// # Errors
    /// Refused, or no answer within `limit`.
    pub async fn register(
        &self,
        request: &RegisterRequest,
        limit: Duration,
    ) -> Result<RegisterReply, CallError> {
        let call = self.post("v1/pilot/register").json(request);
        answer(call.timeout(limit)).await
    }

    /// `POST /v1/pilot/sync`.
    ///
    /// # Errors
    /// Refused, or no answer within `limit`.
    pub async fn sync(
        &self,
        request: &SyncRequest,
        limit: Duration,
    ) -> Result<SyncReply, CallError> {
        answer(self.post("v1/pilot/sync").json(request).timeout(limit)).await
    }

    /// `POST /v1/pilot/console/{workspace}/{generation}?offset=N`.
    ///
    /// # Errors
    /// Refused, or no answer within `limit`.
    pub async fn console(
        &self,
        guest: &GuestId,
        offset: u64,
        chunk: Bytes,
        limit: Duration,
    ) -> Result<ConsoleReply, CallError> {
        let path = format!("v1/pilot/console/{}/{}", guest.workspace, guest.generation);
        let call = self.post(&path).query(&[("offset", offset)]).body(chunk);
        answer(call.timeout(limit)).await
    }

    fn post(&self, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        self.http.post(url)
    }
}

async fn answer<T: DeserializeOwned>(call: RequestBuilder) -> Result<T, CallError> {
    let no_answer = |e: reqwest::Error| CallError::NoAnswer(chain(&e.without_url()));
    let response = call.send().await.map_err(no_answer)?;
    let status = response.status();
    let body = response.bytes().await.map_err(no_answer)?;
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|e| CallError::NoAnswer(format!("the answer can't be read: {e}")));
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { code, detail, help }) => Err(CallError::Refused {
            code,
            text: match help {
                Some(help) => format!("{detail}; {help}"),
                None => detail,
            },
        }),
        // Somebody between us and the broker.
        Err(_) => Err(CallError::NoAnswer(format!("answered with HTTP {status}"))),
    }
}

/// An error with all its sources, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn base_url(text: &str) -> Result<Url, AccessError> {
    let wrong = |why| AccessError::Url {
        url: text.to_owned(),
        why,
    };
    let mut url = Url::parse(text)
        .map_err(|_| wrong("write it as in \"https://broker.example.org:8443\""))?;
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err(wrong(
                "plain http is only for a loopback address; use https",
            ));
        }
        _ => return Err(wrong("it must begin with https://")),
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn bearer(path: &Path) -> Result<HeaderValue, AccessError> {
    let token = read("the token", path)?;
    let wrong = || AccessError::Token {
        path: path.to_owned(),
    };
    let token = std::str::from_utf8(&token).map_err(|_| wrong())?.trim();
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| wrong())?;
    value.set_sensitive(true);
    if token.is_empty() {
        return Err(wrong());
    }
    Ok(value)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|source| AccessError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in [
            "https://b.example.org",
            "http://127.0.0.1:80",
            "http://[::1]:8",
            "http://localhost:1/x",
        ] {
            let url = base_url(good).unwrap();
            assert!(url.path().ends_with('/'), "{good} -> {url}");
        }
        for bad in [
            "http://b.example.org",
            "http://10.0.0.1",
            "ftp://localhost",
            "b.example.org",
            "http://127.0.0.1.example.org",
        ] {
            assert!(base_url(bad).is_err(), "{bad} was taken");
        }
    }
}
