//! How large a world is: as many sites, nodes and users' requests as the slots and requests that
//! are asked for need to pass in a day or two of virtual time.

use protocol::resources::Resources;
use protocol::time::Span;

use super::options::Options;

/// Requests that two small sites serve in a day.
const SMALL: u32 = 500;

/// The measures of a world.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Sites, each with a batch system of its own.
    pub sites: usize,
    /// Least and most nodes of a site.
    pub nodes: (u64, u64),
    /// What a node has.
    pub node: Resources,
    /// What a pilot job asks for on each node.
    pub slot: Resources,
    /// Least and most of the longest walltime, minutes.
    pub walltime: (u64, u64),
    /// The site's limit of queued pilot jobs.
    pub max_queued: u32,
    /// The site's limit of running pilot jobs.
    pub max_running: u32,
    /// So many open requests keep all sites busy.
    pub busy: usize,
    /// Most requests that come at once.
    pub burst: u64,
    /// How much faster than at a small site things happen at each.
    pub pace: u64,
    /// How many times as many guests as at a small site share a store.
    pub crowd: u64,
    /// Users who ask for something. No user may have too much open at once.
    pub owners: u32,
    /// How many different ids the sites' batch systems give to jobs before they begin anew.
    pub ids: u64,
}

impl Size {
    /// As large as these options need.
    pub fn of(options: &Options) -> Self {
        let times = options.requests.div_ceil(SMALL).max(1);
        let room = |cores: u32| Resources {
            cores,
            memory_mib: u64::from(cores) * 2048,
            disk_mib: u64::from(cores) * 25_000,
        };
        if times <= 4 {
            let n = u64::from(times);
            return Self {
                sites: 2,
                nodes: (3 * n, 6 * n),
                node: room(4),
                slot: Resources {
                    disk_mib: 20_000,
                    ..room(2)
                },
                walltime: (20, 60),
                max_queued: 3 * times,
                max_running: 8 * times,
                busy: 30 * usize::try_from(n).unwrap_or(1),
                burst: 8 * n,
                pace: n,
                crowd: 1,
                owners: 2,
                ids: 200 * n,
            };
        }
        // Slots of eight guests that last longer: five requests for a slot.
        let sites = (2 + times / 12).min(8);
        let pace = u64::from((times / (sites * 2)).max(1));
        Self {
            sites: usize::try_from(sites).unwrap_or(2),
            nodes: (3 * pace, 6 * pace),
            node: room(16),
            slot: Resources {
                disk_mib: 100_000,
                ..room(8)
            },
            walltime: (40, 120),
            max_queued: 4 * (times / sites).max(1),
            max_running: 8 * (times / sites).max(1),
            busy: 30 * usize::try_from(times).unwrap_or(1),
            burst: 8 * u64::from(times),
            pace,
            owners: times,
            crowd: u64::from((times / sites).max(1)) * 4,
            ids: 2000,
        }
    }

    /// The span by which something comes that comes at a small site after `span`.
    pub fn sooner(&self, span: Span) -> Span {
        Span::from_millis((span.as_millis() / self.pace).max(1))
    }
}
