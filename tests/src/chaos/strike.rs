//! Does what the plan says: finds whom an act meets, and undoes it when its time is over.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::ids::SubmitKey;

use super::clock;
use super::ground::{Ground, Job};
use super::onlooker::{Process, Role, look};
use super::plan::{Act, LrmFault, Planned};
use super::story::{Met, Story};
use super::stream::Stream;

/// Calls of a batch system's listing that it falsifies in a row.
const LIES: &str = "3";

/// What has to be undone.
#[derive(Debug)]
struct Undo {
    at: Instant,
    kind: &'static str,
    met: Met,
    how: How,
}

#[derive(Debug)]
enum How {
    Continue(Process),
    StartBroker,
    StartLrm(&'static str),
    Undrain(&'static str, String),
    Free,
    Join(SubmitKey),
    JoinAll,
}

/// Carries a plan out.
#[derive(Debug, Default)]
pub struct Striker {
    undo: Vec<Undo>,
}

impl Striker {
    /// Does one act. One that meets nobody is left out, with a word.
    ///
    /// # Errors
    /// The installation can't be used any more.
    pub async fn strike(
        &mut self,
        planned: &Planned,
        ground: &mut Ground,
        stream: &mut Stream,
        story: &mut Story,
    ) -> Result<()> {
        let (act, pick) = (planned.act, planned.pick);
        let kind = act.kind();
        let done = match act {
            Act::KillPilot => signal(ground, pick, &Role::Pilot, Signal::SIGKILL, 1),
            Act::TermPilot(times) => signal(ground, pick, &Role::Pilot, Signal::SIGTERM, times),
            Act::KillWarden => signal(ground, pick, &Role::Warden, Signal::SIGKILL, 1),
            Act::KillGuest => signal(ground, pick, &any_guest(), Signal::SIGKILL, 1),
            Act::StopPilot(by) => self.stop(ground, pick, kind, &Role::Pilot, by),
            Act::StopGuest(by) => self.stop(ground, pick, kind, &any_guest(), by),
            Act::RestartBroker(away) => {
                let done = ground.kill_broker().await?;
                done.then(|| {
                    self.later(kind, &Met::Nobody, How::StartBroker, away);
                    (Met::Nobody, format!("broker: SIGKILL, away for {away:?}"))
                })
            }
            Act::RestartLrm(away) => {
                let site = site(ground, pick);
                let done = ground.kill_lrm(site).await?;
                done.then(|| {
                    self.later(kind, &Met::Nobody, How::StartLrm(site), away);
                    let text = format!("{site}'s batch system: SIGKILL, away for {away:?}");
                    (Met::Nobody, text)
                })
            }
            Act::Preempt => order(ground, pick, &["preempt", "JOB"]).await,
            Act::Requeue => order(ground, pick, &["requeue", "JOB"]).await,
            Act::CancelJob => order(ground, pick, &["cancel", "JOB"]).await,
            Act::Shorten(by) => {
                let by = format!("{}ms", by.as_millis());
                order(ground, pick, &["shorten", "JOB", &by]).await
            }
            Act::SiteJob(length) => site_job(ground, pick, length).await,
            Act::Drain(length) => self.drain(ground, pick, kind, length).await,
            Act::LrmFault(fault) => lie(ground, pick, fault).await,
            Act::FillDisk(length) => self.fill(ground, kind, length)?,
            Act::CutSlot(length) => self.cut(ground, pick, kind, length),
            Act::CutAll(length) => {
                ground.proxy.cut_all();
                self.later(kind, &Met::All, How::JoinAll, length);
                Some((Met::All, format!("all slots: cut off for {length:?}")))
            }
            Act::Net(fault, calls) => {
                ground.proxy.inject(fault, usize::try_from(calls)?);
                Some((Met::Nobody, format!("network: {fault:?} for {calls} calls")))
            }
            Act::CancelRequest => match stream.cancel(&ground.user, pick).await {
                Ok(id) => id.map(|id| (Met::Nobody, format!("{id}: cancelled by its user"))),
                Err(e) => Some((Met::Nobody, format!("a cancel had no good answer: {e:#}"))),
            },
        };
        match done {
            Some((met, text)) => story.hit(kind, &met, format!("{kind}: {text}")),
            None => story.say(format!("{kind}: left out, nobody to meet")),
        }
        Ok(())
    }

    /// Undoes what is due, or all.
    ///
    /// # Errors
    /// The installation can't be used any more.
    pub async fn undo(&mut self, ground: &mut Ground, story: &mut Story, all: bool) -> Result<()> {
        let now = clock::mono();
        let (due, rest) = std::mem::take(&mut self.undo)
            .into_iter()
            .partition(|u| all || u.at <= now);
        self.undo = rest;
        for Undo { kind, met, how, .. } in due {
            match how {
                How::Continue(process) => send(&process, Signal::SIGCONT, 1),
                How::StartBroker => ground.start_broker()?,
                How::StartLrm(site) => ground.start_lrm(site)?,
                How::Undrain(site, node) => {
                    if ground.lrm(site, &["undrain", &node]).await.is_err() {
                        // Its daemon may be away.
                        self.later(kind, &met, How::Undrain(site, node), Duration::from_secs(1));
                        continue;
                    }
                }
                How::Free => {
                    if let Some((_, volume)) = &ground.volume {
                        volume.free()?;
                    }
                }
                How::Join(slot) => ground.proxy.join(&slot),
                How::JoinAll => ground.proxy.join_all(),
            }
            story.over(kind, &met, format!("{kind}: over"));
        }
        Ok(())
    }

    /// True when nothing waits to be undone.
    pub fn is_idle(&self) -> bool {
        self.undo.is_empty()
    }

    fn later(&mut self, kind: &'static str, met: &Met, how: How, after: Duration) {
        let (at, met) = (clock::mono() + after, met.clone());
        self.undo.push(Undo { at, kind, met, how });
    }

    fn stop(
        &mut self,
        ground: &Ground,
        pick: u64,
        kind: &'static str,
        role: &Role,
        by: Duration,
    ) -> Option<(Met, String)> {
        let process = choose(ground, pick, role)?;
        send(&process, Signal::SIGSTOP, 1);
        let met = Met::Slot(process.key().to_owned());
        let text = format!("{}: SIGSTOP, SIGCONT {by:?} later", told(&process));
        self.later(kind, &met, How::Continue(process), by);
        Some((met, text))
    }

    async fn drain(
        &mut self,
        ground: &Ground,
        pick: u64,
        kind: &'static str,
        length: Duration,
    ) -> Option<(Met, String)> {
        let site = site(ground, pick);
        let nodes = ground.sites.iter().find(|s| s.name == site)?.nodes;
        let node = format!("{site}{}", pick / 16 % u64::from(nodes) + 1);
        ground.lrm(site, &["drain", &node]).await.ok()?;
        let met = Met::Site(site.to_owned());
        self.later(kind, &met, How::Undrain(site, node.clone()), length);
        Some((met, format!("{node} for {length:?}")))
    }

    fn fill(
        &mut self,
        ground: &Ground,
        kind: &'static str,
        length: Duration,
    ) -> Result<Option<(Met, String)>> {
        let Some((site, volume)) = &ground.volume else {
            return Ok(None);
        };
        volume.fill()?;
        let met = Met::Site((*site).to_owned());
        self.later(kind, &met, How::Free, length);
        Ok(Some((
            met,
            format!("{site}'s store is full for {length:?}"),
        )))
    }

    fn cut(
        &mut self,
        ground: &Ground,
        pick: u64,
        kind: &'static str,
        length: Duration,
    ) -> Option<(Met, String)> {
        let process = choose(ground, pick, &Role::Pilot)?;
        let slot = SubmitKey::new(process.key()).ok()?;
        ground.proxy.cut(&slot);
        let met = Met::Slot(process.key().to_owned());
        let text = format!("slot {slot}: cut off for {length:?}");
        self.later(kind, &met, How::Join(slot), length);
        Some((met, text))
    }
}

const fn any_guest() -> Role {
    Role::Guest(String::new())
}

fn site(ground: &Ground, pick: u64) -> &'static str {
    let count = u64::try_from(ground.sites.len()).unwrap_or(1);
    let at = usize::try_from(pick % count.max(1)).unwrap_or(0);
    ground.sites[at].name
}

/// One of the processes with this role that are there now.
fn choose(ground: &Ground, pick: u64, role: &Role) -> Option<Process> {
    let is = |p: &Process| match (&p.role, role) {
        (Role::Guest(_), Role::Guest(_)) => true,
        (is, wanted) => is == wanted,
    };
    let mut found = look(&ground.scratch());
    found.retain(is);
    found.sort_by(|a, b| (&a.slot, a.pid).cmp(&(&b.slot, b.pid)));
    let count = u64::try_from(found.len()).ok()?;
    let at = usize::try_from(pick.checked_rem(count)?).ok()?;
    Some(found.swap_remove(at))
}

fn told(process: &Process) -> String {
    let Process {
        pid,
        role,
        site,
        slot,
        ..
    } = process;
    format!("{role:?} of slot {slot} at {site} (process {pid})")
}

fn send(process: &Process, what: Signal, times: u32) {
    for _ in 0..times {
        // One that has ended meanwhile is as good.
        let _ = kill(Pid::from_raw(process.pid), what);
    }
}

fn signal(
    ground: &Ground,
    pick: u64,
    role: &Role,
    what: Signal,
    times: u32,
) -> Option<(Met, String)> {
    let process = choose(ground, pick, role)?;
    send(&process, what, times);
    let met = Met::Slot(process.key().to_owned());
    Some((met, format!("{}: {what} {times} times", told(&process))))
}

/// A command about one of the pilot jobs that run at a site; `JOB` stands for it.
async fn order(ground: &Ground, pick: u64, words: &[&str]) -> Option<(Met, String)> {
    let site = site(ground, pick);
    let jobs = ground.jobs(site).await.ok()?;
    let running = |j: &&Job| j.state == "RUNNING" && j.key.is_some();
    let running: Vec<&Job> = jobs.iter().filter(running).collect();
    let count = u64::try_from(running.len()).ok()?;
    let job = running[usize::try_from((pick / 16).checked_rem(count)?).ok()?];
    let fill = |word: &&str| {
        if *word == "JOB" {
            job.id.clone()
        } else {
            (*word).to_owned()
        }
    };
    let words: Vec<String> = words.iter().map(fill).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = ground.lrm(site, &words).await;
    let key = job.key.clone().unwrap_or_default();
    let answer = said.map_or_else(|e| format!(" ({e:#})"), |_| String::new());
    let text = format!("{site}: {} (slot {key}){answer}", words.join(" "));
    Some((Met::Slot(key), text))
}

async fn site_job(ground: &Ground, pick: u64, length: Duration) -> Option<(Met, String)> {
    let site = site(ground, pick);
    let walltime = format!("{}ms", length.as_millis());
    let wanted = [
        "site-job",
        "--cores",
        "10",
        "--memory",
        "1GiB",
        "--walltime",
        &walltime,
    ];
    ground.lrm(site, &wanted).await.ok()?;
    Some((Met::Nobody, format!("{site}: a whole node for {length:?}")))
}

async fn lie(ground: &Ground, pick: u64, fault: LrmFault) -> Option<(Met, String)> {
    let site = site(ground, pick);
    let (what, on, times) = match fault {
        LrmFault::LostSubmit => ("lost-answer", "submit", "1"),
        LrmFault::HungSubmit => ("hang-after", "submit", "1"),
        LrmFault::Missing => ("missing", "queue", LIES),
        LrmFault::Garbled => ("garbled", "queue", LIES),
    };
    let words = ["fault", "add", what, "--on", on, "--times", times];
    ground.lrm(site, &words).await.ok()?;
    Some((
        Met::Nobody,
        format!("{site}: {what} on {on}, {times} times"),
    ))
}
