//! Everything that can happen to the broker, in one closed enum.

use protocol::ids::{
    IdempotencyKey, Incarnation, PilotBoot, SiteName, SubmitKey, UserName, WorkspaceId,
};
use protocol::lrm::{CancelAnswer, Observation, SubmitAnswer};
use protocol::messages::{RegisterRequest, SyncRequest};
use protocol::time::Timestamp;
use protocol::workspace::WorkspaceSpec;

/// Who calls, as the token says. An administrator may touch everybody's workspaces; for others,
/// a workspace that is not theirs does not exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A user.
    User(UserName),
    /// An administrator.
    Admin(UserName),
}

impl Caller {
    /// The name in the token.
    pub const fn name(&self) -> &UserName {
        match self {
            Self::User(name) | Self::Admin(name) => name,
        }
    }

    /// True when this caller may see and touch what `owner` owns.
    pub fn may_touch(&self, owner: &UserName) -> bool {
        match self {
            Self::User(name) => name == owner,
            Self::Admin(_) => true,
        }
    }
}

/// What happened. The shell checks tokens and versions before it makes one.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A broker process has loaded the records and starts to serve. Sent once, before all others:
    /// gives every lease a full life (pilots could not renew while the broker was away) and turns
    /// submits that were under way into look-ups.
    Started,
    /// A user asks for a workspace. Reply: [`crate::Reply::Workspace`] or `Refused`.
    Submit {
        /// A fresh id, made by the shell.
        id: WorkspaceId,
        /// Who will own it.
        owner: UserName,
        /// The same key with the same request finds the workspace again.
        key: Option<IdempotencyKey>,
        /// The request; checked here with [`WorkspaceSpec::check`].
        spec: Box<WorkspaceSpec>,
    },
    /// End it. Reply: [`crate::Reply::Workspace`] or `Refused`, as for the next three.
    Cancel {
        /// The workspace.
        id: WorkspaceId,
        /// Who asks.
        by: Caller,
    },
    /// Suspend it and keep it out of the queue.
    Suspend {
        /// The workspace.
        id: WorkspaceId,
        /// Who asks.
        by: Caller,
    },
    /// Let it run again after a suspend or pause.
    Resume {
        /// The workspace.
        id: WorkspaceId,
        /// Who asks.
        by: Caller,
    },
    /// Stop the guest, keep it in RAM.
    Pause {
        /// The workspace.
        id: WorkspaceId,
        /// Who asks.
        by: Caller,
    },
    /// A pilot registers. The shell has checked that its token is for `slot.submit_key`.
    /// Reply: [`crate::Reply::Registered`] or `Refused`.
    Register {
        /// What it sent.
        request: Box<RegisterRequest>,
    },
    /// A pilot syncs. Reply: [`crate::Reply::Sync`] or `Refused`.
    Sync {
        /// What it sent.
        request: Box<SyncRequest>,
        /// When the request came in (`now` of this event, or a little before).
        received: Timestamp,
    },
    /// A sync that was answered with [`crate::SyncDecision::Hold`] is looked at again: its pilot
    /// was named in an [`crate::Effect::Wake`], or its hold is over. Reply as for `Sync`.
    SyncPoll {
        /// The pilot job.
        submit_key: SubmitKey,
        /// Its start.
        incarnation: Incarnation,
        /// Its pilot.
        boot: PilotBoot,
        /// The held request's number.
        number: u64,
        /// When the held request came in.
        received: Timestamp,
    },
    /// Outcome of [`crate::Effect::SubmitPilot`].
    LrmSubmitted {
        /// Which pilot job.
        key: SubmitKey,
        /// What the LRM said.
        answer: SubmitAnswer,
    },
    /// Outcome of [`crate::Effect::LookUp`]: the listing has the job, or nothing.
    LrmFound {
        /// Which pilot job.
        key: SubmitKey,
        /// What the LRM said.
        observation: Observation,
    },
    /// The shell's periodic bulk observation of a site.
    LrmObserved {
        /// Which site.
        site: SiteName,
        /// What the LRM said.
        observation: Observation,
    },
    /// Outcome of [`crate::Effect::CancelPilot`].
    LrmCancelled {
        /// Which pilot job.
        key: SubmitKey,
        /// What the LRM said.
        answer: CancelAnswer,
    },
    /// An administrator wants a key for a pilot that is started by hand.
    /// Reply: [`crate::Reply::HandPilot`] or `Refused`.
    HandPilot {
        /// The site that it is to belong to.
        site: SiteName,
        /// Who asks.
        by: Caller,
    },
    /// Submit no more pilots there, withdraw the queued ones, let the running ones leave.
    /// Reply: [`crate::Reply::Site`] or `Refused`.
    Drain {
        /// Which site.
        site: SiteName,
        /// Who asks.
        by: Caller,
    },
    /// End a drain, and a pause after too many failures. Reply as for `Drain`.
    Undrain {
        /// Which site.
        site: SiteName,
        /// Who asks.
        by: Caller,
    },
    /// The shell's housekeeping: forget what is over for long. Reply: [`crate::Reply::Forgotten`].
    Forget {
        /// What ended later is kept.
        ended_before: Timestamp,
        /// At most so many records in this step.
        limit: usize,
    },
    /// Time has passed: due at [`crate::Broker::next_wakeup`], harmless at any other time.
    Tick,
}
