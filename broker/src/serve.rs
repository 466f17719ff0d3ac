//! Putting the service together: state directory, store, owner, loops, listener; and taking it
//! apart again.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::clock::Clock;
use crate::config::{Settings, Tls};
use crate::console::Consoles;
use crate::http::{App, router};
use crate::jobs::JobDirs;
use crate::owner::{self, Owner, OwnerTask};
use crate::store::{Store, StoreError};
use crate::tokens::{Issuer, SecretError};
use crate::wakes::Wakes;
use crate::{housekeeping, lrm_loop};

/// A connection that sends no request for so long is closed. Clients give their idle connections
/// up sooner, so that none of them sends into one that is being closed.
const IDLE: Duration = Duration::from_secs(120);
/// Descriptors that are wanted: one for each pilot's held sync, and some.
const DESCRIPTORS: u64 = 65_536;
/// How long calls and LRM commands that are under way may take after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// The broker can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The state directory can't be made or written.
    #[error("cannot use the state directory `{}`", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another broker has it.
    #[error("the state directory `{}` is in use by another pilot-broker. help: stop that one, or give this one its own `state_dir`", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No tokens without it.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// No decisions without it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address can't be served.
    #[error(
        "cannot listen on {addr}. help: `listen` in the configuration says where; is another service there?"
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key can't be used.
    #[error("cannot use `{}` as TLS {what}: {why}", path.display())]
    Tls {
        /// `certificate` or `key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A broker that serves.
#[derive(Debug)]
pub struct Running {
    addr: SocketAddr,
    url: String,
    issuer: Arc<Issuer>,
    clock: Arc<Clock>,
    stop: watch::Sender<bool>,
    handle: Handle<SocketAddr>,
    server: JoinHandle<io::Result<()>>,
    tasks: JoinSet<()>,
    owner: JoinHandle<()>,
    /// Held until the end.
    lock: File,
}

/// Makes the state directory if it is missing and checks that it can be written.
///
/// # Errors
/// It can't.
pub fn prepare_state_dir(path: &Path) -> Result<(), ServeError> {
    let fail = |source| ServeError::StateDir {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(fail)?;
    tempfile::tempfile_in(path).map(drop).map_err(fail)
}

/// Starts everything and returns when calls are taken.
///
/// # Errors
/// See [`ServeError`]; nothing is left running then.
pub async fn serve(settings: Settings) -> Result<Running, ServeError> {
    prepare_state_dir(&settings.state_dir)?;
    let lock = lock(&settings.state_dir)?;
    let state_dir = |source| ServeError::StateDir {
        path: settings.state_dir.clone(),
        source,
    };
    let tls = settings.tls.as_ref().map(tls_config).transpose()?;
    let listen = |source| ServeError::Listen {
        addr: settings.listen,
        source,
    };
    let listener = TcpListener::bind(settings.listen).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let addr = listener.local_addr().map_err(listen)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{addr}");

    let clock = Arc::new(Clock::new());
    let issuer = Arc::new(Issuer::open(&settings.state_dir)?);
    let dirs = JobDirs::open(&settings.state_dir).map_err(state_dir)?;
    let consoles = Consoles::open(settings.state_dir.join("consoles"), settings.console_limit);
    let consoles = Arc::new(consoles.map_err(state_dir)?);
    let (store, reader) = Store::open(&settings.state_dir).await?;
    let (stop, stopping) = watch::channel(false);
    let (effects, effects_out) = mpsc::unbounded_channel();
    let wakes = Arc::new(Wakes::default());
    let task = OwnerTask {
        store,
        config: settings.core.clone(),
        clock: Arc::clone(&clock),
        wakes: Arc::clone(&wakes),
        effects,
        stopping: stopping.clone(),
    };
    let (commands, owner) = owner::start(task).await?;
    let shared = lrm_loop::Shared {
        owner: commands.clone(),
        clock: Arc::clone(&clock),
        issuer: Arc::clone(&issuer),
        dirs: dirs.clone(),
        url: url.clone(),
        token_life: settings.tokens.pilot,
        stopping: stopping.clone(),
    };
    let mut tasks = lrm_loop::start(&settings, &shared, effects_out);
    let keep = housekeeping::Keep {
        pilot_logs: settings.keep_pilot_logs,
        ended: settings.keep_ended,
    };
    tasks.spawn(housekeeping::run(shared, Arc::clone(&consoles), keep));
    let app = app(
        settings, commands, reader, &issuer, &clock, wakes, consoles, stopping,
    );
    let handle = Handle::new();
    let server = tokio::spawn(http(listener, tls, app, handle.clone()));
    tracing::info!(http.url = url, "serving");
    Ok(Running {
        addr,
        url,
        issuer,
        clock,
        stop,
        handle,
        server,
        tasks,
        owner,
        lock,
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "it only collects them, in one place"
)]
fn app(
    settings: Settings,
    owner: Owner,
    reader: crate::store::Reader,
    issuer: &Arc<Issuer>,
    clock: &Arc<Clock>,
    wakes: Arc<Wakes>,
    consoles: Arc<Consoles>,
    stopping: watch::Receiver<bool>,
) -> App {
    App {
        owner,
        reader,
        issuer: Arc::clone(issuer),
        clock: Arc::clone(clock),
        wakes,
        consoles,
        settings: Arc::new(settings),
        stopping,
    }
}

/// Raises the limit of open files as far as we may.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let want = DESCRIPTORS.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, want, hard)
    });
    if let Err(e) = raised {
        tracing::warn!(error = %e, "failed to raise the limit of open files; pilots may be refused");
    }
}

/// Two brokers on one state would decide twice.
fn lock(state_dir: &Path) -> Result<File, ServeError> {
    let fail = |source| ServeError::StateDir {
        path: state_dir.to_owned(),
        source,
    };
    let path = state_dir.join("broker.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServeError::InUse {
            path: state_dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Reads certificate and key and checks that they belong together.
///
/// # Errors
/// One of them can't be read or used.
pub fn tls_config(tls: &Tls) -> Result<Arc<rustls::ServerConfig>, ServeError> {
    let wrong = |what, path: &Path, why: String| ServeError::Tls {
        what,
        path: path.to_owned(),
        why,
    };
    let certs = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong("certificate", &tls.cert, e.to_string()))?;
    if certs.is_empty() {
        return Err(wrong(
            "certificate",
            &tls.cert,
            "it has no certificate in PEM form".into(),
        ));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|e| wrong("key", &tls.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(certs, key))
        .map_err(|e| {
            wrong(
                "key",
                &tls.key,
                format!("with `{}`: {e}", tls.cert.display()),
            )
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn http(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    app: App,
    handle: Handle<SocketAddr>,
) -> io::Result<()> {
    let service = router(app).into_make_service();
    // Without TCP_NODELAY an answer may wait for the peer's delayed acknowledgement.
    let no_delay = NoDelayAcceptor::new();
    let mut server = axum_server::from_tcp(listener)?;
    let timer = TokioTimer::new();
    server
        .http_builder()
        .http1()
        .timer(timer)
        .header_read_timeout(IDLE);
    match tls {
        None => {
            let server = server.acceptor(no_delay);
            server.handle(handle).serve(service).await
        }
        Some(config) => {
            let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(config));
            let server = server.acceptor(acceptor.acceptor(no_delay));
            server.handle(handle).serve(service).await
        }
    }
}

impl Running {
    /// Where calls are taken.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes tokens for this broker.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// This broker's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Ends when the server or the owner has failed; never, while all is well. There is no way on
    /// then but to start again from the store.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn failed(&mut self) -> io::Result<()> {
        tokio::select! {
            ended = &mut self.server => ended.unwrap_or_else(|e| Err(io::Error::other(e))),
            ended = &mut self.owner => Err(match ended {
                Ok(()) => io::Error::other("the owner of the state ended"),
                Err(e) => io::Error::other(e),
            }),
        }
    }

    /// Stops in order: no new calls, held syncs answered, commands that are under way given a
    /// moment, everything on the disk.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        // Nobody who listens is fine as well.
        let _ = self.stop.send(true);
        self.handle.graceful_shutdown(Some(GRACE));
        if !self.server.is_finished() {
            let _ = self.server.await;
        }
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            tracing::warn!("an LRM command is still under way; it is looked up after the restart");
            self.tasks.shutdown().await;
        }
        // All who could ask are gone, so the owner ends.
        if !self.owner.is_finished() && tokio::time::timeout(GRACE, &mut self.owner).await.is_err()
        {
            self.owner.abort();
        }
        drop(self.lock);
        tracing::info!("stopped");
    }

    /// Ends at once and without order, as a kill would: for tests.
    pub async fn kill(mut self) {
        self.server.abort();
        self.handle.shutdown();
        self.owner.abort();
        self.tasks.shutdown().await;
        let _ = (&mut self.owner).await;
        let _ = (&mut self.server).await;
    }
}
