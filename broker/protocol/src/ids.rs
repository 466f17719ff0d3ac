//! One newtype per kind of id, in one registry, so that ids of two worlds meet in no function.
//!
//! An id is shared text: ids are in every record, message and index, and a copy of one costs no
//! memory.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: {rule}")]
pub struct IdError {
    /// The text that was refused, cut to 80 characters.
    pub text: String,
    /// What it was read as, in words.
    pub kind: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

const NAME_RULE: &str =
    "use 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit";
const TEXT_RULE: &str = "use 1 to 200 printable characters";

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn is_text(text: &str) -> bool {
    (1..=200).contains(&text.len()) && !text.chars().any(char::is_control)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident: $words:literal, $check:ident, $rule:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "Cow<'_, str>")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a text.
            ///
            /// # Errors
            /// The text breaks the rule of this kind of id.
            pub fn new(text: &str) -> Result<Self, IdError> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(IdError { text, kind: $words, rule: $rule })
                }
            }

            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl TryFrom<Cow<'_, str>> for $name {
            type Error = IdError;
            fn try_from(text: Cow<'_, str>) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// A workspace: one VM request of a user, from acceptance to its final state.
    WorkspaceId: "workspace id", is_name, NAME_RULE;
    /// A site: one cluster with one LRM.
    SiteName: "site name", is_name, NAME_RULE;
    /// A user of the broker; owns workspaces.
    UserName: "user name", is_name, NAME_RULE;
    /// A pilot job to us: chosen before it is submitted, findable in the LRM, unique for ever.
    SubmitKey: "submit key", is_name, NAME_RULE;
    /// A pilot job to its LRM. May be reused by the LRM after a crash: never a key of ours.
    LrmJobId: "LRM job id", is_text, TEXT_RULE;
    /// One start of a pilot job: a requeued job has the same LRM id and another incarnation.
    Incarnation: "incarnation", is_text, TEXT_RULE;
    /// One run of a pilot process; a second process in the same incarnation has another.
    PilotBoot: "pilot boot id", is_name, NAME_RULE;
    /// A node as the LRM names it.
    NodeName: "node name", is_text, TEXT_RULE;
    /// Chosen by a client so that a repeated submit finds the first one.
    IdempotencyKey: "idempotency key", is_text, TEXT_RULE;
    /// A suspended state: the name of its directory in a store.
    StateId: "state id", is_name, NAME_RULE;
}

impl SubmitKey {
    /// The key of one pilot of a job on several nodes: `KEY.RANK`, ranks from 0.
    ///
    /// # Errors
    /// It would be longer than a key may be.
    pub fn member(&self, rank: u32) -> Result<Self, IdError> {
        Self::new(&format!("{self}.{rank}"))
    }

    /// The job's key and the rank in what [`Self::member`] makes; none for anything else. A key
    /// that only looks like it is told apart by whoever knows the jobs.
    pub fn split_member(&self) -> Option<(Self, u32)> {
        let (job, rank) = self.0.rsplit_once('.')?;
        let (job, rank) = (Self::new(job).ok()?, rank.parse().ok()?);
        (job.member(rank).as_ref() == Ok(self)).then_some((job, rank))
    }
}

impl NodeName {
    /// A name that no other comes before: where the nodes of a site begin in a map.
    pub fn least() -> Self {
        Self(" ".into())
    }
}

impl StateId {
    /// The state that the suspend of a lease makes: `WORKSPACE.gGENERATION`.
    ///
    /// # Errors
    /// It would be longer than a name may be.
    pub fn of_lease(workspace: &WorkspaceId, generation: Generation) -> Result<Self, IdError> {
        Self::new(&format!("{workspace}.g{generation}"))
    }

    /// A checkpoint of a lease: `WORKSPACE.gGENERATION.cNUMBER`, numbers from 1 in each lease.
    ///
    /// # Errors
    /// It would be longer than a name may be.
    pub fn of_checkpoint(
        workspace: &WorkspaceId,
        generation: Generation,
        number: u32,
    ) -> Result<Self, IdError> {
        Self::new(&format!("{workspace}.g{generation}.c{number}"))
    }

    /// The number in a name that [`Self::of_checkpoint`] makes for this lease; none for any other.
    pub fn checkpoint_of(&self, workspace: &WorkspaceId, generation: Generation) -> Option<u32> {
        let (_, number) = self.0.rsplit_once(".c")?;
        let number = number.parse().ok()?;
        let same = Self::of_checkpoint(workspace, generation, number).as_ref() == Ok(self);
        (same && number > 0).then_some(number)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = u64))]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

counters! {
    /// Fencing number of a lease: each lease of a workspace has a higher one than all before it.
    Generation;
    /// Number of an event in its log; starts at 1, no gaps.
    EventSeq;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_escape_a_path_or_a_command_line() {
        for bad in ["", "../x", "a b", "-rf", ".hidden", "a/b", &"x".repeat(65)] {
            assert!(WorkspaceId::new(bad).is_err(), "{bad:?} was taken");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<WorkspaceId>(&json).is_err());
        }
        assert!(LrmJobId::new("12[].pbs server").is_ok());
        assert!(LrmJobId::new("a\nb").is_err());
    }

    #[test]
    fn a_checkpoint_names_its_lease_and_number_and_only_in_one_way() {
        let (ws, lease) = (WorkspaceId::new("ws-1.c2").unwrap(), Generation(3));
        let suspended = StateId::of_lease(&ws, lease).unwrap();
        assert_eq!(suspended.as_str(), "ws-1.c2.g3");
        assert_eq!(suspended.checkpoint_of(&ws, lease), None);
        let checkpoint = StateId::of_checkpoint(&ws, lease, 12).unwrap();
        assert_eq!(checkpoint.as_str(), "ws-1.c2.g3.c12");
        assert_eq!(checkpoint.checkpoint_of(&ws, lease), Some(12));
        assert_eq!(checkpoint.checkpoint_of(&ws, Generation(2)), None);
        for odd in [
            "ws-1.c2.g3.c0",
            "ws-1.c2.g3.c01",
            "ws-1.c2.g3.c-1",
            "ws-1.c2.g3.c",
        ] {
            let id = StateId::new(odd).unwrap();
            assert_eq!(id.checkpoint_of(&ws, lease), None, "{odd}");
        }
        let long = WorkspaceId::new(&"x".repeat(60)).unwrap();
        assert!(StateId::of_lease(&long, lease).is_ok());
        assert!(StateId::of_checkpoint(&long, lease, 1).is_err());
    }

    #[test]
    fn a_member_key_names_its_job_and_rank_and_only_in_one_way() {
        let job = SubmitKey::new("wp-a.b-000001").unwrap();
        let member = job.member(12).unwrap();
        assert_eq!(member.as_str(), "wp-a.b-000001.12");
        assert_eq!(member.split_member(), Some((job.clone(), 12)));
        assert_eq!(job.split_member(), None);
        for odd in ["wp-1.01", "wp-1.+1", "wp-1.", "wp-1.x", "wp-1.4294967296"] {
            let key = SubmitKey::new(odd);
            assert!(
                key.is_err() || key.unwrap().split_member().is_none(),
                "{odd}"
            );
        }
        assert!(SubmitKey::new(&"x".repeat(64)).unwrap().member(0).is_err());
    }
}
