//! Bounded waits on a condition: tests never sleep and hope.

use std::time::Duration;

use anyhow::{Result, bail};

/// How long anything may take here before it counts as broken. Software-emulated guests on a busy
/// machine boot in seconds; this is an order of magnitude more.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until `probe` gives a value.
///
/// # Errors
/// `what` did not happen within `patience`; the message names it.
#[expect(
    clippy::disallowed_methods,
    reason = "the bound of a wait, not a measurement"
)]
pub async fn until<T, F>(what: &str, patience: Duration, mut probe: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Option<T>>,
{
    let deadline = tokio::time::Instant::now() + patience;
    let mut last_error = None;
    loop {
        match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(e) => last_error = Some(e),
        }
        if tokio::time::Instant::now() >= deadline {
            match last_error {
                Some(e) => {
                    bail!("gave up waiting for {what} after {patience:?}; last error: {e:#}")
                }
                None => bail!("gave up waiting for {what} after {patience:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
