//! The users: they queue requests, and now and then change their minds.

use std::collections::{BTreeMap, BTreeSet};

use broker_core::Caller;
use protocol::ids::{IdempotencyKey, UserName, WorkspaceId};
use protocol::resources::Resources;
use protocol::time::Span;
use protocol::workspace::{Artefact, Image, OnEviction, Policy, WorkspaceSpec};

use super::options::{Promise, Violation};
use super::world::{Coming, Sender, World};

/// What the users know.
#[derive(Debug, Default)]
pub struct Users {
    /// Requests that were sent.
    pub sent: u32,
    /// Requests that were accepted: these must never be lost.
    pub accepted: BTreeSet<WorkspaceId>,
    /// Of those, the ones that have not ended by the broker's records.
    pub open: BTreeSet<WorkspaceId>,
    /// Requests without an answer: sent again with the same key.
    pub unsure: BTreeMap<u32, WorkspaceSpec>,
    /// The workspace that each request became.
    pub became: BTreeMap<u32, WorkspaceId>,
    tries: u32,
}

/// Who asks for the request with this number, where there are so many users.
pub fn owner(number: u32, of: u32) -> UserName {
    let name = match (of, number % of.max(1)) {
        (..=2, _) if number.is_multiple_of(3) => "ada".to_owned(),
        (..=2, _) => "bob".to_owned(),
        (_, n) => format!("user-{n}"),
    };
    UserName::new(&name).expect("a user name")
}

/// Who may touch what others asked for.
pub fn administrator() -> Caller {
    Caller::Admin(owner(1, 2))
}

fn spec(world: &mut World) -> WorkspaceSpec {
    let memory = *world.chance.pick(&[256, 512, 1024, 2048]);
    // What can't be suspended has to fit into one slot.
    let (on_eviction, minutes) = match world.chance.between(0, 19) {
        0 => (OnEviction::Restart, world.chance.between(2, 8)),
        1 => (OnEviction::Fail, world.chance.between(2, 8)),
        _ => (OnEviction::Suspend, world.chance.between(3, 100)),
    };
    let checkpoint_every = (on_eviction == OnEviction::Suspend && world.chance.happens(300, 100))
        .then(|| world.chance.millis(20_000, 900_000));
    WorkspaceSpec {
        name: "sim".into(),
        image: Image {
            kernel: Some(Artefact {
                url: "/images/vmlinux".into(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: Resources {
            cores: 1,
            memory_mib: memory,
            disk_mib: 1024,
        },
        run_time: Span::from_mins(minutes),
        policy: Policy {
            on_eviction,
            max_suspends: 200,
            max_restarts: 40,
            may_be_killed: world.chance.happens(700, 100),
            checkpoint_every,
        },
        advance_to: protocol::workspace::AdvanceTo::default(),
        network: protocol::workspace::Network::default(),
        context: protocol::workspace::Context::default(),
    }
}

impl World {
    /// True when all that was asked for has happened.
    pub(super) fn is_over(&self) -> bool {
        self.users.sent >= self.options.requests
            && self.summary.slots >= self.options.slots
            && self.users.unsure.is_empty()
            && self.users.open.is_empty()
    }

    /// Accepted requests that have not ended.
    pub(super) fn open_requests(&self) -> Vec<String> {
        self.users.open.iter().map(ToString::to_string).collect()
    }

    pub(super) fn user_acts(&mut self) -> Result<(), Box<Violation>> {
        // When all have been sent and more slots are to be given, no more than these can use.
        let idle = self.users.open.len() < self.size.busy;
        let more = self.users.sent < self.options.requests
            || (self.summary.slots < self.options.slots && idle);
        if more {
            for _ in 0..self.chance.between(1, self.size.burst) {
                self.user_submits();
            }
        }
        for _ in 0..self.size.pace {
            if self.chance.happens(100, 100) {
                self.user_changes_mind();
            }
        }
        for number in self.users.unsure.keys().copied().collect::<Vec<_>>() {
            self.user_sends(number);
        }
        let next = self.chance.millis(20_000, 200_000);
        self.plan(next, Coming::User);
        Ok(())
    }

    fn user_submits(&mut self) {
        let number = self.users.sent;
        self.users.sent += 1;
        let spec = spec(self);
        self.users.unsure.insert(number, spec);
        self.user_sends(number);
    }

    fn user_sends(&mut self, number: u32) {
        let Some(spec) = self.users.unsure.get(&number).cloned() else {
            return;
        };
        self.users.tries += 1;
        let id = format!("ws-{number}-{}", self.users.tries);
        let event = broker_core::Event::Submit {
            id: WorkspaceId::new(&id).expect("a workspace id"),
            owner: owner(number, self.size.owners),
            key: IdempotencyKey::new(&format!("key-{number}")).ok(),
            spec: Box::new(spec),
        };
        let after = self.chance.millis(1, 50);
        self.plan(after, Coming::Broker(Box::new(event), Sender::User(number)));
    }

    /// The broker has answered a submit.
    pub(super) fn user_hears(
        &mut self,
        number: u32,
        id: &WorkspaceId,
    ) -> Result<(), Box<Violation>> {
        let known = self
            .users
            .became
            .entry(number)
            .or_insert_with(|| id.clone());
        if known != id {
            let what = format!("request {number} became {known} and {id}");
            return Err(self.violation(Promise::Kept, &what, &[id.to_string()]));
        }
        if let Some(spec) = self.users.unsure.remove(&number) {
            // The guest's own program ends a little before or after the run time asked for.
            let share = self.chance.between(40, 130);
            let work = Span::from_millis(spec.run_time.as_millis() * share / 100);
            self.work.insert(id.clone(), work);
            self.users.accepted.insert(id.clone());
            if self.broker.state_of(id).is_none_or(|s| !s.is_final()) {
                self.users.open.insert(id.clone());
            }
            self.summary.requests += 1;
        }
        Ok(())
    }

    fn user_changes_mind(&mut self) {
        let Some(last) = u64::try_from(self.users.open.len())
            .ok()
            .and_then(|n| n.checked_sub(1))
        else {
            return;
        };
        let nth = usize::try_from(self.chance.between(0, last)).unwrap_or(0);
        let Some(id) = self.users.open.iter().nth(nth).cloned() else {
            return;
        };
        let by = administrator();
        let event = match self.chance.between(0, 4) {
            0 => broker_core::Event::Cancel { id: id.clone(), by },
            1 => broker_core::Event::Suspend { id: id.clone(), by },
            2 => broker_core::Event::Pause { id: id.clone(), by },
            _ => broker_core::Event::Resume { id: id.clone(), by },
        };
        self.tell(|| format!("a user sends {event:?}"));
        // Whoever suspends or pauses lets it go on again some time.
        let resume = broker_core::Event::Resume {
            id,
            by: administrator(),
        };
        let later = self.chance.millis(60_000, 3_000_000);
        self.plan(
            Span::from_millis(5),
            Coming::Broker(Box::new(event), Sender::Nobody),
        );
        self.plan(
            later,
            Coming::Broker(Box::new(resume.clone()), Sender::Nobody),
        );
        // Said twice, in case the broker is away.
        self.plan(
            later + Span::from_mins(30),
            Coming::Broker(Box::new(resume), Sender::Nobody),
        );
    }
}
