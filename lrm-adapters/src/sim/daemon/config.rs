//! The configuration file of `sim-lrm serve`.

use protocol::ids::NodeName;
use protocol::resources::Resources;
use protocol::text::{FileError, SizeText, SpanText, parse_toml};
use protocol::time::Span;
use serde::Deserialize;

use super::faults::{Fault, FaultKind};
use crate::sim::model::{JobRequest, ModelConfig, NodeConfig, QueueConfig};
use crate::sim::profiles::ProfileName;

/// The file, read and checked.
#[derive(Clone, PartialEq, Debug)]
pub struct DaemonConfig {
    /// The batch system.
    pub model: ModelConfig,
    /// Jobs of the site itself, each so long after the first start of the daemon.
    pub site_jobs: Vec<(Span, JobRequest)>,
    /// How it misbehaves from the beginning.
    pub faults: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    profile: ProfileName,
    kill_wait: Option<SpanText>,
    grace: Option<SpanText>,
    lateness_percent: Option<u32>,
    requeue_hold_off: Option<SpanText>,
    node_timeout: Option<SpanText>,
    min_job_age: Option<SpanText>,
    seed: Option<u64>,
    nodes: Vec<NodeSection>,
    #[serde(default)]
    queues: Vec<QueueSection>,
    #[serde(default)]
    site_jobs: Vec<SiteJobSection>,
    #[serde(default)]
    faults: Vec<FaultSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeSection {
    name: NodeName,
    cores: u32,
    memory: SizeText,
    disk: SizeText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueSection {
    name: String,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    preempts: bool,
    #[serde(default)]
    preemptable: bool,
    max_walltime: Option<SpanText>,
    max_jobs: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteJobSection {
    at: SpanText,
    cores: u32,
    memory: SizeText,
    walltime: SpanText,
    queue: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultSection {
    kind: FaultKind,
    #[serde(default)]
    commands: Vec<super::faults::CommandName>,
    times: Option<u32>,
    by: Option<SpanText>,
}

impl DaemonConfig {
    /// Reads and checks the file's text.
    ///
    /// # Errors
    /// Not TOML, an unknown or missing key, or values that contradict each other; with line and
    /// caret where there is one.
    pub fn parse(file: &str, text: &str) -> Result<Self, FileError> {
        let read: File = parse_toml(file, text)?;
        let fail = |message: String| FileError {
            file: file.to_owned(),
            message,
        };
        if read.nodes.is_empty() {
            return Err(fail("`nodes` is empty; add a [[nodes]] section".to_owned()));
        }
        let mut names: Vec<_> = read.nodes.iter().map(|n| n.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(fail(format!("two nodes are named `{}`", twice[0])));
        }
        if let Some(odd) = names.iter().find(|n| !plain(n)) {
            return Err(fail(format!(
                "node name `{odd}`: use letters, digits, '.', '_' and '-'"
            )));
        }
        let queues = if read.queues.is_empty() {
            QueueConfig::default_pair()
        } else {
            read.queues.into_iter().map(queue).collect()
        };
        let span = |text: Option<SpanText>| text.map(|t| t.0);
        let model = ModelConfig {
            nodes: read.nodes.into_iter().map(node).collect(),
            queues,
            profile: read.profile,
            kill_wait: span(read.kill_wait),
            grace: span(read.grace),
            lateness_percent: read.lateness_percent.unwrap_or(100),
            requeue_hold_off: span(read.requeue_hold_off),
            node_timeout: span(read.node_timeout),
            min_job_age: span(read.min_job_age).unwrap_or(Span::from_mins(5)),
            seed: read.seed.unwrap_or(1),
        };
        let mut site_jobs = Vec::new();
        for job in read.site_jobs {
            let request = site_job(&job);
            if model.queue(&request.queue).is_none() {
                return Err(fail(format!(
                    "a site job names queue `{}`, which is not there; give it a `queue`",
                    request.queue
                )));
            }
            site_jobs.push((job.at.0, request));
        }
        let faults = read.faults.into_iter().map(|f| Fault {
            kind: f.kind,
            commands: f.commands,
            times: f.times,
            until: None,
            by: f.by.map_or(Span::ZERO, |by| by.0),
            job: None,
        });
        Ok(Self {
            model,
            site_jobs,
            faults: faults.collect(),
        })
    }
}

fn plain(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn node(section: NodeSection) -> NodeConfig {
    NodeConfig {
        name: section.name,
        resources: Resources {
            cores: section.cores,
            memory_mib: section.memory.0,
            disk_mib: section.disk.0,
        },
    }
}

fn queue(section: QueueSection) -> QueueConfig {
    QueueConfig {
        name: section.name,
        priority: section.priority,
        preempts: section.preempts,
        preemptable: section.preemptable,
        max_walltime: section.max_walltime.map(|t| t.0),
        max_jobs: section.max_jobs,
    }
}

fn site_job(section: &SiteJobSection) -> JobRequest {
    let resources = Resources {
        cores: section.cores,
        memory_mib: section.memory.0,
        disk_mib: 0,
    };
    let mut request = JobRequest::site(resources, section.walltime.0);
    if let Some(queue) = &section.queue {
        request.queue.clone_from(queue);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
profile = "slurm"
kill_wait = "10s"
lateness_percent = 0
[[nodes]]
name = "n1"
cores = 2
memory = "2 GiB"
disk = "10 GiB"
[[site_jobs]]
at = "60s"
cores = 2
memory = "1 GiB"
walltime = "30s"
[[faults]]
kind = "lost-answer"
commands = ["submit"]
times = 1
"#;

    #[test]
    fn a_good_file_is_read() {
        let config = DaemonConfig::parse("sim.toml", GOOD).unwrap();
        assert_eq!(config.model.profile().kill_wait, Span::from_secs(10));
        assert_eq!(config.site_jobs[0].0, Span::from_mins(1));
        assert_eq!(config.faults[0].kind, FaultKind::LostAnswer);
        assert_eq!(config.model.queues.len(), 2);
    }

    #[test]
    fn wrong_files_say_what_is_wrong() {
        for (from, to, want) in [
            ("\"slurm\"", "\"slum\"", "htcondor"),
            ("kill_wait = \"10s\"", "kill_wait = \"-10s\"", "negative"),
            (
                "cores = 2\nmemory = \"2",
                "core = 2\nmemory = \"2",
                "unknown field",
            ),
            ("\"n1\"", "\"n 1\"", "node name"),
            (
                "walltime = \"30s\"",
                "walltime = \"30s\"\nqueue = \"x\"",
                "`x`",
            ),
            ("lost-answer", "lost", "lost-answer"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = DaemonConfig::parse("sim.toml", &GOOD.replacen(from, to, 1)).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(want) && text.contains("sim.toml"),
                "{to}: {text}"
            );
        }
    }
}
