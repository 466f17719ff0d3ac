//! Stable codes: of refusals (HTTP), of reasons (why something ended), of process exits.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a call was refused. The text of a code never changes; clients match on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ErrorCode {
    /// 400: the body or a parameter is not what the call takes.
    BadRequest,
    /// 401: no token, or one that this broker did not make, or an expired or revoked one.
    Unauthenticated,
    /// 403: the token is good, but not for this.
    Forbidden,
    /// 404: there is no such thing, or it is not this user's.
    NotFound,
    /// 409: the thing is in a state in which this can't be done.
    WrongState,
    /// 409: the idempotency key was used for a different request.
    KeyReused,
    /// 409: this slot was taken over by a later incarnation or pilot; leave.
    Fenced,
    /// 413: the body is larger than the call takes.
    TooLarge,
    /// 422: understood, but it can never be done as asked.
    Impossible,
    /// 426: the peer speaks a version that is no longer understood.
    VersionTooOld,
    /// 429: too many requests are queued for this user or broker.
    TooMany,
    /// 500: a fault of the broker; the log has more.
    Internal,
    /// 503: not now (starting, stopping, or the store can't be written); try again.
    Unavailable,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::WrongState | Self::KeyReused | Self::Fenced => 409,
            Self::TooLarge => 413,
            Self::Impossible => 422,
            Self::VersionTooOld => 426,
            Self::TooMany => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// True when the same call may succeed later without being changed.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::TooMany | Self::Internal | Self::Unavailable)
    }
}

/// Body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// Stable code.
    pub code: ErrorCode,
    /// What went wrong, where; lower case, fits after "failed to ...:".
    pub detail: String,
    /// What to do about it, when there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Why something ended, moved or failed: a code for programs and a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reason {
    /// Stable code.
    pub code: ReasonCode,
    /// The sentence, with the particulars.
    pub text: String,
}

impl Reason {
    /// A reason with its sentence.
    pub fn new(code: ReasonCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Codes of reasons. An unknown one from a newer peer is read as [`ReasonCode::Other`].
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum ReasonCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
            /// A code that this version does not know.
            #[serde(rename = "other", other)] Other,
        }

        impl ReasonCode {
            /// The code as it stands in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* Self::Other => "other" }
            }
        }
    };
}

reason_codes! {
    /// The guest switched itself off.
    GuestPoweredOff = "guest_powered_off",
    /// The guest ran as long as was asked for and was shut down.
    RunTimeUsed = "run_time_used",
    /// The request asked for no more than to be staged, and is.
    StagedAsAsked = "staged_as_asked",
    /// The owner cancelled it.
    CancelledByUser = "cancelled_by_user",
    /// The owner asked for a suspend.
    SuspendedByUser = "suspended_by_user",
    /// An administrator did it.
    ByAdministrator = "by_administrator",
    /// The slot's end came near.
    SlotEnding = "slot_ending",
    /// The LRM signalled the pilot before the slot's known end.
    Preempted = "preempted",
    /// The site or node is being drained.
    Draining = "draining",
    /// The pilot could not renew the lease in time and gave the guest up.
    LeaseExpired = "lease_expired",
    /// The pilot or its node was lost; the lease expired at the broker.
    PilotLost = "pilot_lost",
    /// A later incarnation of the pilot job took the slot's place.
    Requeued = "requeued",
    /// The LRM ended the pilot job.
    JobEnded = "job_ended",
    /// An artefact can't be found or read.
    ImageMissing = "image_missing",
    /// An artefact is not what its digest says.
    ImageCorrupt = "image_corrupt",
    /// A suspended state is missing, cut short or altered.
    StateCorrupt = "state_corrupt",
    /// A suspended state can't run on this node's hypervisor.
    StateIncompatible = "state_incompatible",
    /// The hypervisor could not start the guest.
    BootFailed = "boot_failed",
    /// The hypervisor ended while the guest ran.
    GuestCrashed = "guest_crashed",
    /// The suspend did not end well; the state was discarded.
    SuspendFailed = "suspend_failed",
    /// The suspend would not have ended in time; the state was discarded.
    SuspendTooSlow = "suspend_too_slow",
    /// No space left on the disk.
    DiskFull = "disk_full",
    /// The slot has too little time or room for it.
    SlotTooSmall = "slot_too_small",
    /// The site's notice is too short to suspend it, and it must not be killed.
    NoticeTooShort = "notice_too_short",
    /// The request's limit of restarts is reached.
    TooManyRestarts = "too_many_restarts",
    /// The request's limit of suspends is reached.
    TooManySuspends = "too_many_suspends",
    /// No slot of any site can ever hold it.
    NeverFits = "never_fits",
    /// The pilot has had nothing to do for its idle limit.
    Idle = "idle",
    /// There is less work than pilots.
    Surplus = "surplus",
    /// Pilots of the site found nothing that they could run.
    Fruitless = "fruitless",
    /// We have cost the site more than we may; it gets fewer pilots for a while.
    Courtesy = "courtesy",
    /// The submit was refused by the LRM.
    SubmitRefused = "submit_refused",
    /// The pilot ended soon after its start.
    DiedYoung = "died_young",
    /// A fault of our own.
    Internal = "internal",
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Exit codes of all our commands; job scripts and sites may depend on them.
pub mod exit {
    /// All went well.
    pub const OK: i32 = 0;
    /// The operation was carried out and failed (a workspace that ended as failed, a refusal).
    pub const FAILED: i32 = 1;
    /// The command line, a file or a value is wrong; nothing was done.
    pub const USAGE: i32 = 2;
    /// The other side could not be reached or did not answer in time; it may or may not have acted.
    pub const NO_ANSWER: i32 = 3;
    /// The token was refused.
    pub const DENIED: i32 = 4;
    /// There is no such thing.
    pub const NOT_FOUND: i32 = 5;
    /// `pilot-submit run`: the workspace was cancelled.
    pub const CANCELLED: i32 = 6;
    /// `pilot run`: the slot was cleaned, but something of ours could not be removed.
    pub const LEFTOVERS: i32 = 7;
    /// `pilot run`: the broker refused this slot (fenced, unknown or ended pilot job).
    pub const FENCED: i32 = 8;
    /// A fault of our own.
    pub const INTERNAL: i32 = 70;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_a_newer_peer_is_kept_as_other() {
        let r: Reason =
            serde_json::from_str(r#"{"code":"struck_by_lightning","text":"t"}"#).unwrap();
        assert_eq!(r.code, ReasonCode::Other);
        let r: Reason = serde_json::from_str(r#"{"code":"disk_full","text":"t","x":1}"#).unwrap();
        assert_eq!(r.code, ReasonCode::DiskFull);
    }
}
