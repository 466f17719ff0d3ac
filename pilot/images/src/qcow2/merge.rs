//! Makes one layer of several, without what is below them.
//!
//! `qemu-img convert -B` is no way to do it: of a chain of layers it copies the topmost only
//! (QEMU 7.2). The layers here are our own, made by [`super::create_layer`] and written by the
//! hypervisor, so they use the plain part of the format; anything else is refused.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{CLUSTER, CLUSTER_BITS, Geometry, MAGIC, PER_ENTRY, header};
use crate::durable::create_new;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const OWN: u64 = 1 << 63;
const ZERO: u64 = 1;
/// Entries of a second-level table.
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters that one block of 16-bit reference counts covers.
const COUNTED: u64 = CLUSTER / 2;

/// Merges `layers` (lowest first) into a new layer at `out`.
///
/// # Errors
/// A layer can't be read or uses a part of the format that is not known here, or `out` exists or
/// can't be written. What was written is removed again.
pub fn merge(layers: &[&Path], out: &Path) -> io::Result<()> {
    let layers: Vec<Layer> = layers
        .iter()
        .map(|p| Layer::open(p))
        .collect::<Result<_, _>>()?;
    let size = layers.last().map_or(0, |l| l.size);
    if size == 0 || layers.iter().any(|l| l.size != size) {
        return Err(io::Error::other("the layers are not all of one size"));
    }
    let merged = write(&layers, size, &create_new(out)?);
    if merged.is_err() {
        // The first error is what matters.
        let _ = std::fs::remove_file(out);
    }
    merged
}

fn write(layers: &[Layer], size: u64, out: &File) -> io::Result<()> {
    let geometry = Geometry::of(size)?;
    let mut first = vec![0_u64; usize_of(u64::from(geometry.entries))?];
    // Header, then the first-level table, then data and second-level tables as they come.
    let table = CLUSTER;
    let mut end = table + geometry.table_clusters * CLUSTER;
    let mut buffer = vec![0; usize_of(CLUSTER)?];
    for (index, entry) in first.iter_mut().enumerate() {
        let tables: Vec<Option<Vec<u64>>> = layers
            .iter()
            .map(|l| l.second(index))
            .collect::<Result<_, _>>()?;
        if tables.iter().all(Option::is_none) {
            continue;
        }
        let mut second = vec![0_u64; usize_of(ENTRIES)?];
        for (n, slot) in second.iter_mut().enumerate() {
            let topmost = layers.iter().zip(&tables).rev().find_map(|(layer, table)| {
                let entry = table.as_ref()?[n];
                (entry & (OFFSET | ZERO) != 0).then_some((layer, entry))
            });
            *slot = match topmost {
                None => 0,
                Some((_, entry)) if entry & ZERO != 0 => ZERO,
                Some((layer, entry)) => {
                    layer.cluster(entry & OFFSET, &mut buffer)?;
                    out.write_all_at(&buffer, end)?;
                    let at = end;
                    end += CLUSTER;
                    at | OWN
                }
            };
        }
        out.write_all_at(&bytes_of(&second), end)?;
        *entry = end | OWN;
        end += CLUSTER;
    }
    out.write_all_at(&bytes_of(&first), table)?;
    finish(out, geometry, table, end)
}

/// Writes the reference counts (all clusters are used once) and, last, the header.
fn finish(out: &File, geometry: Geometry, table: u64, end: u64) -> io::Result<()> {
    let used = end / CLUSTER;
    // The counts have to count themselves.
    let (mut blocks, mut directory) = (1, 1);
    while blocks * COUNTED < used + blocks + directory || directory * ENTRIES < blocks {
        blocks = (used + blocks + directory).div_ceil(COUNTED);
        directory = blocks.div_ceil(ENTRIES);
    }
    let total = used + blocks + directory;
    let entries: Vec<u64> = (0..blocks).map(|b| end + b * CLUSTER).collect();
    for (b, at) in entries.iter().enumerate() {
        let counted = (total - b as u64 * COUNTED).min(COUNTED);
        let block: Vec<u8> = [0, 1].repeat(usize_of(counted)?);
        out.write_all_at(&block, *at)?;
    }
    let directory_at = end + blocks * CLUSTER;
    out.write_all_at(&bytes_of(&entries), directory_at)?;
    out.set_len(total * CLUSTER)?;
    let directory = u32::try_from(directory).map_err(io::Error::other)?;
    out.write_all_at(&header(geometry, table, directory_at, directory), 0)
}

fn bytes_of(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_be_bytes()).collect()
}

fn usize_of(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(io::Error::other)
}

struct Layer {
    file: File,
    size: u64,
    first: Vec<u64>,
}

impl Layer {
    fn open(path: &Path) -> io::Result<Self> {
        let strange = || {
            io::Error::other(format!(
                "{} is not a layer that was made here",
                path.display()
            ))
        };
        let file = File::open(path)?;
        let mut head = [0; 104];
        file.read_exact_at(&mut head, 0).map_err(|_| strange())?;
        let u32_at =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        let plain = head[..4] == MAGIC
            && u32_at(4) == 3
            && u32_at(20) == CLUSTER_BITS
            && u32_at(32) == 0 // not encrypted
            && u64_at(72) & !1 == 0; // at most marked as not cleanly closed
        let (size, entries) = (u64_at(24), u64::from(u32_at(36)));
        if !plain || entries < size.div_ceil(PER_ENTRY) {
            return Err(strange());
        }
        let first = read_entries(&file, u64_at(40), entries)?;
        Ok(Self { file, size, first })
    }

    /// The second-level table of a first-level entry.
    fn second(&self, index: usize) -> io::Result<Option<Vec<u64>>> {
        let at = self.first.get(index).copied().unwrap_or(0) & OFFSET;
        if at == 0 {
            return Ok(None);
        }
        let table = read_entries(&self.file, at, ENTRIES)?;
        if table.iter().any(|e| e & COMPRESSED != 0) {
            return Err(io::Error::other("a layer has compressed clusters"));
        }
        Ok(Some(table))
    }

    /// Reads a cluster; the last one of a file may be cut short, the rest is zeros.
    fn cluster(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], at + filled as u64)?
            {
                0 => break,
                n => filled += n,
            }
        }
        buffer[filled..].fill(0);
        Ok(())
    }
}

fn read_entries(file: &File, at: u64, count: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; usize_of(count * 8)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|c| c.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
        .collect())
}
