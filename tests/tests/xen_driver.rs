//! The driver's own tests (package `pilot`) inside of a real dom0: those that every run makes.

use anyhow::Result;
use e2e::harness::xen_tests::on_hosts;

/// Of the rules that hold for all hypervisors those that say most about this one, as the user that
/// pilots run as. All of them: `xen_long`. That a guest goes on from its state, is told of it, and is
/// suspended again then, is in `xen_scenario`.
#[test]
fn the_driver_keeps_the_main_rules_of_the_contract() -> Result<()> {
    let rules = [
        "xen::a_guest_obeys_its_power_button_also_when_it_is_paused",
        "xen::a_suspend_that_takes_too_long_leaves_nothing_and_the_guest_runs_on",
        "xen::a_suspend_can_be_called_off",
        "xen::a_damaged_state_does_not_start",
    ];
    let exactly = [&["--exact"], rules.as_slice()].concat();
    on_hosts("hypervisor_conformance", &[], &[&exactly])
}

/// What kills the toolstack, the helper or the pilot at moments of a save leaves no domain.
#[test]
fn kills_leave_no_domain() -> Result<()> {
    // As root: it kills what root has started.
    on_hosts("hypervisor_xen", &["--root"], &[&[]])
}
