//! What the administrator decided: given at construction, never changed by a step.

use protocol::ids::SiteName;
use protocol::resources::Resources;
use protocol::time::Span;

/// Settings of the whole broker.
#[derive(Clone, PartialEq, Debug)]
pub struct BrokerConfig {
    /// How long a lease lives without a sync. Long enough that a guest need not be suspended when
    /// a sync or two are lost: several holds, and the time that a large guest's suspend takes.
    pub lease_ttl: Span,
    /// Waited after a lease's expiry before its workspace may run elsewhere.
    pub lease_margin: Span,
    /// The longest that a sync is held back; at most a third of `lease_ttl` makes sense.
    pub hold: Span,
    /// A lease is given only if the guest time that it can get is at least this many times the
    /// site's overhead, or all that the workspace still needs.
    pub thrash_factor: u32,
    /// More open workspaces than this per user are refused.
    pub max_open_per_user: u32,
    /// When and how many pilots.
    pub provision: ProvisionPolicy,
    /// The sites. Those with the same preference are in the order in which they are tried when
    /// nothing was learned of them yet.
    pub sites: Vec<SiteConfig>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            lease_ttl: Span::from_mins(5),
            lease_margin: Span::from_secs(5),
            hold: Span::from_secs(15),
            thrash_factor: 2,
            max_open_per_user: 20_000,
            provision: ProvisionPolicy::default(),
            sites: Vec::new(),
        }
    }
}

/// How politely pilots are submitted.
#[derive(Clone, PartialEq, Debug)]
pub struct ProvisionPolicy {
    /// Least time between two rounds of submits at a site.
    pub round: Span,
    /// Most submits in one round at a site.
    pub max_per_round: u32,
    /// Only so much of the need is submitted in one round: 1 is all, 2 half, rounded up.
    pub attenuation: u32,
    /// Waits after 1, 2, 3... submits in a row that failed; the last one repeats.
    pub back_off: Vec<Span>,
    /// After so many failed submits in a row the site is paused until `undrain`.
    pub pause_after_failures: u32,
    /// After so many pilots in a row that never registered the site is paused until `undrain`.
    pub pause_after_died_young: u32,
    /// Least time between two look-ups at a site; of the same job it doubles up to 16 times.
    pub look_up_every: Span,
    /// A submit without an answer is given up after so many listings without the job...
    pub absent_listings: u32,
    /// ...over at least this long.
    pub absent_for: Span,
    /// A job that is not in the listings is closed this long after the last moment at which it
    /// could still have run.
    pub close_after: Span,
    /// A queued pilot without work is withdrawn after so long.
    pub surplus_after: Span,
    /// After so many failures in a row on a node it gets no guests for `avoid_node_for`, and
    /// submits ask for other nodes: guests that failed there, and pilots that ended there without
    /// registering (of those one less than makes the site pause is enough).
    pub avoid_node_after: u32,
    /// How long a node is avoided.
    pub avoid_node_for: Span,
    /// What a site's pilots declined for a reason that holds in all of its slots is not sent
    /// there again for so long.
    pub refused_for: Span,
    /// Least time between two cancels of the same job; doubles up to 16 times.
    pub cancel_every: Span,
    /// A site that we have hurt gets one step more of its pilots back after so many slots in a
    /// row that did no harm.
    pub forgive_after: u32,
}

impl Default for ProvisionPolicy {
    fn default() -> Self {
        Self {
            round: Span::from_secs(2),
            max_per_round: 10,
            attenuation: 2,
            back_off: vec![
                Span::ZERO,
                Span::from_secs(60),
                Span::from_mins(15),
                Span::from_mins(30),
                Span::from_mins(60),
            ],
            pause_after_failures: 10,
            pause_after_died_young: 3,
            look_up_every: Span::from_secs(5),
            absent_listings: 3,
            absent_for: Span::from_secs(60),
            close_after: Span::from_mins(10),
            surplus_after: Span::from_secs(30),
            avoid_node_after: 3,
            avoid_node_for: Span::from_mins(60),
            refused_for: Span::from_mins(240),
            cancel_every: Span::from_secs(60),
            forgive_after: 4,
        }
    }
}

/// What a site agreed to.
#[derive(Clone, PartialEq, Debug)]
pub struct SiteConfig {
    /// Name.
    pub name: SiteName,
    /// Sites with a lower number get pilots first; among equals the one with the shorter queue.
    pub preference: i32,
    /// Kind of LRM for people (`sim`, `slurm`, ...); none: pilots are started by hand only.
    pub lrm: Option<String>,
    /// What a pilot job asks for, on each of its nodes.
    pub slot: Resources,
    /// Nodes that each pilot job asks for; a pilot runs on each. At least 1.
    pub nodes: u32,
    /// Shortest walltime that is asked for.
    pub walltime_min: Span,
    /// Longest walltime that is asked for.
    pub walltime_max: Span,
    /// The notice that the site guarantees.
    pub notice: Span,
    /// Safety before every deadline.
    pub margin: Span,
    /// Expected cost of a guest's stay: boot or resume at its start, suspend at its end.
    pub overhead: Span,
    /// Most pilot jobs that wait in the LRM, each counted once whatever its nodes.
    pub max_queued: u32,
    /// Most pilot jobs that run or may start to run.
    pub max_running: u32,
    /// A pilot without a lease leaves after so long.
    pub idle_limit: Option<Span>,
    /// False: no pilots are submitted here.
    pub enabled: bool,
}
