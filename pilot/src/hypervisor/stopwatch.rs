//! How long something took. Drivers decide nothing by a clock; they report durations.

use protocol::time::Span;

/// Started when it is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch(tokio::time::Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "a driver measures what it reports; nothing is decided by it"
    )]
    pub(super) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub(super) fn read(self) -> Span {
        Span::from_duration(self.0.elapsed())
    }
}
