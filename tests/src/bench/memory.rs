//! Memory of a process, from `/proc`.

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::Pid;

/// MB (10^6 bytes).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Memory {
    /// What is in RAM, shared pages counted in full.
    pub resident: f64,
    /// What is in RAM, shared pages counted by their share.
    pub proportional: f64,
}

pub(super) fn of(pid: Pid) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    parse(&text).with_context(|| format!("{path} does not say what is resident"))
}

fn parse(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    Some(Memory {
        resident: field("Rss:")?,
        proportional: field("Pss:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let text = "00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss:    2000 kB\nPss:    1000 kB\nPss_Dirty: 7 kB\n";
        let memory = parse(text).unwrap();
        assert_eq!((memory.resident, memory.proportional), (2.048, 1.024));
        assert_eq!(parse("Rss: 1 kB"), None);
        assert!(of(Pid::this()).unwrap().resident > 0.5);
    }
}
