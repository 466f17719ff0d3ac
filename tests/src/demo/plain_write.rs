//! The baseline of a suspend: the same bytes, written plainly to the same disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

/// Writes `bytes` that do not compress into a file in `dir`, syncs it, removes it; MB/s.
///
/// # Errors
/// The disk says no.
#[expect(clippy::disallowed_methods, reason = "this measures")]
pub fn rate(dir: &Path, bytes: u64) -> Result<f64> {
    let path = dir.join("plain-write");
    let block = noise(1 << 20);
    let begin = Instant::now();
    let mut file =
        File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left)
            .unwrap_or(block.len())
            .min(block.len());
        file.write_all(&block[..n]).context("failed to write")?;
        left -= n as u64;
    }
    file.sync_all().context("failed to sync")?;
    let took = begin.elapsed().as_secs_f64();
    fs::remove_file(&path).context("failed to remove the written file")?;
    Ok(bytes as f64 / 1e6 / took)
}

fn noise(len: usize) -> Vec<u8> {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[0]
        })
        .collect()
}
