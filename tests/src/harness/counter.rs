//! What the test guest says on its console: the proof that its memory went on where it was.

use serde::Serialize;

/// One `COUNT` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The count, which lives in the guest's memory only and starts at 1 at every boot.
    pub n: u64,
    /// Which boot of the guest's kernel.
    pub boot: String,
    /// The count on the guest's disk, read back from the disk itself.
    pub disk: Option<u64>,
}

impl Count {
    /// Reads a line of the console; none when it is another line.
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("COUNT ")?;
        let field = |name: &str| {
            rest.split(' ')
                .find_map(|f| f.strip_prefix(name)?.strip_prefix('='))
        };
        Some(Self {
            n: field("n")?.parse().ok()?,
            boot: field("boot")?.to_owned(),
            disk: field("disk").and_then(|d| d.parse().ok()),
        })
    }
}

/// All that a guest's console says about its counter, over all slots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CounterLog {
    /// The first count.
    pub first: Option<u64>,
    /// The last count.
    pub last: Option<u64>,
    /// How often it went back, stood still or skipped: must be 0.
    pub jumps: u64,
    /// How often the guest's kernel started again: must be 0.
    pub reboots: u64,
    /// How often the disk's count did not go on by one: must be 0.
    pub disk_jumps: u64,
    /// Lines with which the guest says that its memory or disk is not what it was: must be none.
    pub complaints: Vec<String>,
    /// How often it noticed that it had been resumed.
    pub resumed: u64,
    #[serde(skip)]
    boot: Option<String>,
    #[serde(skip)]
    disk: Option<u64>,
}

impl CounterLog {
    /// Reads a whole console.
    pub fn read(console: &str) -> Self {
        let mut log = Self::default();
        for line in console.lines() {
            log.take(line);
        }
        log
    }

    /// Takes one line; gives the count when it is one.
    pub fn take(&mut self, line: &str) -> Option<Count> {
        let line = line.trim();
        if line.starts_with("GUEST-CORRUPT") || line.starts_with("GUEST-DISK-WRONG") {
            self.complaints.push(line.to_owned());
        }
        if line.starts_with("GUEST-RESUMED") {
            self.resumed += 1;
        }
        let count = Count::parse(line)?;
        self.first.get_or_insert(count.n);
        self.jumps += u64::from(self.last.is_some_and(|last| count.n != last + 1));
        self.reboots += u64::from(self.boot.as_ref().is_some_and(|boot| *boot != count.boot));
        if let (Some(before), Some(now)) = (self.disk, count.disk) {
            self.disk_jumps += u64::from(now != before + 1);
        }
        self.last = Some(count.n);
        self.boot = Some(count.boot.clone());
        self.disk = count.disk.or(self.disk);
        Some(count)
    }

    /// True when memory and disk went on without a break.
    pub fn is_unbroken(&self) -> bool {
        self.jumps == 0 && self.reboots == 0 && self.disk_jumps == 0 && self.complaints.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_are_seen() {
        let good = "x\nCOUNT n=1 up=1.0 boot=a disk=1\nGUEST-RESUMED n=1 away=9\nCOUNT n=2 up=2.0 boot=a disk=2\n";
        let log = CounterLog::read(good);
        assert!(
            log.is_unbroken() && log.resumed == 1 && log.last == Some(2),
            "{log:?}"
        );
        for bad in [
            "COUNT n=1 up=3.0 boot=a disk=3",
            "COUNT n=3 up=3.0 boot=b disk=3",
            "COUNT n=3 up=3.0 boot=a disk=9",
            "COUNT n=4 up=3.0 boot=a disk=3",
            "GUEST-CORRUPT pattern",
        ] {
            assert!(
                !CounterLog::read(&format!("{good}{bad}")).is_unbroken(),
                "{bad}"
            );
        }
    }
}
