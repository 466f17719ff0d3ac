//! The little of the qcow2 format that is needed here: make an empty layer, read a size,
//! make one layer of several.
//!
//! A layer names no backing file: whoever opens it says explicitly what is below. So a layer can
//! be moved anywhere, and a stranger's header can't make the hypervisor open a file of ours.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use protocol::workspace::DiskFormat;

use crate::durable::create_new;

mod merge;

pub use merge::merge;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of the disk that one entry of the first-level table stands for.
const PER_ENTRY: u64 = CLUSTER * (CLUSTER / 8);
const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The tables that a disk of some size needs.
#[derive(Clone, Copy)]
struct Geometry {
    size: u64,
    /// Entries of the first-level table.
    entries: u32,
    /// Clusters that it takes.
    table_clusters: u64,
}

impl Geometry {
    fn of(size: u64) -> io::Result<Self> {
        let size = size.next_multiple_of(512);
        let entries = size.div_ceil(PER_ENTRY).max(1);
        Ok(Self {
            size,
            entries: u32::try_from(entries)
                .map_err(|_| io::Error::other("the disk is too large"))?,
            table_clusters: (entries * 8).div_ceil(CLUSTER),
        })
    }
}

/// The header of a layer with its first-level table at `table` and the directory of its
/// reference counts, `clusters` long, at `counts`.
fn header(geometry: Geometry, table: u64, counts: u64, clusters: u32) -> Vec<u8> {
    let mut head = Vec::with_capacity(104);
    head.extend(MAGIC);
    head.extend(3_u32.to_be_bytes());
    head.extend([0; 12]); // no backing file
    head.extend(CLUSTER_BITS.to_be_bytes());
    head.extend(geometry.size.to_be_bytes());
    head.extend(0_u32.to_be_bytes()); // not encrypted
    head.extend(geometry.entries.to_be_bytes());
    head.extend(table.to_be_bytes());
    head.extend(counts.to_be_bytes());
    head.extend(clusters.to_be_bytes());
    head.extend([0; 12]); // no snapshots
    head.extend([0; 24]); // no features
    head.extend(4_u32.to_be_bytes()); // reference counts of 16 bits
    head.extend(104_u32.to_be_bytes()); // the length of this header
    head
}

/// Makes an empty layer for a disk of `size` bytes, rounded up to whole sectors.
///
/// # Errors
/// The file exists, or can't be written.
pub fn create_layer(path: &Path, size: u64) -> io::Result<()> {
    let geometry = Geometry::of(size)?;
    let cluster = usize::try_from(CLUSTER).map_err(io::Error::other)?;
    let head = header(geometry, 3 * CLUSTER, CLUSTER, 1);
    let mut bytes = vec![0; 3 * cluster];
    bytes[..head.len()].copy_from_slice(&head);
    bytes[cluster..cluster + 8].copy_from_slice(&(2 * CLUSTER).to_be_bytes());
    let used = usize::try_from(3 + geometry.table_clusters).map_err(io::Error::other)?;
    for count in bytes[2 * cluster..].chunks_exact_mut(2).take(used) {
        count.copy_from_slice(&1_u16.to_be_bytes());
    }
    let mut file = create_new(path)?;
    file.write_all(&bytes)?;
    file.set_len((3 + geometry.table_clusters) * CLUSTER)
}

/// The size of a disk image as a guest sees it, in bytes.
///
/// # Errors
/// It can't be read, is not of the format that it should be, or keeps its data elsewhere.
pub fn virtual_size(path: &Path, format: DiskFormat) -> io::Result<u64> {
    let mut file = File::open(path)?;
    match format {
        DiskFormat::Raw => Ok(file.metadata()?.len().next_multiple_of(512)),
        DiskFormat::Qcow2 => {
            let mut head = [0; 80];
            file.read_exact(&mut head)
                .map_err(|_| io::Error::other("it is too short to be a qcow2 image"))?;
            if head[..4] != MAGIC {
                return Err(io::Error::other("it is not a qcow2 image"));
            }
            let version = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            // Bit 1: marked corrupt. Bit 2: the data is in another file, named in the header.
            if version >= 3 && head[79] & 0b110 != 0 {
                return Err(io::Error::other(
                    "it is marked corrupt or keeps its data in another file",
                ));
            }
            if head[8..16] != [0; 8] {
                return Err(io::Error::other(
                    "it is a layer above another image, which would not be found; \
                     flatten it with `qemu-img convert -O qcow2`",
                ));
            }
            let mut size = [0; 8];
            size.copy_from_slice(&head[24..32]);
            Ok(u64::from_be_bytes(size))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_the_size_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for (n, size) in [1, 512, 1 << 30, 10 << 40].into_iter().enumerate() {
            let path = dir.path().join(n.to_string());
            create_layer(&path, size).unwrap();
            let read = virtual_size(&path, DiskFormat::Qcow2).unwrap();
            assert_eq!(read, size.next_multiple_of(512));
            assert!(create_layer(&path, size).is_err(), "it overwrote a layer");
        }
    }

    #[test]
    fn an_image_that_points_elsewhere_or_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create_layer(&path, 1 << 20).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for (byte, bit) in [(79, 4), (15, 1)] {
            bytes[byte] |= bit;
            std::fs::write(&path, &bytes).unwrap();
            assert!(virtual_size(&path, DiskFormat::Qcow2).is_err());
            bytes[byte] &= !bit;
        }
        for short in [&b""[..], b"QFI", &[0; 200]] {
            std::fs::write(&path, short).unwrap();
            assert!(virtual_size(&path, DiskFormat::Qcow2).is_err());
        }
    }
}
