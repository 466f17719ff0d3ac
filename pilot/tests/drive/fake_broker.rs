//! A broker that wants what the test says and remembers what it was told. It answers every sync
//! soon: holding is the real broker's art.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use protocol::codes::{ErrorBody, ErrorCode, Reason};
use protocol::ids::{EventSeq, Generation, WorkspaceId};
use protocol::lease::{DesiredLease, Goal, LeasePhase, Order, StateRef};
use protocol::messages::{ConsoleReply, RegisterReply, RegisterRequest, SyncReply, SyncRequest};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use protocol::workspace::{AdvanceTo, Artefact, Context, Image, Network, Policy, WorkspaceSpec};

struct Book {
    lease_ttl: Span,
    leases: BTreeMap<WorkspaceId, (Goal, Order)>,
    phases: BTreeMap<WorkspaceId, LeasePhase>,
    last: Option<SyncRequest>,
    /// Kinds of all events.
    kinds: BTreeSet<String>,
    /// What the guests said, by workspace.
    consoles: BTreeMap<String, String>,
    leave: Option<Reason>,
    fenced: bool,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            lease_ttl: Span::from_secs(30),
            leases: BTreeMap::new(),
            phases: BTreeMap::new(),
            last: None,
            kinds: BTreeSet::new(),
            consoles: BTreeMap::new(),
            leave: None,
            fenced: false,
        }
    }
}

type Shared = Arc<Mutex<Book>>;

pub struct FakeBroker {
    book: Shared,
    url: String,
    image: tempfile::NamedTempFile,
    _runtime: tokio::runtime::Runtime,
}

impl FakeBroker {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let book = Shared::default();
        let app = Router::new()
            .route("/v1/pilot/register", post(register))
            .route("/v1/pilot/sync", post(sync))
            .route("/v1/pilot/console/{workspace}/{generation}", post(console))
            .with_state(Arc::clone(&book));
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            book,
            url,
            image: tempfile::NamedTempFile::new().unwrap(),
            _runtime: runtime,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn grant(&self, name: &str, run_secs: u64) {
        self.grant_with(name, run_secs, "", Policy::default());
    }

    /// Grants a lease for a null guest with `words` on its command line.
    pub fn grant_with(&self, name: &str, run_secs: u64, words: &str, policy: Policy) {
        let spec = WorkspaceSpec {
            name: name.into(),
            image: Image {
                kernel: Some(Artefact {
                    url: self.image.path().display().to_string(),
                    digest: None,
                }),
                cmdline: Some(words.to_owned()),
                ..Image::default()
            },
            resources: Resources {
                cores: 1,
                memory_mib: 128,
                disk_mib: 0,
            },
            run_time: Span::from_secs(run_secs),
            policy,
            advance_to: AdvanceTo::Finished,
            network: Network::None,
            context: Context::default(),
        };
        let order = Order {
            spec,
            state: None,
            run: Span::ZERO,
            suspends: 0,
        };
        let id = WorkspaceId::new(name).unwrap();
        self.lock().leases.insert(id, (Goal::Run, order));
    }

    pub fn set_goal(&self, name: &str, goal: Goal) {
        let id = WorkspaceId::new(name).unwrap();
        self.lock().leases.get_mut(&id).unwrap().0 = goal;
    }

    pub fn leave(&self, reason: Reason) {
        self.lock().leave = Some(reason);
    }

    /// For answers from now on.
    pub fn lease_ttl(&self, secs: u64) {
        self.lock().lease_ttl = Span::from_secs(secs);
    }

    pub fn fence(&self) {
        self.lock().fenced = true;
    }

    pub fn phase(&self, name: &str) -> Option<LeasePhase> {
        let id = WorkspaceId::new(name).unwrap();
        self.lock().phases.get(&id).cloned()
    }

    /// The newest checkpoint that the pilot has told of.
    pub fn checkpoint(&self, name: &str) -> Option<StateRef> {
        let last = self.lock().last.clone()?;
        let mut leases = last.leases.into_iter();
        leases.find(|l| l.workspace.as_str() == name)?.checkpoint
    }

    pub fn console(&self, name: &str) -> String {
        self.lock().consoles.get(name).cloned().unwrap_or_default()
    }

    pub fn has_event(&self, kind: &str) -> bool {
        self.lock().kinds.contains(kind)
    }

    pub fn last_sync(&self) -> SyncRequest {
        self.lock().last.clone().unwrap()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }
}

async fn register(headers: HeaderMap, Json(request): Json<RegisterRequest>) -> Response {
    assert_eq!(headers["authorization"], "Bearer wp1.test.token");
    assert_eq!(request.host.hypervisor, "null");
    Json(RegisterReply {
        costs: None,
        version: 1,
        lease_ttl: Span::from_secs(30),
        hold: Span::from_millis(100),
        idle_limit: None,
        now: Timestamp::from_secs(1),
    })
    .into_response()
}

async fn sync(State(book): State<Shared>, Json(request): Json<SyncRequest>) -> Response {
    if !request.no_hold {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut book = book.lock().unwrap();
    if book.fenced {
        let body = ErrorBody {
            code: ErrorCode::Fenced,
            detail: "a later incarnation has this slot".into(),
            help: None,
        };
        return (StatusCode::CONFLICT, Json(body)).into_response();
    }
    for report in &request.leases {
        book.phases
            .insert(report.workspace.clone(), report.phase.clone());
    }
    let reply = SyncReply {
        version: 1,
        number: request.number,
        held: Span::ZERO,
        lease_ttl: book.lease_ttl,
        leases: book
            .leases
            .iter()
            .filter(|(id, _)| !matches!(book.phases.get(id), Some(LeasePhase::Ended { .. })))
            .map(|(id, (goal, order))| DesiredLease {
                workspace: id.clone(),
                generation: Generation(1),
                goal: goal.clone(),
                order: (!book.phases.contains_key(id)).then(|| Box::new(order.clone())),
            })
            .collect(),
        slot_end: None,
        watched: false,
        leave: book.leave.clone(),
        acknowledged: request.events.last().map_or(EventSeq(0), |e| e.seq),
        discard: vec![],
    };
    let kinds = request.events.iter().map(|e| e.kind.clone());
    book.kinds.extend(kinds);
    book.last = Some(request);
    Json(reply).into_response()
}

async fn console(
    State(book): State<Shared>,
    Path((workspace, _generation)): Path<(String, u64)>,
    Query(offset): Query<BTreeMap<String, u64>>,
    body: Bytes,
) -> Json<ConsoleReply> {
    let mut book = book.lock().unwrap();
    let console = book.consoles.entry(workspace).or_default();
    console.push_str(&String::from_utf8_lossy(&body));
    Json(ConsoleReply {
        next_offset: offset["offset"] + body.len() as u64,
    })
}
