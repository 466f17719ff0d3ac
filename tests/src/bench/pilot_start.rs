//! From the start of the pilot's program until the broker's answer to its registration.

use anyhow::{Context, Result};

use super::figure::{Figure, Target, ms};
use super::station::Station;
use super::tap::{Passed, Tap};
use super::{Options, clock};

const NAME: &str = "pilot-start";
const SAMPLES: usize = 21;

pub(super) async fn run(options: &Options) -> Result<Vec<Figure>> {
    let station = Station::start(options, "").await?;
    let mut tap = Tap::start(station.address).await?;
    let mut took = Vec::new();
    for _ in 0..SAMPLES {
        let slot = station.slot(&tap.url()).await?;
        let begin = clock::now();
        let pilot = station.pilot(&slot)?;
        let registered = tap.wait("the pilot to register", |passed| {
            matches!(passed, Passed::Registered).then_some(())
        });
        let (at, ()) = registered.await.with_context(|| station.log(&slot))?;
        took.push(ms(at.duration_since(begin)));
        station.end(&slot, pilot).await?;
    }
    let what = format!(
        "{}, QEMU: process start to registered",
        options.pilot_words()
    );
    Ok(vec![
        Figure::median(NAME, what, &took, "ms").must_be(Target::AtMost(100.0)),
    ])
}
