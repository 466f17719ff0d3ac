//! Verbs `reclaim` and `sweep`: what a dead pilot or a dead helper has left. Both may be repeated
//! and killed at any point.

use std::fs;
use std::time::Duration;

use xen_helper::Reclaimed;

use crate::caller::Caller;
use crate::registry::{self, Entry};
use crate::{loops, tool, xen};

/// A helper whose pilot has died destroys its guest by itself; it gets so long, a fifth at a time.
const OWN_TIME: u32 = 50;
const STEP: Duration = Duration::from_millis(200);

/// With a marker: the one that has it, or, where it ends with a dot, all whose marker begins so; also
/// when their helper hangs. Without: all whose helper is dead.
pub fn run(caller: Caller, marker: Option<&str>) -> Result<(), String> {
    if marker.is_some_and(|m| m.len() < 8) {
        return Err("reclaim: the marker is shorter than 8 letters".to_owned());
    }
    let (entries, odd) = registry::all().map_err(|e| format!("reclaim: {e}"))?;
    let mut done = Reclaimed::default();
    for entry in entries.iter().filter(|e| caller.may_touch(e.uid)) {
        match marker {
            Some(marker) if is_meant(&entry.marker, marker) => undo(entry, true, &mut done),
            None => undo(entry, false, &mut done),
            Some(_) => {}
        }
    }
    if caller.is_root() {
        let why = || "it is no entry of the registry".to_owned();
        let odd = odd.iter().map(|path| (path.display().to_string(), why()));
        done.left.extend(odd);
    }
    println!(
        "{}",
        serde_json::to_string(&done).map_err(|e| e.to_string())?
    );
    Ok(())
}

/// A guest's marker is its slot's name, a dot and a number: `x.1` does not mean `x.12`.
fn is_meant(marker: &str, wanted: &str) -> bool {
    marker == wanted || (wanted.ends_with('.') && marker.starts_with(wanted))
}

fn undo(entry: &Entry, by_force: bool, done: &mut Reclaimed) {
    let mut lock = entry.lock();
    if lock.is_none() && !by_force {
        return;
    }
    if lock.is_none() {
        lock = until_free(entry);
    }
    let domain = format!("domain {}", entry.name);
    match xen::destroy(&entry.uuid, &entry.name) {
        Ok(true) => done.removed.push(domain.clone()),
        Ok(false) => {}
        Err(e) => {
            done.left.push((domain, e));
            return;
        }
    }
    // What it was made by ends without it; before that, it may be made yet.
    if lock.is_none() {
        lock = until_free(entry);
    }
    if lock.is_none() && registry::find(&entry.uuid).is_some() {
        let why = "its helper is still at work; try again".to_owned();
        done.left.push((domain, why));
        return;
    }
    let devices = free_devices(entry);
    if devices.is_empty() {
        entry.forget();
    } else {
        let why = "they are still in use".to_owned();
        done.left.push((
            format!("devices {} of {}", devices.join(" "), entry.name),
            why,
        ));
    }
}

/// Waits until the helper of the guest, and what it has called, are gone; none also when it has taken
/// its entry with it.
fn until_free(entry: &Entry) -> Option<fs::File> {
    for _ in 0..OWN_TIME {
        registry::find(&entry.uuid)?;
        if let Some(lock) = entry.lock() {
            return Some(lock);
        }
        wait_a_step();
    }
    None
}

/// Frees the loop devices of a domain that is gone; says which are still there.
pub fn free_devices(entry: &Entry) -> Vec<String> {
    let mut devices = loops::devices_of(&entry.disks);
    for _ in 0..OWN_TIME {
        if devices.is_empty() {
            break;
        }
        devices.iter().for_each(|d| loops::detach(d));
        devices = loops::devices_of(&entry.disks);
        if !devices.is_empty() {
            wait_a_step();
        }
    }
    devices
}

fn wait_a_step() {
    // Nobody closes what nobody else has: a wait of that length.
    if let Ok((ours, _theirs)) = std::io::pipe() {
        tool::closed_within(&ours, STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::is_meant;

    #[test]
    fn a_marker_means_one_guest_and_with_a_dot_all_of_a_slot() {
        assert!(is_meant("slot-name.1", "slot-name.1"));
        assert!(!is_meant("slot-name.12", "slot-name.1"));
        assert!(is_meant("slot-name.12", "slot-name."));
        assert!(!is_meant("slot-name-2.1", "slot-name."));
    }
}
