//! What stands before a real batch system's commands: it writes down every call, and loses an
//! answer where it is told to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Called with the command that it stands for. A file `lose.NAME` beside it is used up by the next
/// call of NAME: the command runs, and nobody hears what it says.
const FRONT: &str = r#"#!/bin/sh
at=${0%/*}
command=$1
[ "${1##*/}" != run ] || command=$2
name=${command##*/}
echo "$name $*" >> "$at/calls"
if mv "$at/lose.$name" "$at/lost.$name.$$" 2>/dev/null; then
  read -r how <"$at/lost.$name.$$"
  "$@" >/dev/null 2>&1
  [ "$how" != hangs ] || exec sleep 600
  echo 'Connection to the submit host closed by remote host.' >&2
  exit 255
fi
exec "$@"
"#;

/// How an answer is lost, after the command has done its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The connection breaks.
    Breaks,
    /// Nothing comes any more.
    Hangs,
}

/// A front in a directory that the broker's commands can reach.
#[derive(Debug)]
pub struct Front {
    directory: PathBuf,
}

impl Front {
    /// Makes it in this directory, which exists.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(directory: &Path) -> Result<Self> {
        write_program(&directory.join("front"), FRONT)?;
        // Here already: who calls first may keep what it makes from others.
        fs::write(directory.join("calls"), "")?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Its program, as a prefix of a command.
    pub fn program(&self) -> String {
        self.directory.join("front").display().to_string()
    }

    /// The next call of this command is carried out, and its answer lost.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn lose(&self, command: &str, loss: Loss) -> Result<()> {
        let how = match loss {
            Loss::Breaks => "breaks\n",
            Loss::Hangs => "hangs\n",
        };
        // Whole or not at all: it may be read in this moment.
        let new = self.directory.join("lose.new");
        fs::write(&new, how)?;
        fs::rename(&new, self.directory.join(format!("lose.{command}")))
            .context("failed to tell the front")
    }

    /// All calls so far, in their order: the command's name, and the whole command line.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn calls(&self) -> Result<Vec<(String, String)>> {
        let calls = fs::read_to_string(self.directory.join("calls"))
            .context("failed to read the calls of the batch system's commands")?;
        let split = |line: &str| {
            line.split_once(' ')
                .map(|(n, l)| (n.to_owned(), l.to_owned()))
        };
        Ok(calls.lines().filter_map(split).collect())
    }

    /// How often a command was called.
    ///
    /// # Errors
    /// That cannot be read.
    pub fn count(&self, name: &str) -> Result<usize> {
        Ok(self.calls()?.iter().filter(|(n, _)| n == name).count())
    }
}

/// Writes a program.
///
/// # Errors
/// It cannot be written.
pub(super) fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("failed to open {} to all", path.display()))
}
