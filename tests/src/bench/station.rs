//! A broker of its own, and pilots that are started by hand: no batch system is in the way.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pilot_submit::client::{Client, ClientSettings, Token};
use protocol::api::HandPilotRequest;
use protocol::ids::SiteName;
use protocol::time::Span;
use tempfile::TempDir;

use super::{Options, clock};
use crate::harness::node::Snapshot;
use crate::harness::process::Program;
use crate::harness::wait::{PATIENCE, until};

/// The only site.
pub(super) const SITE: &str = "bench";
/// No slot here ends by itself.
const SLOT: Span = Span::from_mins(120);

/// Everything that it started is ended when it is dropped.
#[derive(Debug)]
pub(super) struct Station {
    // Dropped in this order: the broker before its directory.
    broker: Program,
    /// A user's client.
    pub user: Client,
    /// An administrator's client.
    pub admin: Client,
    /// Where the broker serves.
    pub address: SocketAddr,
    pilot: PathBuf,
    slots: std::cell::Cell<u32>,
    directory: TempDir,
}

/// A slot that waits for its pilot.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its directory on the node, which the pilot makes and removes.
    pub scratch: PathBuf,
    file: PathBuf,
    log: PathBuf,
}

impl Station {
    /// Starts a broker with its defaults, but for the lines of `more` at the top.
    pub(super) async fn start(options: &Options, more: &str) -> Result<Self> {
        // A second call finds the provider in place.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(&options.programs)
            .context("failed to make a directory beside the programs")?;
        let place = directory.path();
        for sub in ["scratch", "store"] {
            fs::create_dir(place.join(sub)).context("failed to make a directory")?;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|l| l.local_addr())
            .context("failed to find a port")?
            .port();
        let config = place.join("broker.toml");
        fs::write(&config, broker_config(port, more)).context("failed to write a file")?;
        let program = options.programs.join("pilot-broker");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let user = client(&program, &config, address, "user").await?;
        let admin = client(&program, &config, address, "admin").await?;
        let log = place.join("broker.log");
        let shown = config.display().to_string();
        let broker = Program::start(
            "pilot-broker",
            &program,
            &["serve", "--config", &shown],
            &log,
        )?;
        let up = until("the broker to answer", PATIENCE, async || {
            Ok(admin.once().health().await.is_ok().then_some(()))
        });
        up.await
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Self {
            broker,
            user,
            admin,
            address,
            pilot: options.pilot(),
            slots: std::cell::Cell::new(0),
            directory,
        })
    }

    /// The store of suspended states; on the disk that all baselines are measured on.
    pub(super) fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Makes a slot in which a pilot can be started; it calls the broker at `url`.
    pub(super) async fn slot(&self, url: &str) -> Result<Slot> {
        let site = SiteName::new(SITE)?;
        let given = self.admin.hand_pilot(&HandPilotRequest { site }).await?;
        let n = self.slots.get() + 1;
        self.slots.set(n);
        let place = self.directory.path();
        let token = place.join(format!("token-{n}"));
        fs::write(&token, &given.token).context("failed to write a token")?;
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
        let scratch = place.join("scratch").join(n.to_string());
        let file = place.join(format!("slot-{n}.toml"));
        let key = &given.submit_key;
        let start = clock::wall();
        let text = format!(
            r#"version = 1
site = "{SITE}"
submit_key = "{key}"
incarnation = "1"
node = "here"
[broker]
url = "{url}"
token_file = "{token}"
[resources]
cores = 2
memory = "2 GiB"
disk = "8 GiB"
[clock]
start = "{start}"
end = "{end}"
notice = "60s"
[paths]
scratch = "{scratch}"
store = "{store}"
[hypervisor]
kind = "qemu"
accelerator = "tcg"
"#,
            token = token.display(),
            end = start + SLOT,
            scratch = scratch.display(),
            store = self.store().display(),
        );
        fs::write(&file, text).context("failed to write a slot file")?;
        Ok(Slot {
            scratch,
            file,
            log: place.join(format!("pilot-{n}.log")),
        })
    }

    /// Starts a pilot in the slot.
    pub(super) fn pilot(&self, slot: &Slot) -> Result<Program> {
        let file = slot.file.display().to_string();
        Program::start("pilot", &self.pilot, &["run", "--slot", &file], &slot.log)
    }

    /// What is left of a slot, of the processes and files of its pilot.
    pub(super) fn left(&self, slot: &Slot) -> Vec<String> {
        // What the slot's pilot started has the scratch directory in its command line or
        // environment; the pilot itself has the slot file.
        let of_slot = Snapshot::take(&slot.scratch);
        let mut left: Vec<String> = of_slot.iter().filter_map(of_the_node).collect();
        left.extend(
            slot.scratch
                .exists()
                .then(|| slot.scratch.display().to_string()),
        );
        let states = fs::read_dir(self.store().join("states"));
        for entry in states.into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A state whose removal has begun is no longer the slot's: the next pilot goes on.
            if name.starts_with('.') && !name.ends_with(".gone") {
                left.push(name);
            }
        }
        left
    }

    /// The end of a pilot's log.
    pub(super) fn log(&self, slot: &Slot) -> String {
        let text = fs::read_to_string(&slot.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Resident memory of the broker, MB.
    pub(super) fn broker_memory(&self) -> Result<f64> {
        Ok(super::memory::of(self.broker.pid())?.resident)
    }

    /// Ends a pilot and waits until its slot is empty.
    pub(super) async fn end(&self, slot: &Slot, mut pilot: Program) -> Result<()> {
        pilot.stop().await?;
        let empty = until(
            "the slot to be empty",
            Duration::from_secs(30),
            async || Ok(self.left(slot).is_empty().then_some(())),
        );
        empty
            .await
            .with_context(|| format!("left: {:?}\n{}", self.left(slot), self.log(slot)))
    }
}

fn of_the_node(found: &crate::harness::node::Found) -> Option<String> {
    use crate::harness::node::Found;
    match found {
        Found::Process { .. } | Found::Path(_) => Some(found.to_string()),
        Found::Interface(_) | Found::Mount(_) => None,
    }
}

fn broker_config(port: u16, more: &str) -> String {
    format!(
        r#"listen = "127.0.0.1:{port}"
state_dir = "broker"
log = "warn"
{more}
[site.{SITE}]
lrm = "none"
notice = "60s"
idle_limit = "2h"
[site.{SITE}.slot]
cores = 2
memory = "2 GiB"
disk = "8 GiB"
"#
    )
}

async fn client(program: &Path, config: &Path, address: SocketAddr, kind: &str) -> Result<Client> {
    let output = tokio::process::Command::new(program)
        .args([
            "token", "create", "--kind", kind, "--name", kind, "--config",
        ])
        .arg(config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("failed to run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "no token: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let mut settings = ClientSettings::new(format!("http://{address}"));
    settings.token = Some(Token::new(&String::from_utf8_lossy(&output.stdout))?);
    Ok(Client::new(&settings)?)
}
