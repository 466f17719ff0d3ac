//! The promises, as an onlooker can check them: by events, by the LRM's own listing, by processes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::api::{EventView, WorkspaceView};
use protocol::ids::{EventSeq, SubmitKey, WorkspaceId};
use protocol::workspace::WorkspaceState;
use serde::Deserialize;

use super::counter::CounterLog;
use super::installation::Installation;
use super::node::{Found, Snapshot};
use super::wait::{PATIENCE, until};

/// A job as `sim-lrm queue --json` lists it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LrmJob {
    /// The LRM's id.
    pub id: String,
    /// The submit key; none for the site's own jobs.
    #[serde(default)]
    pub key: Option<String>,
    /// The LRM's word for its state.
    pub state: String,
    /// How often it was started again.
    pub restarts: u32,
}

#[derive(Deserialize)]
struct Listing {
    jobs: Vec<LrmJob>,
}

/// Where the test guest is. None when this machine has none and nobody insists on one.
///
/// # Errors
/// `WP_REQUIRE_GUEST` is set and there is no guest.
#[expect(
    clippy::disallowed_methods,
    reason = "the runner says where the guest is"
)]
pub fn guest_dir() -> Result<Option<PathBuf>> {
    let dir = std::env::var_os("WP_GUEST_DIR").map(PathBuf::from);
    let found = dir.filter(|d| d.join("vmlinux").is_file());
    if found.is_none() {
        ensure!(
            std::env::var_os("WP_REQUIRE_GUEST").is_none(),
            "there is no test guest in WP_GUEST_DIR; make one with `scripts/guest/build`"
        );
        println!("NOT TESTED: no test guest in WP_GUEST_DIR");
    }
    Ok(found)
}

impl Installation {
    /// All jobs that the LRM has had, its own words.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn jobs(&self) -> Result<Vec<LrmJob>> {
        let text = self.lrm_command(&["queue", "--all", "--json"]).await?;
        let listing: Listing = serde_json::from_str(&text).context("failed to read the listing")?;
        Ok(listing.jobs)
    }

    /// Waits until a guest that counts on its console has come so far.
    ///
    /// # Errors
    /// It does not; the error has its story and all logs.
    pub async fn counts_to(&self, id: &WorkspaceId, enough: u64) -> Result<()> {
        let what = format!("the guest to count to {enough}");
        let counted = until(&what, PATIENCE * 2, async || {
            let log = CounterLog::read(&self.console(id).await?);
            Ok(log.last.filter(|n| *n >= enough))
        });
        let Err(e) = counted.await else {
            return Ok(());
        };
        let story = self.story(id).await.unwrap_or_default();
        bail!(
            "{e:#}\n{story}\n{}\n{}\n{}",
            self.tail("lrm"),
            self.tail("broker"),
            self.pilot_logs()
        )
    }

    /// The id of the pilot job that runs now, by the LRM's word.
    ///
    /// # Errors
    /// None runs.
    pub async fn running_job(&self) -> Result<String> {
        let jobs = self.jobs().await?;
        let running = jobs
            .iter()
            .find(|j| j.state == "RUNNING" && j.key.is_some());
        Ok(running
            .with_context(|| format!("no pilot job runs: {jobs:?}"))?
            .id
            .clone())
    }

    /// Every submit key has one job at most.
    ///
    /// # Errors
    /// One has two; or the LRM does not answer.
    pub async fn submits_are_unique(&self) -> Result<()> {
        let jobs = self.jobs().await?;
        let mut seen = BTreeSet::new();
        for job in jobs.iter().filter(|j| j.key.is_some()) {
            ensure!(
                seen.insert(&job.key),
                "{:?} was submitted twice: {jobs:#?}",
                job.key
            );
        }
        Ok(())
    }

    /// Waits until an event of a kind after `after` is there, and gives it.
    ///
    /// # Errors
    /// It does not come; the message has the workspace's story.
    pub async fn sees(&self, id: &WorkspaceId, kind: &str, after: EventSeq) -> Result<EventView> {
        let mut last = after;
        let what = format!("{id} to have an event `{kind}` after {}", after.0);
        let seen = until(&what, PATIENCE, async || {
            let wait = Duration::from_millis(500);
            let page = self.user.events(id, last, None, wait).await?;
            for event in page.items {
                last = event.seq;
                if event.kind == kind {
                    return Ok(Some(event));
                }
            }
            Ok(None)
        });
        match seen.await {
            Ok(event) => Ok(event),
            Err(e) => bail!(
                "{e:#}\n{}\n{}",
                self.story(id).await.unwrap_or_default(),
                self.tail("broker")
            ),
        }
    }

    /// A finished workspace has exactly one final state, with a reason that people can read, and
    /// its generations never overlapped: each was in one slot, and no later one had begun on a
    /// node before an earlier one's last word from its node.
    ///
    /// # Errors
    /// It is not so; the message has the workspace's story.
    pub async fn life_is_sound(&self, id: &WorkspaceId) -> Result<()> {
        let (view, events) = (self.show(id).await?, self.events(id).await?);
        let story = self.story(id).await.unwrap_or_default();
        sound(&view, &events, |_| false).with_context(|| format!("{id}\n{story}"))
    }

    /// Sends a signal to all pilots that run now; gives their number.
    pub fn signal_pilots(&self, signal: Signal) -> usize {
        let pilots = self.pilots();
        // One that has ended meanwhile is as good.
        pilots.iter().filter(|p| kill(**p, signal).is_ok()).count()
    }

    /// The process id of the pilot in a slot.
    ///
    /// # Errors
    /// None runs there, or more than one.
    pub fn pilot_in(&self, slot: &SubmitKey) -> Result<Pid> {
        let file = format!("/{slot}.r");
        let mut found = self.pilots();
        found.retain(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains(&file)
        });
        ensure!(found.len() == 1, "the pilots in slot {slot} are {found:?}");
        Ok(found[0])
    }

    /// Sends a signal to all hypervisors that run now; gives their number.
    pub fn signal_hypervisors(&self, signal: Signal) -> usize {
        let guests = self.hypervisors();
        guests.iter().filter(|p| kill(**p, signal).is_ok()).count()
    }

    /// Looks all the time, in a thread of its own, how many hypervisors can execute.
    pub fn count_hypervisors(&self) -> Counting {
        let (most, enough) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (place, peak, stop) = (
            self.place().to_owned(),
            Arc::clone(&most),
            Arc::clone(&enough),
        );
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let all = Snapshot::take(&place.join("scratch"));
                let now = all.iter().filter(|f| executes(f)).count();
                peak.fetch_max(now, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        Counting {
            most,
            enough,
            thread: Some(thread),
        }
    }
}

/// [`Installation::life_is_sound`] by what the broker tells. What a pilot in a slot `asleep` says of
/// its guest's end comes late: it was stopped, and with it what it could say.
///
/// # Errors
/// It is not so.
pub fn sound(
    view: &WorkspaceView,
    events: &[EventView],
    asleep: impl Fn(&SubmitKey) -> bool,
) -> Result<()> {
    let moves: Vec<&EventView> = events.iter().filter(|e| e.state.is_some()).collect();
    let finals = moves
        .iter()
        .filter(|e| e.state.is_some_and(WorkspaceState::is_final))
        .count();
    ensure!(finals == 1, "it has {finals} final states");
    let last = moves.last().context("it has no events")?;
    ensure!(
        last.state == Some(view.state),
        "its last transition is not its state"
    );
    let reason = view
        .reason
        .as_ref()
        .context("its final state has no reason")?;
    ensure!(
        reason.text.len() > 5,
        "nobody can read the reason {reason:?}"
    );
    for pair in moves.windows(2) {
        ensure!(
            pair[0].generation <= pair[1].generation,
            "generation {:?} acts after {:?}",
            pair[0].generation,
            pair[1].generation
        );
    }
    for earlier in events.iter().filter(|e| on_node(e)) {
        for later in events.iter().filter(|e| on_node(e)) {
            let (g, h) = (earlier.generation, later.generation);
            ensure!(
                g != h || earlier.slot == later.slot,
                "{g:?} was in two slots"
            );
            ensure!(
                g >= h || earlier.at <= later.at || earlier.slot.as_ref().is_some_and(&asleep),
                "{h:?} had begun ({}) before the end of {g:?} ({})",
                later.text,
                earlier.text
            );
        }
    }
    Ok(())
}

/// What a pilot says that it did to a guest, by the node's clock.
fn on_node(event: &EventView) -> bool {
    event.state.is_none() && event.generation.is_some() && event.kind.starts_with("guest_")
}

/// A guest that is not dying or stopped.
fn executes(found: &Found) -> bool {
    let Found::Process { pid, command } = found else {
        return false;
    };
    // State is the first word after the name in parentheses.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
    command.starts_with("qemu-system-x86_64 ") && matches!(state, Some('R' | 'S' | 'D'))
}

/// Goes on looking until it is asked.
#[derive(Debug)]
pub struct Counting {
    most: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Counting {
    /// Most hypervisors that were ever seen at once.
    pub fn most(mut self) -> usize {
        self.end();
        self.most.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only looks; it can't have failed.
            let _ = thread.join();
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.end();
    }
}
