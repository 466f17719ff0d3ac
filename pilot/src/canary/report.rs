//! Where the canary's lines go.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use protocol::canary::{CanaryLine, OUTPUT_MARK, REPORT_FILE};

/// A file of lines in the job's directory, and the job's output.
pub(super) struct Report {
    path: Option<PathBuf>,
}

impl Report {
    /// Lines go to the output alone where there is no such directory on this node.
    pub(super) fn open(directory: Option<&Path>) -> Self {
        let path = directory
            .filter(|directory| directory.is_dir())
            .map(|directory| directory.join(REPORT_FILE));
        Self { path }
    }

    /// Says a line in both places. That a line cannot be written is no reason to stop.
    pub(super) fn say(&self, line: &CanaryLine) {
        let Ok(text) = serde_json::to_string(line) else {
            return;
        };
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{OUTPUT_MARK}{text}").and_then(|()| out.flush());
        if let Some(path) = &self.path {
            append(path, &text);
        }
    }
}

/// Opened and closed for each line: that is when other hosts see it on a shared file system.
pub(super) fn append(path: &Path, text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Ok(mut file) = file {
        let _ = file.write_all(format!("{text}\n").as_bytes());
    }
}
