use broker_core::{BrokerConfig, Caller, Effect, PilotOrder, ProvisionPolicy, SiteConfig};
use protocol::ids::{Generation, SiteName, UserName};
use protocol::lrm::{Observation, SubmitAnswer};
use protocol::resources::Resources;
use protocol::workspace::{AdvanceTo, Artefact, Image, WorkspaceSpec};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::clock::Clock;
use crate::jobs::Tokens;
use crate::jobs::{JobDirs, TOKEN_FILE};
use crate::owner::{self, OwnerTask};
use crate::store::Store;
use crate::tokens::Issuer;
use crate::wakes::Wakes;

/// A broker's core and store, with one site that asks for slots of one guest; nobody carries its
/// effects out.
struct Place {
    shared: Shared,
    consoles: Arc<Consoles>,
    effects: mpsc::UnboundedReceiver<Effect>,
    _dir: tempfile::TempDir,
}

fn site() -> SiteConfig {
    SiteConfig {
        name: SiteName::new("lab").unwrap(),
        preference: 0,
        lrm: Some("sim".into()),
        slot: room(),
        walltime_min: Span::from_mins(5),
        walltime_max: Span::from_mins(60),
        notice: Span::from_secs(30),
        margin: Span::from_secs(2),
        overhead: Span::from_secs(10),
        nodes: 1,
        max_queued: 10,
        max_running: 10,
        idle_limit: None,
        enabled: true,
    }
}

fn room() -> Resources {
    Resources {
        cores: 1,
        memory_mib: 256,
        disk_mib: 256,
    }
}

fn anna() -> UserName {
    UserName::new("anna").unwrap()
}

fn ws(name: &str) -> WorkspaceId {
    WorkspaceId::new(name).unwrap()
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Clock::new());
        let (store, _reader) = Store::open(dir.path()).await.unwrap();
        let (effects, taken) = mpsc::unbounded_channel();
        let (_, stopping) = watch::channel(false);
        let config = BrokerConfig {
            sites: vec![site()],
            provision: ProvisionPolicy {
                attenuation: 1,
                round: Span::ZERO,
                back_off: vec![Span::ZERO],
                absent_listings: 1,
                absent_for: Span::ZERO,
                ..ProvisionPolicy::default()
            },
            ..BrokerConfig::default()
        };
        let task = OwnerTask {
            store,
            config,
            clock: Arc::clone(&clock),
            wakes: Arc::new(Wakes::default()),
            effects,
            stopping: stopping.clone(),
        };
        let (owner, _) = owner::start(task).await.unwrap();
        let shared = Shared {
            owner,
            clock,
            issuer: Arc::new(Issuer::open(dir.path()).unwrap()),
            dirs: JobDirs::open(dir.path()).unwrap(),
            url: "http://127.0.0.1:1".into(),
            token_life: Span::from_mins(60),
            stopping,
        };
        let consoles = Consoles::open(dir.path().join("consoles"), 1 << 20).unwrap();
        Self {
            shared,
            consoles: Arc::new(consoles),
            effects: taken,
            _dir: dir,
        }
    }

    /// Queues a request, and gives the pilot job that is submitted for it.
    async fn submit(&mut self, name: &str) -> PilotOrder {
        let spec = WorkspaceSpec {
            name: name.into(),
            image: Image {
                kernel: Some(Artefact {
                    url: "/vmlinux".into(),
                    digest: None,
                }),
                ..Image::default()
            },
            resources: room(),
            run_time: Span::from_mins(50),
            policy: protocol::workspace::Policy {
                may_be_killed: true,
                ..Default::default()
            },
            advance_to: AdvanceTo::Finished,
            network: Default::default(),
            context: Default::default(),
        };
        self.tell(Event::Submit {
            id: ws(name),
            owner: anna(),
            key: None,
            spec: Box::new(spec),
        })
        .await;
        loop {
            let effect = self.effects.recv().await.unwrap();
            if let Effect::SubmitPilot(order) = effect {
                self.shared
                    .dirs
                    .make(&order.key, &Tokens::One("secret".to_owned()))
                    .unwrap();
                return order;
            }
        }
    }

    async fn tell(&self, event: Event) {
        let reply = self.shared.owner.step(event.clone()).await.unwrap();
        assert!(!matches!(reply, Reply::Refused(_)), "{event:?}: {reply:?}");
    }

    async fn answer(&self, order: &PilotOrder, answer: SubmitAnswer) {
        let key = order.key.clone();
        self.tell(Event::LrmSubmitted { key, answer }).await;
    }

    fn has_token(&self, order: &PilotOrder) -> bool {
        let path = self.shared.dirs.path(&order.key);
        path.join(TOKEN_FILE).exists()
    }
}

#[tokio::test]
async fn a_token_goes_when_its_job_cannot_come_any_more() {
    let mut place = Place::new().await;
    let lost = place.submit("ws-1").await;
    place
        .answer(&lost, SubmitAnswer::NoAnswer("hung".into()))
        .await;
    place
        .tell(Event::LrmFound {
            key: lost.key.clone(),
            observation: Observation::Listing(Vec::new()),
        })
        .await;
    let refused = place.submit("ws-2").await;
    place
        .answer(&refused, SubmitAnswer::Refused("no".into()))
        .await;
    let keys = [lost.key.clone(), refused.key.clone()];
    let states = place.shared.owner.ask(move |broker, _| {
        keys.map(|key| broker.pilot(&key).unwrap().state) // both are over for the core
    });
    assert_eq!(states.await.unwrap(), [PilotState::Ended; 2]);
    let week = Span::from_mins(7 * 24 * 60);
    clear_directories(&place.shared, week).await.unwrap();
    assert!(place.has_token(&lost), "the LRM may have it after all");
    assert!(!place.has_token(&refused));
}

#[tokio::test]
async fn what_is_forgotten_takes_its_console_along() {
    let mut place = Place::new().await;
    for name in ["ws-1", "ws-2"] {
        place.submit(name).await;
        (place.consoles)
            .append(&ws(name), Generation(1), "lease 1", 0, b"hello")
            .unwrap();
    }
    let by = Caller::User(anna());
    let id = ws("ws-1");
    place.tell(Event::Cancel { id, by }).await;
    let ended = place.shared.clock.now();
    while place.shared.clock.now() <= ended {
        tokio::task::yield_now().await;
    }
    let day = Span::from_mins(24 * 60);
    assert_eq!(forget(&place.shared, day).await, 0);
    assert_eq!(forget(&place.shared, Span::ZERO).await, 1);
    clear_consoles(&place.shared, &place.consoles)
        .await
        .unwrap();
    let left = place.consoles.workspaces().unwrap();
    assert_eq!(left, [ws("ws-2")].into());
}
