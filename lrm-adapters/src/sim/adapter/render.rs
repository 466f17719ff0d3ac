//! The job script and the command lines. Pure, but for the writing of the script.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use protocol::lrm::PilotJob;
use protocol::slot_file::{BrokerAccess, HypervisorSection};
use serde::Serialize;

use super::SimLrmSettings;
use crate::sim::profiles::Launch;

/// A whole `sim-lrm` command line.
pub(super) fn command(settings: &SimLrmSettings, args: &[String]) -> Vec<String> {
    let mut argv = vec![
        settings.binary.display().to_string(),
        "--dir".to_owned(),
        settings.dir.display().to_string(),
    ];
    argv.extend_from_slice(args);
    argv
}

pub(super) fn submit_args(settings: &SimLrmSettings, job: &PilotJob) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| {
        args.push(name.to_owned());
        args.push(value);
    };
    flag("--key", job.key.to_string());
    flag("--name", job.key.to_string());
    flag("--queue", settings.queue.clone());
    flag("--priority", settings.priority.to_string());
    flag("--cores", job.resources.cores.to_string());
    flag("--memory", format!("{}MiB", job.resources.memory_mib));
    flag("--disk", format!("{}MiB", job.resources.disk_mib));
    flag("--walltime", format!("{}ms", job.walltime.as_millis()));
    if let Some(min) = job.min_walltime {
        flag("--min-walltime", format!("{}ms", min.as_millis()));
    }
    let launch = match settings.launch {
        Launch::Batch => "batch",
        Launch::Step => "step",
    };
    flag("--launch", launch.to_owned());
    flag("--chdir", job.directory.display().to_string());
    flag(
        "--output",
        job.directory.join("pilot.log").display().to_string(),
    );
    if !settings.rerunnable {
        args.push("--no-requeue".to_owned());
    }
    args.insert(0, "submit".to_owned());
    args.push("--".to_owned());
    args.push(job.directory.join("job.sh").display().to_string());
    args
}

/// The parts of the slot file that do not depend on the start of the job.
#[derive(Serialize)]
struct Head<'a> {
    version: u32,
    site: &'a str,
    submit_key: &'a str,
}

#[derive(Serialize)]
struct Tail<'a> {
    broker: &'a BrokerAccess,
    hypervisor: &'a HypervisorSection,
}

/// The job: makes its scratch directory, writes its slot file from what the LRM says, and
/// becomes the pilot, so that the LRM's signals reach the pilot itself.
pub(super) fn script(settings: &SimLrmSettings, job: &PilotJob) -> String {
    let quote = |text: &str| shell_words::quote(text).into_owned();
    let head = toml_text(&Head {
        version: 1,
        site: job.site.as_str(),
        submit_key: job.key.as_str(),
    });
    let tail = toml_text(&Tail {
        broker: &job.broker,
        hypervisor: &job.hypervisor,
    });
    let scratch = job
        .scratch
        .join(format!("{}.r", job.key))
        .display()
        .to_string();
    let open = toml_string(&scratch);
    let open = open.strip_suffix('"').unwrap_or(&open);
    let probe = [
        settings.binary.display().to_string(),
        "--dir".to_owned(),
        settings.dir.display().to_string(),
        "end".to_owned(),
    ]
    .map(|part| toml_string(&part))
    .join(", ");
    // Everything that is known now goes through one quoted here-document each; everything that
    // only the node knows comes from the LRM's variables, which hold digits and node names.
    let lines: [(&str, String); 10] = [
        ("%s\n", quote(head.trim_end())),
        (
            "incarnation = \"%s/%s/%s\"\n",
            r#""$SIMLRM_JOB_ID" "$SIMLRM_RESTARTS" "$SIMLRM_START""#.to_owned(),
        ),
        ("lrm_job_id = \"%s\"\n", r#""$SIMLRM_JOB_ID""#.to_owned()),
        ("node = \"%s\"\n", r#""$SIMLRM_NODE""#.to_owned()),
        (
            "\n[resources]\ncores = %s\nmemory = \"%s MiB\"\ndisk = \"%s MiB\"\n",
            r#""$SIMLRM_CORES" "$SIMLRM_MEMORY_MIB" "$SIMLRM_DISK_MIB""#.to_owned(),
        ),
        (
            "\n[clock]\nstart = %s\nend = %s\n",
            r#""$SIMLRM_START" "$SIMLRM_END""#.to_owned(),
        ),
        (
            "%s\n",
            quote(&format!(
                "notice = \"{}ms\"\nmargin = \"{}ms\"",
                job.notice.as_millis(),
                job.margin.as_millis()
            )),
        ),
        (
            "\n[probe]\ncommand = [%s, \"%s\"]\n",
            format!(r#"{} "$SIMLRM_JOB_ID""#, quote(&probe)),
        ),
        (
            "\n[paths]\nscratch = %s%s\"\n%s\n\n",
            format!(
                r#"{} "$SIMLRM_RESTARTS" {}"#,
                quote(open),
                quote(&format!(
                    "store = {}",
                    toml_string(&job.store.display().to_string())
                ))
            ),
        ),
        ("%s\n", quote(tail.trim_end())),
    ];
    let mut script = format!(
        "#!/bin/sh\n# Pilot job {} of site {}, for the simulated LRM.\nset -eu\numask 077\n",
        job.key, job.site
    );
    let _ = writeln!(script, "slot={}\"$SIMLRM_RESTARTS\"", quote(&scratch));
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

/// Writes the script whole or not at all.
pub(super) fn write_script(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
