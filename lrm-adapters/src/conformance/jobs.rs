//! The jobs that the checks submit: small shell programs in the pilot's place, which write down
//! in their directory what happens to them.

use std::cell::Cell;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use protocol::ids::SubmitKey;
use protocol::lrm::PilotJob;
use protocol::resources::Resources;

use super::rig::{Program, Shape};

/// A test job ends by itself when this file is in its directory.
pub const STOP_FILE: &str = "stop";

/// What stands in the token's place: it opens nothing.
const TOKEN: &str = "wp1.very-secret.token";

/// The program; the words in capitals are replaced. It holds nothing on the node: the slot file
/// that the job has made there is copied and removed.
const PROGRAM: &str = r#"#!/bin/sh
# A test job of the workspace pilot's conformance suite. It does nothing, and may be cancelled.
cd DIRECTORY || exit 90
n=0
while [ -e "started.$n" ]; do n=$((n + 1)); done
term() { : > "term.$n"; [ BEHAVIOUR = obeys ] && exit 0; }
trap term TERM
[ "$1 $2" = "run --slot" ] && cp -- "$3" "slot.$n.new" || exit 91
mv "slot.$n.new" "slot.$n.toml"
rm -f -- "$3"; rmdir -- "${3%/*}" 2>/dev/null
: > "started.$n"
[ BEHAVIOUR = exits ] && exit CODE
beat=0
while [ ! -e STOP ]; do
  beat=$((beat + 1))
  echo "$beat" > "beat.$n" || exit 92
  if mv probe probe.sh 2>/dev/null; then
    sh ./probe.sh > probe.out 2> probe.err
    echo "$?" > probe.code.new
    mv probe.code.new probe.code
  fi
  sleep 0.1
done
"#;

/// Makes a rig's test jobs, each with a directory of its own.
///
/// A job's `n`th start (counting from 0) writes there `slot.<n>.toml` (its slot file) and then
/// `started.<n>`, counts in `beat.<n>` while it lives, and writes `term.<n>` when it gets its first
/// SIGTERM. It runs the command in a file `probe` once and leaves what that said in `probe.out`,
/// `probe.err` and `probe.code`. It ends when there is a [`STOP_FILE`] or the directory is gone.
#[derive(Debug)]
pub struct TestJobs {
    template: PilotJob,
    whole_node: Resources,
    root: PathBuf,
    prefix: String,
    made: Cell<u32>,
}

impl TestJobs {
    /// Jobs with the keys `<prefix>-<n>` and the directories `<root>/<key>`; all else is as in
    /// the template, but for the token file, the walltime and the program, and for the resources
    /// of a job that takes a whole node.
    pub fn new(template: PilotJob, whole_node: Resources, root: &Path, prefix: &str) -> Self {
        Self {
            template,
            whole_node,
            root: root.to_owned(),
            prefix: prefix.to_owned(),
            made: Cell::new(0),
        }
    }

    /// Makes the next one, with its directory, token and program.
    ///
    /// # Errors
    /// They cannot be made; in words, for [`Rig::job`](super::Rig::job).
    pub fn make(&self, shape: &Shape) -> Result<PilotJob, String> {
        let number = self.made.get() + 1;
        let key = self.key(number)?;
        self.made.set(number);
        let directory = self.root.join(key.as_str());
        let wrong = |e| {
            let at = directory.display();
            format!("cannot make a test job's directory `{at}`: {e}")
        };
        private_dir(&directory).map_err(wrong)?;
        let token_file = directory.join("token");
        write(&token_file, 0o600, TOKEN).map_err(wrong)?;
        let program = directory.join("pilot");
        write(&program, 0o700, &text(shape.program, &directory)).map_err(wrong)?;
        let mut job = PilotJob {
            key,
            program,
            walltime: shape.walltime,
            min_walltime: None,
            directory,
            ..self.template.clone()
        };
        job.broker.token_file = token_file;
        if shape.whole_node {
            job.resources = self.whole_node;
        }
        Ok(job)
    }

    /// The keys of all that were made.
    pub fn keys(&self) -> Vec<SubmitKey> {
        (1..=self.made.get())
            .filter_map(|n| self.key(n).ok())
            .collect()
    }

    /// The directory of a job.
    pub fn directory(&self, key: &SubmitKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn key(&self, number: u32) -> Result<SubmitKey, String> {
        SubmitKey::new(&format!("{}-{number}", self.prefix)).map_err(|e| e.to_string())
    }
}

fn text(program: Program, directory: &Path) -> String {
    let (word, code) = match program {
        Program::Exits(code) => ("exits", code),
        Program::Obeys => ("obeys", 0),
        Program::Ignores => ("ignores", 0),
    };
    let directory = directory.display().to_string();
    PROGRAM
        .replace("BEHAVIOUR", word)
        .replace("CODE", &code.to_string())
        .replace("STOP", STOP_FILE)
        .replace("DIRECTORY", &shell_words::quote(&directory))
}

fn private_dir(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    if let Some(root) = path.parent() {
        builder.recursive(true).create(root)?;
    }
    // A key is used once: so is its directory.
    builder.recursive(false).create(path)
}

fn write(path: &Path, mode: u32, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())
}
