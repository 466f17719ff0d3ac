//! The calls, one function each, in the order of [`protocol::api`].

use std::time::Duration;

use protocol::api::{
    CONSOLE_NEXT_OFFSET, EventView, Explanation, HandPilot, HandPilotRequest, IDEMPOTENCY_KEY,
    Page, PilotView, SiteView, SlotView, WorkspaceView,
};
use protocol::ids::{EventSeq, IdempotencyKey, SiteName, SubmitKey, WorkspaceId};
use protocol::workspace::{WorkspaceSpec, WorkspaceState};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use serde::Serialize;

use super::transport::{Call, Repeat};
use super::{Client, ClientError};

/// Which workspaces to list.
#[derive(Clone, Default, Debug)]
pub struct WorkspaceFilter {
    /// Only those in this state.
    pub state: Option<WorkspaceState>,
    /// Only those with this name.
    pub name: Option<String>,
}

/// Which part of a list to get.
#[derive(Clone, Default, Debug)]
pub struct PageRequest {
    /// At most so many rows; the broker has its own limit.
    pub limit: Option<u32>,
    /// The `next` of the part before.
    pub after: Option<String>,
}

impl PageRequest {
    fn query(&self) -> Vec<(&'static str, String)> {
        let limit = self.limit.map(|l| ("limit", l.to_string()));
        let after = self.after.clone().map(|a| ("after", a));
        limit.into_iter().chain(after).collect()
    }
}

/// What an owner can do to a workspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkspaceAction {
    /// End it.
    Cancel,
    /// Write it to the store and keep it out of the queue.
    Suspend,
    /// Let it go on after a suspend or pause.
    Resume,
    /// Stop it, but keep it in memory.
    Pause,
}

impl WorkspaceAction {
    /// The word of the path and of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Pause => "pause",
        }
    }
}

/// A part of a guest's console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsolePart {
    /// What the guest wrote.
    pub bytes: bytes::Bytes,
    /// The offset to ask for next.
    pub next_offset: u64,
}

fn get(words: impl Into<String>, path: impl Into<String>) -> Call {
    Call {
        words: words.into(),
        method: Method::GET,
        path: path.into(),
        query: Vec::new(),
        headers: HeaderMap::new(),
        body: None,
        repeat: Repeat::Freely,
        held: Duration::ZERO,
    }
}

fn post(words: impl Into<String>, path: impl Into<String>, repeat: Repeat) -> Call {
    Call {
        method: Method::POST,
        repeat,
        ..get(words, path)
    }
}

fn body(value: &impl Serialize) -> Option<Vec<u8>> {
    // The types of `protocol::api` have string keys only and no failing serializers.
    serde_json::to_vec(value).ok()
}

fn wait_ms(wait: Duration) -> (&'static str, String) {
    ("wait_ms", wait.as_millis().to_string())
}

/// All calls fail with [`ClientError`]: refused, no answer, or unreadable.
impl Client {
    /// Queues a request. With the same key the same workspace is found again, so that this call
    /// may be repeated, by this client or by its user.
    ///
    /// # Errors
    /// See [`ClientError`]; `KeyReused` when the key was used for another request.
    pub async fn submit(
        &self,
        key: &IdempotencyKey,
        spec: &WorkspaceSpec,
    ) -> Result<WorkspaceView, ClientError> {
        let words = format!("queue `{}`", spec.name);
        let mut call = post(words, "/v1/workspaces", Repeat::Freely);
        // A key has no control characters, so that it can always stand in a header.
        if let Ok(value) = HeaderValue::from_bytes(key.as_str().as_bytes()) {
            call.headers.insert(IDEMPOTENCY_KEY, value);
        }
        call.body = body(spec);
        self.transport.json(&call).await
    }

    /// A part of the list of workspaces: a user's own, an administrator's all.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn workspaces(
        &self,
        filter: &WorkspaceFilter,
        page: &PageRequest,
    ) -> Result<Page<WorkspaceView>, ClientError> {
        let mut call = get("list workspaces", "/v1/workspaces");
        call.query = page.query();
        let state = filter.state.map(|s| ("state", s.to_string()));
        let name = filter.name.clone().map(|n| ("name", n));
        call.query.extend(state.into_iter().chain(name));
        self.transport.json(&call).await
    }

    /// One workspace.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn workspace(&self, id: &WorkspaceId) -> Result<WorkspaceView, ClientError> {
        let call = get(format!("show {id}"), format!("/v1/workspaces/{id}"));
        self.transport.json(&call).await
    }

    /// Does something to a workspace. Not repeated when the broker may have acted.
    ///
    /// # Errors
    /// See [`ClientError`]; `WrongState` when it can't be done where the workspace is.
    pub async fn act(
        &self,
        id: &WorkspaceId,
        action: WorkspaceAction,
    ) -> Result<WorkspaceView, ClientError> {
        let action = action.as_str();
        let path = format!("/v1/workspaces/{id}/{action}");
        let call = post(format!("{action} {id}"), path, Repeat::IfNotDone);
        self.transport.json(&call).await
    }

    /// Events of a workspace after `after`; waits up to `wait` for the first when there are none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(
        &self,
        id: &WorkspaceId,
        after: EventSeq,
        limit: Option<u32>,
        wait: Duration,
    ) -> Result<Page<EventView>, ClientError> {
        let mut call = get(
            format!("get the events of {id}"),
            format!("/v1/workspaces/{id}/events"),
        );
        call.query = vec![("after", after.to_string()), wait_ms(wait)];
        call.query.extend(limit.map(|l| ("limit", l.to_string())));
        call.held = wait;
        self.transport.json(&call).await
    }

    /// Why a workspace is where it is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn explain(&self, id: &WorkspaceId) -> Result<Explanation, ClientError> {
        let path = format!("/v1/workspaces/{id}/explain");
        self.transport
            .json(&get(format!("explain {id}"), path))
            .await
    }

    /// The guest's console from `offset` on; waits up to `wait` when there is nothing new.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn console(
        &self,
        id: &WorkspaceId,
        offset: u64,
        wait: Duration,
    ) -> Result<ConsolePart, ClientError> {
        let mut call = get(
            format!("get the console of {id}"),
            format!("/v1/workspaces/{id}/console"),
        );
        call.query = vec![("offset", offset.to_string()), wait_ms(wait)];
        call.held = wait;
        let answer = self.transport.send(&call).await?;
        let next_offset = answer
            .headers
            .get(CONSOLE_NEXT_OFFSET)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| {
                let why = format!("it has no header `{CONSOLE_NEXT_OFFSET}` with a number");
                self.transport.unreadable(&call, answer.status, &why)
            })?;
        Ok(ConsolePart {
            bytes: answer.body,
            next_offset,
        })
    }

    /// All sites.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sites(&self) -> Result<Page<SiteView>, ClientError> {
        self.transport.json(&get("list sites", "/v1/sites")).await
    }

    /// Why a site is as it is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn explain_site(&self, site: &SiteName) -> Result<Explanation, ClientError> {
        let path = format!("/v1/sites/{site}/explain");
        let call = get(format!("explain the site {site}"), path);
        self.transport.json(&call).await
    }

    /// Stops submitting pilots to a site and lets those there leave. For administrators.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn drain(&self, site: &SiteName) -> Result<SiteView, ClientError> {
        let path = format!("/v1/sites/{site}/drain");
        let call = post(format!("drain {site}"), path, Repeat::Freely);
        self.transport.json(&call).await
    }

    /// Undoes [`Client::drain`]. For administrators.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn undrain(&self, site: &SiteName) -> Result<SiteView, ClientError> {
        let path = format!("/v1/sites/{site}/undrain");
        let call = post(format!("undrain {site}"), path, Repeat::Freely);
        self.transport.json(&call).await
    }

    /// A part of the list of pilot jobs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pilots(
        &self,
        site: Option<&SiteName>,
        page: &PageRequest,
    ) -> Result<Page<PilotView>, ClientError> {
        let mut call = get("list pilots", "/v1/pilots");
        call.query = page.query();
        call.query.extend(site.map(|s| ("site", s.to_string())));
        self.transport.json(&call).await
    }

    /// Registers a pilot that is to be started by hand. For administrators.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn hand_pilot(&self, request: &HandPilotRequest) -> Result<HandPilot, ClientError> {
        let words = format!("get a pilot's key for {}", request.site);
        let mut call = post(words, "/v1/pilots", Repeat::IfNotDone);
        call.body = body(request);
        self.transport.json(&call).await
    }

    /// A part of the list of slots.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn slots(
        &self,
        site: Option<&SiteName>,
        page: &PageRequest,
    ) -> Result<Page<SlotView>, ClientError> {
        let mut call = get("list slots", "/v1/slots");
        call.query = page.query();
        call.query.extend(site.map(|s| ("site", s.to_string())));
        self.transport.json(&call).await
    }

    /// The slot of a pilot job, if it has one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn slot(&self, key: &SubmitKey) -> Result<Option<SlotView>, ClientError> {
        // Lists go by key: those after all but the last character of this one begin with its
        // nearest neighbours, however many slots there have ever been.
        let mut before = key.as_str().to_owned();
        before.pop();
        let mut page = PageRequest {
            limit: None,
            after: (!before.is_empty()).then_some(before),
        };
        loop {
            let part = self.slots(None, &page).await?;
            let passed = part.items.iter().any(|s| s.submit_key > *key);
            if let Some(found) = part.items.into_iter().find(|s| s.submit_key == *key) {
                return Ok(Some(found));
            }
            match part.next {
                // A broker that gives the same place again would keep us for ever.
                Some(next) if !passed && page.after.as_ref() != Some(&next) => {
                    page.after = Some(next);
                }
                _ => return Ok(None),
            }
        }
    }

    /// Whether the broker is there and well.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn health(&self) -> Result<serde_json::Value, ClientError> {
        let call = get("ask for the broker's health", "/v1/health");
        self.transport.json(&call).await
    }

    /// The API's generated description.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        let call = get("get the API's description", "/v1/openapi.json");
        self.transport.json(&call).await
    }
}
