//! The part of a pilot job that is the same for all LRMs: make the slot's directory, write the
//! slot file from what the LRM says on the node, become the pilot. Pure, but for the writing of
//! the script.
//!
//! Everything that is known at the submit goes in quoted; everything that only the node knows
//! comes from shell variables that the adapter's own lines set ([`OnNode::lines`]).

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use protocol::ids::NodeName;
use protocol::lrm::PilotJob;
use protocol::slot_file::{BrokerAccess, HypervisorSection};
use serde::Serialize;

/// What an adapter adds to the script.
pub(crate) struct OnNode<'a> {
    /// The LRM's name, for the comment at the top.
    pub lrm: &'a str,
    /// POSIX shell lines that set, from what the LRM says on the node: `wp_job` (the LRM's id),
    /// `wp_start_tag` (differs between two starts that could share a scratch directory: file
    /// name characters only), `wp_incarnation`, `wp_node`, `wp_cores`, `wp_memory_mib`,
    /// `wp_disk_mib`, `wp_start` and `wp_end` in epoch seconds, and in a job on several nodes
    /// `wp_rank`, this node's number in it from 0. The values hold digits, dots,
    /// slashes and node names: they are written between double quotes as they are. The shell runs
    /// with `set -eu`.
    pub lines: &'a str,
    /// A command that prints the slot's end; nothing when the node cannot ask.
    pub probe: Option<&'a [ProbeWord]>,
}

/// A word of the probe command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ProbeWord {
    /// As it is.
    Text(String),
    /// The LRM's id of the job.
    Job,
    /// What this variable holds, which the adapter's lines set.
    Variable(&'static str),
}

impl From<&str> for ProbeWord {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// The parts of the slot file that do not depend on the start of the job.
#[derive(Serialize)]
struct Head<'a> {
    version: u32,
    site: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    submit_key: Option<&'a str>,
}

#[derive(Serialize)]
struct Tail<'a> {
    broker: &'a BrokerAccess,
    hypervisor: &'a HypervisorSection,
}

/// `[broker]` without the token's file, which differs between the nodes of a job.
#[derive(Serialize)]
struct SharedBroker<'a> {
    broker: SharedBrokerKeys<'a>,
}

#[derive(Serialize)]
struct SharedBrokerKeys<'a> {
    url: &'a str,
    ca_file: Option<&'a Path>,
}

#[derive(Serialize)]
struct SharedTail<'a> {
    hypervisor: &'a HypervisorSection,
}

/// The script, which ends in `exec`, so that the LRM's signals reach the pilot itself. That of a
/// job on several nodes is run once on each, and keeps apart by the rank all that they could have
/// in common: key, token, scratch directory and log.
pub(crate) fn script(job: &PilotJob, on_node: &OnNode<'_>) -> String {
    let quote = |text: &str| shell_words::quote(text).into_owned();
    let shared = job.nodes > 1;
    let head = toml_text(&Head {
        version: 1,
        site: job.site.as_str(),
        submit_key: (!shared).then_some(job.key.as_str()),
    });
    let scratch = job
        .scratch
        .join(format!("{}.{}", job.key, if shared { "" } else { "r" }))
        .display()
        .to_string();
    let open = open_string(&scratch);
    let store = format!("store = {}", toml_string(&job.store.display().to_string()));
    let safety = format!(
        "notice = \"{}ms\"\nmargin = \"{}ms\"",
        job.notice.as_millis(),
        job.margin.as_millis()
    );
    let mut lines: Vec<(&str, String)> = vec![("%s\n", quote(head.trim_end()))];
    if shared {
        let key = format!(r#"{} "$wp_rank""#, quote(job.key.as_str()));
        lines.push(("submit_key = \"%s.%s\"\n", key));
    }
    lines.extend([
        ("incarnation = \"%s\"\n", r#""$wp_incarnation""#.to_owned()),
        ("lrm_job_id = \"%s\"\n", r#""$wp_job""#.to_owned()),
        ("node = \"%s\"\n", r#""$wp_node""#.to_owned()),
        (
            "\n[resources]\ncores = %s\nmemory = \"%s MiB\"\ndisk = \"%s MiB\"\n",
            r#""$wp_cores" "$wp_memory_mib" "$wp_disk_mib""#.to_owned(),
        ),
        (
            "\n[clock]\nstart = %s\nend = %s\n",
            r#""$wp_start" "$wp_end""#.to_owned(),
        ),
        ("%s\n", quote(&safety)),
    ]);
    if let Some(probe) = on_node.probe {
        lines.push(("\n[probe]\ncommand = [%s]\n", probe_words(probe)));
    }
    lines.push((
        "\n[paths]\nscratch = %s%s\"\n%s\n\n",
        format!(r#"{} "$wp_start_tag" {}"#, quote(&open), quote(&store)),
    ));
    lines.extend(access(job, shared));
    let mut script = format!(
        "#!/bin/sh\n# Pilot job {} of site {}, for {}.\nset -eu\numask 077\n{}\n",
        job.key,
        job.site,
        on_node.lrm,
        on_node.lines.trim_end()
    );
    if shared {
        let log = quote(&job.directory.join("pilot").display().to_string());
        let _ = writeln!(script, "exec >>{log}.\"$wp_rank\".log 2>&1");
        let _ = writeln!(script, "wp_start_tag=$wp_rank.r$wp_start_tag");
    }
    let _ = writeln!(script, "slot={}\"$wp_start_tag\"", quote(&scratch));
    let _ = writeln!(script, "mkdir -p -- \"$slot\"\n{{");
    for (format, args) in lines {
        let format = quote(&format.replace('\n', "\\n"));
        let _ = writeln!(script, "  printf {format} {args}");
    }
    let _ = writeln!(script, "}} > \"$slot/slot.toml.new\"");
    let _ = writeln!(script, "mv -- \"$slot/slot.toml.new\" \"$slot/slot.toml\"");
    let program = quote(&job.program.display().to_string());
    let _ = writeln!(script, "exec {program} run --slot \"$slot/slot.toml\"");
    script
}

/// The lines for `[broker]` and `[hypervisor]`.
fn access(job: &PilotJob, shared: bool) -> Vec<(&'static str, String)> {
    let text = |toml: &str| ("%s\n", shell_words::quote(toml.trim_end()).into_owned());
    if !shared {
        return vec![text(&toml_text(&Tail {
            broker: &job.broker,
            hypervisor: &job.hypervisor,
        }))];
    }
    let broker = toml_text(&SharedBroker {
        broker: SharedBrokerKeys {
            url: &job.broker.url,
            ca_file: job.broker.ca_file.as_deref(),
        },
    });
    let token = open_string(&format!("{}.", job.broker.token_file.display()));
    vec![
        text(&broker),
        (
            "token_file = %s%s\"\n\n",
            format!(r#"{} "$wp_rank""#, shell_words::quote(&token)),
        ),
        text(&toml_text(&SharedTail {
            hypervisor: &job.hypervisor,
        })),
    ]
}

/// One shell word that holds the elements of the TOML array.
fn probe_words(probe: &[ProbeWord]) -> String {
    let mut word = String::new();
    for (n, part) in probe.iter().enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        match part {
            ProbeWord::Text(text) => {
                let text = format!("{comma}{}", toml_string(text));
                word.push_str(&shell_words::quote(&text));
            }
            ProbeWord::Job => {
                let _ = write!(word, "'{comma}\"'\"$wp_job\"'\"'");
            }
            ProbeWord::Variable(name) => {
                let _ = write!(word, "'{comma}\"'\"${name}\"'\"'");
            }
        }
    }
    word
}

/// # Panics
/// Never: the types that are written are plain tables of texts.
fn toml_text(value: &impl Serialize) -> String {
    toml::to_string(value).expect("plain tables can be written as TOML")
}

/// A TOML basic string: always in double quotes, so that a variable can be put before the last.
fn toml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A TOML basic string without its last quote, to be gone on with by a variable.
fn open_string(text: &str) -> String {
    let text = toml_string(text);
    text.strip_suffix('"').unwrap_or(&text).to_owned()
}

/// Writes a script whole or not at all, executable and for our eyes only.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_script(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // What is open for writing cannot be executed: it gets its name when closed.
    drop(file);
    std::fs::rename(&new, path)
}

/// The names that may stand in a command line or an expression of any LRM as they are. Others are
/// left out: a job that is started on such a node is dealt with there.
pub(crate) fn plain_names(nodes: &[NodeName]) -> Vec<&str> {
    let is_plain = |name: &&str| {
        !name.starts_with('-')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    nodes
        .iter()
        .map(NodeName::as_str)
        .filter(is_plain)
        .collect()
}

#[cfg(test)]
pub(crate) mod testing {
    //! A job with awkward names, to be rendered and run.

    use std::path::PathBuf;

    use protocol::ids::{SiteName, SubmitKey};
    use protocol::resources::Resources;
    use protocol::slot_file::{Accelerator, HypervisorKind};
    use protocol::time::Span;

    use super::*;

    /// A pilot job all of whose paths lie in `home` and need quoting.
    pub(crate) fn awkward_job(home: &Path) -> PilotJob {
        PilotJob {
            key: SubmitKey::new("wp-7").unwrap(),
            site: SiteName::new("lab").unwrap(),
            program: home.join("it's a $(pilot)"),
            directory: home.to_owned(),
            resources: Resources {
                cores: 2,
                memory_mib: 1024,
                disk_mib: 4096,
            },
            nodes: 1,
            walltime: Span::from_mins(10),
            min_walltime: Some(Span::from_mins(5)),
            notice: Span::from_secs(30),
            margin: Span::from_secs(2),
            broker: BrokerAccess {
                url: "http://127.0.0.1:1".to_owned(),
                token_file: home.join("to\"k'en"),
                ca_file: Some(PathBuf::from("/etc/ca %s\\n.pem")),
            },
            hypervisor: HypervisorSection {
                kind: HypervisorKind::Qemu,
                accelerator: Some(Accelerator::Tcg),
                binary: None,
                machine: None,
                cpu: Some("qemu64,+x".to_owned()),
            },
            scratch: home.join("scr\\a'\"tch $USER `id`"),
            store: home.join("sto're %d"),
            avoid: Vec::new(),
        }
    }
}
