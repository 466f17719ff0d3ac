//! The loops that talk to the sites' LRMs: for each site one that runs submits, look-ups and
//! cancels, one after the other, and for each account one that asks for the listing.
//!
//! What an LRM says goes to the core as an event. What it does not say is said, too.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use broker_core::{CancelScope, Effect, Event, PilotOrder};
use lrm_adapters::{LocalResourceManager, Lrm};
use protocol::ids::{IdError, SiteName, SubmitKey};
use protocol::lrm::SubmitAnswer;
use protocol::time::Span;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config::{JobSettings, Settings, Site};
use crate::jobs::{JobDirs, Tokens};
use crate::listings::{Listing, listings};
use crate::owner::{Owner, Unavailable};
use crate::pilot_jobs;
use crate::tokens::{Identity, Issuer};

/// Between two tries to tell the core something while the store can't be written.
const RETRY: Span = Span::from_secs(1);

/// What all loops share.
#[derive(Clone)]
pub struct Shared {
    /// Takes what LRMs say.
    pub owner: Owner,
    /// Time.
    pub clock: Arc<Clock>,
    /// Makes pilots' tokens.
    pub issuer: Arc<Issuer>,
    /// Pilot jobs' directories.
    pub dirs: JobDirs,
    /// How nodes reach this broker, where a site says nothing else.
    pub url: String,
    /// Life of a pilot's token.
    pub token_life: Span,
    /// Becomes true when the broker stops.
    pub stopping: watch::Receiver<bool>,
}

/// One site with an LRM.
struct SiteLoop {
    name: SiteName,
    site: Site,
    job: JobSettings,
    lrm: Lrm,
    shared: Shared,
}

/// Starts the loops of all sites; `effects` are handed to the site that they are for. All end
/// when the broker stops; a command that is under way is given a moment.
pub fn start(
    settings: &Settings,
    shared: &Shared,
    effects: mpsc::UnboundedReceiver<Effect>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (mut sites, mut loops) = (BTreeMap::new(), BTreeMap::new());
    for (name, site) in &settings.sites {
        let Some((lrm, job)) = pilot_jobs::adapter(site) else {
            continue;
        };
        let site_loop = Arc::new(SiteLoop {
            name: name.clone(),
            site: site.clone(),
            job: job.clone(),
            lrm,
            shared: shared.clone(),
        });
        let (tx, rx) = mpsc::unbounded_channel();
        sites.insert(name.clone(), tx);
        tasks.spawn(Arc::clone(&site_loop).commands(rx));
        loops.insert(name.clone(), site_loop);
    }
    for listing in listings(&settings.sites) {
        let first = listing.sites.first().and_then(|name| loops.get(name));
        if let Some(site_loop) = first {
            tasks.spawn(Arc::clone(site_loop).observe(listing));
        }
    }
    tasks.spawn(route(sites, effects, shared.stopping.clone()));
    tasks
}

async fn route(
    sites: BTreeMap<SiteName, mpsc::UnboundedSender<Effect>>,
    mut effects: mpsc::UnboundedReceiver<Effect>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let effect = tokio::select! {
            effect = effects.recv() => effect,
            _ = stopping.wait_for(|stop| *stop) => None,
        };
        let Some(effect) = effect else { return };
        let site = match &effect {
            Effect::SubmitPilot(order) => &order.site,
            Effect::LookUp { site, .. } | Effect::CancelPilot { site, .. } => site,
            Effect::Wake(_) => continue,
        };
        match sites.get(site) {
            // It ends only together with us.
            Some(to) => drop(to.send(effect)),
            None => {
                tracing::debug!(site.name = %site, "a pilot job's site is not configured with an LRM any more");
            }
        }
    }
}

impl SiteLoop {
    /// Runs commands one after the other. The core repeats what it has no answer to; what is
    /// waiting already is not queued twice.
    async fn commands(self: Arc<Self>, mut effects: mpsc::UnboundedReceiver<Effect>) {
        let mut stopping = self.shared.stopping.clone();
        let mut queue = VecDeque::new();
        loop {
            if queue.is_empty() {
                tokio::select! {
                    effect = effects.recv() => match effect {
                        Some(effect) => queue.push_back(effect),
                        None => return,
                    },
                    _ = stopping.wait_for(|stop| *stop) => return,
                }
            }
            while let Ok(effect) = effects.try_recv() {
                if !queue.contains(&effect) {
                    queue.push_back(effect);
                }
            }
            if *stopping.borrow() {
                return;
            }
            if let Some(effect) = queue.pop_front()
                && self.carry_out(effect).await.is_err()
            {
                return;
            }
        }
    }

    async fn carry_out(&self, effect: Effect) -> Result<(), Unavailable> {
        let event = match effect {
            Effect::SubmitPilot(order) => {
                let key = order.key.clone();
                let answer = self.submit(order).await;
                match &answer {
                    SubmitAnswer::Accepted(id) => {
                        tracing::info!(site.name = %self.name, pilot.key = %key, lrm.job = %id, "submitted a pilot job");
                    }
                    SubmitAnswer::Refused(why) | SubmitAnswer::NoAnswer(why) => {
                        tracing::warn!(site.name = %self.name, pilot.key = %key, error = why, "failed to submit a pilot job");
                    }
                }
                Event::LrmSubmitted { key, answer }
            }
            Effect::LookUp { key, .. } => {
                let observation = self.lrm.find_by_key(&key).await;
                Event::LrmFound { key, observation }
            }
            Effect::CancelPilot {
                key, job, scope, ..
            } => {
                let answer = match scope {
                    CancelScope::Whatever => self.lrm.cancel(&job, &key).await,
                    CancelScope::WhileQueued => self.lrm.withdraw(&job, &key).await,
                };
                tracing::info!(site.name = %self.name, pilot.key = %key, lrm.job = %job, ?answer, "cancelled a pilot job");
                Event::LrmCancelled { key, answer }
            }
            Effect::Wake(_) => return Ok(()),
        };
        self.tell(event).await
    }

    /// Tells the core, however long the store can't be written.
    async fn tell(&self, event: Event) -> Result<(), Unavailable> {
        loop {
            match self.shared.owner.step(event.clone()).await {
                Ok(_) => return Ok(()),
                Err(Unavailable::Stopping) => return Err(Unavailable::Stopping),
                Err(Unavailable::Store) => tokio::time::sleep(RETRY.as_duration()).await,
            }
        }
    }

    /// A token for the pilot on each node, good for that one's calls only.
    fn tokens(&self, order: &PilotOrder) -> Result<Tokens, IdError> {
        let expiry = self.shared.clock.now() + self.shared.token_life;
        let token = |sub: SubmitKey| {
            let site = order.site.clone();
            let who = Identity::Pilot { sub, site };
            self.shared.issuer.issue(who, expiry).0
        };
        if order.nodes == 1 {
            return Ok(Tokens::One(token(order.key.clone())));
        }
        let members = (0..order.nodes).map(|rank| Ok(token(order.key.member(rank)?)));
        members.collect::<Result<_, _>>().map(Tokens::ByRank)
    }

    /// Makes the directory with the tokens, durably, and only then asks the LRM.
    async fn submit(&self, order: PilotOrder) -> SubmitAnswer {
        let tokens = match self.tokens(&order) {
            Ok(tokens) => tokens,
            Err(e) => return SubmitAnswer::Refused(e.to_string()),
        };
        let (dirs, key) = (self.shared.dirs.clone(), order.key.clone());
        let made = tokio::task::spawn_blocking(move || dirs.make(&key, &tokens)).await;
        match made {
            Ok(Ok(_)) => {
                let Shared { dirs, url, .. } = &self.shared;
                let job = pilot_jobs::pilot_job(order, &self.site, &self.job, dirs, url);
                self.lrm.submit(&job).await
            }
            Ok(Err(e)) => SubmitAnswer::Refused(format!(
                "the broker could not make the directory `{}`: {e}",
                self.shared.dirs.path(&order.key).display()
            )),
            Err(e) => {
                SubmitAnswer::Refused(format!("the broker could not make its directory: {e}"))
            }
        }
    }

    /// Asks for the listing every `poll`, one command at a time, and tells it to all sites whose
    /// jobs are in it.
    async fn observe(self: Arc<Self>, listing: Listing) {
        let mut stopping = self.shared.stopping.clone();
        loop {
            let observation = tokio::select! {
                observation = self.lrm.observe() => observation,
                _ = stopping.wait_for(|stop| *stop) => return,
            };
            for site in &listing.sites {
                let event = Event::LrmObserved {
                    site: site.clone(),
                    observation: observation.clone(),
                };
                // One that can't be recorded is followed by the next.
                if let Err(Unavailable::Stopping) = self.shared.owner.step(event).await {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(listing.poll.as_duration()) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
        }
    }
}
