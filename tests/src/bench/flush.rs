//! The last suspend of a guest whose memory was flushed while it ran, against a suspend that brings
//! all of it, in turns; and what the flush costs a guest that writes its memory as fast as it can.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pilot::hypervisor::Guest;

use super::disk::{settle, write_both};
use super::driver::{Driver, said};
use super::figure::{Figure, Target, ms};
use super::{Options, clock};
use crate::harness::wait::{PATIENCE, until};
use crate::requests;

const NAME: &str = "suspend";
const ROUNDS: usize = 5;
/// What the guest has beside the memory that is filled.
const REST_MIB: u64 = 160;
/// The guest says so when it has written as much again.
const WROTE: (&str, f64) = ("GUEST-WROTE 64 MiB", 64.0);
/// How long the speed of its writing is measured.
const WATCHED: Duration = Duration::from_secs(15);
/// Allowed beside the bytes that have still to be written.
const ALLOWED_MS: f64 = 300.0;

/// What the guest does with its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Dirty {
    /// Nothing: it counts.
    Idle,
    /// Rewrites it from end to end, as fast as it can.
    Busy,
}

impl Dirty {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
        }
    }

    /// MiB a second that the guest is told to rewrite.
    const fn rate(self) -> u64 {
        match self {
            Self::Idle => 0,
            Self::Busy => 1_000_000,
        }
    }
}

/// Milliseconds of each round.
#[derive(Default)]
struct Times {
    full: Vec<f64>,
    flushed: Vec<f64>,
    allowed: Vec<f64>,
    /// MiB/s that the guest writes, with and without a flush.
    while_flushed: Vec<f64>,
    alone: Vec<f64>,
}

pub(super) async fn run(options: &Options, guest_mib: u64, dirty: Dirty) -> Result<Vec<Figure>> {
    let Some(fill) = guest_mib.checked_sub(REST_MIB).filter(|fill| *fill > 0) else {
        bail!("a guest of {guest_mib} MiB is too small: it wants more than {REST_MIB}");
    };
    let mut spec = requests::counter(&options.guest, "guest", guest_mib, fill, 1_000_000);
    let words = spec.image.cmdline.take().unwrap_or_default();
    spec.image.cmdline = Some(format!("{words} dirty={}", dirty.rate()));
    let mut driver = Driver::new(options, spec)?;
    let mut times = Times::default();
    for round in 0..=ROUNDS {
        let guest = driver.start().await?;
        driver.says(&guest, "COUNT", 2).await?;
        if round == 0 {
            driver.says(&guest, "GUEST-FILLED", 1).await?;
        }
        if dirty == Dirty::Busy {
            times.alone.push(speed(&guest).await?);
        }
        settle(&driver.store())?;
        let full = end(&mut driver, &guest).await?.0;

        let guest = driver.start().await?;
        driver.says(&guest, "COUNT", 2).await?;
        driver.flush(&guest).await?;
        if dirty == Dirty::Busy {
            times.while_flushed.push(speed(&guest).await?);
        } else {
            driver.says(&guest, "COUNT", 6).await?;
        }
        settle(&driver.store())?;
        let (flushed, written) = end(&mut driver, &guest).await?;
        let (_, plain) = write_both(&driver.store(), written)?;
        let plain = plain.direct.map_or(plain.cached, |d| d.min(plain.cached));
        eprintln!(
            "bench: {guest_mib} MiB, {}: all of it {full:.0} ms, flushed {flushed:.0} ms with {} MB left, which \
             a plain write takes {:.0} ms for",
            dirty.as_str(),
            written / 1_000_000,
            ms(plain)
        );
        // The first round has the page cache and the disk to itself.
        if round > 0 {
            times.full.push(full);
            times.flushed.push(flushed);
            times.allowed.push(ALLOWED_MS + ms(plain));
        }
    }
    Ok(times.figures(guest_mib, dirty))
}

/// Suspends the guest: milliseconds until it is durable and gone, and bytes written.
async fn end(driver: &mut Driver, guest: &Guest) -> Result<(f64, u64)> {
    let (made, took) = driver.suspend(guest).await?;
    if said(guest, "GUEST-CORRUPT")? > 0 {
        bail!("the guest's memory was not what it had written");
    }
    Ok((ms(took), made.written))
}

/// MiB/s that the guest writes.
async fn speed(guest: &Guest) -> Result<f64> {
    let begin = clock::now();
    let before = said(guest, WROTE.0)?;
    let after = until("the guest to write", PATIENCE, async || {
        let now = said(guest, WROTE.0)?;
        Ok((begin.elapsed() > WATCHED && now > before).then_some(now))
    })
    .await
    .context("the guest does not say that it writes")?;
    Ok((after - before) as f64 * WROTE.1 / begin.elapsed().as_secs_f64())
}

impl Times {
    fn figures(&self, guest_mib: u64, dirty: Dirty) -> Vec<Figure> {
        let guest = format!("{} guest of {guest_mib} MiB, flushed", dirty.as_str());
        let last =
            |what: &str| Figure::median(NAME, format!("{guest}: {what}"), &self.flushed, "ms");
        let full = last("order until durable and gone").against("suspend of all of it", &self.full);
        match dirty {
            Dirty::Idle => vec![
                full.must_be(Target::AtMost(0.1)),
                last("the same, within 0.3 s and the plain write of what was left")
                    .against("allowed", &self.allowed)
                    .must_be(Target::AtMost(1.0)),
            ],
            // It may have written all of it again.
            Dirty::Busy => vec![
                full.must_be(Target::AtMost(1.2)),
                Figure::median(
                    NAME,
                    format!("{guest}: how fast it writes meanwhile"),
                    &self.while_flushed,
                    "MiB/s",
                )
                .against("without a flush", &self.alone),
            ],
        }
    }
}
