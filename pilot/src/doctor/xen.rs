//! What a Xen host can do for a pilot, as its helper sees it.

use protocol::finding::Finding;
use protocol::slot_file::{HypervisorKind, HypervisorSection};
use xen_helper::Info;

use crate::broker_client::chain;
use crate::hypervisor::Helper;
use crate::reclaim::is_control_domain;

/// The smallest guest that is worth a slot, MiB.
const SMALLEST: u64 = 128;

/// What is found of a Xen host. Without a slot that wants Xen, only where this is one.
pub(super) async fn look(
    section: Option<&HypervisorSection>,
    memory_mib: Option<u64>,
) -> Vec<Finding> {
    let wanted = section.filter(|s| s.kind == HypervisorKind::Xen);
    match (wanted, is_control_domain()) {
        (Some(_), false) => vec![Finding::problem(
            "hypervisor.xen",
            "this is no Xen control domain",
            "run the pilot in dom0 (/proc/xen/capabilities has `control_d` there), or configure \
             another hypervisor",
        )],
        (None, _) => Vec::new(),
        (Some(section), true) => {
            let helper = Helper::of(section);
            match helper.info().await {
                Ok(info) => judge(&info, section.machine.as_deref(), memory_mib),
                Err(e) => vec![Finding::problem(
                    "xen.helper",
                    chain(&e),
                    format!(
                        "install the helper as {} (root's, mode 0755) and let the pilot's account \
                         call it: see docs/hypervisors/xen.md for sudo's line; check that \
                         xenstored runs",
                        helper.path().display()
                    ),
                )],
            }
        }
    }
}

fn judge(info: &Info, machine: Option<&str>, memory_mib: Option<u64>) -> Vec<Finding> {
    let version = &info.version;
    let mut found = vec![Finding::ok(
        "xen.helper",
        format!(
            "the helper can be called, Xen is {version}, {} processors",
            info.cpus
        ),
    )];
    let (free, total) = (info.free_mib, info.total_mib);
    let need = memory_mib.unwrap_or(SMALLEST);
    found.push(if free >= need {
        let text = format!("Xen has {free} of {total} MiB free");
        Finding::ok("xen.memory", text)
    } else {
        Finding::warning(
            "xen.memory",
            format!("Xen has {free} of {total} MiB free, and the slot has {need} MiB: larger guests are refused"),
            "give dom0 a fixed, smaller memory (`dom0_mem=` on Xen's command line), or make the \
             slot's memory what is free for guests",
        )
    });
    found.push(if info.dom0_fixed {
        Finding::ok(
            "xen.dom0-memory",
            "dom0's memory is fixed: none is taken from it for guests",
        )
    } else {
        Finding::warning(
            "xen.dom0-memory",
            "dom0's memory is not fixed; `xl` may take from it for other users' guests, the pilot \
             never does",
            "put `dom0_mem=SIZE,max:SIZE` on Xen's command line",
        )
    });
    found.push(if info.consoles {
        Finding::ok("xen.console", "xenconsoled runs")
    } else {
        Finding::problem(
            "xen.console",
            "xenconsoled does not run: no guest would start",
            "start it (on Debian `service xen start`), and look for /var/log/xen/console",
        )
    });
    found.push(match (machine, info.pvh) {
        (Some("pvh"), false) => Finding::problem(
            "xen.kind",
            "`machine = \"pvh\"`, and the processor has no nested paging",
            "write machine = \"pv\"",
        ),
        (Some(machine), _) => {
            Finding::ok("xen.kind", format!("guests are {machine}, as configured"))
        }
        (None, true) => Finding::ok("xen.kind", "guests are pvh; pv is possible by `machine`"),
        (None, false) => Finding::ok(
            "xen.kind",
            "guests are pv: the processor has no nested paging",
        ),
    });
    found.push(match &info.bridge {
        Some(bridge) => Finding::ok("xen.network", format!("guests with a network are on {bridge}")),
        None => Finding::warning(
            "xen.network",
            "guests with a network are refused",
            "write `bridge = NAME` into /etc/workspace-pilot/xen-helper.conf if they are to have one",
        ),
    });
    found
}

#[cfg(test)]
mod tests {
    use protocol::finding::Level;

    use super::*;

    fn levels(info: &Info, machine: Option<&str>, memory: u64) -> Vec<(String, Level)> {
        let found = judge(info, machine, Some(memory));
        found
            .into_iter()
            .map(|f| (f.check, f.level))
            .filter(|(_, l)| *l != Level::Ok)
            .collect()
    }

    #[test]
    fn a_host_is_judged_by_what_the_slot_wants() {
        let good = Info {
            version: "4.17.5".to_owned(),
            total_mib: 4096,
            free_mib: 2048,
            cpus: 2,
            pvh: true,
            dom0_fixed: true,
            bridge: Some("xenbr0".to_owned()),
            consoles: true,
        };
        assert_eq!(levels(&good, None, 2048), []);
        let only = |check: &str, level| vec![(check.to_owned(), level)];
        assert_eq!(
            levels(&good, None, 2049),
            only("xen.memory", Level::Warning)
        );
        let no = Info {
            pvh: false,
            ..good.clone()
        };
        assert_eq!(levels(&no, None, 1), []);
        assert_eq!(
            levels(&no, Some("pvh"), 1),
            only("xen.kind", Level::Problem)
        );
        let no = Info {
            consoles: false,
            ..good.clone()
        };
        assert_eq!(levels(&no, None, 1), only("xen.console", Level::Problem));
        let no = Info {
            dom0_fixed: false,
            ..good.clone()
        };
        assert_eq!(
            levels(&no, None, 1),
            only("xen.dom0-memory", Level::Warning)
        );
        let no = Info {
            bridge: None,
            ..good
        };
        assert_eq!(levels(&no, None, 1), only("xen.network", Level::Warning));
    }
}
