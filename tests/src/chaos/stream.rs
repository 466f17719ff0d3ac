//! The users: keep a number of short requests open. Which ones is drawn from the seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use pilot_submit::client::{Client, WorkspaceAction};
use protocol::ids::{IdempotencyKey, WorkspaceId};
use protocol::resources::Resources;
use protocol::time::Span;
use protocol::workspace::{OnEviction, WorkspaceSpec};

use super::sites::{NULL_CORES, NULL_MEMORY_MIB, REAL_MEMORY_MIB};
use crate::requests;
use crate::simulation::Chance;

/// Kinds of requests, kept apart in how many are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Null,
    Real,
}

/// A request that was accepted.
#[derive(Debug, Clone)]
pub struct Request {
    /// What was asked for.
    pub spec: WorkspaceSpec,
    /// Its user wanted it cancelled.
    pub cancelled: bool,
    sort: Sort,
}

/// A request that the broker has not answered: it is repeated with the same key.
#[derive(Debug)]
struct Pending {
    key: IdempotencyKey,
    spec: WorkspaceSpec,
    sort: Sort,
}

/// All requests of a campaign.
#[derive(Debug)]
pub struct Stream {
    chance: Chance,
    kernel: PathBuf,
    guest: PathBuf,
    /// How many of each sort are kept open.
    wanted: BTreeMap<Sort, usize>,
    sent: u64,
    pending: Vec<Pending>,
    /// All that were accepted.
    pub accepted: BTreeMap<WorkspaceId, Request>,
    /// Those that were not final when they were last asked for.
    pub open: Vec<WorkspaceId>,
}

impl Stream {
    /// A stream that keeps so many null and real guests in demand. `kernel` is what null guests
    /// boot, `guest` the directory of the real ones' image.
    pub fn new(seed: u64, null: usize, real: usize, kernel: &Path, guest: &Path) -> Self {
        Self {
            chance: Chance::new(seed ^ 0x9e35),
            kernel: kernel.to_owned(),
            guest: guest.to_owned(),
            wanted: BTreeMap::from([(Sort::Null, null), (Sort::Real, real)]),
            sent: 0,
            pending: Vec::new(),
            accepted: BTreeMap::new(),
            open: Vec::new(),
        }
    }

    /// Asks for more until enough are open. What gets no answer is repeated the next time.
    pub async fn feed(&mut self, user: &Client) {
        for (sort, wanted) in self.wanted.clone() {
            let open = self
                .open
                .iter()
                .filter(|id| self.accepted[*id].sort == sort);
            let asked = self.pending.iter().filter(|p| p.sort == sort);
            for _ in open.count() + asked.count()..wanted {
                self.draw(sort);
            }
        }
        self.send(user).await;
    }

    /// Sends what was not answered.
    pub async fn send(&mut self, user: &Client) {
        for pending in std::mem::take(&mut self.pending) {
            match user.submit(&pending.key, &pending.spec).await {
                Ok(view) => {
                    let request = Request {
                        spec: pending.spec,
                        cancelled: false,
                        sort: pending.sort,
                    };
                    self.open.push(view.id.clone());
                    self.accepted.insert(view.id, request);
                }
                Err(_) => self.pending.push(pending),
            }
        }
    }

    /// True while a request has had no answer.
    pub fn has_unanswered(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Asks which of the open ones are final by now. Stops at the first that is not answered.
    pub async fn look(&mut self, user: &Client) {
        let mut open = Vec::new();
        let mut ids = std::mem::take(&mut self.open).into_iter();
        for id in ids.by_ref() {
            match user.workspace(&id).await {
                Ok(view) if view.state.is_final() => {}
                Ok(_) => open.push(id),
                Err(_) => {
                    open.push(id);
                    break;
                }
            }
        }
        open.extend(ids);
        self.open = open;
    }

    /// Cancels an open request; gives which, if there is one.
    ///
    /// # Errors
    /// The broker says no, or nothing.
    pub async fn cancel(&mut self, user: &Client, pick: u64) -> Result<Option<WorkspaceId>> {
        let count = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        let Some(at) = pick.checked_rem(count) else {
            return Ok(None);
        };
        let id = self.open[usize::try_from(at)?].clone();
        if let Some(request) = self.accepted.get_mut(&id) {
            // Whether or not the answer comes.
            request.cancelled = true;
        }
        user.act(&id, WorkspaceAction::Cancel).await?;
        Ok(Some(id))
    }

    fn draw(&mut self, sort: Sort) {
        self.sent += 1;
        let name = format!("r{}", self.sent);
        let spec = match sort {
            Sort::Null => self.null(&name),
            Sort::Real => self.real(&name),
        };
        if let Ok(key) = IdempotencyKey::new(&name) {
            self.pending.push(Pending { key, spec, sort });
        }
    }

    fn null(&mut self, name: &str) -> WorkspaceSpec {
        let run_time = self.chance.millis(4000, 24_000);
        let mut spec = requests::null(name, run_time);
        if let Some(kernel) = &mut spec.image.kernel {
            kernel.url = self.kernel.display().to_string();
        }
        spec.resources = Resources {
            cores: NULL_CORES,
            memory_mib: NULL_MEMORY_MIB,
            disk_mib: 16,
        };
        spec.policy.max_restarts = if self.chance.happens(200, 100) {
            2
        } else {
            100
        };
        spec.policy.may_be_killed = self.chance.happens(300, 100);
        if self.chance.happens(60, 100) {
            spec.policy.on_eviction = OnEviction::Restart;
            // It must fit what the shortest slot has before its shutdown has to begin.
            spec.run_time = Span::from_secs(2);
        }
        let mut words = Vec::new();
        if self.chance.happens(400, 100) {
            let takes = self.chance.between(20, 300);
            words.push(format!("null.suspend_takes={takes}ms"));
        }
        if self.chance.happens(250, 100) {
            let after = self.chance.between(2000, 30_000);
            words.push(format!("null.poweroff_after={after}ms"));
        }
        if self.chance.happens(40, 100) {
            let after = self.chance.between(2000, 20_000);
            words.push(format!("null.crash_after={after}ms"));
            // It would never get any further.
            spec.policy.max_restarts = 2;
        }
        if self.chance.happens(100, 100) {
            words.push("null.ignores_acpi".to_owned());
        }
        spec.image.cmdline = (!words.is_empty()).then(|| words.join(" "));
        spec
    }

    fn real(&mut self, name: &str) -> WorkspaceSpec {
        let count_to = self.chance.between(6, 18);
        let mut spec = requests::counter(&self.guest, name, REAL_MEMORY_MIB, 24, count_to);
        spec.policy.max_restarts = 100;
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_for_the_same() {
        let stream = |seed| {
            let mut s = Stream::new(seed, 1, 1, Path::new("/k"), Path::new("/g"));
            for _ in 0..100 {
                s.draw(Sort::Null);
            }
            s.draw(Sort::Real);
            s.pending.into_iter().map(|p| p.spec).collect::<Vec<_>>()
        };
        let specs = stream(1);
        assert_eq!(specs, stream(1));
        assert_ne!(specs, stream(2));
        for spec in specs {
            assert_eq!(spec.check(), Ok(()), "{spec:?}");
        }
    }
}
