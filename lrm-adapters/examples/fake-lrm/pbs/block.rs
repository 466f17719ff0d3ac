//! A job as `qstat -f` prints it: transcripts 00, 03 and sig-*.

use std::fmt::Write as _;

use lrm_adapters::sim::wire::JobRow;
use protocol::lrm::{JobEnd, JobState};
use protocol::time::{Span, Timestamp};

use super::SERVER;
use crate::{Dialect, Play};

/// Where lines are broken.
const WIDTH: usize = 78;

/// What a state looks like.
struct Look {
    letter: &'static str,
    substate: u32,
    comment: String,
    status: Option<i32>,
}

pub(super) fn block(play: &Play, row: &JobRow) -> String {
    let seen = &row.seen;
    let mut text = format!("Job Id: {}.{SERVER}\n", seen.id);
    let mut add = |name: &str, value: &str| attribute(&mut text, name, value);
    let look = look(play.pbs, row);
    let started = seen.start.filter(|_| seen.node.is_some());
    add("Job_Name", &row.name);
    add("Job_Owner", &format!("{}@{SERVER}", play.user));
    add("job_state", look.letter);
    add("queue", &row.queue);
    add("server", SERVER);
    add("Checkpoint", "u");
    add("ctime", &ctime(row.submitted));
    if let Some(node) = &seen.node {
        let cores = row.resources.cores;
        match play.pbs {
            Dialect::Openpbs => {
                let of = if cores > 1 {
                    format!("*{cores}")
                } else {
                    String::new()
                };
                add("exec_host", &format!("{node}/0{of}"));
                add("exec_vnode", &format!("({node}:ncpus={cores})"));
            }
            Dialect::Torque => {
                let slots: Vec<String> = (0..cores).map(|n| format!("{node}/{n}")).collect();
                add("exec_host", &slots.join("+"));
            }
        }
    }
    add("Hold_Types", if look.letter == "H" { "u" } else { "n" });
    add("Join_Path", "oe");
    add(
        "mtime",
        &ctime(
            seen.end
                .filter(|_| look.status.is_some())
                .unwrap_or(row.submitted),
        ),
    );
    add("qtime", &ctime(row.submitted));
    let (cores, memory) = (row.resources.cores, row.resources.memory_mib);
    match play.pbs {
        Dialect::Openpbs => {
            add("Resource_List.mem", &format!("{memory}mb"));
            add("Resource_List.ncpus", &cores.to_string());
            add(
                "Resource_List.select",
                &format!("1:ncpus={cores}:mem={memory}mb"),
            );
        }
        Dialect::Torque => add("Resource_List.nodes", &format!("1:ppn={cores}")),
    }
    // The simulated LRM moves the end; PBS keeps the start and changes the walltime.
    let over = matches!(seen.state, JobState::Ended(_));
    let walltime = match (started, seen.end) {
        (Some(start), Some(end)) if !over => {
            Span::from_secs(whole_secs(end).saturating_sub(whole_secs(start)))
        }
        (_, _) => row.walltime,
    };
    add("Resource_List.walltime", &clock(walltime));
    if let Some(start) = started {
        let name = match play.pbs {
            Dialect::Openpbs => "stime",
            Dialect::Torque => "start_time",
        };
        add(name, &ctime(start));
    }
    if play.pbs == Dialect::Openpbs {
        add("substate", &look.substate.to_string());
    }
    let mut variables = format!(
        "PBS_O_HOME=/home/{user},PBS_O_LANG=C.UTF-8,PBS_O_LOGNAME={user},PBS_O_PATH=/usr/bin:/bin,PBS_O_SHELL=/bin/bash",
        user = play.user
    );
    if let Some(key) = &seen.key {
        let _ = write!(variables, ",WP_KEY={key}");
    }
    let _ = write!(
        variables,
        ",PBS_O_SYSTEM=Linux,PBS_O_QUEUE={},PBS_O_HOST={SERVER}",
        row.queue
    );
    add("Variable_List", &variables);
    if !look.comment.is_empty() {
        add("comment", &look.comment);
    }
    if started.is_some() || seen.restarts > 0 {
        let name = match play.pbs {
            Dialect::Openpbs => "run_count",
            Dialect::Torque => "start_count",
        };
        add(name, &(seen.restarts + 1).to_string());
    }
    if let Some(status) = look.status {
        let name = match play.pbs {
            Dialect::Openpbs => "Exit_status",
            Dialect::Torque => "exit_status",
        };
        add(name, &status.to_string());
    }
    text.push('\n');
    text
}

fn look(dialect: Dialect, row: &JobRow) -> Look {
    let seen = &row.seen;
    let node = seen
        .node
        .as_ref()
        .map_or_else(String::new, ToString::to_string);
    let run = format!(
        "Job run at Sat Nov 21 at 01:24 on ({node}:ncpus={})",
        row.resources.cores
    );
    let by_user = format!("{run} and terminated by alice@{SERVER}");
    let by_scheduler = format!("{run} and terminated by Scheduler@{SERVER}");
    let look = |letter, substate, comment: &str, status| Look {
        letter,
        substate,
        comment: if dialect == Dialect::Openpbs {
            comment.to_owned()
        } else {
            String::new()
        },
        status,
    };
    let over = if dialect == Dialect::Openpbs {
        "F"
    } else {
        "C"
    };
    match &seen.state {
        JobState::Queued => look(
            "Q",
            10,
            "Not Running: Not enough free nodes available",
            None,
        ),
        JobState::Held => look("H", 20, "", None),
        JobState::Running => look("R", 42, &run, None),
        JobState::Suspended => look(
            "S",
            45,
            "Not Running: Not enough free nodes available",
            None,
        ),
        JobState::Ending if seen.detail.contains("cancelled") => look("R", 42, &by_user, None),
        JobState::Ending if seen.detail.contains("preempted") => look("R", 42, &by_scheduler, None),
        JobState::Ending if seen.detail.contains("requeued") => look("R", 60, &run, None),
        // Nobody told the server: the MoM ends it by itself.
        JobState::Ending => look("R", 42, &run, None),
        JobState::Unknown(_) => look("?", 0, "", None),
        JobState::Ended(end) => {
            let torque = dialect == Dialect::Torque;
            match end {
                JobEnd::Cancelled if seen.node.is_none() => look(over, 91, "", None),
                JobEnd::Cancelled => look(over, 91, &by_user, Some(271)),
                JobEnd::Preempted => look(over, 91, &by_scheduler, Some(271)),
                JobEnd::Walltime => look(
                    over,
                    93,
                    &format!("{run} and exceeded resource walltime"),
                    Some(if torque { -11 } else { -29 }),
                ),
                JobEnd::Exited(0) => look(over, 92, &format!("{run} and finished"), Some(0)),
                JobEnd::Exited(code) => look(over, 93, &format!("{run} and failed"), Some(*code)),
                JobEnd::NodeLost => look(over, 93, &run, Some(-20)),
                JobEnd::LaunchFailed => look(over, 93, &format!("{run} and failed"), Some(254)),
                JobEnd::Other(_) => look(over, 93, "", None),
            }
        }
    }
}

/// `    name = value`, broken after a comma or anywhere, and gone on with after a tab.
fn attribute(text: &mut String, name: &str, value: &str) {
    let mut line = format!("    {name} = {value}");
    while line.len() > WIDTH {
        let at = line[..WIDTH].rfind(',').map_or(WIDTH, |comma| comma + 1);
        let rest = line.split_off(at);
        let _ = writeln!(text, "{line}");
        line = format!("\t{rest}");
    }
    let _ = writeln!(text, "{line}");
}

fn clock(span: Span) -> String {
    let secs = span.as_millis() / 1000;
    format!("{:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60)
}

fn whole_secs(at: Timestamp) -> u64 {
    u64::try_from(at.as_millis() / 1000).unwrap_or_default()
}

/// As ctime(3) prints it in the zone of `TZ`; every zone but UTC is five hours off here, so that
/// an adapter that forgets to ask for UTC is found out.
#[expect(
    clippy::disallowed_methods,
    reason = "a real qstat reads this variable, and it is the point of the test"
)]
fn ctime(at: Timestamp) -> String {
    let utc = std::env::var_os("TZ").is_some_and(|zone| zone == "UTC");
    let at = if utc {
        at
    } else {
        at.before(Span::from_secs(5 * 3600))
    };
    // 2026-11-21T01:24:44.123Z
    let text = Timestamp::from_millis(at.as_millis() / 1000 * 1000).to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month: usize = part(5, 7).parse().unwrap_or(1);
    let day: u32 = part(8, 10).parse().unwrap_or(1);
    let days = at.as_millis() / 86_400_000;
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]
        [usize::try_from(days.rem_euclid(7)).unwrap_or_default()];
    format!(
        "{weekday} {} {day:>2} {} {}",
        months[month.saturating_sub(1).min(11)],
        part(11, 19),
        part(0, 4)
    )
}
