//! A real guest on a real Xen host, in slots that are too short for it and under a pilot that dies:
//! the pilot, its LRM and its guests are in dom0, the broker is outside.

use anyhow::{Context, Result, bail, ensure};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::xen::XenSite;
use e2e::harness::{Binaries, CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::requests;
use pilot_submit::client::WorkspaceAction;
use protocol::ids::{EventSeq, WorkspaceId};
use protocol::workspace::WorkspaceState;

/// The broker learns what a suspend costs there, and asks for a notice that it fits into: on a busy
/// machine 48 s for 96 MiB.
fn setup(site: &XenSite) -> Setup {
    Setup {
        walltime: "170s",
        notice: "120s",
        idle_limit: "4s",
        lease_ttl: "30s",
        ..site.setup(Guests::Xen, 0)
    }
}

async fn counts_to(it: &Installation, id: &WorkspaceId, enough: u64) -> Result<()> {
    let what = format!("the guest to count to {enough}");
    let counted = until(&what, PATIENCE * 2, async || {
        let log = CounterLog::read(&it.console(id).await?);
        Ok(log.last.filter(|n| *n >= enough))
    });
    if let Err(e) = counted.await {
        let story = it.story(id).await.unwrap_or_default();
        bail!(
            "{e:#}\n{story}\n{}\n{}\n{}",
            it.tail("lrm"),
            it.tail("broker"),
            it.pilot_logs()
        );
    }
    Ok(())
}

/// Preempted by a job of the site, then at the end of a slot: two suspends, three slots, one count.
/// It goes by what the guest has counted, not by how long that takes here.
#[tokio::test]
async fn a_guest_counts_on_over_a_preemption_and_the_end_of_a_slot() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let site = XenSite::start(&Binaries::find()?, Some(&guest), 1)?;
    let guest = site.guest.clone().context("no guest")?;
    let it = Installation::start_with(&setup(&site), site.binaries.clone()).await?;
    let spec = requests::counter_on_xen(&guest, "counter", 96, 3000);
    let id = it.queue(&spec, "k1").await?;
    counts_to(&it, &id, 5).await?;
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
    // A whole slot goes by.
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
    it.is_clean().await?;
    site.is_clean().await?;
    it.life_is_sound(&id).await?;
    for slot in it.admin.slots(None, &Default::default()).await?.items {
        assert!(slot.used.overrun.is_zero(), "{slot:?}");
    }
    Ok(())
}

/// Waits until a suspended guest has counted three more.
async fn goes_on(it: &Installation, id: &WorkspaceId) -> Result<()> {
    let before = CounterLog::read(&it.console(id).await?).last.unwrap_or(0);
    counts_to(it, id, before + 3).await
}

/// The pilot is killed unheard: its guest is gone with it, and begins again in the next slot.
#[tokio::test]
async fn a_killed_pilot_leaves_no_domain() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let site = XenSite::start(&Binaries::find()?, Some(&guest), 1)?;
    let guest = site.guest.clone().context("no guest")?;
    let it = Installation::start_with(&setup(&site), site.binaries.clone()).await?;
    let spec = requests::counter_on_xen(&guest, "killed", 96, 45);
    let id = it.queue(&spec, "k1").await?;
    counts_to(&it, &id, 3).await?;
    let host = &site.hosts[0];
    let first = host.administer(&["xl", "list", "-v"])?;
    ensure!(first.lines().count() == 3, "{first}");
    let kill = "for c in /proc/[0-9]*/cmdline; do \
        case $(tr '\\0' ' ' <$c 2>/dev/null) in \"$1 run --slot \"*) p=${c%/cmdline}; kill -KILL ${p#/proc/};; esac; \
        done";
    let pilot = site.binaries.pilot.display().to_string();
    host.administer(&["sh", "-c", kill, "kill", &pilot])?;
    until("the domain to be gone", PATIENCE, async || {
        let now = host.administer(&["xl", "list", "-v"])?;
        let uuid = |list: &str| -> Vec<String> {
            list.lines()
                .skip(2)
                .filter_map(|l| l.split_whitespace().find(|w| w.len() == 36))
                .map(str::to_owned)
                .collect()
        };
        Ok(uuid(&first).iter().all(|u| !now.contains(u)).then_some(()))
    })
    .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.restarts), (0, 1), "{story}");
    it.is_clean().await?;
    site.is_clean().await?;
    it.life_is_sound(&id).await
}
