//! What must be true when a scenario is over, and what the broker says about it on the way.

use anyhow::{Context, Result, bail, ensure};
use pilot_submit::client::PageRequest;
use protocol::api::{EventView, PilotState, PilotView};
use protocol::codes::ReasonCode;
use protocol::ids::{SiteName, WorkspaceId};

use super::peer::{Peer, PeerJob, Stage};
use crate::harness::Installation;
use crate::harness::slurm::Again;
use crate::harness::wait::{PATIENCE, until};

/// Nothing of ours is left: no job in the batch system, no process and no file on a node, no pilot
/// in the broker's books. No decision had two jobs, no job was cancelled twice, and none was
/// started again but where that was wanted. Gives the jobs.
///
/// # Errors
/// It is not so; the message says where.
pub async fn audit(peer: &Peer, it: &Installation, again: Again) -> Result<Vec<PeerJob>> {
    let checked = check(peer, it, again).await;
    checked.with_context(|| {
        let calls = peer.front().calls().unwrap_or_default();
        // The listings are many, and long.
        let told = |(name, _): &(String, String)| name != peer.list_command();
        let calls = calls.into_iter().filter(told).map(|(_, line)| line);
        let calls: Vec<String> = calls.collect();
        let (jobs, log) = (peer.jobs(), peer.log());
        let broker = it.tail("broker");
        format!(
            "jobs: {jobs:#?}\ncalls:\n{}\n{broker}\n{log}",
            calls.join("\n")
        )
    })
}

async fn check(peer: &Peer, it: &Installation, again: Again) -> Result<Vec<PeerJob>> {
    let jobs = until("all pilot jobs to be over", PATIENCE, async || {
        let jobs = peer.jobs()?;
        let over = jobs.iter().all(|j| j.stage == Stage::Over);
        Ok(over.then_some(jobs))
    })
    .await?;
    let pilots = until("the broker to know it", PATIENCE, async || {
        let pilots = pilots(it).await?;
        let over = pilots.iter().all(|p| p.state == PilotState::Ended);
        Ok(over.then_some(pilots))
    })
    .await?;
    it.is_clean().await?;
    for job in &jobs {
        let same = jobs.iter().filter(|j| j.key == job.key).count();
        ensure!(same == 1, "{} has {same} jobs", job.key);
        ensure!(
            again == Again::Requeued || job.restarts == 0,
            "{} was started again",
            job.id
        );
        let known = pilots.iter().any(|p| p.submit_key.as_str() == job.key);
        ensure!(known, "the broker does not know {}", job.key);
        let cancels = cancels(peer, job)?;
        ensure!(cancels <= 1, "{} was cancelled {cancels} times", job.id);
    }
    for pilot in &pilots {
        let submits = submits(peer, pilot.submit_key.as_str())?;
        let key = &pilot.submit_key;
        ensure!(submits <= 1, "{key} was submitted {submits} times");
    }
    Ok(jobs)
}

/// How often the broker has run the submit command for this key.
///
/// # Errors
/// That cannot be read.
pub fn submits(peer: &Peer, key: &str) -> Result<usize> {
    let marks = [format!("--job-name={key} "), format!("/{key}/job.sub")];
    let is_it = |line: &str| marks.iter().any(|mark| line.contains(mark));
    let calls = peer.front().calls()?;
    let submits = calls.iter().filter(|(n, _)| n == peer.submit_command());
    Ok(submits.filter(|(_, line)| is_it(line)).count())
}

/// How often the broker has run the cancel command for this job.
///
/// # Errors
/// That cannot be read.
pub fn cancels(peer: &Peer, job: &PeerJob) -> Result<usize> {
    let is_it =
        |line: &str| line.split(' ').next_back() == Some(&job.id) || line.contains(&job.key);
    let calls = peer.front().calls()?;
    let cancels = calls.iter().filter(|(n, _)| n == peer.cancel_command());
    Ok(cancels.filter(|(_, line)| is_it(line)).count())
}

/// All pilots in the broker's books.
///
/// # Errors
/// The broker does not tell.
pub async fn pilots(it: &Installation) -> Result<Vec<PilotView>> {
    Ok(it.admin.pilots(None, &PageRequest::default()).await?.items)
}

/// Waits until the broker gives this reason for the end of a pilot job.
///
/// # Errors
/// It does not.
pub async fn ended_because(
    it: &Installation,
    job: &PeerJob,
    code: ReasonCode,
    words: &str,
) -> Result<()> {
    let what = format!("{} to have ended because of `{words}`", job.key);
    let good = until(&what, PATIENCE, async || {
        let pilots = pilots(it).await?;
        let pilot = pilots.iter().find(|p| p.submit_key.as_str() == job.key);
        let why = pilot
            .filter(|p| p.state == PilotState::Ended)
            .and_then(|p| p.reason.as_ref());
        Ok(why
            .filter(|r| r.code == code && r.text.contains(words))
            .map(drop))
    });
    let good = good.await;
    match good {
        Ok(()) => Ok(()),
        Err(e) => bail!("{e:#}; the pilots are {:#?}", pilots(it).await),
    }
}

/// A guest had to go because the batch system wants its slot back. On Slurm the pilot may hear that
/// from the broker, whose listing has the new end, before the signal has come.
///
/// # Errors
/// It had another reason, or none.
pub fn was_told_to_go(event: &EventView) -> Result<()> {
    let words = ["the batch system sent SIGTERM", "the slot ends at"];
    ensure!(words.iter().any(|w| event.text.contains(w)), "{event:?}");
    Ok(())
}

/// No pilot was there after the end of its slot.
///
/// # Errors
/// One was.
pub async fn is_never_late(it: &Installation) -> Result<()> {
    for slot in it.admin.slots(None, &PageRequest::default()).await?.items {
        ensure!(slot.used.overrun.is_zero(), "it was late: {slot:?}");
    }
    Ok(())
}

/// The name of the site of every installation here.
///
/// # Panics
/// Never: it is a name.
pub fn lab() -> SiteName {
    SiteName::new("lab").expect("a plain word is a name")
}

/// What the broker says about the site.
///
/// # Errors
/// The broker does not tell.
pub async fn site_told(it: &Installation) -> Result<String> {
    Ok(it.admin.explain_site(&lab()).await?.sentences.join("\n"))
}

/// Waits until the broker says these words about the site, or says them no more.
///
/// # Errors
/// It does not; the message has what it says.
pub async fn site_tells(it: &Installation, words: &str, wanted: Said) -> Result<()> {
    let what = format!("`{words}` to be {wanted:?} about the site");
    let good = until(&what, PATIENCE, async || {
        let is_said = site_told(it).await?.contains(words);
        Ok((is_said == (wanted == Said::Yes)).then_some(()))
    });
    let good = good.await;
    match good {
        Ok(()) => Ok(()),
        Err(e) => bail!(
            "{e:#}; it says {:#?}\n{}",
            site_told(it).await,
            it.tail("broker")
        ),
    }
}

/// Whether something is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is.
    Yes,
    /// It is not, or no more.
    No,
}

/// Waits until the broker says these words to the owner of a workspace.
///
/// # Errors
/// It does not; the message has what it says.
pub async fn owner_is_told(it: &Installation, id: &WorkspaceId, words: &str) -> Result<()> {
    let what = format!("the owner of {id} to be told `{words}`");
    let mut last = String::new();
    let good = until(&what, PATIENCE, async || {
        last = it.user.explain(id).await?.sentences.join("\n");
        Ok(last.contains(words).then_some(()))
    });
    let good = good.await;
    good.with_context(|| format!("{last}\n{}", it.tail("broker")))
}
