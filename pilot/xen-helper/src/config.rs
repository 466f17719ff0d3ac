//! The configuration that `xl` gets: made here from checked values, never taken from anybody.

use std::fs;
use std::os::unix::fs::MetadataExt;

use xen_helper::Order;

use crate::context;

/// What the administrator has to say; root's file of lines `key = value`.
const FILE: &str = "/etc/workspace-pilot/xen-helper.conf";

/// What is in it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Rules {
    /// The bridge of guests with a network.
    pub bridge: Option<String>,
    /// The largest guest, MiB.
    pub most_memory_mib: Option<u64>,
}

impl Rules {
    /// A missing file says nothing.
    pub fn read() -> Result<Self, String> {
        let at = |e: std::io::Error| format!("can't read {FILE}: {e}");
        match fs::symlink_metadata(FILE) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(at(e)),
            Ok(m) if !m.is_file() || m.uid() != 0 || m.mode() & 0o022 != 0 => {
                return Err(format!("{FILE} is not a file that only root can write to"));
            }
            Ok(_) => {}
        }
        Self::parse(&fs::read_to_string(FILE).map_err(at)?)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || format!("{FILE}: `{line}` is not understood");
            let (key, value) = line.split_once('=').ok_or_else(wrong)?;
            match (key.trim(), value.trim()) {
                ("bridge", name) if is_name(name) && name.len() <= 15 => {
                    rules.bridge = Some(name.to_owned());
                }
                ("max-memory-mib", number) => {
                    rules.most_memory_mib = Some(number.parse().map_err(|_| wrong())?);
                }
                _ => return Err(wrong()),
            }
        }
        Ok(rules)
    }
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    !text.is_empty() && text.chars().all(plain) && !text.starts_with(['-', '.'])
}

/// Checks what an order says; its files are checked when they are opened.
pub fn check(order: &Order, rules: &Rules) -> Result<(), String> {
    if !is_name(&order.workspace) || order.workspace.len() > 200 {
        return Err("the workspace's name has odd characters".to_owned());
    }
    if !is_name(&order.marker) || order.marker.len() > 200 {
        return Err("the marker has odd characters".to_owned());
    }
    if !(1..=512).contains(&order.cores) {
        return Err(format!("{} processors can't be had", order.cores));
    }
    let most = rules.most_memory_mib.unwrap_or(1 << 24);
    if !(16..=most).contains(&order.memory_mib) {
        let asked = order.memory_mib;
        return Err(format!(
            "a guest may have 16 to {most} MiB, and not {asked} MiB"
        ));
    }
    // Neither ends the string that it stands in.
    if order.cmdline.len() > 2000
        || !order
            .cmdline
            .chars()
            .all(|c| c == ' ' || c.is_ascii_graphic())
    {
        return Err("the command line is longer than 2000 characters or not plain text".to_owned());
    }
    if order.cmdline.contains(['"', '\'', '\\']) {
        return Err(
            "the command line has a quote or a backslash, which Xen can't be given".to_owned(),
        );
    }
    if order.disks.len() > 8 {
        return Err("a guest has 8 disks at most".to_owned());
    }
    if order.kernel.is_none() && order.state_bytes.is_none() {
        return Err("a guest that boots needs a kernel".to_owned());
    }
    if let Some(bytes) = order.state_bytes {
        // A stream has 0.3 % beside the memory, and the descriptions of devices.
        let most = (order.memory_mib + order.memory_mib / 50 + 64) << 20;
        if bytes > most {
            return Err(format!(
                "a state of {bytes} bytes is more than a guest of {} MiB has",
                order.memory_mib
            ));
        }
    }
    context::check(order)?;
    match &order.mac {
        None => Ok(()),
        Some(mac) if !is_own_mac(mac) => {
            Err(format!("`{mac}` is no address that a guest may have"))
        }
        Some(_) if rules.bridge.is_none() => Err(format!(
            "guests get no network here: write `bridge = NAME` into {FILE}"
        )),
        Some(_) => Ok(()),
    }
}

/// Locally administered, for one interface.
fn is_own_mac(mac: &str) -> bool {
    let bytes: Vec<Option<u8>> = mac
        .split(':')
        .map(|b| {
            let plain = b.len() == 2 && b.chars().all(|c| c.is_ascii_hexdigit());
            u8::from_str_radix(b, 16).ok().filter(|_| plain)
        })
        .collect();
    bytes.len() == 6
        && bytes.iter().all(Option::is_some)
        && bytes[0].is_some_and(|b| b & 0b11 == 0b10)
}

/// The name of its domain. [a-z][a-z0-9-]*, at most 40: `xl` takes digits for a number, trips over
/// a slash, and makes its columns by width.
pub fn domain_name(workspace: &str, uuid: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let shown: String = workspace.chars().map(plain).take(24).collect();
    format!("wp-{}-{}", shown.trim_matches('-'), &uuid[..8])
}

/// The files of a guest, as `xl` is to open them.
pub struct Files {
    pub kernel: String,
    pub initrd: Option<String>,
    pub disks: Vec<String>,
}

/// The configuration. Nothing acts on a guest's end by itself: the helper of the guest does.
pub fn render(
    order: &Order,
    name: &str,
    uuid: &str,
    files: &Files,
    bridge: Option<&str>,
) -> String {
    let mut lines = vec![
        format!("name = \"{name}\""),
        format!("uuid = \"{uuid}\""),
        format!("type = \"{}\"", order.kind.as_str()),
        format!("vcpus = {}", order.cores),
        format!("memory = {}", order.memory_mib),
        format!("maxmem = {}", order.memory_mib),
        format!("kernel = \"{}\"", files.kernel),
    ];
    if let Some(initrd) = &files.initrd {
        lines.push(format!("ramdisk = \"{initrd}\""));
    }
    lines.push(format!("extra = \"{}\"", order.cmdline));
    let disks: Vec<String> = (files.disks.iter().zip('a'..='h'))
        .map(|(target, letter)| {
            format!("\"format=raw,vdev=xvd{letter},access=rw,target={target}\"")
        })
        .collect();
    if !disks.is_empty() {
        lines.push(format!("disk = [ {} ]", disks.join(", ")));
    }
    if let (Some(mac), Some(bridge)) = (&order.mac, bridge) {
        lines.push(format!("vif = [ \"mac={mac},bridge={bridge}\" ]"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
pub mod tests {
    use xen_helper::Kind;

    use super::*;

    pub fn order() -> Order {
        Order {
            workspace: "ws-1.g3".to_owned(),
            marker: "slot.4".to_owned(),
            kind: Kind::Pvh,
            cores: 1,
            memory_mib: 128,
            kernel: Some("/k".into()),
            initrd: None,
            cmdline: "console=hvc0 quiet".to_owned(),
            disks: Vec::new(),
            mac: None,
            hostname: "ws-1".to_owned(),
            user_data: String::new(),
            state_bytes: None,
        }
    }

    #[test]
    fn what_could_break_out_of_the_configuration_is_refused() {
        let rules = Rules::default();
        check(&order(), &rules).unwrap();
        for bad in ["a\"b", "a'b", "a\\b", "a\nb", "\u{e4}"] {
            let order = Order {
                cmdline: bad.to_owned(),
                ..order()
            };
            assert!(check(&order, &rules).is_err(), "{bad:?}");
        }
        for bad in ["", "../x", "a b", "-x", "a\"b"] {
            let wrong = Order {
                workspace: bad.to_owned(),
                ..order()
            };
            assert!(check(&wrong, &rules).is_err(), "{bad:?}");
            let wrong = Order {
                marker: bad.to_owned(),
                ..order()
            };
            assert!(check(&wrong, &rules).is_err(), "{bad:?}");
        }
        let bridged = Rules {
            bridge: Some("br0".to_owned()),
            most_memory_mib: Some(64),
        };
        assert!(check(&order(), &bridged).unwrap_err().contains("64 MiB"));
        let with = |mac: &str| Order {
            mac: Some(mac.to_owned()),
            ..order()
        };
        let bridged = Rules {
            most_memory_mib: None,
            ..bridged
        };
        assert!(check(&with("52:54:00:12:34:56"), &bridged).is_ok());
        assert!(
            check(&with("52:54:00:12:34:56"), &rules)
                .unwrap_err()
                .contains("bridge")
        );
        for bad in [
            "00:16:3e:12:34:56",
            "53:54:00:12:34:56",
            "52:54:00:12:34",
            "52:54:00:12:34:5,bridge=x",
            "52:54:00:12:34:+5",
        ] {
            assert!(check(&with(bad), &bridged).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_state_is_no_longer_than_its_guest() {
        let of = |state_bytes| Order {
            state_bytes: Some(state_bytes),
            ..order()
        };
        check(&of(129 << 20), &Rules::default()).unwrap();
        assert!(check(&of(1 << 30), &Rules::default()).is_err());
    }

    #[test]
    fn names_are_what_xl_takes() {
        let uuid = "0123abcd-2222-3333-4444-555555555555";
        assert_eq!(domain_name("ws-1.g3", uuid), "wp-ws-1-g3-0123abcd");
        assert_eq!(domain_name("77", uuid), "wp-77-0123abcd");
        assert!(domain_name(&"X.y".repeat(60), uuid).len() <= 40);
    }

    #[test]
    fn the_administrators_file_is_understood_or_refused() {
        let rules = Rules::parse("# x\n\nbridge = xenbr0\nmax-memory-mib=4096\n").unwrap();
        assert_eq!(rules.bridge.as_deref(), Some("xenbr0"));
        assert_eq!(rules.most_memory_mib, Some(4096));
        for bad in [
            "bridge",
            "bridge = a b",
            "brigde = x",
            "max-memory-mib = many",
        ] {
            assert!(Rules::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_configuration_has_what_was_ordered() {
        let files = Files {
            kernel: "/proc/1/fd/5".to_owned(),
            initrd: None,
            disks: vec!["/dev/loop0".to_owned(), "/dev/loop3".to_owned()],
        };
        let mac = Some("52:54:00:12:34:56".to_owned());
        let text = render(
            &Order { mac, ..order() },
            "wp-x-1",
            "u",
            &files,
            Some("br0"),
        );
        assert_eq!(
            text,
            "name = \"wp-x-1\"\nuuid = \"u\"\ntype = \"pvh\"\nvcpus = 1\nmemory = 128\nmaxmem = 128\n\
             kernel = \"/proc/1/fd/5\"\nextra = \"console=hvc0 quiet\"\n\
             disk = [ \"format=raw,vdev=xvda,access=rw,target=/dev/loop0\", \
             \"format=raw,vdev=xvdb,access=rw,target=/dev/loop3\" ]\n\
             vif = [ \"mac=52:54:00:12:34:56,bridge=br0\" ]\n"
        );
    }
}
