//! Random lives: users, pilots, LRMs and the network do anything they can; whatever they do,
//! nothing runs twice, nothing is lost, nothing leaves its final state, and a broker that is
//! killed between any two steps goes on in the same way. Then all behave, and all work ends.

mod acts;
mod calm;
mod run;
#[expect(dead_code, reason = "this program uses a part of the world")]
#[path = "../world/mod.rs"]
mod world;

use std::collections::BTreeMap;

use acts::act;
use broker_core::Event;
use proptest::prelude::*;
use protocol::ids::{PilotBoot, WorkspaceId};
use protocol::messages::{SyncReply, SyncRequest};
use protocol::time::Span;
use world::{World, config, room, site_config};

/// The world and what is under way in its network.
struct Run {
    world: World,
    needed: BTreeMap<WorkspaceId, Span>,
    requests: Vec<SyncRequest>,
    old: Vec<SyncRequest>,
    /// Answers on their way, with the pilot process that they go to.
    answers: Vec<(PilotBoot, SyncReply)>,
}

fn site_name(first: bool) -> &'static str {
    if first { "A" } else { "B" }
}

impl Run {
    /// With so many nodes for each job of the two sites.
    fn new(a: u32, b: u32) -> Self {
        let mut sites = vec![
            site_config("A", room(2, 2048)),
            site_config("B", room(4, 8192)),
        ];
        (sites[0].nodes, sites[1].nodes) = (a, b);
        let mut config = config(sites);
        config.lease_ttl = Span::from_mins(5);
        config.hold = Span::from_secs(60);
        let mut world = World::new(config);
        // More than is configured, and less than what the calm rounds below cost: it is learned.
        world.cost = Span::from_mins(5);
        Self {
            world,
            needed: BTreeMap::new(),
            requests: Vec::new(),
            old: Vec::new(),
            answers: Vec::new(),
        }
    }
}

fn live(mut run: Run, acts: Vec<acts::Act>) {
    run.world.step(Event::Started);
    for act in acts {
        run.act(&act);
    }
    run.world.twin = false;
    run.world.strict = false;
    run.calm();
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 300,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_promises_hold(acts in prop::collection::vec(act(), 1..200)) {
        live(Run::new(1, 1), acts);
    }

    #[test]
    fn whatever_happens_to_jobs_of_several_nodes_the_promises_hold(
        acts in prop::collection::vec(act(), 1..200)
    ) {
        live(Run::new(3, 2), acts);
    }
}
