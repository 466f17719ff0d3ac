//! Checkpoints of a QEMU guest: not made yet.

use std::future::{Future, ready};

use protocol::codes::{Reason, ReasonCode};

use super::guest::QemuGuest;
use crate::hypervisor::errors::SuspendError;
use crate::hypervisor::types::{SuspendOrder, Suspended};

impl QemuGuest {
    /// Says that this driver makes none; the guest is not touched.
    pub(in crate::hypervisor) fn checkpoint(
        &self,
        order: &SuspendOrder,
    ) -> impl Future<Output = Result<Suspended, SuspendError>> + use<> {
        let text = format!("no checkpoint {}: the qemu driver makes none", order.state);
        ready(Err(SuspendError {
            reason: Reason::new(ReasonCode::SuspendFailed, text),
            guest_alive: self.0.shared.exit.borrow().is_none(),
        }))
    }
}
