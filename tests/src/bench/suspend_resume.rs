//! Suspend against a plain write, resume against a plain read of as many bytes, on the same disk,
//! in turns: write, suspend, read, resume.

use anyhow::{Context, Result};
use pilot_submit::client::WorkspaceAction;
use protocol::lease::LeasePhase;
use protocol::workspace::WorkspaceState;

use super::Options;
use super::disk::{Written, faster, forget, settle, write_both};
use super::figure::{Figure, Target, ms, rate};
use super::guest::{Guests, granted, phase};
use super::station::Station;
use super::tap::Tap;
use crate::requests;

const ROUNDS: usize = 7;
/// MiB of the guest's memory that do not compress.
const FILLS: [u64; 2] = [256, 512];
/// What the guest has beside them.
const REST_MIB: u64 = 160;

/// Rates of all rounds, MB/s.
#[derive(Default)]
struct Rates {
    plain: Vec<Written>,
    /// Bytes of each plain write.
    sizes: Vec<u64>,
    suspended: Vec<f64>,
    read: Vec<f64>,
    resumed: Vec<f64>,
    /// From the lease with the state to the running guest, ms.
    resume_ms: Vec<f64>,
}

/// Which half is to be told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Suspend,
    Resume,
}

pub(super) async fn run(options: &Options, half: Half) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for fill in FILLS {
        let rates = measure(options, fill).await?;
        let (plain, times) = faster(&rates.plain);
        let sizes = rates.sizes.iter().zip(times);
        let written: Vec<f64> = sizes.map(|(bytes, took)| rate(*bytes, took)).collect();
        figures.extend(match half {
            Half::Suspend => vec![
                Figure::median(
                    "suspend",
                    format!("{fill} MiB of data: rate until durable and verified"),
                    &rates.suspended,
                    "MB/s",
                )
                .against(plain, &written)
                .must_be(Target::AtLeast(0.9)),
            ],
            Half::Resume => vec![
                Figure::median(
                    "resume",
                    format!("{fill} MiB of data: rate until QEMU runs, every byte verified"),
                    &rates.resumed,
                    "MB/s",
                )
                .against("plain read, not cached", &rates.read)
                .must_be(Target::AtLeast(0.8)),
                Figure::median(
                    "resume",
                    format!("{fill} MiB of data: lease granted to QEMU running"),
                    &rates.resume_ms,
                    "ms",
                ),
            ],
        });
    }
    Ok(figures)
}

async fn measure(options: &Options, fill: u64) -> Result<Rates> {
    let station = Station::start(options, "").await?;
    let mut tap = Tap::start(station.address).await?;
    let slot = station.slot(&tap.url()).await?;
    let pilot = station.pilot(&slot)?;
    let guests = Guests::of(&station);
    let spec = requests::counter(&options.guest, "guest", fill + REST_MIB, fill, 100_000);
    let id = guests.queue(&spec).await?;
    let filled = guests.says(&id, "GUEST-FILLED").await;
    filled.with_context(|| station.log(&slot))?;
    let mut rates = Rates::default();
    let mut bytes = fill << 20;
    for round in 0..ROUNDS {
        let (plain, times) = write_both(&station.store(), bytes)?;
        rates.plain.push(times);
        rates.sizes.push(bytes);
        settle(&station.store())?;
        guests.act(&id, WorkspaceAction::Suspend).await?;
        let view = guests.reaches(&id, WorkspaceState::Suspended).await?;
        let (written, took) = guests.last_suspend(&id).await?;
        rates.suspended.push(rate(written, took));
        rates.read.push(rate(bytes, plain.read()?));
        drop(plain);
        let state = view.saved.context("the suspended guest has no state")?;
        forget(&station.store().join("states").join(state.id.as_str()))?;
        settle(&station.store())?;
        tap.forget();
        guests.act(&id, WorkspaceAction::Resume).await?;
        let (begin, ()) = tap.wait("the lease", |p| granted(p, &id)).await?;
        let running = tap.wait("the guest to run", |p| phase(p, &id, &LeasePhase::Running));
        let (end, ()) = running.await.with_context(|| station.log(&slot))?;
        let took = end.duration_since(begin);
        rates.resumed.push(rate(state.bytes, took));
        rates.resume_ms.push(ms(took));
        eprintln!(
            "bench: {} MB, MB/s: write {:.0}, direct write {:.0}, suspend {:.0}, read {:.0}, resume {:.0}",
            written / 1_000_000,
            rate(bytes, times.cached),
            times.direct.map_or(0.0, |took| rate(bytes, took)),
            rates.suspended[round],
            rates.read[round],
            rates.resumed[round],
        );
        bytes = written;
        guests.counts_on(&id).await?;
    }
    guests.is_unbroken(&id).await?;
    guests.cancel(&id).await?;
    guests.reaches(&id, WorkspaceState::Cancelled).await?;
    station.end(&slot, pilot).await?;
    Ok(rates)
}
