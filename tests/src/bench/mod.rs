//! The benchmarks of `scripts/bench`: real programs, real guests, one benchmark per run.
//!
//! A baseline is measured in the same run, in turns with what it is compared with, on the same
//! disk. Figures are medians. Nothing is measured by polling that went over a wire ([`tap`]).

mod clock;
mod disk;
mod driver;
mod elf;
mod evict;
mod figure;
mod flush;
mod footprint;
mod guest;
mod lease_to_running;
mod memory;
mod pilot_start;
mod puppet;
mod station;
mod suspend_resume;
mod sync;
mod tap;

use std::path::PathBuf;

use anyhow::Result;

pub use figure::{Baseline, Figure, Target};
pub use flush::Dirty;
use suspend_resume::Half;

/// What a benchmark is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the programs; what is measured is written below it as well.
    pub programs: PathBuf,
    /// Directory of the guest that `scripts/guest/build` made.
    pub guest: PathBuf,
    /// The pilot that `scripts/build-static` made; `programs` has another where it is missing.
    pub static_pilot: PathBuf,
    /// `suspend`: only a guest with so much memory, MiB.
    pub guest_mib: Option<u64>,
    /// `suspend`: only a guest that does this with its memory.
    pub dirty: Option<Dirty>,
}

impl Options {
    fn pilot(&self) -> PathBuf {
        if self.static_pilot.is_file() {
            self.static_pilot.clone()
        } else {
            self.programs.join("pilot")
        }
    }

    fn pilot_words(&self) -> &'static str {
        if self.static_pilot.is_file() {
            "static pilot"
        } else {
            "dynamic pilot"
        }
    }
}

/// The benchmarks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Benchmark {
    /// Process start to registered.
    PilotStart,
    /// Lease granted to QEMU running.
    LeaseToRunning,
    /// Suspend against a plain write.
    Suspend,
    /// Resume against a plain read.
    Resume,
    /// SIGTERM to empty slot.
    Evict,
    /// The broker with many pilots and a long queue.
    Sync,
    /// Memory and file of the pilot.
    Footprint,
}

/// Runs one.
///
/// # Errors
/// It could not be measured.
pub async fn run(benchmark: Benchmark, options: &Options) -> Result<Vec<Figure>> {
    match benchmark {
        Benchmark::PilotStart => pilot_start::run(options).await,
        Benchmark::LeaseToRunning => lease_to_running::run(options).await,
        Benchmark::Suspend => suspend(options).await,
        Benchmark::Resume => suspend_resume::run(options, Half::Resume).await,
        Benchmark::Evict => evict::run(options).await,
        Benchmark::Sync => sync::run(options).await,
        Benchmark::Footprint => footprint::run(options).await,
    }
}

/// MiB of memory of the guests whose suspend after a flush is measured.
const FLUSHED_MIB: u64 = 1024;

async fn suspend(options: &Options) -> Result<Vec<Figure>> {
    let (guest_mib, dirty) = (options.guest_mib, options.dirty);
    let mut figures = Vec::new();
    if guest_mib.is_none() && dirty.is_none() {
        figures = suspend_resume::run(options, Half::Suspend).await?;
    }
    for each in [Dirty::Idle, Dirty::Busy] {
        if dirty.is_none_or(|only| only == each) {
            let guest_mib = guest_mib.unwrap_or(FLUSHED_MIB);
            figures.extend(flush::run(options, guest_mib, each).await?);
        }
    }
    Ok(figures)
}
