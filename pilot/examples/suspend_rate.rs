//! Measures the QEMU driver by itself: start, suspend and resume of a guest whose memory is full,
//! each suspend beside a plain synced write of the same bytes to the same store.
//!
//! `cargo run --release -p pilot --example suspend_rate -- GUEST-DIR STORE [MEMORY-MIB [FILL-MIB]]`
//! (build the program `pilot` with the same profile first: it starts the guests).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use pilot::exec_guest::Trampoline;
use pilot::hypervisor::{Guest, GuestId, Hypervisor, Setup, StageRequest, SuspendOrder, WhenLate};
use pilot::journal::{Claim, Journal, What};
use protocol::ids::{Generation, Incarnation, SiteName, SubmitKey, WorkspaceId};
use protocol::lease::StateRef;
use protocol::resources::Resources;
use protocol::slot_file::{Accelerator, HypervisorKind, HypervisorSection};
use protocol::time::{Span, Timestamp};
use protocol::workspace::{Artefact, Image, WorkspaceSpec};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[expect(clippy::disallowed_methods, reason = "this program measures")]
fn now() -> Instant {
    Instant::now()
}

struct Lab {
    journal: Journal,
    hypervisor: Hypervisor,
    spec: WorkspaceSpec,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // The driver could fetch images; here it does not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [guest, store, rest @ ..] = args.as_slice() else {
        return Err("usage: suspend_rate GUEST-DIR STORE [MEMORY-MIB [FILL-MIB]]".into());
    };
    let number = |n: usize, default: u64| rest.get(n).map_or(Ok(default), |t| t.parse());
    let (memory, fill) = (number(0, 512)?, number(1, 400)?);
    let store = PathBuf::from(store);
    let root = tempfile::tempdir_in(&store)?;
    let lab = lab(Path::new(guest), root.path(), memory, fill)?;
    let mut state: Option<StateRef> = None;
    for generation in 1..=6 {
        let resume = state.is_some();
        let clock = now();
        let guest = lab.start(generation, state.as_ref()).await?;
        let started = clock.elapsed();
        if !resume {
            while !fs::read_to_string(guest.console_path())?.contains("GUEST-FILLED") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let predicted = guest.resident_bytes().await;
        let order = SuspendOrder {
            state: guest.id().state_id()?,
            run: Span::ZERO,
            at: Timestamp::from_secs(0),
            budget: Span::from_secs(300),
            when_late: WhenLate::Kill,
        };
        let clock = now();
        let made = guest.suspend(order).await?;
        let (took, gone) = (made.took.as_duration(), clock.elapsed());
        let raw = raw_write(root.path(), made.written, 0)?;
        let direct = raw_write(root.path(), made.written, OFlag::O_DIRECT.bits())?;
        let mib = made.written as f64 / f64::from(1 << 20);
        println!(
            "{} {:.0} ms; suspend {mib:.0} MiB ({:.0} predicted) in {:.0} ms (gone after {:.0}), {:.0} MiB/s; \
             plain write {:.0} MiB/s: ratio {:.2}; direct {:.0} MiB/s: ratio {:.2}",
            if resume { "resume" } else { "boot" },
            started.as_secs_f64() * 1e3,
            predicted as f64 / f64::from(1 << 20),
            took.as_secs_f64() * 1e3,
            gone.as_secs_f64() * 1e3,
            mib / took.as_secs_f64(),
            mib / raw.as_secs_f64(),
            raw.as_secs_f64() / took.as_secs_f64(),
            mib / direct.as_secs_f64(),
            direct.as_secs_f64() / took.as_secs_f64(),
        );
        if let Some(old) = state.replace(made.state) {
            lab.hypervisor.discard(&old.id).await?;
        }
    }
    Ok(())
}

/// Writes as many bytes that do not compress, and syncs them.
fn raw_write(dir: &Path, bytes: u64, flags: i32) -> Result<Duration> {
    const BLOCK: usize = 4 << 20;
    let mut memory = vec![0; BLOCK + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let block = &mut memory[start..start + BLOCK];
    blake3::Hasher::new().finalize_xof().fill(block);
    let path = dir.join("plain");
    let clock = now();
    let mut options = File::options();
    options.write(true).create(true).custom_flags(flags);
    let mut file = options.open(&path)?;
    let bytes = bytes.next_multiple_of(4096);
    let mut left = bytes;
    while left > 0 {
        let n = left.min(block.len() as u64);
        file.write_all(&block[..usize::try_from(n)?])?;
        left -= n;
    }
    file.sync_all()?;
    let took = clock.elapsed();
    fs::remove_file(&path)?;
    Ok(took)
}

fn lab(guest: &Path, root: &Path, memory_mib: u64, fill: u64) -> Result<Lab> {
    let program = std::env::current_exe()?;
    let pilot = program
        .parent()
        .and_then(Path::parent)
        .map(|dir| dir.join("pilot"))
        .filter(|p| p.exists())
        .ok_or("the program `pilot` is not built in this profile")?;
    let store = root.join("store");
    fs::create_dir(&store)?;
    let journal = Journal::create(&Claim {
        submit_key: &SubmitKey::new("suspend-rate")?,
        incarnation: &Incarnation::new("1")?,
        scratch: &root.join("slot"),
        store: &store,
        node_state: root,
    })?;
    let section = HypervisorSection {
        kind: HypervisorKind::Qemu,
        accelerator: Some(Accelerator::Tcg),
        binary: None,
        machine: None,
        cpu: None,
    };
    let setup = Setup {
        site: SiteName::new("lab")?,
        store,
        trampoline: Trampoline::of(&pilot),
    };
    let artefact = |name: &str| Artefact {
        url: guest.join(name).display().to_string(),
        digest: None,
    };
    let own = fs::read_to_string(guest.join("cmdline"))?;
    let spec = WorkspaceSpec {
        name: "suspend-rate".to_owned(),
        image: Image {
            kernel: Some(artefact("vmlinux")),
            initrd: Some(artefact("initrd.cpio")),
            cmdline: Some(format!("{} nonet fill={fill}", own.trim())),
            disks: Vec::new(),
        },
        resources: Resources {
            cores: 1,
            memory_mib,
            disk_mib: 1,
        },
        run_time: Span::from_secs(3600),
        policy: Default::default(),
        advance_to: Default::default(),
        network: Default::default(),
        context: Default::default(),
    };
    let hypervisor = Hypervisor::new(&section, setup)?;
    Ok(Lab {
        journal,
        hypervisor,
        spec,
    })
}

impl Lab {
    async fn start(&self, generation: u64, state: Option<&StateRef>) -> Result<Guest> {
        let guest = GuestId {
            workspace: WorkspaceId::new("ws")?,
            generation: Generation(generation),
        };
        let program = "qemu".to_owned();
        let request = StageRequest {
            dir: self
                .journal
                .scratch()
                .join("guests")
                .join(guest.to_string()),
            marker: self.journal.intend(What::Process { program })?.marker(),
            spec: self.spec.clone(),
            state: state.cloned(),
            guest,
        };
        let staged = self.hypervisor.stage(request).await?;
        Ok(self.hypervisor.start(staged).await?.0)
    }
}
