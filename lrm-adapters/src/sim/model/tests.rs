//! Tests of the model: its scheduling, its endings and its promises.

mod ends;
mod nodes;
mod priority;
mod random;
mod several_nodes;
mod world;

use protocol::ids::SubmitKey;
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use world::World;

use crate::sim::model::{JobRequest, ModelConfig};
use crate::sim::profiles::ProfileName;

const NODE: Resources = Resources {
    cores: 4,
    memory_mib: 4096,
    disk_mib: 4096,
};

fn need(cores: u32) -> Resources {
    Resources {
        cores,
        memory_mib: 256,
        disk_mib: 0,
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_763_712_000_000 + millis)
}

fn key(n: u32) -> SubmitKey {
    SubmitKey::new(&format!("wp-{n}")).unwrap()
}

fn pilot(n: u32, cores: u32) -> JobRequest {
    JobRequest::pilot(key(n), need(cores), Span::from_mins(10))
}

fn world(profile: ProfileName, nodes: u32) -> World {
    World::new(ModelConfig::uniform(profile, nodes, NODE, 7))
}
