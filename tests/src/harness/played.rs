//! Commands of real batch systems, played on the simulated LRM.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::installation::Installation;

/// Makes the commands of an OpenPBS without history in `bin` of the installation.
pub(super) fn pbs(place: &Path, fake: &Path) -> Result<()> {
    ensure!(
        fake.is_file(),
        "{} is missing; build it with `cargo build -p lrm-adapters --examples`",
        fake.display()
    );
    let bin = place.join("bin");
    fs::create_dir(&bin).context("failed to make a directory")?;
    for command in ["qsub", "qstat", "qdel"] {
        symlink(fake, bin.join(command)).context("failed to make a command")?;
    }
    let me = nix::unistd::User::from_uid(nix::unistd::getuid())
        .context("failed to look up this account")?
        .context("this account has no name")?;
    let play = serde_json::json!({
        "sim": place.join("lrm"),
        "pbs": "openpbs",
        "history": false,
        "user": me.name,
    });
    fs::write(bin.join("fake-lrm.json"), play.to_string()).context("failed to write what to play")
}

impl Installation {
    /// The played commands that were run, one a line.
    ///
    /// # Errors
    /// None was run.
    pub fn played_commands(&self) -> Result<Vec<String>> {
        let log = self.place().join("bin/commands.log");
        let text = fs::read_to_string(&log).context("failed to read the commands")?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}
