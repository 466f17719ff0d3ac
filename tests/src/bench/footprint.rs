//! What the pilot costs a node: memory while it waits for work, and its file.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

use super::figure::{Figure, Target};
use super::station::{Slot, Station};
use super::tap::{Passed, Tap};
use super::{Options, elf, memory};
use crate::harness::node::{Found, Snapshot};

const NAME: &str = "footprint";
const SAMPLES: usize = 3;
/// So many syncs until it counts as idle; the broker holds each for a second.
const SYNCS: usize = 4;
const HOLD: &str = "[leases]\nhold = \"1s\"\n";

pub(super) async fn run(options: &Options) -> Result<Vec<Figure>> {
    let path = &options.static_pilot;
    let file = fs::read(path).with_context(|| {
        let path = path.display();
        format!("failed to read {path}; scripts/build-static makes it")
    })?;
    let needs = elf::needs(&file).with_context(|| path.display().to_string())?;
    let station = Station::start(options, HOLD).await?;
    let mut tap = Tap::start(station.address).await?;
    let (mut resident, mut together) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let slot = station.slot(&tap.url()).await?;
        tap.forget();
        let pilot = station.pilot(&slot)?;
        for _ in 0..SYNCS {
            let sync = tap.wait("a sync", |p| matches!(p, Passed::Answer(_)).then_some(()));
            sync.await.with_context(|| station.log(&slot))?;
        }
        let of_pilot = memory::of(pilot.pid())?;
        let of_warden = memory::of(warden(&slot)?)?;
        resident.push(of_pilot.resident);
        together.push(of_pilot.proportional + of_warden.proportional);
        station.end(&slot, pilot).await?;
    }
    Ok(vec![
        Figure::median(NAME, "idle pilot: resident memory", &resident, "MB")
            .must_be(Target::AtMost(8.0)),
        Figure::median(
            NAME,
            "idle pilot and its warden together: memory (PSS)",
            &together,
            "MB",
        )
        .must_be(Target::AtMost(8.0)),
        Figure::one(
            NAME,
            "size of the static pilot",
            file.len() as f64 / 1e6,
            "MB",
        )
        .must_be(Target::AtMost(8.0)),
        Figure::one(
            NAME,
            "loaders and shared libraries that it needs",
            needs as f64,
            "files",
        )
        .must_be(Target::AtMost(0.0)),
    ])
}

/// The process that outlives a killed pilot.
fn warden(slot: &Slot) -> Result<Pid> {
    for found in Snapshot::take(&slot.scratch).iter() {
        if let Found::Process { pid, command } = found
            && command.split(' ').nth(1) == Some("warden")
        {
            return Ok(Pid::from_raw(*pid));
        }
    }
    bail!("the pilot has no warden")
}
