//! What Xen says of its domains and of itself, and the few things that are done to a domain. A
//! domain is known by its uuid; it has to have its own name too, or none yet.

use std::fs;
use std::time::Duration;

use xen_helper::Info;

use crate::tool::{Ended, LONG, SHORT, run};

/// The uuid of the control domain.
const DOM0: &str = "00000000-0000-0000-0000-000000000000";

/// A domain that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    pub id: u32,
    pub name: String,
    /// Six letters, as `xl list` has them.
    state: String,
    reason: String,
}

/// Why a domain that is there does not run any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    PowerOff,
    Reboot,
    Suspend,
    Crash,
}

impl Domain {
    pub fn is_paused(&self) -> bool {
        self.state.contains('p')
    }

    pub fn stopped(&self) -> Option<Stopped> {
        if self.state.chars().nth(3) != Some('s') {
            return None;
        }
        Some(match self.reason.as_str() {
            "0" => Stopped::PowerOff,
            "1" => Stopped::Reboot,
            "2" => Stopped::Suspend,
            // 3, a watchdog, and what later versions may have.
            _ => Stopped::Crash,
        })
    }
}

/// The row of this uuid in the output of `xl list -v`. Only a listing that was understood can say that
/// there is none.
fn row_of(listing: &str, uuid: &str) -> Result<Option<Domain>, String> {
    // name id memory processors state time UUID reason label
    let rows = || {
        let lines = listing.lines().skip(1);
        lines.map(|line| line.split_whitespace().collect::<Vec<&str>>())
    };
    if !rows().any(|words| words.contains(&DOM0)) {
        return Err("`xl list` does not have dom0 itself".to_owned());
    }
    let Some(words) = rows().find(|words| words.contains(&uuid)) else {
        return Ok(None);
    };
    let domain = || {
        let at = words.iter().rposition(|w| *w == uuid)?;
        let name = words.get(..at.checked_sub(5)?)?.join(" ");
        (!name.is_empty()).then_some(())?;
        Some(Domain {
            id: words[at - 5].parse().ok()?,
            name,
            state: words[at - 2].to_owned(),
            reason: (*words.get(at + 1)?).to_owned(),
        })
    };
    let not_read = || format!("`xl list` is not understood: {}", words.join(" "));
    domain().map(Some).ok_or_else(not_read)
}

/// The domain with this uuid and this name, if there is one.
pub fn find(uuid: &str, name: &str) -> Result<Option<Domain>, String> {
    let listed = run("xl", &["list", "-v"], SHORT);
    if !listed.is_ok() {
        return Err(format!("`xl list` failed: {}", listed.trouble()));
    }
    match row_of(&listed.out, uuid)? {
        Some(d) if d.name == name || d.name == "(null)" => Ok(Some(d)),
        Some(d) => Err(format!(
            "the domain {uuid} is called `{}` and not `{name}`; it is left alone",
            d.name
        )),
        None => Ok(None),
    }
}

/// Destroys it, whatever it does; says whether it was there.
pub fn destroy(uuid: &str, name: &str) -> Result<bool, String> {
    let mut was_there = false;
    let mut trouble = String::new();
    for _ in 0..10 {
        match find(uuid, name)? {
            None => return Ok(was_there),
            Some(domain) => {
                was_there = true;
                let ended = run("xl", &["destroy", &domain.id.to_string()], LONG);
                if !ended.is_ok() {
                    trouble = ended.trouble();
                }
            }
        }
    }
    Err(format!("the domain {name} can't be destroyed: {trouble}"))
}

/// Pauses count: it is paused once, however often this is called.
pub fn pause(uuid: &str, name: &str) -> Result<(), String> {
    let domain = find(uuid, name)?.ok_or("the guest is gone")?;
    if domain.is_paused() {
        return Ok(());
    }
    done(
        "pause",
        &run("xl", &["pause", &domain.id.to_string()], SHORT),
    )
}

/// Lets it go, however often it was paused. `xl unpause` says yes also to what does not need it.
pub fn unpause(uuid: &str, name: &str) -> Result<Domain, String> {
    for _ in 0..8 {
        let domain = find(uuid, name)?.ok_or("the guest is gone")?;
        if !domain.is_paused() {
            return Ok(domain);
        }
        done(
            "unpause",
            &run("xl", &["unpause", &domain.id.to_string()], SHORT),
        )?;
    }
    Err("the guest stays paused".to_owned())
}

fn done(what: &str, ended: &Ended) -> Result<(), String> {
    if ended.is_ok() {
        Ok(())
    } else {
        Err(format!("`xl {what}` failed: {}", ended.trouble()))
    }
}

/// A value of the domain's node in xenstore.
pub fn read(domain: u32, key: &str) -> Option<String> {
    let path = format!("/local/domain/{domain}/{key}");
    let ended = run("xenstore-read", &[&path], SHORT);
    ended.is_ok().then(|| ended.out.trim_end().to_owned())
}

/// Writes keys and values into the domain's node: all of them or none. No value has a backslash:
/// `xenstore-write` would make something else of it.
pub fn write(domain: u32, nodes: &[(&str, &str)]) -> Result<(), String> {
    let paths = nodes
        .iter()
        .map(|(key, _)| format!("/local/domain/{domain}/{key}"));
    let paths: Vec<String> = paths.collect();
    // A value may begin with a dash.
    let mut arguments = vec!["--"];
    for (path, (_, value)) in paths.iter().zip(nodes) {
        arguments.extend([path.as_str(), *value]);
    }
    let ended = run("xenstore-write", &arguments, SHORT);
    if ended.is_ok() {
        Ok(())
    } else {
        Err(format!("`xenstore-write` failed: {}", ended.trouble()))
    }
}

/// What Xen says of itself.
pub fn info(limit: Duration) -> Result<Info, String> {
    let control = fs::read_to_string("/proc/xen/capabilities").unwrap_or_default();
    if !control.split_whitespace().any(|w| w == "control_d") {
        return Err("this is no Xen control domain".to_owned());
    }
    let ended = run("xl", &["info"], limit);
    if !ended.is_ok() {
        return Err(format!("`xl info` failed: {}", ended.trouble()));
    }
    Ok(Info {
        consoles: xenconsoled_runs(),
        ..parse_info(&ended.out)
    })
}

fn parse_info(text: &str) -> Info {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim())
        })
    };
    let number = |key| value(key).and_then(|v| v.parse().ok()).unwrap_or(0);
    let caps = value("virt_caps").unwrap_or("");
    let line = value("xen_commandline").unwrap_or("");
    Info {
        version: value("xen_version").unwrap_or("").to_owned(),
        total_mib: number("total_memory"),
        free_mib: number("free_memory"),
        cpus: value("nr_cpus").and_then(|v| v.parse().ok()).unwrap_or(0),
        pvh: caps.split_whitespace().any(|w| w == "hap"),
        dom0_fixed: line.split_whitespace().any(|w| w.starts_with("dom0_mem=")),
        bridge: None,
        consoles: false,
    }
}

fn xenconsoled_runs() -> bool {
    let Ok(all) = fs::read_dir("/proc") else {
        return false;
    };
    all.flatten().any(|entry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|c| c.trim() == "xenconsoled")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";
    /// As Xen 4.17 has it.
    const LISTING: &str = "\
Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label
Domain-0                                     0   768     1     r-----      20.2 00000000-0000-0000-0000-000000000000        -                -
(null)                                       3     0     0     --p---       0.0 99991111-2222-3333-4444-555555555555        -                -
a name with 11 words                         4   128     1     ---ss-       5.5 11111111-2222-3333-4444-555555555555        2                -
";

    #[test]
    fn a_row_is_found_by_its_uuid() {
        let found = row_of(LISTING, UUID).unwrap().unwrap();
        assert_eq!((found.id, found.name.as_str()), (4, "a name with 11 words"));
        assert_eq!(found.stopped(), Some(Stopped::Suspend));
        let half = row_of(LISTING, "99991111-2222-3333-4444-555555555555");
        let half = half.unwrap().unwrap();
        assert!(half.is_paused() && half.stopped().is_none() && half.name == "(null)");
        assert_eq!(
            row_of(LISTING, "77777777-2222-3333-4444-555555555555"),
            Ok(None)
        );
    }

    #[test]
    fn a_listing_that_is_not_understood_does_not_say_that_a_domain_is_gone() {
        let header = LISTING.lines().next().unwrap();
        assert!(row_of("", UUID).is_err() && row_of(header, UUID).is_err());
        let odd = LISTING.replace(" 4   128 ", " four   128 ");
        assert!(row_of(&odd, UUID).unwrap_err().contains("four"));
        let short = LISTING.replace("a name with 11 words                         4   128", "");
        assert!(row_of(&short, UUID).is_err());
    }

    #[test]
    fn xen_s_own_words_are_read() {
        let info = parse_info(
            "xen_version            : 4.17.7\nvirt_caps              : pv hvm hap shadow\n\
             total_memory           : 2047\nfree_memory            : 1203\nnr_cpus : 1\n\
             xen_commandline        : placeholder dom0_mem=768M,max:768M\n",
        );
        assert_eq!((info.total_mib, info.free_mib), (2047, 1203));
        assert!(info.pvh && info.dom0_fixed && info.cpus == 1);
        let info = parse_info("virt_caps : pv\nxen_commandline : console=com1\n");
        assert!(!info.pvh && !info.dom0_fixed);
    }
}
