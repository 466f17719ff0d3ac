//! Which sites share one LRM account: one listing command serves them all.
//!
//! Two sites may be two queues, or two kinds of slot, of one cluster. An LRM's listing has all of
//! the account's jobs whatever site of ours they belong to, so asking once for each site would
//! only cost the controller more.

use std::collections::BTreeMap;
use std::ffi::OsString;

use protocol::ids::SiteName;
use protocol::time::Span;

use crate::config::{Site, SiteLrm};

/// Sites whose jobs are in one listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Their names; the first one's commands are used.
    pub sites: Vec<SiteName>,
    /// How often the listing is asked for: as often as the site that wants it most often.
    pub poll: Span,
}

/// Whose listing a site's jobs are in, as far as the configuration shows it: the same commands,
/// run in the same way, by the same account. None where there is no LRM.
fn account(site: &Site) -> Option<Vec<OsString>> {
    let commands: Vec<OsString> = match &site.lrm {
        SiteLrm::None => return None,
        SiteLrm::Sim { dir, program, .. } => vec![dir.into(), program.into()],
        SiteLrm::Slurm { settings, .. } => vec![
            settings.bin_dir.clone().unwrap_or_default().into(),
            settings.conf.clone().unwrap_or_default().into(),
            settings.cluster.clone().unwrap_or_default().into(),
        ],
        SiteLrm::Pbs { settings, .. } => [
            settings.bin_dir.clone().unwrap_or_default().into(),
            settings.user.clone().unwrap_or_default().into(),
        ]
        .into_iter()
        .chain(settings.listed_queues.iter().map(OsString::from))
        .collect(),
        SiteLrm::Htcondor { settings, .. } => vec![
            settings.bin_dir.clone().unwrap_or_default().into(),
            settings.schedd.clone().unwrap_or_default().into(),
            settings.pool.clone().unwrap_or_default().into(),
        ],
    };
    let kind = OsString::from(site.lrm.as_str());
    let prefix = site.command_prefix.iter().map(OsString::from);
    Some(
        std::iter::once(kind)
            .chain(commands)
            .chain(prefix)
            .collect(),
    )
}

/// The listings that there are to ask for.
pub fn listings(sites: &BTreeMap<SiteName, Site>) -> Vec<Listing> {
    let mut accounts: BTreeMap<Vec<OsString>, Listing> = BTreeMap::new();
    for (name, site) in sites {
        let Some(account) = account(site) else {
            continue;
        };
        let listing = accounts.entry(account).or_insert(Listing {
            sites: Vec::new(),
            poll: site.poll,
        });
        listing.sites.push(name.clone());
        listing.poll = listing.poll.min(site.poll);
    }
    accounts.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Settings;

    fn site(name: &str, dir: &str, more: &str) -> String {
        format!(
            "[site.{name}]\nlrm = \"sim\"\nstore = \"/s\"\nscratch = \"/x\"\nprogram = \"/p\"\n{more}\n\
             slot = {{ cores = 1, memory = \"1 GiB\", disk = \"1 GiB\" }}\n\
             hypervisor = {{ kind = \"null\" }}\nsim = {{ dir = \"{dir}\", program = \"/sim-lrm\" }}\n"
        )
    }

    fn of(text: &str) -> Vec<(String, Span)> {
        let settings = Settings::parse("broker.toml", Path::new("/"), text).unwrap();
        (listings(&settings.sites).into_iter())
            .map(|l| {
                let names: Vec<_> = l.sites.iter().map(|s| s.as_str()).collect();
                (names.join(" "), l.poll)
            })
            .collect()
    }

    #[test]
    fn sites_of_one_account_share_a_listing() {
        let text = site("a", "/lrm", "")
            + &site("b", "/lrm", "poll = \"20s\"")
            + &site("c", "/other", "")
            + &site("d", "/lrm", "command_prefix = [\"ssh\", \"login1\"]")
            + "[site.hand]\nlrm = \"none\"\nslot = { cores = 1, memory = \"1 GiB\", disk = \"1 GiB\" }\n";
        let secs = Span::from_secs;
        let mut found = of(&text);
        found.sort();
        let wanted = [("a b", 20), ("c", 30), ("d", 30)];
        assert_eq!(found, wanted.map(|(s, n)| (s.to_owned(), secs(n))));
    }
}
