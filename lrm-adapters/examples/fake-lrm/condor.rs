//! `condor_submit`, `condor_q` and `condor_rm` of HTCondor 23.9, as measured.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use lrm_adapters::sim::model::{JobNumber, JobRequest};
use lrm_adapters::sim::profiles::Launch;
use lrm_adapters::sim::wire::{JobOrder, JobRow, Request, Response, Task};
use protocol::ids::{NodeName, SubmitKey};
use protocol::lrm::{JobEnd, JobState};
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use serde_json::{Map, Value, json};

use crate::ask::{Answer, ask, jobs};
use crate::{Play, Said};

/// Hold codes: at the end of `allowed_job_duration`; by a person; could not be started.
const HELD_WALLTIME: i64 = 46;
const HELD_BY_USER: i64 = 1;
const HELD_NO_START: i64 = 6;

/// What a command says about an answer that is none: transcript 08.
fn nothing(command: &str, answer: &Answer) -> anyhow::Result<Said> {
    Ok(match (command, answer) {
        ("condor_submit", Answer::Refused) => {
            Said::err(1, "\nERROR: Can't find address of local schedd\n")
        }
        ("condor_submit", Answer::BrokenOff) => Said::err(
            1,
            "\nERROR: Failed to commit job submission into the queue.\n",
        ),
        ("condor_q", Answer::Refused | Answer::BrokenOff) => {
            Said::err(1, "Error: Can't find address for schedd vm\n")
        }
        (_, Answer::Refused | Answer::BrokenOff) => {
            Said::err(1, format!("{command}: Can't find address for schedd vm\n"))
        }
        (_, Answer::Garbled) => Said::out("[\n{\n  \"ClusterId\": 1,\n  \"Pro"),
        (_, Answer::Told(other)) => bail!("understand the daemon: {other:?}"),
    })
}

/// A submit description: names in lower case, `+Name` as it is.
struct Description(BTreeMap<String, String>);

impl Description {
    fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| {
                    let name = name.trim();
                    let name = if name.starts_with('+') {
                        name.to_owned()
                    } else {
                        name.to_ascii_lowercase()
                    };
                    (name, value.trim().replace("$(DOLLAR)", "$"))
                })
                .collect(),
        )
    }

    fn text(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.0.get(name).map(String::as_str);
        found.with_context(|| format!("find `{name}` in the submit description"))
    }

    fn megabytes(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.text(name)?;
        let number = text.strip_suffix("MB").unwrap_or(text);
        number.parse().with_context(|| format!("read `{name}`"))
    }
}

pub(crate) fn version() -> Said {
    Said::out(
        "$CondorVersion: 23.9.6 2026-07-12 PackageID: 23.9.6+dfsg-2.1+b10 $\n\
         $CondorPlatform: x86_64_Debian_13 $\n",
    )
}

pub(crate) fn submit(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    let ["-terse", file] = args else {
        bail!("play condor_submit with {args:?}");
    };
    let Ok(text) = std::fs::read_to_string(file) else {
        return Ok(Said::err(
            1,
            format!("\nERROR: Failed to open command file ({file}) (No such file or directory)\n"),
        ));
    };
    let wanted = Description::read(&text);
    let mut own = Map::new();
    for (name, value) in &wanted.0 {
        if let Some(name) = name.strip_prefix('+') {
            let value =
                serde_json::from_str(value).context("read an attribute of the job's own")?;
            own.insert(name.to_owned(), value);
        }
    }
    let key = own
        .get("WorkspacePilotKey")
        .and_then(Value::as_str)
        .context("find the key")?
        .to_owned();
    // The simulated LRM keeps no attributes of others.
    let ads = play.sim.join("ads");
    std::fs::create_dir_all(&ads).context("make a directory")?;
    std::fs::write(ads.join(&key), Value::from(own).to_string()).context("keep attributes")?;
    let duration: u64 = wanted
        .text("allowed_job_duration")?
        .parse()
        .context("read the walltime")?;
    let home = PathBuf::from(wanted.text("initialdir")?);
    let request = JobRequest {
        name: key.clone(),
        key: SubmitKey::new(&key).ok(),
        queue: "pilots".to_owned(),
        resources: Resources {
            cores: wanted.text("request_cpus")?.parse().context("read cores")?,
            memory_mib: wanted.megabytes("request_memory")?,
            disk_mib: wanted.megabytes("request_disk")?,
        },
        nodes: 1,
        walltime: Span::from_secs(duration),
        min_walltime: None,
        begin: None,
        exclude: excluded(wanted.text("requirements")?),
        priority: 0,
        launch: Launch::Batch,
        rerunnable: true,
    };
    let task = Task {
        script: starter(wanted.text("executable")?),
        output: Some(home.join(wanted.text("output")?)),
        directory: Some(home),
    };
    match ask(play, &Request::Submit { request, task }) {
        Answer::Told(Response::Submitted(job)) => Ok(Said::out(format!("{job}.0 - {job}.0\n"))),
        Answer::Told(Response::Refused(why)) => Ok(Said::err(
            1,
            format!("\nERROR: Failed to commit job submission into the queue.\nERROR: {why}\n"),
        )),
        other => nothing("condor_submit", &other),
    }
}

/// The machines that the job must not have.
fn excluded(requirements: &str) -> BTreeSet<NodeName> {
    let named = requirements.split("TARGET.Machine =!= \"").skip(1);
    named
        .filter_map(|rest| NodeName::new(rest.split('"').next()?).ok())
        .collect()
}

/// The starter's part: the descriptions of job and machine beside the job (transcript 03).
fn starter(executable: &str) -> String {
    format!(
        r#"#!/bin/sh
mkdir -p "$SIMLRM_DIR/aux"
export _CONDOR_JOB_AD="$SIMLRM_DIR/aux/$SIMLRM_RUN.job.ad"
export _CONDOR_MACHINE_AD="$SIMLRM_DIR/aux/$SIMLRM_RUN.machine.ad"
start=${{SIMLRM_START%.*}}
cat > "$_CONDOR_JOB_AD" <<AD
AllowedJobDuration = $((${{SIMLRM_END%.*}} - start))
ClusterId = $SIMLRM_JOB_ID
JobCurrentStartDate = $start
NumShadowStarts = $((SIMLRM_RESTARTS + 1))
ProcId = 0
RemoteHost = "slot1_1@$SIMLRM_NODE"
AD
cat > "$_CONDOR_MACHINE_AD" <<AD
Cpus = $SIMLRM_CORES
Disk = $((SIMLRM_DISK_MIB * 1024))
Memory = $SIMLRM_MEMORY_MIB
MyCurrentTime = $start
TimeToLive = 2147483647
AD
exec {}
"#,
        shell_words::quote(executable)
    )
}

pub(crate) fn query(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    let ["-json", "-attributes", names, "-constraint", constraint] = args else {
        bail!("play condor_q with {args:?}");
    };
    let rows = match jobs(play) {
        Ok(rows) => rows,
        Err(other) => return nothing("condor_q", &other),
    };
    let wanted: Vec<&str> = names.split(',').collect();
    let mut found = Vec::new();
    for row in &rows {
        let mut ad = ad(play, row);
        if meets(&ad, constraint)? {
            ad.retain(|name, _| wanted.contains(&name.as_str()));
            found.push(Value::from(ad));
        }
    }
    // No job at all is nothing, with exit code 0 (transcript 02).
    if found.is_empty() {
        return Ok(Said::default());
    }
    let text = serde_json::to_string_pretty(&found).context("write the jobs")?;
    Ok(Said::out(format!("{text}\n")))
}

pub(crate) fn remove(play: &Play, args: &[&str]) -> anyhow::Result<Said> {
    let ["-constraint", constraint] = args else {
        bail!("play condor_rm with {args:?}");
    };
    let rows = match jobs(play) {
        Ok(rows) => rows,
        Err(other) => return nothing("condor_rm", &other),
    };
    let mut removed = false;
    for row in &rows {
        if !meets(&ad(play, row), constraint)? {
            continue;
        }
        let order = Request::Job {
            job: JobNumber(row.seen.id.as_str().parse().context("read a number")?),
            key: None,
            order: match constraint.contains("JobStatus == 1") {
                true => JobOrder::Withdraw,
                false => JobOrder::Cancel,
            },
        };
        match ask(play, &order) {
            Answer::Told(Response::Done) => removed = true,
            Answer::Told(Response::NoSuchJob | Response::Started) => {}
            other => return nothing("condor_rm", &other),
        }
    }
    Ok(if removed {
        Said::out(format!(
            "Jobs matching constraint ({constraint}) have been marked for removal\n"
        ))
    } else {
        Said::err(
            1,
            format!("\nCouldn't find/remove all jobs matching constraint ({constraint})\n"),
        )
    })
}

/// Comparisons that are joined by `&&`, some of them in brackets and by `||`: what is asked here.
fn meets(ad: &Map<String, Value>, constraint: &str) -> anyhow::Result<bool> {
    for term in constraint.split(" && ") {
        let either = term.strip_prefix('(').and_then(|t| t.strip_suffix(')'));
        if let Some(either) = either {
            let mut any = false;
            for term in either.split(" || ") {
                any |= meets(ad, term)?;
            }
            if !any {
                return Ok(false);
            }
            continue;
        }
        let words: Vec<&str> = term.split_whitespace().collect();
        let [name, operator, value] = words.as_slice() else {
            bail!("understand the constraint `{term}`");
        };
        let held = ad.get(*name);
        let holds = match *operator {
            "=!=" if *value == "undefined" => held.is_some(),
            "==" | "!=" => {
                let value: Value = serde_json::from_str(value).context("read a value")?;
                // A comparison with what is not there is undefined, which is no yes.
                held.is_some_and(|held| (*held == value) == (*operator == "=="))
            }
            other => bail!("understand the operator `{other}`"),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn secs(at: Timestamp) -> i64 {
    at.as_millis() / 1000
}

/// A job's ClassAd, as far as it is asked for: transcripts 02 to 05.
fn ad(play: &Play, row: &JobRow) -> Map<String, Value> {
    let seen = &row.seen;
    let own = std::fs::read(play.sim.join("ads").join(&row.name)).unwrap_or_default();
    let mut ad: Map<String, Value> = serde_json::from_slice(&own).unwrap_or_default();
    let mut set = |name: &str, value: Value| {
        ad.insert(name.to_owned(), value);
    };
    let number: u64 = seen.id.as_str().parse().unwrap_or_default();
    set("ClusterId", json!(number));
    set("ProcId", json!(0));
    let over = matches!(seen.state, JobState::Ended(_));
    if let Some(start) = seen.start {
        set("JobCurrentStartDate", json!(secs(start)));
        set("NumJobStarts", json!(seen.restarts + 1));
    } else if seen.restarts > 0 {
        set("NumJobStarts", json!(seen.restarts));
    }
    // The simulated LRM moves the end; HTCondor keeps the start and changes the duration.
    let duration = match (seen.start, seen.end) {
        (Some(start), Some(end)) if !over => secs(end) - secs(start),
        (_, _) => i64::try_from(row.walltime.as_millis() / 1000).unwrap_or(i64::MAX),
    };
    set("AllowedJobDuration", json!(duration));
    if let Some(node) = &seen.node {
        let host = if over { "LastRemoteHost" } else { "RemoteHost" };
        set(host, json!(format!("slot1_1@{node}")));
    }
    let hold = |set: &mut dyn FnMut(&str, Value), code: i64, why: &str| {
        set("HoldReasonCode", json!(code));
        set("HoldReason", json!(why));
    };
    let too_long = "Job exceeded allowed job duration";
    let status = match &seen.state {
        JobState::Queued => 1,
        JobState::Unknown(_) => 12,
        JobState::Running => 2,
        JobState::Ending if seen.detail.contains("cancelled") => {
            set("RemoveReason", json!("via condor_rm (by user alice)"));
            3
        }
        JobState::Ending => {
            if seen.detail.contains("walltime") {
                hold(&mut set, HELD_WALLTIME, too_long);
            }
            2
        }
        JobState::Suspended => 7,
        JobState::Held if seen.detail.contains("walltime") => {
            hold(&mut set, HELD_WALLTIME, too_long);
            5
        }
        JobState::Held => {
            hold(&mut set, HELD_BY_USER, "via condor_hold (by user alice)");
            5
        }
        JobState::Ended(end) => match end {
            JobEnd::Exited(code) => {
                let by_signal = *code > 128;
                set("ExitBySignal", json!(by_signal));
                if by_signal {
                    set("ExitSignal", json!(code - 128));
                } else {
                    set("ExitCode", json!(code));
                }
                4
            }
            JobEnd::Walltime => {
                hold(&mut set, HELD_WALLTIME, too_long);
                5
            }
            JobEnd::LaunchFailed => {
                hold(&mut set, HELD_NO_START, "Failed to execute");
                5
            }
            JobEnd::Cancelled | JobEnd::Preempted | JobEnd::NodeLost | JobEnd::Other(_) => {
                set("RemoveReason", json!("via condor_rm (by user alice)"));
                3
            }
        },
    };
    set("JobStatus", json!(status));
    ad
}
