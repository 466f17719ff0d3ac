//! The numbers that the decisions turn on, in one place. Owner: the shell, which sets them once.

use protocol::notice;
use protocol::time::Span;

/// Tunables of the agent. [`Settings::default`] is what the product uses.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Kept before the kill time for clean-up of the node and the last word to the broker.
    pub clean_up: Span,
    /// From the kill of a guest to its being gone.
    pub kill_cost: Span,
    /// How long a guest has to obey an ACPI shutdown.
    pub shutdown_grace: Span,
    /// ACPI shutdown is asked again so often: a guest that is still booting drops the first.
    pub shutdown_repeat: Span,
    /// A kill that has not been confirmed is repeated so often.
    pub kill_repeat: Span,
    /// Time from a lease to its running guest, until this slot has measured its own.
    pub start_cost: Span,
    /// A lease is taken only if the guest time that it gains is at least so many times the cost
    /// of its start and suspend.
    pub gain_factor: u64,
    /// Memory that a guest's hypervisor needs beside the guest's own, MiB.
    pub guest_overhead_mib: u64,
    /// The hypervisor can bring a guest's memory to the store while it runs.
    pub flushes: bool,
    /// A guest's memory is flushed so many times the cost of all suspends before they begin: one
    /// pass over all of it, one over what has changed since, and both beside running guests.
    pub flush_ahead: u64,
    /// Nothing is flushed for less than this to be saved.
    pub flush_worth: Span,
    /// How many suspends may write at once. The disk is the bottleneck: more than one only makes
    /// all of them late.
    pub parallel_suspends: usize,
    /// Pause before a failed suspend is tried again.
    pub suspend_retry: Span,
    /// Contact with the broker counts as lost when a sync is overdue by this much.
    pub contact_grace: Span,
    /// Kept before a lease's expiry; a tenth of the lease's length where that is less.
    pub fence_margin: Span,
    /// A word about the slot's end that has not been repeated for so long yields to a fresher one.
    pub word_stale_after: Span,
    /// How often the probe is asked; none when the slot has no probe.
    pub probe_every: Option<Span>,
    /// Time limit of a sync beyond the time that the broker may hold it.
    pub sync_timeout: Span,
    /// First pause after a failed call; doubles up to `retry_max`.
    pub retry_min: Span,
    /// Longest pause between two calls that fail.
    pub retry_max: Span,
    /// Least time between two syncs when there is no news.
    pub sync_gap: Span,
    /// A guest that listens is told its time left when so much is left, and when it has to go.
    pub tell_marks: Vec<Span>,
    /// It is also told when the moment at which it has to go moves by more than this, and by more
    /// than a quarter of its time left.
    pub tell_change: Span,
    /// How long the last word to the broker is tried, if the slot lasts so long.
    pub farewell: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            clean_up: notice::CLEAN_UP,
            kill_cost: notice::KILL_COST,
            shutdown_grace: Span::from_secs(10),
            shutdown_repeat: Span::from_secs(3),
            kill_repeat: Span::from_secs(2),
            start_cost: Span::from_secs(3),
            gain_factor: 2,
            guest_overhead_mib: 0,
            flushes: true,
            flush_ahead: 2,
            flush_worth: Span::from_millis(500),
            parallel_suspends: 1,
            suspend_retry: Span::from_secs(1),
            contact_grace: Span::from_secs(5),
            fence_margin: Span::from_secs(2),
            word_stale_after: Span::from_secs(120),
            probe_every: None,
            sync_timeout: Span::from_secs(10),
            retry_min: Span::from_millis(250),
            retry_max: Span::from_secs(5),
            sync_gap: Span::from_millis(100),
            tell_marks: [600, 300, 60, 10].map(Span::from_secs).to_vec(),
            tell_change: Span::from_secs(10),
            farewell: Span::from_secs(30),
        }
    }
}
