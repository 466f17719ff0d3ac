//! One request and its answer: address, token, time limits, repetition, and the sorting of
//! everything that can come back.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use protocol::codes::ErrorBody;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Method, Url};
use serde::de::DeserializeOwned;

use super::{ClientError, ClientSettings, SetupError};
use crate::clock;

/// How calls are repeated that may be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// No new attempt is begun after this time from the first.
    pub give_up_after: Duration,
    /// The pause after the first attempt; doubled from one to the next.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            give_up_after: Duration::from_secs(30),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// One attempt only.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            give_up_after: Duration::ZERO,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
        }
    }

    /// The pause after attempt `n` (from 0): doubled each time, less up to a quarter so that
    /// many clients of a broker that comes back do not all call at once.
    pub(crate) fn pause(&self, n: u32) -> Duration {
        let full = self
            .first_pause
            .saturating_mul(2_u32.saturating_pow(n))
            .min(self.longest_pause);
        let chance = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        full - full * chance / 1024
    }
}

/// Whether a call may be repeated when it is not known whether the broker acted on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Repeat {
    /// It changes nothing, or the broker recognises it.
    Freely,
    /// Only when the broker surely did not act.
    IfNotDone,
}

/// A call before it is sent.
#[derive(Debug)]
pub(super) struct Call {
    pub words: String,
    pub method: Method,
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    pub headers: HeaderMap,
    pub body: Option<Vec<u8>>,
    pub repeat: Repeat,
    /// How long the broker is asked to hold the call.
    pub held: Duration,
}

/// An answer with a success status.
pub(super) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: bytes::Bytes,
}

#[derive(Clone, Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
    base: Url,
    retry: Retry,
    answer_timeout: Duration,
}

impl Transport {
    pub(super) fn new(settings: &ClientSettings) -> Result<Self, SetupError> {
        // The second client of a process finds the provider installed: all is well then.
        drop(rustls::crypto::ring::default_provider().install_default());
        let base = address(&settings.broker)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &settings.token {
            let mut value =
                HeaderValue::from_str(&token.header()).map_err(|_| SetupError::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // The token goes to this broker and nobody else: no redirects, no proxies. Names are
        // resolved as all programs of this machine do.
        let mut http = reqwest::Client::builder()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .no_hickory_dns()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("pilot-submit/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.ca_file {
            let pem = fs::read(path).map_err(|source| SetupError::CaRead {
                path: path.clone(),
                source,
            })?;
            let authorities = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|all| !all.is_empty())
                .ok_or_else(|| SetupError::CaContent { path: path.clone() })?;
            http = http.tls_certs_only(authorities);
        }
        let http = http.build().map_err(|source| SetupError::Tls { source })?;
        Ok(Self {
            http,
            base,
            retry: settings.retry,
            answer_timeout: settings.answer_timeout,
        })
    }

    pub(super) fn set_retry(&mut self, retry: Retry) {
        self.retry = retry;
    }

    /// Sends a call, repeats it as it allows, and reads the JSON of the answer.
    pub(super) async fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ClientError> {
        let answer = self.send(call).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|e| self.unreadable(call, answer.status, &e.to_string()))
    }

    /// Sends a call and repeats it as it allows.
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, ClientError> {
        let begun = clock::mono();
        let mut attempt = 0;
        loop {
            let error = match self.once(call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may = error.is_transient()
                && match call.repeat {
                    Repeat::Freely => true,
                    Repeat::IfNotDone => error.surely_not_done(),
                };
            let pause = self.retry.pause(attempt);
            if !may || begun.elapsed() + pause > self.retry.give_up_after {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn once(&self, call: &Call) -> Result<Answer, ClientError> {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}{}", call.path));
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .timeout(self.answer_timeout + call.held)
            .headers(call.headers.clone());
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(body) = &call.body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let no_answer = |e: &reqwest::Error| match distrust(e) {
            Some(why) => ClientError::Untrusted {
                call: call.words.clone(),
                broker: self.shown_base(),
                why,
            },
            None => ClientError::NoAnswer {
                call: call.words.clone(),
                broker: self.shown_base(),
                why: why(e),
                not_sent: e.is_connect(),
            },
        };
        let response = request.send().await.map_err(|e| no_answer(&e))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(|e| no_answer(&e))?;
        if status.is_success() {
            return Ok(Answer {
                status: status.as_u16(),
                headers,
                body,
            });
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(ClientError::Refused {
                call: call.words.clone(),
                body,
            }),
            Err(_) => Err(self.unreadable(
                call,
                status.as_u16(),
                &format!("not an error of a broker: {}", excerpt(&body)),
            )),
        }
    }

    pub(super) fn unreadable(&self, call: &Call, status: u16, why: &str) -> ClientError {
        ClientError::Unreadable {
            call: call.words.clone(),
            broker: self.shown_base(),
            status,
            why: why.to_owned(),
        }
    }

    fn shown_base(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }
}

/// Checks the address of a broker.
fn address(text: &str) -> Result<Url, SetupError> {
    let refuse = |why: &str| SetupError::Address {
        url: text.to_owned(),
        why: why.to_owned(),
    };
    let in_full = || refuse("write it in full, as in `https://broker.example.org:8443`");
    let url = Url::parse(text).map_err(|_| in_full())?;
    let host = url.host_str().ok_or_else(in_full)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let local = host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if local => {}
        "http" => {
            return Err(refuse(
                "plain http would show the token to the network; use https (http is for loopback addresses)",
            ));
        }
        _ => return Err(refuse("it must begin with https://")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("put no user or password into it; use a token file"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it must end after the host, port or path"));
    }
    Ok(url)
}

/// What is wrong with the other side's certificate, if that is the cause.
fn distrust(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(tls @ rustls::Error::InvalidCertificate(_)) = e.downcast_ref() {
            return Some(tls.to_string());
        }
        // An I/O error gives away its inner error's source, not the inner error itself.
        cause = match e.downcast_ref::<std::io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as _),
            None => e.source(),
        };
    }
    None
}

/// The innermost cause, which says most: `Connection refused (os error 111)`.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() && !error.is_connect() {
        return "it took too long".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn excerpt(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(80)
        .collect();
    if text.trim().is_empty() {
        "an empty body".to_owned()
    } else {
        format!("`{}`", text.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_addresses_are_taken() {
        for good in [
            "https://b.example.org",
            "https://b.example.org:8443/pilots/",
            "http://127.0.0.1:8080",
            "http://localhost:1",
            "http://[::1]:80/",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for (bad, want) in [
            ("b.example.org:8443", "https"),
            ("broker", "in full"),
            ("http://b.example.org", "plain http"),
            ("http://127.0.0.1.example.org", "plain http"),
            ("ftp://b", "https"),
            ("https://u:p@b", "token file"),
            ("https://b/?x=1", "must end"),
        ] {
            let e = address(bad).unwrap_err().to_string();
            assert!(e.contains(want), "{bad}: {e}");
        }
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        let retry = Retry::default();
        for n in 0..40 {
            let full = Duration::from_millis(200 << n.min(10)).min(retry.longest_pause);
            let pause = retry.pause(n);
            assert!(pause <= full && pause >= full * 3 / 4, "{n}: {pause:?}");
        }
    }
}
