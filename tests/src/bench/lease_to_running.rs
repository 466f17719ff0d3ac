//! From the broker's answer with the lease until the pilot's sync says that QEMU runs the guest.

use anyhow::{Context, Result};
use protocol::lease::LeasePhase;
use protocol::workspace::WorkspaceState;

use super::Options;
use super::figure::{Figure, Target, ms};
use super::guest::{Guests, granted, phase};
use super::station::Station;
use super::tap::Tap;
use crate::requests;

const NAME: &str = "lease-to-running";
const SAMPLES: usize = 11;
const MEMORY_MIB: u64 = 256;

pub(super) async fn run(options: &Options) -> Result<Vec<Figure>> {
    let station = Station::start(options, "").await?;
    let mut tap = Tap::start(station.address).await?;
    let slot = station.slot(&tap.url()).await?;
    let pilot = station.pilot(&slot)?;
    let guests = Guests::of(&station);
    let mut took = Vec::new();
    // The first one brings the image into the page cache and is not counted.
    for n in 0..=SAMPLES {
        let spec = requests::counter(&options.guest, &format!("guest-{n}"), MEMORY_MIB, 0, 10_000);
        let id = guests.queue(&spec).await?;
        let (begin, ()) = tap.wait("the lease", |p| granted(p, &id)).await?;
        let running = tap.wait("the guest to run", |p| phase(p, &id, &LeasePhase::Running));
        let (end, ()) = running.await.with_context(|| station.log(&slot))?;
        if n > 0 {
            took.push(ms(end.duration_since(begin)));
        }
        guests.cancel(&id).await?;
        guests.reaches(&id, WorkspaceState::Cancelled).await?;
    }
    station.end(&slot, pilot).await?;
    let what = format!("{MEMORY_MIB} MiB guest, image on the node: lease granted to QEMU running");
    Ok(vec![
        Figure::median(NAME, what, &took, "ms").must_be(Target::AtMost(300.0)),
    ])
}
