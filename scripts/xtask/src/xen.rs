//! Parts `xen` and `xen-long`: build the test dom0, if it is not there, then run the tests that boot
//! it.

use anyhow::Result;

use crate::command::{Log, Step};
use crate::nextest::{self, Kind};
use crate::parts::{Tally, minutes};
use crate::workshop::Workshop;

/// Makes the system that `scripts/lab/xen` boots; the first time it takes a few minutes.
pub fn build(workshop: &Workshop, log: &mut Log) -> Result<()> {
    let script = workshop.root.join("scripts/lab/xen");
    Step::new(&workshop.root, script, &["build"], minutes(15))
        .run(log)
        .map(|_| ())
}

/// What every run makes.
pub fn part(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    build(workshop, log)?;
    nextest::run(workshop, log, Kind::Xen)
}

/// The rest.
pub fn long(workshop: &Workshop, log: &mut Log) -> Result<Tally> {
    build(workshop, log)?;
    nextest::run(workshop, log, Kind::XenLong)
}
