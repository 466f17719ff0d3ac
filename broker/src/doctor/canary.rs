//! The canary job's life, from here.

use std::fs;
use std::time::Duration;

use broker_core::PilotOrder;
use lrm_adapters::LocalResourceManager;
use protocol::canary::{CanaryLine, KEY_PREFIX, PING_FILE, STOP_FILE, STORE_MARK};
use protocol::finding::Finding;
use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::{CancelAnswer, JobState, Observation, PilotJob, SubmitAnswer};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};

use super::Ward;
use super::evidence::{Evidence, GivenUp, Skew, child, output_tail};
use super::judge;
use crate::jobs::Tokens;
use crate::pilot_jobs;
use crate::preview::broker_url;

/// How often files are looked at.
const TICK: Duration = Duration::from_millis(100);
/// What the canary asks for at least, if the site's limits allow: it needs about a minute.
const WALLTIME: Span = Span::from_mins(5);
/// Stands in the place of the token. The canary talks to no broker, so it gets none.
const NO_TOKEN: &str = "none: a canary needs no token";
/// A submit without an answer is looked up for so long.
const LOOK_UP_FOR: Span = Span::from_mins(2);
/// A job that runs by the LRM's word has said something after so long, or it says nothing.
const SILENT_AFTER: Span = Span::from_secs(60);
/// The canary has answered a ping after so long, or it does not see our files in time.
const PONG_WITHIN: Span = Span::from_secs(30);
/// The canary is ready after so long, disks of any speed included.
const READY_WITHIN: Span = Span::from_mins(3);
/// A cancelled job is over so long after twice its notice.
const OVER_WITHIN: Span = Span::from_mins(4);
/// A cancel without an answer is repeated after so long: it is harmless.
const CANCEL_AGAIN: Span = Span::from_secs(10);
/// A cancelled canary that says nothing for so long, and is in no listing, is gone.
const GONE_AFTER: Span = Span::from_secs(5);
/// The output of a job that is over may take so long to come.
const OUTPUT_WITHIN: Span = Span::from_secs(5);
/// A child that says so long after the job's end that it lives has survived it.
const SURVIVES: Span = Span::from_secs(2);
/// So long its last words may take to be seen here.
const CHILD_WITHIN: Span = Span::from_secs(8);
/// So long the child may take to leave when told.
const CHILD_LEAVES: Span = Span::from_secs(15);

/// A job that the LRM has taken.
pub(super) struct Canary<'a> {
    ward: &'a Ward<'a>,
    job: PilotJob,
    id: LrmJobId,
    submitted: Timestamp,
}

impl<'a> Canary<'a> {
    /// Makes the directory and submits, once.
    ///
    /// # Errors
    /// There is no canary, for the reasons in the findings. Where it is not known, its directory
    /// stays for the next doctor.
    pub(super) async fn submit(ward: &'a Ward<'a>) -> Result<(Self, Finding), Vec<Finding>> {
        let job = match job(ward) {
            Ok(job) => job,
            Err(why) => return Err(vec![judge::no_directory(&why)]),
        };
        (ward.say)(&format!("submitting the canary {}", job.key));
        let before = ward.clock.now();
        let answer = ward.target.lrm.submit(&job).await;
        let took = ward.clock.now().since(before);
        let (id, finding) = match answer {
            SubmitAnswer::Accepted(id) => {
                let finding = judge::submitted(&id, took);
                (id, finding)
            }
            SubmitAnswer::Refused(why) => {
                let mut found = vec![judge::refused(&why)];
                found.extend(remove(&job));
                return Err(found);
            }
            SubmitAnswer::NoAnswer(why) => {
                (ward.say)("the submit was not answered: looking the job up by its key");
                match look_up(ward, &job.key).await {
                    Some(id) => {
                        let finding = judge::answer_lost(&id, &why);
                        (id, finding)
                    }
                    None => return Err(vec![judge::in_doubt(&job.key, &why)]),
                }
            }
        };
        (ward.say)(&format!("the LRM calls it {id}"));
        let submitted = ward.clock.now();
        Ok((
            Self {
                ward,
                job,
                id,
                submitted,
            },
            finding,
        ))
    }

    /// Follows it to its end, which is a cancel of ours.
    pub(super) async fn follow(&self, wait: Span) -> Evidence {
        let mut evidence = Evidence::new(self.job.clone(), self.submitted);
        evidence.given_up = self.until_ready(&mut evidence, wait).await;
        if evidence.over.is_none() {
            (self.ward.say)("cancelling it");
            if !self.until_over(&mut evidence).await {
                evidence.given_up = evidence.given_up.or(Some(GivenUp::NotOver));
            }
        }
        self.await_words(&mut evidence).await;
        self.look_for_survivor(&mut evidence).await;
        evidence
    }

    /// Some LRMs bring a job's output only after its end. Of a canary that never spoke it is all
    /// that there is.
    async fn await_words(&self, evidence: &mut Evidence) {
        let over = self.ward.clock.now();
        loop {
            let now = self.ward.clock.now();
            evidence.read(now);
            let has_words =
                !evidence.lines.is_empty() || !output_tail(&self.job.directory).is_empty();
            if has_words || evidence.over.is_none() || now.since(over) > OUTPUT_WITHIN {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Until it is ready to be cancelled, or over, or something takes too long.
    async fn until_ready(&self, evidence: &mut Evidence, wait: Span) -> Option<GivenUp> {
        let ping = format!("{}-ping", self.job.key);
        let mut asked: Option<Timestamp> = None;
        let mut running: Option<Timestamp> = None;
        let mut pinged: Option<Timestamp> = None;
        loop {
            let now = self.ward.clock.now();
            evidence.read(now);
            if self.ward.is_interrupted() {
                return Some(GivenUp::Interrupted);
            }
            if asked.is_none_or(|at| now.since(at) >= self.ward.target.site.poll) {
                asked = Some(now);
                self.observe(evidence).await;
            }
            if evidence.is_listed_ended() || evidence.left().is_some() {
                // What it said last may come a moment later than the LRM's word.
                tokio::time::sleep(TICK).await;
                evidence.read(self.ward.clock.now());
                evidence.over = Some(now);
                return None;
            }
            if let Some(seen) = evidence.seen {
                let since = *pinged.get_or_insert_with(|| {
                    (self.ward.say)("it has started");
                    self.ping(evidence, &ping);
                    self.ward.clock.now()
                });
                if evidence.skew.is_none()
                    && let Some(at) = evidence.pong(&ping)
                {
                    evidence.skew = Some(skew(since, now, at));
                }
                let answered = evidence.skew.is_some() || now.since(since) > PONG_WITHIN;
                if evidence.is_ready() && answered {
                    return None;
                }
                if now.since(seen) > READY_WITHIN {
                    return Some(GivenUp::NotReady);
                }
            } else {
                let state = evidence.listed.as_ref().map(|job| &job.state);
                if matches!(state, Some(JobState::Running)) {
                    let since = *running.get_or_insert(now);
                    if now.since(since) > SILENT_AFTER {
                        return Some(GivenUp::Silent);
                    }
                } else if now.since(self.submitted) > wait {
                    return Some(GivenUp::Queued);
                }
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The canary's file in the store is there since before its first line, and until a ping.
    fn ping(&self, evidence: &mut Evidence, word: &str) {
        let mark = format!("{STORE_MARK}{}", self.job.key);
        evidence.store_seen = Some(self.job.store.join("blobs").join(mark).exists());
        let file = self.job.directory.join(PING_FILE);
        // One that can't be written is not answered.
        let _ = fs::write(file, format!("{word}\n"));
    }

    async fn observe(&self, evidence: &mut Evidence) -> bool {
        match self.ward.target.lrm.find_by_key(&self.job.key).await {
            Observation::NoAnswer(_) => false,
            Observation::Listing(mut jobs) => {
                let found = jobs.pop();
                let is_absent = found.is_none();
                if found.is_some() {
                    evidence.listed = found;
                }
                is_absent
            }
        }
    }

    /// Cancels it, and waits until it is over: by the LRM's word, or because it is in no listing
    /// and says nothing any more. True when it is.
    async fn until_over(&self, evidence: &mut Evidence) -> bool {
        let first = self.ward.clock.now();
        let limit = self.ward.target.site.notice.times(2) + OVER_WITHIN;
        let mut sent: Option<Timestamp> = None;
        let mut asked = first;
        let mut spoke = (evidence.lines.len(), first);
        loop {
            let now = self.ward.clock.now();
            let settled = matches!(
                evidence.cancelled,
                Some((_, CancelAnswer::Taken | CancelAnswer::NoSuchJob))
            );
            if !settled && sent.is_none_or(|at| now.since(at) >= CANCEL_AGAIN) {
                sent = Some(now);
                let answer = self.ward.target.lrm.cancel(&self.id, &self.job.key).await;
                evidence.cancelled = Some((first, answer));
                asked = self.ward.clock.now();
            }
            let now = self.ward.clock.now();
            evidence.read(now);
            if evidence.lines.len() != spoke.0 {
                spoke = (evidence.lines.len(), now);
            }
            let is_silent = now.since(spoke.1) >= GONE_AFTER;
            // The LRM is asked when there is a reason to, and not more often than by the broker.
            if is_silent && now.since(asked) >= self.ward.target.site.poll.min(GONE_AFTER) {
                let is_absent = self.observe(evidence).await;
                asked = self.ward.clock.now();
                if evidence.is_listed_ended() || (is_absent && settled) {
                    evidence.over = Some(asked);
                    return true;
                }
            }
            if now.since(first) > limit {
                return false;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Whether the canary's child, which left its session, outlives the job.
    async fn look_for_survivor(&self, evidence: &mut Evidence) {
        let Some(over) = evidence.over else { return };
        let ahead = evidence.skew.map_or(0, |skew| skew.ahead_ms);
        let here = |at: Timestamp| Timestamp::from_millis(at.as_millis() - ahead);
        loop {
            let now = self.ward.clock.now();
            match child(&self.job.directory) {
                Some(CanaryLine::Alive { at, .. }) if here(at).since(over) >= SURVIVES => {
                    evidence.survivor = Some(true);
                    return;
                }
                Some(_) if now.since(over) > CHILD_WITHIN => {
                    evidence.survivor = Some(false);
                    return;
                }
                // It has never been seen.
                None => return,
                Some(_) => {}
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Removes what was made: tells what may live to leave, waits for it, removes the directory.
    /// The directory of a job that is not known to be over stays for the next doctor.
    pub(super) async fn clean_up(&self, evidence: &Evidence) -> Vec<Finding> {
        let directory = &self.job.directory;
        // Seen by canary and child; if not, they end by themselves.
        let _ = fs::write(directory.join(STOP_FILE), "stop\n");
        let asked = self.ward.clock.now();
        let mut leaves = evidence.survivor != Some(true);
        while !leaves && self.ward.clock.now().since(asked) < CHILD_LEAVES {
            leaves = matches!(child(directory), Some(CanaryLine::Ended { .. }));
            tokio::time::sleep(TICK).await;
        }
        let mark = format!("{STORE_MARK}{}", self.job.key);
        // Normally the canary has done it, and often the store is not to be seen from here.
        let _ = fs::remove_file(self.job.store.join("blobs").join(mark));
        if evidence.over.is_none() {
            return vec![judge::not_over(&self.id, directory)];
        }
        remove(&self.job).into_iter().collect()
    }
}

fn remove(job: &PilotJob) -> Option<Finding> {
    fs::remove_dir_all(&job.directory)
        .err()
        .map(|e| judge::not_removed(&job.directory, &e.to_string()))
}

/// The job, with its directory made.
fn job(ward: &Ward<'_>) -> Result<PilotJob, String> {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let key =
        SubmitKey::new(&format!("{KEY_PREFIX}{}", &unique[..8])).map_err(|e| e.to_string())?;
    ward.dirs
        .make(&key, &Tokens::One(NO_TOKEN.to_owned()))
        .map_err(|e| format!("{}: {e}", ward.dirs.path(&key).display()))?;
    let terms = ward
        .settings
        .core
        .sites
        .iter()
        .find(|s| s.name == *ward.target.name);
    let terms = terms.ok_or("the core does not know the site")?;
    let walltime = WALLTIME.max(terms.walltime_min).min(terms.walltime_max);
    let order = PilotOrder {
        key,
        site: ward.target.name.clone(),
        resources: Resources { ..terms.slot },
        // What is measured on one node holds for the others.
        nodes: 1,
        walltime,
        min_walltime: walltime,
        avoid: Vec::new(),
    };
    let url = broker_url(ward.settings);
    Ok(pilot_jobs::pilot_job(
        order,
        ward.target.site,
        ward.target.job,
        &ward.dirs,
        &url,
    ))
}

/// Looks for a job whose submit was not answered.
async fn look_up(ward: &Ward<'_>, key: &SubmitKey) -> Option<LrmJobId> {
    let began = ward.clock.now();
    loop {
        if let Observation::Listing(jobs) = ward.target.lrm.find_by_key(key).await
            && let Some(job) = jobs.into_iter().next()
        {
            return Some(job.id);
        }
        if ward.clock.now().since(began) > LOOK_UP_FOR || ward.is_interrupted() {
            return None;
        }
        tokio::time::sleep(ward.target.site.poll.as_duration()).await;
    }
}

/// The node's clock said `there` between `sent` and `seen` by ours.
fn skew(sent: Timestamp, seen: Timestamp, there: Timestamp) -> Skew {
    let half = i64::try_from(seen.since(sent).as_millis() / 2).unwrap_or(i64::MAX);
    Skew {
        ahead_ms: there.as_millis() - sent.as_millis() - half,
        error: Span::from_millis(half.unsigned_abs() + 1),
    }
}
