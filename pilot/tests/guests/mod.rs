//! What the drivers' tests share: a site's store, slots, guests that tell how far they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pilot::exec_guest::Trampoline;
use pilot::hypervisor::{
    ExitHow, Guest, GuestEvent, GuestEvents, GuestId, Hypervisor, Setup, StageRequest,
    SuspendOrder, Suspended, WhenLate,
};
use pilot::journal::{Claim, Journal, What};
use protocol::ids::{Generation, Incarnation, SiteName, StateId, SubmitKey, WorkspaceId};
use protocol::lease::StateRef;
use protocol::resources::Resources;
use protocol::slot_file::{Accelerator, HypervisorKind, HypervisorSection};
use protocol::time::{Span, Timestamp};
use protocol::workspace::{
    AdvanceTo, Artefact, Context, Disk, DiskFormat, Image, Network, Policy, WorkspaceSpec,
};

/// No test waits longer for anything; only a failing one waits so long.
pub const LONG: Duration = Duration::from_secs(120);

/// The directory of the built test guest.
pub fn guest_dir() -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test runner says where the guest is"
    )]
    let dir = std::env::var_os("WP_GUEST_DIR").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest"));
    assert!(
        dir.join("vmlinux").is_file(),
        "there is no test guest in {}: run scripts/guest/build, or set WP_GUEST_DIR",
        dir.display()
    );
    fs::canonicalize(dir).unwrap()
}

/// What whoever runs the tests in a Xen dom0 says of it.
fn setting(name: &str) -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the tests don't know the dom0 that they run in"
    )]
    std::env::var(name).ok()
}

/// Waits for a condition.
pub async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let mut step = Duration::from_millis(5);
    let waiting = async {
        loop {
            if let Some(found) = probe() {
                return found;
            }
            // The longer it takes, the seldomer: looking must not cost a slow machine its time.
            tokio::time::sleep(step).await;
            step += step / 10;
        }
    };
    match tokio::time::timeout(LONG, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("this did not come: {what}"),
    }
}

/// A site with a store.
pub struct Site {
    pub root: Root,
    pub store: PathBuf,
    pub kind: HypervisorKind,
}

/// A site's directory: its own, or one that a process is in that is to be killed.
pub enum Root {
    Own(tempfile::TempDir),
    #[allow(
        dead_code,
        clippy::allow_attributes,
        reason = "only the tests of Xen kill a whole process"
    )]
    Lent(PathBuf),
}

impl Root {
    pub fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Lent(dir) => dir,
        }
    }
}

/// A slot on it: its own scratch directory and journal.
pub struct Slot {
    pub journal: Journal,
    pub hypervisor: Hypervisor,
}

impl Site {
    pub fn new(kind: HypervisorKind) -> Self {
        let root = Root::Own(tempfile::tempdir().unwrap());
        let store = root.path().join("store");
        fs::create_dir(&store).unwrap();
        Self { root, store, kind }
    }

    /// The site of another process.
    #[allow(
        dead_code,
        clippy::allow_attributes,
        reason = "only the tests of Xen kill a whole process"
    )]
    pub fn at(dir: &Path, kind: HypervisorKind) -> Self {
        let root = Root::Lent(dir.to_owned());
        let store = dir.join("store");
        Self { root, store, kind }
    }

    pub fn section(&self) -> HypervisorSection {
        let plain = HypervisorSection {
            kind: self.kind,
            accelerator: None,
            binary: None,
            machine: None,
            cpu: None,
        };
        match self.kind {
            HypervisorKind::Qemu | HypervisorKind::Null => HypervisorSection {
                accelerator: Some(Accelerator::Tcg),
                ..plain
            },
            HypervisorKind::Xen => HypervisorSection {
                binary: setting("WP_XEN_HELPER").map(PathBuf::from),
                machine: Some(setting("WP_XEN_MACHINE").unwrap_or_else(|| "pv".to_owned())),
                ..plain
            },
        }
    }

    pub fn slot(&self, name: &str) -> Slot {
        self.slot_with(name, &self.section())
    }

    pub fn slot_with(&self, name: &str, section: &HypervisorSection) -> Slot {
        let journal = Journal::create(&Claim {
            submit_key: &SubmitKey::new(name).unwrap(),
            incarnation: &Incarnation::new("1").unwrap(),
            scratch: &self.root.path().join(name),
            store: &self.store,
            node_state: self.root.path(),
        })
        .unwrap();
        let setup = Setup {
            site: SiteName::new("lab").unwrap(),
            store: self.store.clone(),
            trampoline: Trampoline::of(Path::new(env!("CARGO_BIN_EXE_pilot"))),
        };
        let hypervisor = Hypervisor::new(section, setup).unwrap();
        Slot {
            journal,
            hypervisor,
        }
    }

    /// Names of all that is in the store's directory of states.
    pub fn states(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.store.join("states"))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// A request that boots on this site's hypervisor. `words` go to its command line.
    pub fn spec(&self, words: &str) -> WorkspaceSpec {
        let (kernel, initrd, cmdline) = match self.kind {
            HypervisorKind::Qemu => {
                let dir = guest_dir();
                let own = fs::read_to_string(dir.join("cmdline")).unwrap();
                let initrd = Some(artefact(&dir.join("initrd.cpio")));
                (
                    dir.join("vmlinux"),
                    initrd,
                    format!("{} hb=0.05 nonet {words}", own.trim()),
                )
            }
            HypervisorKind::Xen => {
                let dir = guest_dir();
                let own = "console=hvc0 quiet panic=-1 audit=0 apparmor=0 cryptomgr.notests \
                           random.trust_cpu=on hb=0.2 nonet";
                (
                    dir.join("vmlinux"),
                    Some(artefact(&dir.join("initrd.cpio"))),
                    format!("{own} {words}"),
                )
            }
            HypervisorKind::Null => {
                let kernel = self.root.path().join("kernel");
                fs::write(&kernel, b"no kernel at all").unwrap();
                (kernel, None, words.to_owned())
            }
        };
        WorkspaceSpec {
            name: "test".to_owned(),
            image: Image {
                kernel: Some(artefact(&kernel)),
                initrd,
                cmdline: Some(cmdline),
                disks: Vec::new(),
            },
            resources: Resources {
                cores: 1,
                // A dom0 under software emulation has little of both memory and speed.
                memory_mib: match self.kind {
                    HypervisorKind::Qemu | HypervisorKind::Null => 128,
                    HypervisorKind::Xen => 80,
                },
                disk_mib: 64,
            },
            run_time: Span::from_secs(3600),
            policy: Policy::default(),
            advance_to: AdvanceTo::default(),
            network: Network::None,
            context: Context::default(),
        }
    }

    /// The same with the guest's own disk (QEMU) or an empty one.
    pub fn spec_with_disk(&self, words: &str) -> WorkspaceSpec {
        let mut spec = self.spec(words);
        let base = match self.kind {
            HypervisorKind::Qemu | HypervisorKind::Xen => {
                Some(artefact(&guest_dir().join("disk.raw")))
            }
            HypervisorKind::Null => None,
        };
        let format = DiskFormat::Raw;
        spec.image.disks.push(Disk {
            base,
            format,
            size_mib: Some(64),
        });
        spec
    }
}

pub fn artefact(path: &Path) -> Artefact {
    Artefact {
        url: path.display().to_string(),
        digest: None,
    }
}

impl Slot {
    /// A stage request as the pilot would make it.
    pub fn request(
        &self,
        generation: u64,
        spec: &WorkspaceSpec,
        state: Option<&StateRef>,
    ) -> StageRequest {
        let guest = GuestId {
            workspace: WorkspaceId::new("ws-1").unwrap(),
            generation: Generation(generation),
        };
        let program = "guest".to_owned();
        let entry = self.journal.intend(What::Process { program }).unwrap();
        StageRequest {
            dir: self
                .journal
                .scratch()
                .join("guests")
                .join(guest.to_string()),
            marker: entry.marker(),
            spec: spec.clone(),
            state: state.cloned(),
            guest,
        }
    }

    /// Stages and starts a guest.
    pub async fn run(
        &self,
        generation: u64,
        spec: &WorkspaceSpec,
        state: Option<&StateRef>,
    ) -> (Guest, GuestEvents) {
        let request = self.request(generation, spec, state);
        let staged = self
            .hypervisor
            .stage(request)
            .await
            .expect("the guest is staged");
        assert_eq!(staged.is_resume(), state.is_some());
        self.hypervisor
            .start(staged)
            .await
            .expect("the guest starts")
    }
}

/// How far a guest is: which boot, and its count (QEMU) or run time (null).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub boot: String,
    pub n: u64,
}

pub fn console(guest: &Guest) -> String {
    String::from_utf8_lossy(&fs::read(guest.console_path()).unwrap_or_default()).into_owned()
}

fn seen_in(line: &str) -> Option<Seen> {
    let word = |name: &str| {
        line.split_whitespace()
            .find_map(|w| w.strip_prefix(name))
            .map(str::to_owned)
    };
    if !line.starts_with("COUNT ") && !line.starts_with("NULL-GUEST ") {
        return None;
    }
    let n = word("n=").or_else(|| word("ran_ms="))?.parse().ok()?;
    Some(Seen {
        boot: word("boot=")?,
        n,
    })
}

/// The first thing that it said of itself under this lease.
pub async fn first_seen(guest: &Guest) -> Seen {
    eventually("a first count", || {
        let text = console(guest);
        let whole = &text[..text.rfind('\n')?];
        whole.lines().find_map(seen_in)
    })
    .await
}

/// Waits until its count is at least `n`.
pub async fn counts_to(guest: &Guest, n: u64) -> Seen {
    eventually(&format!("a count of {n}"), || {
        let text = console(guest);
        let whole = &text[..text.rfind('\n')?];
        whole.lines().rev().find_map(seen_in).filter(|s| s.n >= n)
    })
    .await
}

/// What the guest itself found wrong with its memory or disk.
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "not every test program looks"
)]
pub fn complaints(guest: &Guest) -> Vec<String> {
    let wrong = |l: &&str| {
        ["GUEST-CORRUPT", "GUEST-DISK-WRONG", "Kernel panic"]
            .iter()
            .any(|w| l.contains(w))
    };
    console(guest)
        .lines()
        .filter(wrong)
        .map(str::to_owned)
        .collect()
}

/// A suspend of this guest.
pub fn order(guest: &Guest) -> SuspendOrder {
    SuspendOrder {
        state: guest.id().state_id().unwrap(),
        run: Span::from_secs(7),
        at: Timestamp::from_secs(1_800_000_000),
        budget: Span::from_duration(LONG),
        when_late: WhenLate::Continue,
    }
}

/// The checkpoint of this number of this guest.
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "not every test program makes checkpoints"
)]
pub fn checkpoint_order(guest: &Guest, number: u32) -> SuspendOrder {
    let id = guest.id();
    SuspendOrder {
        state: StateId::of_checkpoint(&id.workspace, id.generation, number).unwrap(),
        ..order(guest)
    }
}

pub async fn suspend(guest: &Guest) -> Suspended {
    match guest.suspend(order(guest)).await {
        Ok(suspended) => suspended,
        Err(e) => panic!("the suspend failed: {e} (guest alive: {})", e.guest_alive),
    }
}

/// Waits for the end of a guest and makes sure that it is told once, last.
pub async fn ended(events: &mut GuestEvents) -> ExitHow {
    loop {
        let next = tokio::time::timeout(LONG, events.next())
            .await
            .expect("an end is told");
        match next.expect("an end is told before the events end") {
            GuestEvent::Exited(how) => {
                let after = tokio::time::timeout(LONG, events.next())
                    .await
                    .expect("then they end");
                assert_eq!(after, None);
                return how;
            }
            GuestEvent::IoError(_) | GuestEvent::Said(_) | GuestEvent::Flushed => {}
        }
    }
}

/// True while the process is there (and not merely unburied).
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "not every test program looks"
)]
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| {
        !s.rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}
