//! Verb `save`: a guest's stream, to a pipe. When nobody reads it any more, the save fails, and the
//! guest goes on: that is how it is called off. `xl save` itself is never killed: that would leave
//! the guest suspended for good.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use xen_helper::Saved;

use crate::caller::Caller;
use crate::registry::{self, Entry};
use crate::xen::{self, Domain, Stopped};
use crate::{loops, tool};

/// A guest that has just booted does not know yet how to be suspended; a step of the wait for that.
const STEP: Duration = Duration::from_millis(100);
const STEPS: u32 = 600;

pub fn run(caller: Caller, uuid: &str) -> Result<(), String> {
    // `xl` gets it with this: it would die of a broken pipe with the guest suspended.
    let mut broken_pipe = SigSet::empty();
    broken_pipe.add(Signal::SIGPIPE);
    broken_pipe
        .thread_block()
        .map_err(|e| format!("block a signal: {e}"))?;
    let entry = registry::find(uuid).filter(|e| caller.may_touch(e.uid));
    let saved = match &entry {
        None => Saved::Gone,
        Some(entry) => save(entry).unwrap_or_else(|text| Saved::Failed { text }),
    };
    eprintln!(
        "{}",
        serde_json::to_string(&saved).map_err(|e| e.to_string())?
    );
    Ok(())
}

fn save(entry: &Entry) -> Result<Saved, String> {
    let (uuid, name) = (&entry.uuid, &entry.name);
    let Some(before) = xen::find(uuid, name)? else {
        return Ok(Saved::Gone);
    };
    // A paused guest can't obey; it would be waited for in vain for a minute.
    let domain = xen::unpause(uuid, name)?;
    let attempt = attempt(entry, &domain);
    let after = xen::find(uuid, name)?;
    let Some(after) = after else {
        return Ok(Saved::Gone);
    };
    match (attempt, after.stopped()) {
        (Ok(()), None) if after.is_paused() => Ok(Saved::Whole),
        (Ok(()), None) => Err("the guest was let go by somebody".to_owned()),
        (Ok(()), Some(_)) => Ok(Saved::Stuck {
            text: "it has ended".to_owned(),
        }),
        (Err(text), Some(Stopped::Suspend)) => Ok(Saved::Stuck { text }),
        // Its end is told by its own helper.
        (Err(text), Some(Stopped::PowerOff | Stopped::Reboot | Stopped::Crash)) => {
            Ok(Saved::Failed { text })
        }
        (Err(text), None) => {
            if before.is_paused() {
                xen::pause(uuid, name)?;
            } else {
                xen::unpause(uuid, name)?;
            }
            Ok(Saved::Failed { text })
        }
    }
}

fn attempt(entry: &Entry, domain: &Domain) -> Result<(), String> {
    if !entry.restored {
        until_ready(domain)?;
    }
    let err = tool::scrap().map_err(|e| e.to_string())?;
    let to_scrap = err.try_clone().map_err(|e| e.to_string())?;
    // Paused at the end, so that the guest can go on, and its disks are as its memory has them.
    let mut child = tool::program("xl")
        .args(["save", "-p", &entry.name, "/dev/stdout"])
        .stdout(Stdio::inherit())
        .stderr(to_scrap)
        .spawn()
        .map_err(|e| format!("can't run `xl save`: {e}"))?;
    let status = child.wait().map_err(|e| e.to_string())?;
    let ended = tool::Ended {
        status: Some(status),
        out: String::new(),
        err: tool::text_of(&err),
    };
    if !ended.is_ok() {
        return Err(format!("`xl save` failed: {}", ended.trouble()));
    }
    let devices = loops::devices_of(&entry.disks);
    for _ in 0..STEPS {
        if loops::are_quiet(&devices) {
            return Ok(());
        }
        still_wanted()?;
    }
    Err("the guest's disks do not come to rest".to_owned())
}

/// Waits until the guest's kernel has said that it can be suspended, which it does in its boot. One
/// that was restored does not say it again (seen: its node is empty for good), and need not: its
/// watch is set anew and heard when it goes on.
fn until_ready(domain: &Domain) -> Result<(), String> {
    for _ in 0..STEPS {
        if xen::read(domain.id, "control/feature-suspend").as_deref() == Some("1") {
            return Ok(());
        }
        still_wanted()?;
    }
    Err(
        "the guest does not say that it can be suspended; its kernel may lack \
         CONFIG_XEN_SAVE_RESTORE"
            .to_owned(),
    )
}

/// Waits a moment; an error when nobody wants the stream any more.
fn still_wanted() -> Result<(), String> {
    if tool::closed_within(io::stdout(), STEP) {
        return Err("it was called off".to_owned());
    }
    Ok(())
}
