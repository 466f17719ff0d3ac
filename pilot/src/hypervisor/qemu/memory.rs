//! How much of a guest's memory is in use, by what the kernel says of its process.

use std::fs;

/// An upper bound of the bytes that a suspend writes for the memory and devices of a guest of
/// `memory_mib`. The whole memory when the process can't be looked at.
pub(super) fn resident_bytes(pid: Option<u32>, memory_mib: u64) -> u64 {
    let all = (memory_mib << 20) + DEVICES;
    let read = |name: &str| pid.and_then(|p| fs::read_to_string(format!("/proc/{p}/{name}")).ok());
    let kib = if memory_mib <= EXACT_UP_TO {
        read("smaps").and_then(|text| rss_of_largest(&text, memory_mib << 10))
    } else {
        read("status").and_then(|text| text.lines().find_map(|line| field(line, "VmRSS:")))
    };
    kib.map_or(all, |kib| (kib << 10).saturating_add(DEVICES).min(all))
}

/// The kernel walks all pages for an exact answer. Above so many MiB the whole process is taken
/// instead, which is known at once and too much by QEMU's own 50 to 150 MiB.
const EXACT_UP_TO: u64 = 2048;

/// Devices, firmware and page headers; measured 0.4 MB and 0.2 % of the memory.
const DEVICES: u64 = 4 << 20;

/// Resident KiB of the mapping that is the guest's memory: the one of at least `kib` that has
/// the most resident.
fn rss_of_largest(smaps: &str, kib: u64) -> Option<u64> {
    let mut size = 0;
    let mut found = None;
    for line in smaps.lines() {
        if let Some(n) = field(line, "Size:") {
            size = n;
        } else if let Some(rss) = field(line, "Rss:")
            && size >= kib
        {
            found = found.max(Some(rss));
        }
    }
    found
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_told_from_the_other_mappings() {
        let smaps = "55d0-55d1 r--p 0 fe:00 1 /usr/bin/qemu\nSize: 4096 kB\nRss: 900 kB\n\
                     7f00-7f01 rw-p 0 00:00 0\nSize: 131072 kB\nKernelPageSize: 4 kB\nRss: 70000 kB\n\
                     7f02-7f03 ---p 0 00:00 0\nSize: 1048576 kB\nRss: 0 kB\n";
        assert_eq!(rss_of_largest(smaps, 131_072), Some(70_000));
        assert_eq!(rss_of_largest(smaps, 9_000_000), None);
        assert_eq!(resident_bytes(None, 128), (128 << 20) + DEVICES);
    }
}
