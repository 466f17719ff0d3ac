//! The request file: a small TOML file that a user writes for `pilot-submit`.

use serde::Deserialize;

use crate::resources::Resources;
use crate::text::{FileError, KeyProblem, SizeText, SpanText, parse_toml_with};
use crate::workspace::{
    AdvanceTo, Artefact, Context, Disk, DiskFormat, Image, Network, OnEviction, Policy,
    WorkspaceSpec,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFile {
    name: String,
    run_time: SpanText,
    #[serde(default)]
    advance_to: AdvanceTo,
    #[serde(default)]
    network: Network,
    image: ImageSection,
    resources: ResourcesSection,
    #[serde(default)]
    policy: PolicySection,
    #[serde(default)]
    context: ContextSection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageSection {
    kernel: Option<String>,
    kernel_digest: Option<String>,
    initrd: Option<String>,
    initrd_digest: Option<String>,
    cmdline: Option<String>,
    #[serde(default)]
    disk: Vec<DiskSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskSection {
    base: Option<String>,
    digest: Option<String>,
    #[serde(default)]
    format: DiskFormat,
    size: Option<SizeText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourcesSection {
    #[serde(default = "one")]
    cores: u32,
    memory: SizeText,
    #[serde(default = "one_gib")]
    disk: SizeText,
}

const fn one() -> u32 {
    1
}

const fn one_gib() -> SizeText {
    SizeText(1024)
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PolicySection {
    on_eviction: Option<OnEviction>,
    max_suspends: Option<u32>,
    max_restarts: Option<u32>,
    may_be_killed: Option<bool>,
    checkpoint_every: Option<SpanText>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ContextSection {
    hostname: Option<String>,
    user_data: Option<String>,
}

/// Reads a request file. A path that does not start with `/` is taken from `base_dir`, the
/// directory of the file.
///
/// # Errors
/// Not TOML, an unknown or missing key, a value out of range: with line, caret and help where
/// the position is known.
pub fn parse_request(file: &str, base_dir: &str, text: &str) -> Result<WorkspaceSpec, FileError> {
    let raw: RequestFile = parse_toml_with(file, text, |problem| match problem {
        KeyProblem::Unknown(key) => home_of(text, key),
        KeyProblem::Missing(key) => example_of(key).map(|example| format!("add {example}")),
    })?;
    let place = |path: String| {
        if path.starts_with('/') || path.contains("://") {
            path
        } else {
            format!("{}/{path}", base_dir.trim_end_matches('/'))
        }
    };
    let artefact = |url: Option<String>, digest: Option<String>, key: &str| match (url, digest) {
        (Some(url), digest) => Ok(Some(Artefact {
            url: place(url),
            digest,
        })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(FileError::at_key(
            file,
            text,
            key,
            "a digest is given, but nothing that it belongs to",
        )),
    };
    let image = Image {
        kernel: artefact(
            raw.image.kernel,
            raw.image.kernel_digest,
            "image.kernel_digest",
        )?,
        initrd: artefact(
            raw.image.initrd,
            raw.image.initrd_digest,
            "image.initrd_digest",
        )?,
        cmdline: raw.image.cmdline,
        disks: raw
            .image
            .disk
            .into_iter()
            .enumerate()
            .map(|(i, d)| {
                Ok(Disk {
                    base: artefact(d.base, d.digest, &format!("image.disk.{i}.digest"))?,
                    format: d.format,
                    size_mib: d.size.map(|s| s.0),
                })
            })
            .collect::<Result<_, FileError>>()?,
    };
    let default = Policy::default();
    let spec = WorkspaceSpec {
        name: raw.name,
        image,
        resources: Resources {
            cores: raw.resources.cores,
            memory_mib: raw.resources.memory.0,
            disk_mib: raw.resources.disk.0,
        },
        run_time: raw.run_time.0,
        policy: Policy {
            on_eviction: raw.policy.on_eviction.unwrap_or(default.on_eviction),
            max_suspends: raw.policy.max_suspends.unwrap_or(default.max_suspends),
            max_restarts: raw.policy.max_restarts.unwrap_or(default.max_restarts),
            may_be_killed: raw.policy.may_be_killed.unwrap_or(default.may_be_killed),
            checkpoint_every: raw.policy.checkpoint_every.map(|s| s.0),
        },
        advance_to: raw.advance_to,
        network: raw.network,
        context: Context {
            hostname: raw.context.hostname,
            user_data: raw.context.user_data,
        },
    };
    match spec.fault() {
        None => Ok(spec),
        Some(fault) => Err(FileError::at_key(file, text, &fault.key, &fault.message)),
    }
}

/// A required key as it may be written.
fn example_of(key: &str) -> Option<&'static str> {
    match key {
        "name" => Some("`name = \"my-guest\"` at the top"),
        "run_time" => Some("`run_time = \"2h\"` at the top: how long the guest needs to run"),
        "image" => Some("a section [image] with a `kernel`, or [[image.disk]] with a `base`"),
        "resources" => Some("a section [resources] with `memory = \"512 MiB\"`"),
        "memory" => Some("`memory = \"512 MiB\"`: how much the guest needs"),
        _ => None,
    }
}

/// Where a known key belongs, for one that stands in the wrong section.
fn home_of(text: &str, key: &str) -> Option<String> {
    let section = match key {
        "name" | "run_time" | "advance_to" | "network" => {
            return text.contains('[').then(|| {
                format!("`{key}` belongs at the top of the file, before the first [section]")
            });
        }
        "kernel" | "kernel_digest" | "initrd" | "initrd_digest" | "cmdline" => "[image]",
        "base" | "format" | "size" => "[[image.disk]]",
        "cores" | "memory" => "[resources]",
        "on_eviction" | "max_suspends" | "max_restarts" | "may_be_killed" | "checkpoint_every" => {
            "[policy]"
        }
        "hostname" | "user_data" => "[context]",
        _ => return None,
    };
    Some(format!("`{key}` belongs in the section {section}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    const GOOD: &str = r#"
name = "counter"
run_time = "3m"
[image]
kernel = "vmlinux"
initrd = "/abs/initrd"
cmdline = "console=ttyS0"
[[image.disk]]
base = "d.img"
size = "64 MiB"
[resources]
memory = "128 MiB"
"#;

    #[test]
    fn a_request_file_becomes_a_spec() {
        let spec = parse_request("r.toml", "/home/a", GOOD).unwrap();
        assert_eq!(spec.run_time, Span::from_mins(3));
        let urls: Vec<&str> = spec.image.artefacts().map(|a| a.url.as_str()).collect();
        assert_eq!(urls, ["/home/a/vmlinux", "/abs/initrd", "/home/a/d.img"]);
        assert_eq!(spec.policy, Policy::default());
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<WorkspaceSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn checkpoints_are_off_unless_asked_for() {
        let read = |policy: &str| {
            parse_request("r.toml", "/h", &format!("{GOOD}[policy]\n{policy}\n"))
                .map(|spec| spec.policy)
        };
        assert_eq!(read("").unwrap().checkpoint_every, None);
        let policy = read("checkpoint_every = \"10m\"").unwrap();
        assert_eq!(policy.checkpoint_every, Some(Span::from_mins(10)));
        assert!(policy.bears_a_kill() && !policy.may_be_killed);
        let json = serde_json::to_value(policy).unwrap();
        assert_eq!(json["checkpoint_every_ms"], 600_000);
        assert_eq!(serde_json::from_value::<Policy>(json).unwrap(), policy);
        for (text, want) in [
            ("checkpoint_every = \"9s\"", "the least is 10s"),
            ("checkpoint_every = 600", "in quotes"),
            (
                "checkpoint_every = \"10m\"\non_eviction = \"restart\"",
                "on_eviction = \"suspend\"",
            ),
        ] {
            let e = read(text).unwrap_err().to_string();
            assert!(e.contains(want) && e.contains("line 1"), "{text}: {e}");
        }
    }

    #[test]
    fn wrong_requests_say_what_to_write() {
        for (from, to, want) in [
            ("run_time = \"3m\"", "run_time = \"-3m\"", "\"90s\""),
            ("run_time = \"3m\"", "run_time = 180", "in quotes"),
            ("run_time = \"3m\"", "run_time = \"0s\"", "run_time"),
            ("run_time", "runtime", "did you mean `run_time`?"),
            (
                "[image]",
                "memory = \"1 MiB\"\n[image]",
                "section [resources]",
            ),
            (
                "memory = \"128",
                "network = \"user\"\nmemory = \"128",
                "before the first [section]",
            ),
            (
                "memory = \"128 MiB\"",
                "memory = \"0 MiB\"",
                "line 12, column 10",
            ),
            ("memory = \"128 MiB\"", "memory = \"128\"", "\"512 MiB\""),
            ("kernel = \"vmlinux\"", "kernel = \"ftp://x\"", "https://"),
            ("kernel = \"vmlinux\"", "kernel = \"http://x/y\"", "digest"),
            (
                "kernel = \"vmlinux\"",
                "kernel = \"v\"\nkernel_digest = \"md5:0\"",
                "sha256",
            ),
        ] {
            let e = parse_request("r.toml", "/h", &GOOD.replace(from, to))
                .unwrap_err()
                .to_string();
            assert!(e.contains(want), "{to}: {e}");
        }
    }
}
