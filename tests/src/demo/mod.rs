//! `scripts/demo`: a real Linux guest outlives its batch job.
//!
//! Act one: a guest that needs more run time than one slot has. Act two: a job of the site itself
//! preempts a running pilot. Everything is real but the batch system, which is the simulated one.
//! `scripts/demo xen` plays the same on a real Xen host.

mod plain_write;
mod stage;
mod summary;
mod watch;

use std::path::PathBuf;

use anyhow::{Context, Result};
use pilot_submit::client::PageRequest;
use protocol::api::EventView;
use protocol::ids::WorkspaceId;
use protocol::workspace::WorkspaceState;

use self::stage::Stage;
pub use self::stage::Where;
pub use self::summary::{SlotSummary, Summary};
use self::watch::{Followed, Watch};
use crate::harness::{Binaries, Installation};

/// What the demo is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the programs.
    pub programs: PathBuf,
    /// Directory of the guest that `scripts/guest/build` made.
    pub guest: PathBuf,
    /// Where the guests run.
    pub stage: Where,
}

/// Plays both acts and sums up.
///
/// # Errors
/// Something did not work; the message says what, with the logs' ends.
pub async fn play(options: &Options) -> Result<Summary> {
    let mut watch = Watch::begin();
    let binaries = Binaries::in_dir(&options.programs)?;
    let stage = Stage::set(options.stage, &binaries, &options.guest, &watch)?;
    watch.be_patient(stage.patience);
    watch.say("site", stage.told);
    let it = Installation::start_with(&stage.setup, stage.binaries.clone()).await?;
    let ((first, long), (second, short)) = if stage.is_slow() {
        let short = preemption(&it, &mut watch, &stage, "one").await?;
        let long = one_guest_two_slots(&it, &mut watch, &stage, "two").await?;
        (long, short)
    } else {
        let long = one_guest_two_slots(&it, &mut watch, &stage, "one").await?;
        let short = preemption(&it, &mut watch, &stage, "two").await?;
        (long, short)
    };
    let mut summary = sum_up(&it, &stage, &[&long, &short]).await?;
    summary.finished = true;
    for id in [&first, &second] {
        summary.finished &= it.show(id).await?.state == WorkspaceState::Done;
    }
    Ok(summary)
}

async fn one_guest_two_slots(
    it: &Installation,
    watch: &mut Watch,
    stage: &Stage,
    act: &str,
) -> Result<(WorkspaceId, Followed)> {
    println!("\nAct {act}: a guest that needs more time than one slot has");
    let count_to = stage.long;
    watch.say(
        "user",
        &format!("queues a Linux guest that counts to {count_to}, one a second"),
    );
    let spec = stage.guest("counter", count_to);
    let id = it.queue(&spec, "demo-1").await?;
    let mut followed = Followed::default();
    watch
        .follow(it, &id, &mut followed, |_, state| state.is_final())
        .await?;
    watch.until_pilots_are_gone(it).await?;
    Ok((id, followed))
}

async fn preemption(
    it: &Installation,
    watch: &mut Watch,
    stage: &Stage,
    act: &str,
) -> Result<(WorkspaceId, Followed)> {
    println!("\nAct {act}: a job of the site itself wants the node");
    watch.say("user", "queues another guest");
    let spec = stage.guest("preempted", stage.short);
    let id = it.queue(&spec, "demo-2").await?;
    let mut followed = Followed::default();
    watch
        .follow(it, &id, &mut followed, |f, _| {
            f.counter.last.is_some_and(|n| n >= 8)
        })
        .await?;
    watch.say(
        "site",
        "somebody submits a job of higher priority, which needs the whole node",
    );
    let wanted = [
        "site-job",
        "--cores",
        "2",
        "--memory",
        "1GiB",
        "--walltime",
        stage.site_job,
    ];
    let said = it.lrm_command(&wanted).await?;
    let told = watch.now();
    watch.say(
        "site",
        &format!(
            "the batch system takes it ({}) and preempts the pilot",
            said.trim()
        ),
    );
    if stage.is_slow() {
        watch
            .follow(it, &id, &mut followed, |f, _| {
                f.events.iter().any(|e| e.kind == "guest_suspended")
            })
            .await?;
    }
    watch
        .until_the_pilot_is_gone(it, stage, told, &mut followed)
        .await?;
    watch
        .follow(it, &id, &mut followed, |_, state| state.is_final())
        .await?;
    watch.until_pilots_are_gone(it).await?;
    Ok((id, followed))
}

async fn sum_up(it: &Installation, stage: &Stage, guests: &[&Followed]) -> Result<Summary> {
    // A pilot ends a moment after its last word to the broker.
    let mut leftovers = it
        .is_clean()
        .await
        .map_or_else(|_| it.leftovers(), |()| Vec::new());
    leftovers.extend(stage.leftovers().await?);
    let mut summary = Summary {
        notice_s: stage.notice.as_secs_f64(),
        leftovers,
        ..Summary::default()
    };
    let slots = it
        .admin
        .slots(None, &PageRequest::default())
        .await
        .context("failed to list slots")?;
    let mut slots = slots.items;
    slots.sort_by_key(|s| s.start);
    summary.slots = slots.iter().map(|s| s.used.into()).collect();
    summary.overruns = summary.slots.iter().filter(|s| s.overrun_s > 0.0).count();
    let counter = &guests.first().context("no guest was followed")?.counter;
    summary.counter_first = counter.first.unwrap_or(0);
    summary.counter_last = counter.last.unwrap_or(0);
    let mut sizes = Vec::new();
    for guest in guests {
        let c = &guest.counter;
        summary.counter_restarts += c.jumps + c.reboots + c.disk_jumps;
        summary.complaints.extend(c.complaints.iter().cloned());
        for event in &guest.events {
            if let Some((bytes, mb_s)) = measured(event) {
                summary.suspends += 1;
                summary.suspend_mb_s.push(mb_s);
                sizes.push(bytes);
            }
            let resumed = event.state == Some(WorkspaceState::Resuming);
            summary.resumes += u32::from(resumed);
        }
        summary.preempted_to_empty_s += guest.preempted_to_empty.as_secs_f64();
    }
    for bytes in &sizes {
        summary
            .plain_write_mb_s
            .push(stage.plain_write(&it.place().join("store"), *bytes)?);
    }
    summary.suspend_rate_ratio = median(&summary.suspend_mb_s) / median(&summary.plain_write_mb_s);
    Ok(summary)
}

/// Bytes and MB/s of a suspend, when the event tells of one.
fn measured(event: &EventView) -> Option<(u64, f64)> {
    if event.kind != "suspend_measured" {
        return None;
    }
    let bytes = event.data.get("written")?.as_u64()?;
    let took_ms = event.data.get("took_ms")?.as_u64()?;
    Some((bytes, bytes as f64 / 1e3 / took_ms.max(1) as f64))
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
