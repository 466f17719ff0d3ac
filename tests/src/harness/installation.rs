//! A broker, a simulated LRM and a user, in a directory of their own, on ports of their own.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;
use pilot_submit::client::{Client, ClientSettings, Token};
use protocol::api::{EventView, WorkspaceView};
use protocol::ids::{EventSeq, IdempotencyKey, WorkspaceId};
use protocol::workspace::{WorkspaceSpec, WorkspaceState};
use tempfile::TempDir;

use super::binaries::Binaries;
use super::node::{self, Found, Snapshot};
use super::played;
use super::port::Port;
use super::process::Program;
use super::proxy::Proxy;
use super::setup::{Node, Setup};
use super::wait::{PATIENCE, until};

/// The whole of it. Everything that it started is ended when it is dropped.
#[derive(Debug)]
pub struct Installation {
    // Fields are dropped in this order: the programs before their directory.
    /// The broker, unless it is stopped.
    pub broker: Option<Program>,
    /// The LRM's daemon, unless it is stopped.
    pub lrm: Option<Program>,
    /// A user's client.
    pub user: Client,
    /// An administrator's client.
    pub admin: Client,
    /// The programs.
    pub binaries: Binaries,
    /// The network between pilots and broker, where the set-up has one.
    pub proxy: Option<Proxy>,
    reach: Option<Program>,
    node: Option<Node>,
    url: String,
    before: Snapshot,
    place: PathBuf,
    directory: Option<TempDir>,
    _port: Port,
}

impl Installation {
    /// Writes the configurations, makes the tokens, starts LRM and broker, and waits until both
    /// answer.
    ///
    /// # Errors
    /// Something does not start; the message has the end of its log.
    pub async fn start(setup: &Setup) -> Result<Self> {
        Self::start_with(setup, Binaries::find()?).await
    }

    /// The same with these programs.
    ///
    /// # Errors
    /// Something does not start; the message has the end of its log.
    pub async fn start_with(setup: &Setup, binaries: Binaries) -> Result<Self> {
        // A second call finds the provider in place.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = tempfile::Builder::new();
        builder.prefix("wp-");
        let elsewhere = setup.batch.as_ref().and_then(|b| b.place.as_ref());
        let directory = match elsewhere.or(setup.node.as_ref().map(|n| &n.place)) {
            Some(place) => builder.tempdir_in(place),
            None => builder.tempdir(),
        };
        let directory = directory.context("failed to make a directory")?;
        let place = directory.path().to_owned();
        let before = Snapshot::take(&place.join("scratch"));
        let reserved = Port::take()?;
        let port = reserved.number;
        for sub in ["scratch", "store", "lrm"] {
            fs::create_dir(place.join(sub)).context("failed to make a directory")?;
        }
        fs::write(place.join("lrm.toml"), setup.lrm_config())?;
        let proxy = match setup.proxied {
            true => Some(Proxy::start((Ipv4Addr::LOCALHOST, port).into()).await?),
            false => None,
        };
        let way = proxy.as_ref().map(Proxy::url);
        let (pilot, lrm) = (&binaries.pilot, &binaries.lrm);
        let config = setup.broker_config(&place, pilot, lrm, port, way.as_deref());
        fs::write(place.join("broker.toml"), config)?;
        if setup.played_pbs {
            played::pbs(&place, &binaries.fake)?;
        }
        let url = format!("http://127.0.0.1:{port}");
        let user = client(&binaries, &place, &url, "user", "ada").await?;
        let admin = client(&binaries, &place, &url, "admin", "root").await?;
        let mut it = Self {
            broker: None,
            lrm: None,
            user,
            admin,
            binaries,
            proxy,
            reach: None,
            node: setup.node.clone(),
            url,
            before,
            place,
            directory: Some(directory),
            _port: reserved,
        };
        if let Some(node) = &setup.node {
            let port = port.to_string();
            let words = node.reach.iter().map(String::as_str).chain([port.as_str()]);
            it.reach = Some(it.program("reach", words)?);
        }
        if setup.batch.is_none() {
            it.start_lrm().await?;
        }
        it.start_broker().await?;
        Ok(it)
    }

    /// Its directory.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The broker's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file with the user's token.
    pub fn token_file(&self) -> PathBuf {
        self.place.join("user.token")
    }

    /// Starts the LRM's daemon and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn start_lrm(&mut self) -> Result<()> {
        let config = self.place.join("lrm.toml").display().to_string();
        let words = self.lrm_words(&["serve", "--config", &config]);
        self.lrm = Some(self.program("lrm", words.iter().map(String::as_str))?);
        let up = until("the simulated LRM to answer", PATIENCE, async || {
            Ok(self.lrm_command(&["nodes"]).await.is_ok().then_some(()))
        });
        up.await.with_context(|| self.tail("lrm"))
    }

    /// Starts the broker and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn start_broker(&mut self) -> Result<()> {
        let config = self.place.join("broker.toml").display().to_string();
        let args = ["serve", "--config", &config];
        self.broker = Some(Program::start(
            "pilot-broker",
            &self.binaries.broker,
            &args,
            &self.log("broker"),
        )?);
        let up = until("the broker to answer", PATIENCE, async || {
            Ok(self.admin.once().health().await.is_ok().then_some(()))
        });
        up.await.with_context(|| self.tail("broker"))
    }

    /// Kills the broker with SIGKILL.
    ///
    /// # Errors
    /// It is not running.
    pub async fn kill_broker(&mut self) -> Result<()> {
        self.broker
            .take()
            .context("the broker is not running")?
            .kill()
            .await
    }

    /// Kills the LRM's daemon with SIGKILL; its jobs run on.
    ///
    /// # Errors
    /// It is not running.
    pub async fn kill_lrm(&mut self) -> Result<()> {
        self.lrm
            .take()
            .context("the LRM is not running")?
            .kill()
            .await
    }

    /// Runs `sim-lrm` for this LRM and gives its standard output.
    ///
    /// # Errors
    /// It says no.
    pub async fn lrm_command(&self, args: &[&str]) -> Result<String> {
        let words = self.lrm_words(args);
        let args: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        said(&run(Path::new(&words[0]), &args).await?)
    }

    /// A command of `sim-lrm` for this LRM, where it runs.
    fn lrm_words(&self, args: &[&str]) -> Vec<String> {
        let node = self.node.as_ref();
        let dir = node.map_or_else(|| self.place.join("lrm"), |n| n.lrm.clone());
        let own = [
            self.binaries.lrm.display().to_string(),
            "--dir".to_owned(),
            dir.display().to_string(),
        ];
        let prefix = node.into_iter().flat_map(|n| n.prefix.clone());
        prefix
            .chain(own)
            .chain(args.iter().map(|&a| a.to_owned()))
            .collect()
    }

    /// Starts a program whose log is `name`'s.
    fn program<'a>(&self, name: &str, words: impl Iterator<Item = &'a str>) -> Result<Program> {
        let words: Vec<&str> = words.collect();
        let (program, args) = words.split_first().context("a command without a word")?;
        Program::start(name, Path::new(program), args, &self.log(name))
    }

    /// Runs `pilot-submit` as the user.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn submit_command(&self, args: &[&str]) -> Result<Output> {
        let token = self.token_file().display().to_string();
        let common = ["--broker", self.url(), "--token-file", &token];
        let args: Vec<&str> = common.into_iter().chain(args.iter().copied()).collect();
        run(&self.binaries.submit, &args).await
    }

    /// Queues a request.
    ///
    /// # Errors
    /// It is refused.
    pub async fn queue(&self, spec: &WorkspaceSpec, key: &str) -> Result<WorkspaceId> {
        let key = IdempotencyKey::new(key)?;
        Ok(self.user.submit(&key, spec).await?.id)
    }

    /// A workspace as the user sees it.
    ///
    /// # Errors
    /// The broker does not tell.
    pub async fn show(&self, id: &WorkspaceId) -> Result<WorkspaceView> {
        Ok(self.user.workspace(id).await?)
    }

    /// Waits until a workspace is in `state`.
    ///
    /// # Errors
    /// It does not get there, or ends in another final state; the message has its events.
    pub async fn reaches(&self, id: &WorkspaceId, state: WorkspaceState) -> Result<WorkspaceView> {
        let what = format!("{id} to be {state}");
        let got = until(&what, PATIENCE, async || {
            let view = self.show(id).await?;
            Ok((view.state == state || view.state.is_final()).then_some(view))
        });
        let story = async || self.story(id).await.unwrap_or_default();
        match got.await {
            Ok(view) if view.state == state => Ok(view),
            Ok(view) => bail!(
                "{id} is {} ({:?})\n{}",
                view.state,
                view.reason,
                story().await
            ),
            Err(e) => bail!(
                "{e:#}\n{}\n{}\n{}",
                story().await,
                self.tail("broker"),
                self.pilot_logs()
            ),
        }
    }

    /// All events of a workspace.
    ///
    /// # Errors
    /// The broker does not tell.
    pub async fn events(&self, id: &WorkspaceId) -> Result<Vec<EventView>> {
        let mut all: Vec<EventView> = Vec::new();
        loop {
            let after = all.last().map_or(EventSeq(0), |e| e.seq);
            let page = self.user.events(id, after, None, Duration::ZERO).await?;
            let is_last = page.next.is_none() || page.items.is_empty();
            all.extend(page.items);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// The events of a workspace as text.
    ///
    /// # Errors
    /// The broker does not tell.
    pub async fn story(&self, id: &WorkspaceId) -> Result<String> {
        let lines = self.events(id).await?;
        Ok(lines
            .iter()
            .map(|e| format!("  {} {}: {}\n", e.at, e.kind, e.text))
            .collect())
    }

    /// What the slots have left on the node: anything that has to do with the scratch directory,
    /// interfaces, mounts. Also what of the store is only half made.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found: Vec<String> = Snapshot::take(&self.place.join("scratch"))
            .since(&self.before)
            .iter()
            .map(Found::to_string)
            .collect();
        for entry in fs::read_dir(self.place.join("store/states"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with('.') {
                found.push(format!("unfinished state {}", entry.path().display()));
            }
        }
        found
    }

    /// Waits until no slot has left anything on the node.
    ///
    /// # Errors
    /// Something stays; the message says what.
    pub async fn is_clean(&self) -> Result<()> {
        let clean = until("the node to be as it was", PATIENCE, async || {
            Ok(self.leftovers().is_empty().then_some(()))
        });
        clean
            .await
            .with_context(|| format!("left on the node: {:#?}", self.leftovers()))
    }

    /// The end of a program's log.
    pub fn tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "end of the log of {name}:\n{}",
            lines[lines.len().saturating_sub(40)..].join("\n")
        )
    }

    /// What the pilots of all slots said to their jobs' logs.
    pub fn pilot_logs(&self) -> String {
        let jobs = fs::read_dir(self.place.join("broker/pilot-jobs"));
        let logs = jobs.into_iter().flatten().flatten().filter_map(|job| {
            let text = fs::read_to_string(job.path().join("pilot.log")).ok()?;
            Some(format!("{}:\n{text}", job.path().display()))
        });
        logs.collect::<Vec<_>>().join("\n")
    }

    /// The whole console of a workspace.
    ///
    /// # Errors
    /// The broker does not tell.
    pub async fn console(&self, id: &WorkspaceId) -> Result<String> {
        let (mut bytes, mut offset) = (Vec::new(), 0);
        loop {
            let part = self.user.console(id, offset, Duration::ZERO).await?;
            if part.bytes.is_empty() {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            bytes.extend_from_slice(&part.bytes);
            offset = part.next_offset;
        }
    }

    /// Kills all processes that have to do with a slot's directory, unheard, and waits until none
    /// is left: one that was just being started too.
    ///
    /// # Errors
    /// One does not end.
    pub async fn kill_everything_in_slots(&self) -> Result<()> {
        let scratch = self.place.join("scratch");
        until(
            "the killed processes of slots to end",
            PATIENCE,
            async || Ok((!node::end_all(&scratch)).then_some(())),
        )
        .await
    }

    /// Process ids of the pilots that run now.
    pub fn pilots(&self) -> Vec<Pid> {
        let program = self.binaries.pilot.display().to_string();
        self.processes(&format!("{program} run --slot "))
    }

    /// Process ids of the guests' hypervisors that run now.
    pub fn hypervisors(&self) -> Vec<Pid> {
        self.processes("qemu-system-x86_64 ")
    }

    fn processes(&self, start: &str) -> Vec<Pid> {
        let all = Snapshot::take(&self.place);
        all.iter()
            .filter_map(|f| match f {
                Found::Process { pid, command } if command.starts_with(start) => {
                    Some(Pid::from_raw(*pid))
                }
                Found::Process { .. } | Found::Path(_) | Found::Interface(_) | Found::Mount(_) => {
                    None
                }
            })
            .collect()
    }

    /// Keeps the directory for people to look at, and says where it is.
    pub fn keep(mut self) -> PathBuf {
        self.directory
            .take()
            .map_or_else(PathBuf::new, TempDir::keep)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.place.join(format!("{name}.log"))
    }
}

impl Drop for Installation {
    /// The LRM's jobs outlive its daemon: whatever was started for this place is ended here.
    fn drop(&mut self) {
        for program in [self.broker.take(), self.lrm.take(), self.reach.take()] {
            drop(program);
        }
        node::end_all(&self.place);
    }
}

/// Makes a token of this kind and a client that uses it.
pub(crate) async fn client(
    binaries: &Binaries,
    place: &Path,
    url: &str,
    kind: &str,
    name: &str,
) -> Result<Client> {
    let config = place.join("broker.toml").display().to_string();
    let args = [
        "token", "create", "--config", &config, "--kind", kind, "--name", name,
    ];
    let token = said(&run(&binaries.broker, &args).await?)?;
    let file = place.join(format!("{kind}.token"));
    fs::write(&file, &token)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let mut settings = ClientSettings::new(url);
    settings.token = Some(Token::new(&token)?);
    Ok(Client::new(&settings)?)
}

/// Runs a program to its end.
pub(crate) async fn run(program: &Path, args: &[&str]) -> Result<Output> {
    tokio::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("failed to run {}", program.display()))
}

/// What a program printed, if it went well.
pub(crate) fn said(output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )
}
