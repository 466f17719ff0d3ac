//! The job script, the submit description and the command lines. Pure.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use protocol::ids::{LrmJobId, SubmitKey};
use protocol::lrm::PilotJob;
use protocol::time::Span;

use super::{HtcondorSettings, Transfer};
use crate::contract::Cancel;
use crate::job_script::{self, OnNode};

/// The job, in the pilot job's directory.
pub(super) const SCRIPT: &str = "job.sh";
/// Its submit description, there too.
pub(super) const DESCRIPTION: &str = "job.sub";

/// Our mark on a job: kept in the queue and in the history, and open to queries.
pub(super) const KEY: &str = "WorkspacePilotKey";
/// True on a job that may be started again.
pub(super) const RERUN: &str = "WorkspacePilotRerun";
/// All jobs that carry a key; `condor_q` itself keeps to those of the account.
pub(super) const OURS: &str = "WorkspacePilotKey =!= undefined";

/// What is asked about each job. What a job does not have is left out of the answer.
const ATTRIBUTES: &[&str] = &[
    "ClusterId",
    "ProcId",
    "JobStatus",
    "LastJobStatus",
    KEY,
    RERUN,
    "RemoteHost",
    "LastRemoteHost",
    "JobCurrentStartDate",
    "AllowedJobDuration",
    "NumJobStarts",
    "ExitBySignal",
    "ExitCode",
    "ExitSignal",
    "HoldReason",
    "HoldReasonCode",
    "LastHoldReason",
    "LastHoldReasonCode",
    "RemoveReason",
    "VacateReason",
    "VacateReasonCode",
];

/// A held job that is nobody's wish is removed after this long, if the broker does not do it.
const HELD_LIMIT_SECS: u64 = 600;

/// Behind the walltime and the notice, `periodic_remove` removes what still runs: the schedd
/// looks once a minute.
const OVERDUE_SECS: u64 = 60;

/// A job that HTCondor's language cannot express.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// A text that would end its line, or be replaced by HTCondor.
    #[error(
        "{what} `{text}` cannot be written into a submit description; use a name without control \
         characters, `$$(`, and (with copied files) commas"
    )]
    Text {
        /// What it is.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A line of the site's that would submit on its own.
    #[error("the further submit line `{0}` is a queue statement; leave it out")]
    Queue(String),
}

fn command(settings: &HtcondorSettings, name: &str) -> Vec<String> {
    let program = match &settings.bin_dir {
        Some(dir) => dir.join(name).display().to_string(),
        None => name.to_owned(),
    };
    let mut args = vec![program];
    for (flag, value) in [("-name", &settings.schedd), ("-pool", &settings.pool)] {
        if let Some(value) = value {
            args.extend([flag.to_owned(), value.clone()]);
        }
    }
    args
}

/// Of the commands' own installation; it takes no options that name a schedd.
pub(super) fn version(settings: &HtcondorSettings) -> Vec<String> {
    let mut argv = command(settings, "condor_version");
    argv.truncate(1);
    argv
}

fn extended(mut args: Vec<String>, more: &[&str]) -> Vec<String> {
    args.extend(more.iter().map(|&a| a.to_owned()));
    args
}

pub(super) fn submit(settings: &HtcondorSettings, job: &PilotJob) -> Vec<String> {
    let description = job.directory.join(DESCRIPTION).display().to_string();
    extended(
        command(settings, "condor_submit"),
        &["-terse", &description],
    )
}

pub(super) fn query(settings: &HtcondorSettings, constraint: &str) -> Vec<String> {
    let attributes = ATTRIBUTES.join(",");
    extended(
        command(settings, "condor_q"),
        &[
            "-json",
            "-attributes",
            &attributes,
            "-constraint",
            constraint,
        ],
    )
}

/// Only what is not over: a removal of a completed job would change how it ended. Idle (1) and
/// held (5) jobs wait.
pub(super) fn remove(settings: &HtcondorSettings, which: &str, how: Cancel) -> Vec<String> {
    let which = match how {
        Cancel::Always => format!("{which} && JobStatus != 3 && JobStatus != 4"),
        Cancel::WhileWaiting => format!("{which} && (JobStatus == 1 || JobStatus == 5)"),
    };
    extended(command(settings, "condor_rm"), &["-constraint", &which])
}

/// Keys hold letters, digits, dots, dashes and underscores only.
pub(super) fn with_key(key: &SubmitKey) -> String {
    format!("{KEY} == \"{key}\"")
}

/// None for an id that is not `cluster.process`.
pub(super) fn with_id_and_key(id: &LrmJobId, key: &SubmitKey) -> Option<String> {
    let (cluster, process) = id.as_str().split_once('.').unwrap_or((id.as_str(), "0"));
    let cluster: u32 = cluster.parse().ok()?;
    let process: u32 = process.parse().ok()?;
    Some(format!(
        "ClusterId == {cluster} && ProcId == {process} && {}",
        with_key(key)
    ))
}

/// HTCondor counts whole seconds.
fn secs(span: Span) -> u64 {
    span.as_millis().div_ceil(1000)
}

/// A text as the rest of a line: `$` begins macros there.
fn value(what: &'static str, text: &str) -> Result<String, Unfit> {
    if text.chars().any(char::is_control) || text.contains("$$(") || text != text.trim() {
        return Err(Unfit::Text {
            what,
            text: text.to_owned(),
        });
    }
    Ok(text.replace('$', "$(DOLLAR)"))
}

/// The site's own lines are taken as they are, macros included.
fn own_line(line: &str) -> Result<&str, Unfit> {
    let first = line.split_whitespace().next().unwrap_or_default();
    if line.chars().any(char::is_control) {
        return Err(Unfit::Text {
            what: "the further submit line",
            text: line.to_owned(),
        });
    }
    if first.eq_ignore_ascii_case("queue") {
        return Err(Unfit::Queue(line.to_owned()));
    }
    Ok(line)
}

/// The submit description.
///
/// # Errors
/// A path or a setting that it cannot hold.
pub(super) fn description(settings: &HtcondorSettings, job: &PilotJob) -> Result<String, Unfit> {
    let notice = secs(job.notice);
    let walltime = secs(job.walltime);
    let mut text = format!("# Pilot job {} of site {}\n", job.key, job.site);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = {value}");
    };
    let path = |what, path: &Path| value(what, &path.display().to_string());
    line("universe", "vanilla");
    line("executable", &path("the job", &job.directory.join(SCRIPT))?);
    line("initialdir", &path("the directory", &job.directory)?);
    line("output", "pilot.log");
    line("error", "pilot.log");
    line("log", "condor.log");
    line("getenv", "false");
    line("notification", "never");
    line("request_cpus", &job.resources.cores.to_string());
    line("request_memory", &format!("{}MB", job.resources.memory_mib));
    line("request_disk", &format!("{}MB", job.resources.disk_mib));
    transfer(settings, job, &mut line)?;
    line("allowed_job_duration", &walltime.to_string());
    line("job_max_vacate_time", &notice.to_string());
    line("want_graceful_removal", "true");
    line("max_retries", "0");
    line("job_lease_duration", &secs(settings.job_lease).to_string());
    let mut requirements = format!(
        "(TARGET.MachineMaxVacateTime =?= undefined || TARGET.MachineMaxVacateTime >= {notice})"
    );
    if !settings.rerunnable {
        requirements.push_str(" && (NumJobStarts =?= undefined || NumJobStarts == 0)");
    }
    for node in job_script::plain_names(&job.avoid) {
        let _ = write!(requirements, " && (TARGET.Machine =!= \"{node}\")");
    }
    if let Some(own) = &settings.requirements {
        let _ = write!(requirements, " && ({})", own_line(own)?);
    }
    line("requirements", &requirements);
    if let Some(rank) = &settings.rank {
        line("rank", own_line(rank)?);
    }
    if let Some(group) = &settings.accounting_group {
        line("accounting_group", &value("the accounting group", group)?);
    }
    line(
        "periodic_remove",
        &periodic_remove(settings, walltime + notice),
    );
    line(
        "leave_in_queue",
        &format!(
            "(JobStatus == 3 || JobStatus == 4) && time() - EnteredCurrentStatus < {}",
            secs(settings.keep_ended)
        ),
    );
    line("+MaxJobRetirementTime", "0");
    line(&format!("+{KEY}"), &format!("\"{}\"", job.key));
    line(&format!("+{RERUN}"), &settings.rerunnable.to_string());
    for own in &settings.submit_lines {
        text.push_str(own_line(own)?);
        text.push('\n');
    }
    text.push_str("queue 1\n");
    Ok(text)
}

/// What must not stay in the queue when there is no broker to take it out: a job whose walltime
/// is over, one that waits for a start that it must not have, one that is held and not by a
/// person (hold code 1; 15 is a submit on hold).
fn periodic_remove(settings: &HtcondorSettings, limit: u64) -> String {
    let mut wanted = format!(
        "(JobStatus == 2 && time() - JobCurrentStartDate > {}) || \
         (JobStatus == 5 && (HoldReasonCode =?= 46 || HoldReasonCode =?= 47)) || \
         (JobStatus == 5 && HoldReasonCode =!= 1 && HoldReasonCode =!= 15 && \
         time() - EnteredCurrentStatus > {HELD_LIMIT_SECS})",
        limit + OVERDUE_SECS
    );
    if !settings.rerunnable {
        wanted.push_str(" || ((JobStatus == 1 || JobStatus == 5) && NumJobStarts > 0)");
    }
    wanted
}

fn transfer(
    settings: &HtcondorSettings,
    job: &PilotJob,
    line: &mut impl FnMut(&str, &str),
) -> Result<(), Unfit> {
    match settings.transfer {
        Transfer::Shared => line("should_transfer_files", "NO"),
        Transfer::Copied => {
            line("should_transfer_files", "YES");
            line("when_to_transfer_output", "ON_EXIT");
            let mut files = vec![&job.broker.token_file, &job.program];
            files.extend(&job.broker.ca_file);
            let mut names = Vec::new();
            for file in files {
                let name = file.display().to_string();
                if name.contains([',', '"']) {
                    return Err(Unfit::Text {
                        what: "the file",
                        text: name,
                    });
                }
                names.push(value("the file", &name)?);
            }
            line("transfer_input_files", &names.join(","));
            // An empty list: nothing but what the pilot printed comes back.
            line("transfer_output_files", "\"\"");
        }
    }
    Ok(())
}

/// Reads the descriptions of job and machine that HTCondor lays beside the job; nothing of this
/// is in the environment. `ad NAME FILE` prints an attribute without quotes. Values that are no
/// plain numbers are expressions: what was asked for is taken instead.
const LINES: &str = r#"export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"
ad() { sed -n "s/^$1 = //p" "$2" | sed 's/"//g;q'; }
job_ad() { ad "$1" "$_CONDOR_JOB_AD"; }
machine_ad() { ad "$1" "$_CONDOR_MACHINE_AD"; }
number() { case $1 in '' | *[!0-9]*) printf '%s' "$2" ;; *) printf '%s' "$1" ;; esac; }
wp_job=$(job_ad ClusterId).$(job_ad ProcId)
wp_starts=$(number "$(job_ad NumShadowStarts)" 0)
wp_start=$(number "$(job_ad JobCurrentStartDate)" "$(date +%s)")
wp_start_tag=$wp_starts.$wp_start
wp_incarnation=$wp_job/$wp_starts/$wp_start
wp_node=$(job_ad RemoteHost)
wp_node=${wp_node##*@}
wp_cores=$(number "$(machine_ad Cpus)" "$asked_cores")
wp_memory_mib=$(number "$(machine_ad Memory)" "$asked_memory_mib")
wp_disk_mib=$(($(number "$(machine_ad Disk)" $((asked_disk_mib * 1024))) / 1024))
wp_end=$((wp_start + $(number "$(job_ad AllowedJobDuration)" "$asked_secs")))
# A machine that knows its own end says how long it has from its last word; 2^31 - 1 is for ever.
wp_left=$(number "$(machine_ad TimeToLive)" 2147483647)
wp_said=$(number "$(machine_ad MyCurrentTime)" "$wp_start")
if [ "$wp_left" -lt 2147483647 ] && [ $((wp_said + wp_left)) -lt "$wp_end" ]; then
  wp_end=$((wp_said + wp_left))
fi
[ "$wp_end" -gt "$wp_start" ] || wp_end=$((wp_start + 1))"#;

/// The job.
pub(super) fn script(settings: &HtcondorSettings, job: &PilotJob) -> String {
    let lines = format!(
        "asked_cores={}\nasked_memory_mib={}\nasked_disk_mib={}\nasked_secs={}\n{LINES}",
        job.resources.cores,
        job.resources.memory_mib,
        job.resources.disk_mib,
        secs(job.walltime)
    );
    let on_node = OnNode {
        lrm: "HTCondor",
        lines: &lines,
        // A node need not be able to ask the schedd: the broker tells the pilot what it learns.
        probe: None,
    };
    match settings.transfer {
        Transfer::Shared => job_script::script(job, &on_node),
        Transfer::Copied => job_script::script(&copied(job), &on_node),
    }
}

/// The job as its node sees it: copied files lie in the directory that the job is started in.
fn copied(job: &PilotJob) -> PilotJob {
    let here = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        Path::new(".").join(name)
    };
    let mut job = job.clone();
    job.program = here(&job.program);
    job.broker.token_file = here(&job.broker.token_file);
    job.broker.ca_file = job.broker.ca_file.as_ref().map(here);
    job
}

#[cfg(test)]
mod tests;
