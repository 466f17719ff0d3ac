//! What administrators ask for: drain, undrain, a pilot by hand.

use protocol::api::PilotState;
use protocol::codes::{ErrorCode, Reason, ReasonCode};
use protocol::ids::SiteName;
use protocol::time::Timestamp;

use crate::effect::Reply;
use crate::event::Caller;
use crate::state::Broker;
use crate::words::hour;

fn only_administrators(by: &Caller) -> Result<(), Reply> {
    match by {
        Caller::Admin(_) => Ok(()),
        Caller::User(name) => Err(Reply::refused(
            ErrorCode::Forbidden,
            format!("{name} is not an administrator"),
        )),
    }
}

fn no_site(name: &SiteName) -> Reply {
    Reply::refused(ErrorCode::NotFound, format!("there is no site {name}"))
}

impl Broker {
    pub(crate) fn drain(&mut self, now: Timestamp, name: &SiteName, by: &Caller) -> Reply {
        if let Err(no) = only_administrators(by) {
            return no;
        }
        if self.site_config(name).is_none() {
            return no_site(name);
        }
        let text = format!(
            "site {name} is being drained by {} since {}",
            by.name(),
            hour(now, now)
        );
        let reason = Reason::new(ReasonCode::Draining, text);
        self.tables.edit_site(name, |s| {
            s.draining.get_or_insert_with(|| reason.clone());
        });
        let waiting: Vec<_> = (self.tables.live(name))
            .filter(|p| matches!(p.state, PilotState::Submitting | PilotState::Queued))
            .map(|p| p.key.clone())
            .collect();
        for key in waiting {
            self.withdraw(now, &key, reason.clone());
        }
        self.wake_site(name);
        self.reply_site(now, name)
    }

    pub(crate) fn undrain(&mut self, now: Timestamp, name: &SiteName, by: &Caller) -> Reply {
        if let Err(no) = only_administrators(by) {
            return no;
        }
        if self.site_config(name).is_none() {
            return no_site(name);
        }
        self.tables.edit_site(name, |s| {
            s.draining = None;
            s.paused = None;
            s.submit_failures = 0;
            s.died_young = 0;
            s.not_before = None;
            s.nodes.clear();
            s.fruitless = 0;
            s.fruitless_until = None;
            s.refusals.clear();
            s.suspend_rate = None;
        });
        self.forget_costs_of(name);
        self.wake_site(name);
        self.provision(now);
        self.reply_site(now, name)
    }

    pub(crate) fn hand_pilot(&mut self, now: Timestamp, name: &SiteName, by: &Caller) -> Reply {
        if let Err(no) = only_administrators(by) {
            return no;
        }
        let Some(site) = self.site_config(name).cloned() else {
            return no_site(name);
        };
        let key = self.new_pilot(now, &site, site.walltime_max, true);
        Reply::HandPilot { key }
    }

    fn reply_site(&self, now: Timestamp, name: &SiteName) -> Reply {
        match self.site(now, name) {
            Some(view) => Reply::Site(Box::new(view)),
            None => no_site(name),
        }
    }
}
