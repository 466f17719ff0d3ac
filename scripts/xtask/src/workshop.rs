//! Where things are: the repository and what is built in it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The checkout that this program belongs to.
pub struct Workshop {
    /// Root of the repository.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Workshop {
    /// Finds the checkout from where this program was built.
    pub fn find() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here
            .ancestors()
            .nth(2)
            .with_context(|| format!("{} is not two levels below the repository", here.display()))?
            .to_path_buf();
        let target = root.join("target");
        Ok(Self { root, target })
    }

    /// Where `scripts/guest/build` puts the test guest.
    pub fn guest(&self) -> PathBuf {
        self.target.join("guest")
    }

    /// Where `scripts/build-static` puts the pilot that sites get.
    pub fn static_pilot(&self) -> PathBuf {
        self.target.join("static/pilot")
    }

    /// Where the programs are after a build with `profile`.
    pub fn programs(&self, profile: Profile) -> PathBuf {
        self.target.join(match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        })
    }
}

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Builds fast: tests and demo.
    Dev,
    /// What sites run: figures come from it.
    Release,
}
