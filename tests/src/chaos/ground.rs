//! The installation that a campaign goes on in: one broker, several sites with a batch system each,
//! and the network between pilots and broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use pilot_submit::client::{Client, PageRequest};
use protocol::api::{EventView, SlotView};
use protocol::ids::{EventSeq, WorkspaceId};
use serde::Deserialize;
use tempfile::TempDir;

use super::sites::{Site, broker_config};
use super::volume::Volume;
use crate::harness::Binaries;
use crate::harness::installation::{client, run, said};
use crate::harness::node::{self, Found, Snapshot};
use crate::harness::port::Port;
use crate::harness::process::Program;
use crate::harness::proxy::Proxy;
use crate::harness::wait::{PATIENCE, until};

/// A job as `sim-lrm queue --json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Job {
    /// The batch system's id.
    pub id: String,
    /// The submit key; none for the site's own jobs.
    #[serde(default)]
    pub key: Option<String>,
    /// The batch system's word for its state.
    pub state: String,
    /// Where it runs or ran.
    #[serde(default)]
    pub node: Option<String>,
}

#[derive(Deserialize)]
struct Listing {
    jobs: Vec<Job>,
}

/// The whole of it. Everything that it started is ended when it is dropped.
#[derive(Debug)]
pub struct Ground {
    // Fields are dropped in this order: the programs before the file system, before the directory.
    broker: Option<Program>,
    lrms: BTreeMap<&'static str, Program>,
    /// The sites.
    pub sites: Vec<Site>,
    /// A user's client, which tries once.
    pub user: Client,
    admin: Client,
    /// The network.
    pub proxy: Proxy,
    /// The programs.
    pub binaries: Binaries,
    before: Snapshot,
    /// The store that can be full, and whose it is.
    pub volume: Option<(&'static str, Volume)>,
    place: PathBuf,
    directory: Option<TempDir>,
    _port: Port,
}

impl Ground {
    /// Starts it. With `small_store` the second site's store is a file system of its own.
    ///
    /// # Errors
    /// Something does not start; the message has the end of its log.
    pub async fn start(sites: Vec<Site>, binaries: Binaries, small_store: bool) -> Result<Self> {
        // A second call finds the provider in place.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::Builder::new().prefix("wp-chaos-").tempdir();
        let directory = directory.context("failed to make a directory")?;
        let place = directory.path().to_owned();
        let made = |p: PathBuf| fs::create_dir_all(p).context("failed to make a directory");
        for site in &sites {
            for sub in ["scratch", "store", "lrm"] {
                made(place.join(sub).join(site.name))?;
            }
            fs::write(place.join(format!("{}.toml", site.name)), site.lrm_config())?;
        }
        let mut volume = None;
        if small_store && let Some(site) = sites.get(1) {
            volume = Some((
                site.name,
                Volume::mount(&place.join("store").join(site.name))?,
            ));
        }
        // What null guests boot: read, and never executed.
        fs::write(place.join("kernel"), [b'k'; 4096])?;
        let before = Snapshot::take(&place.join("scratch"));
        let reserved = Port::take()?;
        let port = reserved.number;
        let proxy = Proxy::start((Ipv4Addr::LOCALHOST, port).into()).await?;
        let (pilot, lrm) = (&binaries.pilot, &binaries.lrm);
        let config = broker_config(&sites, &place, pilot, lrm, port, &proxy.url());
        fs::write(place.join("broker.toml"), config)?;
        let url = format!("http://127.0.0.1:{port}");
        let user = client(&binaries, &place, &url, "user", "ada").await?.once();
        let admin = client(&binaries, &place, &url, "admin", "root").await?;
        let mut it = Self {
            broker: None,
            lrms: BTreeMap::new(),
            sites,
            user,
            admin,
            proxy,
            binaries,
            before,
            volume,
            place,
            directory: Some(directory),
            _port: reserved,
        };
        let names: Vec<&'static str> = it.sites.iter().map(|s| s.name).collect();
        for name in &names {
            it.start_lrm(name)?;
        }
        for name in names {
            let up = until("a batch system to answer", PATIENCE, async || {
                Ok(it.lrm(name, &["nodes"]).await.is_ok().then_some(()))
            });
            up.await.with_context(|| it.tail(name))?;
        }
        it.start_broker()?;
        let up = until("the broker to answer", PATIENCE, async || {
            Ok(it.admin.once().health().await.is_ok().then_some(()))
        });
        up.await.with_context(|| it.tail("broker"))?;
        Ok(it)
    }

    /// Its directory.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The directory with all slots' scratch directories, a directory for each site.
    pub fn scratch(&self) -> PathBuf {
        self.place.join("scratch")
    }

    /// A program's log.
    pub fn log(&self, name: &str) -> PathBuf {
        self.place.join(format!("{name}.log"))
    }

    /// Starts a site's batch system, if it does not run.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_lrm(&mut self, site: &'static str) -> Result<()> {
        if self.lrms.contains_key(site) {
            return Ok(());
        }
        let dir = self.place.join("lrm").join(site).display().to_string();
        let config = self
            .place
            .join(format!("{site}.toml"))
            .display()
            .to_string();
        let args = ["--dir", &dir, "serve", "--config", &config];
        let lrm = Program::start("sim-lrm", &self.binaries.lrm, &args, &self.log(site))?;
        self.lrms.insert(site, lrm);
        Ok(())
    }

    /// Starts the broker, if it does not run.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_broker(&mut self) -> Result<()> {
        if self.broker.is_some() {
            return Ok(());
        }
        let config = self.place.join("broker.toml").display().to_string();
        let args = ["serve", "--config", &config];
        let log = self.log("broker");
        self.broker = Some(Program::start(
            "pilot-broker",
            &self.binaries.broker,
            &args,
            &log,
        )?);
        Ok(())
    }

    /// Kills the broker with SIGKILL; false when it is not there.
    ///
    /// # Errors
    /// It can't be waited for.
    pub async fn kill_broker(&mut self) -> Result<bool> {
        match self.broker.take() {
            Some(mut broker) => broker.kill().await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Kills a batch system's daemon with SIGKILL; false when it is not there.
    ///
    /// # Errors
    /// It can't be waited for.
    pub async fn kill_lrm(&mut self, site: &str) -> Result<bool> {
        match self.lrms.remove(site) {
            Some(mut lrm) => lrm.kill().await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Programs that have ended by themselves, which none should.
    ///
    /// # Errors
    /// They can't be asked.
    pub fn fallen(&mut self) -> Result<Vec<String>> {
        let mut fallen = Vec::new();
        if let Some(broker) = &mut self.broker
            && let Some(status) = broker.ended()?
        {
            fallen.push(format!("the broker has ended with {status}"));
            self.broker = None;
        }
        let mut gone = Vec::new();
        for (site, lrm) in &mut self.lrms {
            if let Some(status) = lrm.ended()? {
                fallen.push(format!(
                    "the batch system of {site} has ended with {status}"
                ));
                gone.push(*site);
            }
        }
        self.lrms.retain(|site, _| !gone.contains(site));
        Ok(fallen)
    }

    /// Runs `sim-lrm` for a site and gives its standard output.
    ///
    /// # Errors
    /// It says no, or does not answer.
    pub async fn lrm(&self, site: &str, args: &[&str]) -> Result<String> {
        let dir = self.place.join("lrm").join(site).display().to_string();
        let common = ["--dir", &dir, "--timeout", "10s"];
        let args: Vec<&str> = common.into_iter().chain(args.iter().copied()).collect();
        said(&run(&self.binaries.lrm, &args).await?)
    }

    /// All jobs that a site's batch system has had.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn jobs(&self, site: &str) -> Result<Vec<Job>> {
        let text = self.lrm(site, &["queue", "--all", "--json"]).await?;
        let listing: Listing = serde_json::from_str(&text).context("failed to read the listing")?;
        Ok(listing.jobs)
    }

    /// All events of a workspace.
    ///
    /// # Errors
    /// The broker does not tell.
    pub async fn events(&self, id: &WorkspaceId) -> Result<Vec<EventView>> {
        let mut all: Vec<EventView> = Vec::new();
        loop {
            let after = all.last().map_or(EventSeq(0), |e| e.seq);
            let page = self.admin.events(id, after, None, Duration::ZERO).await?;
            let is_last = page.next.is_none() || page.items.is_empty();
            all.extend(page.items);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// All slots that there ever were.
    ///
    /// # Errors
    /// The broker does not tell.
    pub async fn slots(&self) -> Result<Vec<SlotView>> {
        let (mut all, mut page) = (Vec::new(), PageRequest::default());
        loop {
            let part = self.admin.slots(None, &page).await?;
            all.extend(part.items);
            page.after = part.next;
            if page.after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Why a request is where it is, in the broker's words.
    pub async fn explain(&self, id: &WorkspaceId) -> String {
        match self.admin.explain(id).await {
            Ok(explanation) => explanation.sentences.join(" "),
            Err(e) => format!("the broker does not explain it: {e}"),
        }
    }

    /// What a site's epilogue does: undoes the slots of dead pilots.
    ///
    /// # Errors
    /// It can't be run.
    pub async fn reclaim(&self, site: &str) -> Result<String> {
        let dir = self.scratch().join(site).display().to_string();
        let output = run(&self.binaries.pilot, &["reclaim", "--node-state", &dir]).await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Removes the slot directories of these pilot jobs that hold no more than the file which the job's
    /// script wrote: a pilot that is killed before it has begun its journal has made nothing, and
    /// nobody knows of the directory.
    ///
    /// # Errors
    /// One can't be removed.
    pub fn clear_unbegun(&self, killed: &BTreeSet<String>) -> Result<()> {
        for site in &self.sites {
            let slots = fs::read_dir(self.scratch().join(site.name));
            for slot in slots.into_iter().flatten().flatten() {
                let name = slot.file_name().to_string_lossy().into_owned();
                let key = name.rsplit_once(".r").map_or("", |(key, _)| key);
                let files = fs::read_dir(slot.path()).into_iter().flatten().flatten();
                let only_script = files.map(|f| f.file_name()).all(|f| f == "slot.toml");
                if killed.contains(key) && only_script {
                    fs::remove_dir_all(slot.path()).context("failed to remove a slot")?;
                }
            }
        }
        Ok(())
    }

    /// What the slots have left: processes and files that have to do with the scratch directories,
    /// mounts below the installation, states that are half made.
    pub fn leftovers(&self) -> Vec<String> {
        let place = self.place.display().to_string();
        let mut found = Vec::new();
        for left in Snapshot::take(&self.scratch()).since(&self.before) {
            let ours = match &left {
                Found::Process { .. } | Found::Path(_) => true,
                Found::Mount(at) => at.starts_with(&place),
                // Null guests have none, and real ones here have no network.
                Found::Interface(_) => false,
            };
            if ours {
                found.push(left.to_string());
            }
        }
        for site in &self.sites {
            let states = self.place.join("store").join(site.name).join("states");
            for entry in fs::read_dir(states).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with('.') {
                    found.push(format!("unfinished state {}", entry.path().display()));
                }
            }
        }
        found
    }

    /// The end of a program's log.
    pub fn tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("end of the log of {name}:\n{last}")
    }

    /// Keeps the directory for people to look at.
    pub fn keep(&mut self) -> PathBuf {
        if let Some(directory) = self.directory.take() {
            let _ = directory.keep();
        }
        self.place.clone()
    }
}

impl Drop for Ground {
    /// The batch systems' jobs outlive their daemons: whatever was started for this place is ended.
    fn drop(&mut self) {
        drop(self.broker.take());
        self.lrms.clear();
        node::end_all(&self.place);
    }
}
