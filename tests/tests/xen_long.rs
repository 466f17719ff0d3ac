//! What takes too long on a real Xen host for every run (part `xen-long`).

use anyhow::{Context, Result, ensure};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::xen::{XenHost, XenSite};
use e2e::harness::xen_tests::{on_a_host_to_throw_away, on_hosts};
use e2e::harness::{Binaries, CounterLog, Guests, Installation, Setup, guest_dir};
use e2e::requests;
use pilot_submit::client::WorkspaceAction;
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::WorkspaceState;

/// All the rules that hold for all hypervisors, and those for disks and networks that are Xen's alone,
/// as the user that pilots run as.
#[test]
fn the_driver_keeps_the_whole_contract() -> Result<()> {
    on_hosts("hypervisor_conformance", &[], &[&["xen::", "xen_host::"]])
}

/// The host's xenstored dies while a guest runs: nothing is said to be gone that may be there.
#[test]
fn without_xenstored_no_guest_is_said_to_be_gone() -> Result<()> {
    let test = "without_xenstored_no_guest_is_said_to_be_gone";
    on_a_host_to_throw_away("hypervisor_xen_store", &["--root"], &["--exact", test])
}

/// A guest that is suspended on one host goes on on another that sees the same store.
#[test]
fn a_guest_goes_on_on_another_host() -> Result<()> {
    let filters: [&[&str]; 2] = [&["a_guest_leaves"], &["a_guest_arrives"]];
    on_hosts("hypervisor_xen_hosts", &[], &filters)
}

/// LRM, network, shares and time, without guests.
#[tokio::test]
async fn a_request_longer_than_a_slot_continues_in_the_next() -> Result<()> {
    let site = XenSite::start(&Binaries::find()?, None, 1)?;
    let setup = Setup {
        walltime: "30s",
        ..site.setup(Guests::Null, 0)
    };
    let it = Installation::start_with(&setup, site.binaries.clone()).await?;
    let id = it
        .queue(&requests::null("long", Span::from_secs(25)), "k1")
        .await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert!(view.suspends >= 1 && view.restarts == 0, "{story}");
    it.life_is_sound(&id).await?;
    it.is_clean().await?;
    site.is_clean().await
}

/// The pilot is killed unheard: its guest is gone with it, and begins again in the next slot.
#[tokio::test]
async fn a_killed_pilot_leaves_no_domain() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let site = XenSite::start(&Binaries::find()?, Some(&guest), 1)?;
    let guest = site.guest.clone().context("no guest")?;
    let it = Installation::start_with(&site.patient(Guests::Xen), site.binaries.clone()).await?;
    let spec = requests::counter_on_xen(&guest, "killed", 96, 15);
    let id = it.queue(&spec, "k1").await?;
    it.counts_to(&id, 3).await?;
    let host = &site.hosts[0];
    let first = host.administer(&["xl", "list", "-v"])?;
    ensure!(first.lines().count() == 3, "{first}");
    kill(&site, host, "run")?;
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

/// The warden is killed while its pilot suspends a guest: the state is made, the guest goes on from it,
/// and nothing is left.
#[tokio::test]
async fn a_warden_that_is_killed_in_a_save_takes_nothing_with_it() -> Result<()> {
    let Some(guest) = guest_dir()? else {
        return Ok(());
    };
    let site = XenSite::start(&Binaries::find()?, Some(&guest), 1)?;
    let guest = site.guest.clone().context("no guest")?;
    let it = Installation::start_with(&site.patient(Guests::Xen), site.binaries.clone()).await?;
    let spec = requests::counter_on_xen(&guest, "unwatched", 96, 3000);
    let id = it.queue(&spec, "k1").await?;
    it.counts_to(&id, 3).await?;
    it.user.act(&id, WorkspaceAction::Suspend).await?;
    it.sees(&id, "guest_suspending", EventSeq(0)).await?;
    kill(&site, &site.hosts[0], "warden")?;
    let view = it.reaches(&id, WorkspaceState::Suspended).await?;
    let story = it.story(&id).await?;
    assert_eq!((view.suspends, view.restarts), (1, 0), "{story}");
    let before = CounterLog::read(&it.console(&id).await?).last.unwrap_or(0);
    it.user.act(&id, WorkspaceAction::Resume).await?;
    it.counts_to(&id, before + 3).await?;
    it.user.act(&id, WorkspaceAction::Cancel).await?;
    it.reaches(&id, WorkspaceState::Cancelled).await?;
    let console = it.console(&id).await?;
    let log = CounterLog::read(&console);
    assert!(log.is_unbroken(), "{log:?}\n{console}");
    it.is_clean().await?;
    site.is_clean().await?;
    it.life_is_sound(&id).await
}

/// Kills the pilot's process there that does `what`.
fn kill(site: &XenSite, host: &XenHost, what: &str) -> Result<()> {
    let script = "killed=1; for c in /proc/[0-9]*/cmdline; do \
        case $(tr '\\0' ' ' <$c 2>/dev/null) in \
            \"$1 $2 --slot \"*|\"/proc/self/exe $2 --slot \"*) p=${c%/cmdline}; kill -KILL ${p#/proc/} && killed=0;; \
        esac; done; exit $killed";
    let pilot = site.binaries.pilot.display().to_string();
    let done = host.administer(&["sh", "-c", script, "kill", &pilot, what]);
    done.with_context(|| format!("no `{pilot} {what}` was killed"))
        .map(drop)
}
