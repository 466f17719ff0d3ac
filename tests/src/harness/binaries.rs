//! Where the programs under test are: beside this one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The real programs, built before the tests run (`scripts/test` does).
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `pilot`.
    pub pilot: PathBuf,
    /// `pilot-broker`.
    pub broker: PathBuf,
    /// `pilot-submit`.
    pub submit: PathBuf,
    /// `sim-lrm`.
    pub lrm: PathBuf,
    /// `lrm-conformance`; needed by few tests.
    pub conformance: PathBuf,
    /// `fake-lrm`, an example of `lrm-adapters`: built with the tests, needed by few of them.
    pub fake: PathBuf,
}

impl Binaries {
    /// The programs in the directory of this test program.
    ///
    /// # Errors
    /// One is missing.
    pub fn find() -> Result<Self> {
        let me = std::env::current_exe().context("failed to find this program")?;
        let mut dir = me.parent().context("this program lies nowhere")?;
        if dir.file_name().is_some_and(|n| n == "deps") {
            dir = dir.parent().context("this program lies nowhere")?;
        }
        Self::in_dir(dir)
    }

    /// The programs in `dir`.
    ///
    /// # Errors
    /// One is missing.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        Ok(Self {
            pilot: one(dir, "pilot")?,
            broker: one(dir, "pilot-broker")?,
            submit: one(dir, "pilot-submit")?,
            lrm: one(dir, "sim-lrm")?,
            conformance: dir.join("lrm-conformance"),
            fake: dir.join("examples/fake-lrm"),
        })
    }
}

fn one(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing; build it with `cargo build --workspace --bins`",
            path.display()
        );
    }
    Ok(path)
}
