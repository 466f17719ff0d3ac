//! From SIGTERM to the pilot until nothing of it is on the node: no process, no file of the slot.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use protocol::lease::LeasePhase;
use protocol::workspace::WorkspaceState;

use super::disk::{faster, settle, write_both};
use super::figure::{Figure, Target, ms};
use super::guest::{Guests, phase};
use super::station::{Slot, Station};
use super::tap::{Passed, Tap};
use super::{Options, clock};
use crate::harness::process::Program;
use crate::requests;

const NAME: &str = "evict";
const SAMPLES: usize = 7;
const FILL_MIB: u64 = 256;
const MEMORY_MIB: u64 = FILL_MIB + 160;
/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn run(options: &Options) -> Result<Vec<Figure>> {
    let mut figures = vec![idle(options).await?];
    figures.extend(with_guest(options).await?);
    Ok(figures)
}

async fn idle(options: &Options) -> Result<Figure> {
    let station = Station::start(options, "").await?;
    let mut tap = Tap::start(station.address).await?;
    let mut took = Vec::new();
    for _ in 0..SAMPLES {
        let slot = station.slot(&tap.url()).await?;
        tap.forget();
        let pilot = station.pilot(&slot)?;
        let syncs = tap.wait("the pilot to sync", |passed| {
            matches!(passed, Passed::Answer(_)).then_some(())
        });
        syncs.await.with_context(|| station.log(&slot))?;
        took.push(ms(until_empty(&station, &slot, pilot).await?));
    }
    Ok(Figure::median(
        NAME,
        "pilot without a guest: SIGTERM to empty slot",
        &took,
        "ms",
    ))
}

/// One guest goes from slot to slot; each is ended by SIGTERM.
async fn with_guest(options: &Options) -> Result<[Figure; 2]> {
    let station = Station::start(options, "").await?;
    let mut tap = Tap::start(station.address).await?;
    let guests = Guests::of(&station);
    let spec = requests::counter(&options.guest, "guest", MEMORY_MIB, FILL_MIB, 100_000);
    let id = guests.queue(&spec).await?;
    let (mut took, mut plain) = (Vec::new(), Vec::new());
    for round in 0..SAMPLES {
        let slot = station.slot(&tap.url()).await?;
        tap.forget();
        let pilot = station.pilot(&slot)?;
        let running = tap.wait("the guest to run", |p| phase(p, &id, &LeasePhase::Running));
        running.await.with_context(|| station.log(&slot))?;
        let alive = match round {
            0 => guests.says(&id, "GUEST-FILLED").await,
            _ => guests.counts_on(&id).await,
        };
        alive.with_context(|| station.log(&slot))?;
        settle(&station.store())?;
        let evicted = until_empty(&station, &slot, pilot).await?;
        guests.reaches(&id, WorkspaceState::Queued).await?;
        let (bytes, _) = guests.last_suspend(&id).await?;
        let (_, written) = write_both(&station.store(), bytes)?;
        took.push(evicted);
        plain.push(written);
        eprintln!(
            "bench: {} MB suspended, slot empty after {evicted:.0?}; plain write {:.0?}",
            bytes / 1_000_000,
            written.direct.unwrap_or(written.cached)
        );
    }
    guests.is_unbroken(&id).await?;
    let (way, plain) = faster(&plain);
    let pairs = took.iter().zip(&plain);
    let beyond: Vec<f64> = pairs.map(|(t, p)| ms(t.saturating_sub(*p))).collect();
    let took: Vec<f64> = took.into_iter().map(ms).collect();
    let plain: Vec<f64> = plain.into_iter().map(ms).collect();
    let guest = format!("guest with {FILL_MIB} MiB of data, suspended");
    Ok([
        Figure::median(NAME, format!("{guest}: SIGTERM to empty slot"), &took, "ms")
            .against(way, &plain),
        Figure::median(
            NAME,
            format!("{guest}: time beyond the plain write"),
            &beyond,
            "ms",
        )
        .must_be(Target::AtMost(1000.0)),
    ])
}

/// Sends SIGTERM and waits, looking all the time, until nothing of the slot is left.
async fn until_empty(station: &Station, slot: &Slot, mut pilot: Program) -> Result<Duration> {
    let begin = clock::now();
    pilot.signal(Signal::SIGTERM)?;
    let mut gone = false;
    loop {
        gone = gone || pilot.ended()?.is_some();
        if gone && station.left(slot).is_empty() {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > LIMIT {
            bail!(
                "left after {LIMIT:?}: {:?}\n{}",
                station.left(slot),
                station.log(slot)
            );
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
