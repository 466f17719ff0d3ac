//! The words that make a null guest misbehave.

use protocol::text::parse_span;
use protocol::time::Span;

/// How a null guest is to misbehave.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Whims {
    pub poweroff_after: Option<Span>,
    pub crash_after: Option<Span>,
    pub ignores_acpi: bool,
    pub suspend_takes: Span,
    pub suspend_fails: bool,
    pub boot_fails: bool,
    pub deaf: bool,
    pub says_ready: bool,
}

impl Whims {
    /// Reads the words of an image's command line.
    pub(super) fn read(cmdline: &str) -> Result<Self, String> {
        let mut whims = Self::default();
        let words = cmdline
            .split_whitespace()
            .filter_map(|w| w.strip_prefix("null."));
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let span = || parse_span(value);
            match name {
                "poweroff_after" => whims.poweroff_after = Some(span()?),
                "crash_after" => whims.crash_after = Some(span()?),
                "ignores_acpi" => whims.ignores_acpi = true,
                "suspend_takes" => whims.suspend_takes = span()?,
                "suspend_fails" => whims.suspend_fails = true,
                "boot_fails" => whims.boot_fails = true,
                "deaf" => whims.deaf = true,
                "says_ready" => whims.says_ready = true,
                _ => return Err(format!("a null guest knows no `null.{name}`")),
            }
        }
        Ok(whims)
    }
}
