//! A broker in this process, a client, and pilots that do as they are told by the test.

use std::path::Path;
use std::time::Duration;

use broker::tokens::Identity;
use broker::{Running, Settings};
use protocol::codes::{ErrorBody, ErrorCode};
use protocol::ids::{Incarnation, NodeName, PilotBoot, SiteName, SubmitKey, UserName};
use protocol::lease::{LeasePhase, LeaseReport};
use protocol::messages::{RegisterRequest, SyncReply, SyncRequest};
use protocol::resources::Resources;
use protocol::slot::{EndSource, HostFacts, PilotPhase, SlotFacts, SlotStatus, SlotUse};
use protocol::time::{Span, Timestamp};
use protocol::workspace::{Artefact, Image, WorkspaceSpec};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes so long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const CONFIG: &str = r#"
listen = "127.0.0.1:0"
log = "debug"
[leases]
ttl = "60s"
hold = "20s"
[site.hand]
lrm = "none"
[site.hand.slot]
cores = 4
memory = "4 GiB"
disk = "20 GiB"
"#;

/// A broker with a directory of its own.
pub struct Broker {
    pub running: Running,
    pub dir: TempDir,
    pub client: Client,
}

impl Broker {
    pub async fn start() -> Self {
        Self::start_with(CONFIG).await
    }

    pub async fn start_with(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config).await
    }

    pub async fn start_in(dir: TempDir, config: &str) -> Self {
        let settings = settings(dir.path(), config);
        let running = broker::serve(settings).await.unwrap();
        Self {
            running,
            dir,
            client: client(),
        }
    }

    /// Ends it as a kill would and starts it again on what is on the disk.
    pub async fn restart(self) -> Self {
        self.restart_with(CONFIG).await
    }

    /// The same with this configuration.
    pub async fn restart_with(self, config: &str) -> Self {
        self.running.kill().await;
        Self::start_in(self.dir, config).await
    }

    fn token(&self, who: Identity) -> String {
        let exp = self.running.clock().now() + Span::from_secs(3600);
        self.running.issuer().issue(who, exp).0
    }

    pub fn user(&self, name: &str) -> Caller {
        let token = self.token(Identity::User {
            sub: UserName::new(name).unwrap(),
        });
        self.caller(token)
    }

    pub fn admin(&self) -> Caller {
        let token = self.token(Identity::Admin {
            sub: UserName::new("root").unwrap(),
        });
        self.caller(token)
    }

    pub fn caller(&self, token: impl Into<String>) -> Caller {
        Caller {
            url: self.running.url().to_owned(),
            token: token.into(),
            client: self.client.clone(),
        }
    }

    /// A pilot by hand, registered.
    pub async fn pilot(&self) -> Pilot {
        let hand: protocol::api::HandPilot = self
            .admin()
            .post_json("/v1/pilots", &serde_json::json!({"site": "hand"}))
            .await
            .ok();
        let mut pilot = Pilot::new(self.caller(hand.token), hand.submit_key);
        pilot.register().await;
        pilot
    }
}

pub fn settings(dir: &Path, config: &str) -> Settings {
    Settings::parse("broker.toml", dir, config).unwrap()
}

pub fn client() -> Client {
    // Another test may have been faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .unwrap()
}

/// Somebody with a token.
#[derive(Clone)]
pub struct Caller {
    pub url: String,
    pub token: String,
    pub client: Client,
}

impl Caller {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::POST, path)).await
    }

    pub async fn post_json(&self, path: &str, body: &impl Serialize) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub async fn submit(&self, key: &str, spec: &WorkspaceSpec) -> Answer {
        let request = self.request(Method::POST, "/v1/workspaces");
        Answer::of(request.header("Idempotency-Key", key).json(spec)).await
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Self {
            status,
            headers,
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The same as loose JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.ok()
    }

    /// The body of a refusal; its status must be that of its code.
    #[track_caller]
    pub fn refused(&self, code: ErrorCode) -> ErrorBody {
        let body: ErrorBody = serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text()));
        assert_eq!(
            (body.code, self.status.as_u16()),
            (code, code.status()),
            "{body:?}"
        );
        body
    }
}

pub fn spec(name: &str) -> WorkspaceSpec {
    let kernel = Artefact {
        url: "/images/vmlinux".into(),
        digest: None,
    };
    WorkspaceSpec {
        name: name.into(),
        image: Image {
            kernel: Some(kernel),
            ..Image::default()
        },
        resources: Resources {
            cores: 1,
            memory_mib: 256,
            disk_mib: 100,
        },
        run_time: Span::from_mins(5),
        policy: Default::default(),
        advance_to: Default::default(),
        network: Default::default(),
        context: Default::default(),
    }
}

/// A pilot that the test plays.
#[derive(Clone)]
pub struct Pilot {
    pub caller: Caller,
    pub key: SubmitKey,
    pub boot: PilotBoot,
    pub start: Timestamp,
    pub number: u64,
    pub leases: Vec<LeaseReport>,
}

pub const SLOT: Resources = Resources {
    cores: 4,
    memory_mib: 4096,
    disk_mib: 20_480,
};

impl Pilot {
    pub fn new(caller: Caller, key: SubmitKey) -> Self {
        let boot = PilotBoot::new("boot-1").unwrap();
        let start = broker::clock::Clock::new().now();
        Self {
            caller,
            key,
            boot,
            start,
            number: 0,
            leases: Vec::new(),
        }
    }

    fn end(&self) -> Timestamp {
        self.start + Span::from_mins(60)
    }

    pub fn registration(&self) -> RegisterRequest {
        RegisterRequest {
            version: protocol::WIRE_VERSION,
            boot: self.boot.clone(),
            pilot_version: "test".into(),
            slot: SlotFacts {
                site: SiteName::new("hand").unwrap(),
                submit_key: self.key.clone(),
                incarnation: Incarnation::new("hand/1").unwrap(),
                lrm_job_id: None,
                node: NodeName::new("n1").unwrap(),
                resources: SLOT,
                start: self.start,
                end: self.end(),
                notice: Span::from_secs(30),
                margin: Span::from_secs(2),
            },
            host: HostFacts {
                hypervisor: "null".into(),
                ..HostFacts::default()
            },
        }
    }

    pub async fn register(&mut self) {
        let answer = self
            .caller
            .post_json("/v1/pilot/register", &self.registration())
            .await;
        answer.ok::<protocol::messages::RegisterReply>();
    }

    /// The next sync of this pilot.
    pub fn request(&mut self, no_hold: bool) -> SyncRequest {
        self.number += 1;
        SyncRequest {
            version: protocol::WIRE_VERSION,
            submit_key: self.key.clone(),
            incarnation: Incarnation::new("hand/1").unwrap(),
            boot: self.boot.clone(),
            number: self.number,
            no_hold,
            slot: SlotStatus {
                end: self.end(),
                end_source: EndSource::SlotFile,
                phase: PilotPhase::Open,
                useful: Span::from_mins(50),
            },
            free: SLOT,
            leases: self.leases.clone(),
            suspend_rate: None,
            costs: None,
            events: Vec::new(),
            used: SlotUse::default(),
            discarded: Vec::new(),
        }
    }

    pub async fn sync(&mut self, no_hold: bool) -> SyncReply {
        let request = self.request(no_hold);
        let reply: SyncReply = self.caller.post_json("/v1/pilot/sync", &request).await.ok();
        assert_eq!(reply.number, request.number);
        self.take(&reply);
        reply
    }

    /// Takes up all leases of an answer and lets them run.
    pub fn take(&mut self, reply: &SyncReply) {
        self.leases = reply
            .leases
            .iter()
            .map(|lease| LeaseReport {
                workspace: lease.workspace.clone(),
                generation: lease.generation,
                phase: LeasePhase::Running,
                run: Span::from_secs(1),
                console_bytes: 0,
                checkpoint: None,
            })
            .collect();
    }
}

/// Waits until `condition` gives something.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(done) = condition().await {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("still not: {what}"))
}
