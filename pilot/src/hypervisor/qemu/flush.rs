//! A running guest's memory is brought to the store ahead of its suspend.

use super::QemuGuest;
use crate::hypervisor::errors::ControlError;

impl QemuGuest {
    #[expect(
        clippy::unused_async,
        reason = "the engine that writes ahead waits for its first block"
    )]
    pub(in crate::hypervisor) async fn flush(&self) -> Result<(), ControlError> {
        Ok(())
    }
}
