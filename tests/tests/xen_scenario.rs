//! A real guest on a real Xen host, in slots that are too short for it: the pilot, its LRM and its
//! guests are in dom0, the broker is outside.

use anyhow::{Context, Result, ensure};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::xen::{XenHost, XenSite};
use e2e::harness::{Binaries, CounterLog, Guests, Installation, guest_dir};
use e2e::requests;
use pilot_submit::client::WorkspaceAction;
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::workspace::WorkspaceState;

/// Preempted by a job of the site, then at the end of a slot: two suspends, three slots, one count.
/// It goes by what the guest has counted, not by how long that takes here.
#[tokio::test]
async fn a_guest_counts_on_over_a_preemption_and_the_end_of_a_slot() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let site = XenSite::start(&Binaries::find()?, Some(&guest), 1)?;
    let guest = site.guest.clone().context("no guest")?;
    let it = Installation::start_with(&site.patient(Guests::Xen), site.binaries.clone()).await?;
    let spec = requests::counter_on_xen(&guest, "counter", 96, 3000);
    let id = it.queue(&spec, "k1").await?;
    it.counts_to(&id, 5).await?;
    let domains = site.hosts[0].domains()?;
    ensure!(domains.len() == 1, "one guest, these domains: {domains:?}");
    let job = "site-job --cores 2 --memory 1GiB --walltime 2s";
    let job: Vec<&str> = job.split(' ').collect();
    it.lrm_command(&job).await?;
    let first = it.sees(&id, "guest_suspended", EventSeq(0)).await?;
    ensure!(
        first.text.contains("the batch system sent SIGTERM"),
        "{first:?}"
    );
    goes_on(&it, &id).await?;
    ends_in(&it, &site.hosts[0], 80).await?;
    until("the second suspend", PATIENCE * 3, async || {
        Ok((it.show(&id).await?.suspends >= 2).then_some(()))
    })
    .await?;
    let second = it.sees(&id, "guest_suspended", first.seq).await?;
    ensure!(second.text.contains("the slot ends"), "{second:?}");
    goes_on(&it, &id).await?;
    it.user.act(&id, WorkspaceAction::Cancel).await?;
    let view = it.reaches(&id, WorkspaceState::Cancelled).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.restarts), (2, 0), "{story}");
    let console = it.console(&id).await?;
    let log = CounterLog::read(&console);
    assert!(log.is_unbroken(), "{log:?}\n{story}\n{console}");
    assert_eq!(log.first, Some(1), "{console}");
    // Its agent hears the pilot over xenstore, also in a later slot.
    assert!(console.contains("LEASE-TOLD resumed "), "{console}");
    it.is_clean().await?;
    site.is_clean().await?;
    it.life_is_sound(&id).await?;
    for slot in it.admin.slots(None, &Default::default()).await?.items {
        assert!(slot.used.overrun.is_zero(), "{slot:?}");
    }
    Ok(())
}

/// Takes so much walltime from the job that runs that it ends in so many seconds.
async fn ends_in(it: &Installation, host: &XenHost, left: i64) -> Result<()> {
    let number = |text: String| -> Result<i64> {
        let whole = text.trim().split('.').next().unwrap_or("");
        whole.parse().with_context(|| format!("no number: {text}"))
    };
    let job = it.running_job().await?;
    let end = number(it.lrm_command(&["end", &job]).await?)?;
    let now = number(host.command(&["date", "+%s"])?)?;
    let by = format!("{}s", end - now - left);
    it.lrm_command(&["shorten", &job, &by]).await.map(drop)
}

/// Waits until a suspended guest has counted three more.
async fn goes_on(it: &Installation, id: &WorkspaceId) -> Result<()> {
    let before = CounterLog::read(&it.console(id).await?).last.unwrap_or(0);
    it.counts_to(id, before + 3).await
}
