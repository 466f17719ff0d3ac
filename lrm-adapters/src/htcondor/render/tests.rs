use std::path::Path;
use std::process::Command;

use protocol::slot_file::SlotFile;

use super::*;
use crate::job_script::testing::awkward_job as job;
use crate::job_script::write_script;

/// What HTCondor 23.9.6 laid beside a job that had asked for one core, 64 MB and 10 minutes.
const JOB_AD: &str = include_str!("goldens/job.ad");
const MACHINE_AD: &str = include_str!("goldens/machine.ad");

/// Runs the rendered script beside these descriptions, with a pilot that prints its arguments, and
/// reads the slot file.
fn run(settings: &HtcondorSettings, job_ad: &str, machine_ad: &str) -> (SlotFile, PilotJob) {
    let home = tempfile::tempdir().unwrap();
    let job = job(home.path());
    let here = home.path().join("dir_1 of 'condor'");
    std::fs::create_dir(&here).unwrap();
    std::fs::write(here.join(".job.ad"), job_ad).unwrap();
    std::fs::write(here.join(".machine.ad"), machine_ad).unwrap();
    let pilot = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n";
    write_script(&job.program, pilot).unwrap();
    write_script(&here.join(job.program.file_name().unwrap()), pilot).unwrap();
    let path = home.path().join(SCRIPT);
    let text = script(settings, &job);
    write_script(&path, &text).unwrap();
    // No PATH: HTCondor sets none.
    let out = Command::new(&path)
        .env_clear()
        .env("_CONDOR_JOB_AD", here.join(".job.ad"))
        .env("_CONDOR_MACHINE_AD", here.join(".machine.ad"))
        .current_dir(&here)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}\n{text}");
    let said = String::from_utf8(out.stdout).unwrap();
    let slot = said.strip_prefix("run\n--slot\n").unwrap().trim_end();
    let slot = SlotFile::parse("slot.toml", &std::fs::read_to_string(slot).unwrap()).unwrap();
    (slot, job)
}

fn epoch(secs: i64) -> protocol::time::Timestamp {
    protocol::time::Timestamp::from_secs(secs)
}

#[test]
fn the_slot_is_what_condor_says_beside_the_job() {
    let (slot, job) = run(&HtcondorSettings::default(), JOB_AD, MACHINE_AD);
    assert_eq!(slot.lrm_job_id.unwrap().as_str(), "1.0");
    assert_eq!(slot.incarnation.as_str(), "1.0/1/1795262698");
    assert_eq!(slot.node.as_str(), "wp-condor");
    assert_eq!(slot.clock.start, epoch(1_795_262_698));
    assert_eq!(slot.clock.end, epoch(1_795_262_698 + 600));
    assert_eq!((slot.resources.cores, slot.resources.memory.0), (1, 128));
    assert_eq!(slot.resources.disk.0, 2);
    assert_eq!(slot.paths.scratch, job.scratch.join("wp-7.r1.1795262698"));
    assert_eq!((slot.broker, slot.paths.store), (job.broker, job.store));
    assert_eq!(slot.probe, None);
}

#[test]
fn what_is_no_number_is_what_was_asked_for() {
    let ad = JOB_AD.replace("AllowedJobDuration = 600", "AllowedJobDuration = 10 * 60");
    let ad = format!("{ad}AllowedJobDuration = 10 * 60\n");
    let machine = MACHINE_AD.replace("Cpus = 1\n", "Cpus = ifThenElse(x, 1, 2)\n");
    let (slot, job) = run(&HtcondorSettings::default(), &ad, &machine);
    assert_eq!(slot.clock.end.since(slot.clock.start), job.walltime);
    assert_eq!(slot.resources.cores, job.resources.cores);
}

#[test]
fn a_machine_that_ends_earlier_is_believed() {
    let machine = MACHINE_AD
        .replace("TimeToLive = 2147483647", "TimeToLive = 90")
        .replace("MyCurrentTime = ", "MyCurrentTime = 1795262700\nX = ");
    let (slot, _) = run(&HtcondorSettings::default(), JOB_AD, &machine);
    assert_eq!(slot.clock.end, epoch(1_795_262_790));
}

#[test]
fn two_starts_share_neither_directory_nor_incarnation() {
    let again = JOB_AD.replace("NumShadowStarts = 1", "NumShadowStarts = 2");
    let settings = HtcondorSettings::default();
    let (first, _) = run(&settings, JOB_AD, MACHINE_AD);
    let (second, _) = run(&settings, &again, MACHINE_AD);
    assert_ne!(first.incarnation, second.incarnation);
    assert_ne!(
        first.paths.scratch.file_name(),
        second.paths.scratch.file_name()
    );
}

#[test]
fn copied_files_are_found_where_the_job_starts() {
    let settings = HtcondorSettings {
        transfer: Transfer::Copied,
        ..HtcondorSettings::default()
    };
    let (slot, job) = run(&settings, JOB_AD, MACHINE_AD);
    assert_eq!(slot.broker.token_file, Path::new("./to\"k'en"));
    assert_eq!(slot.broker.ca_file.unwrap(), Path::new("./ca %s\\n.pem"));
    // A quote cannot be in the list of files to copy.
    assert!(description(&settings, &job).is_err());
    let plain = PilotJob {
        broker: protocol::slot_file::BrokerAccess {
            token_file: job.directory.join("token"),
            ..job.broker.clone()
        },
        ..job.clone()
    };
    let text = description(&settings, &plain).unwrap();
    let list = text
        .lines()
        .find_map(|l| l.strip_prefix("transfer_input_files = "))
        .unwrap();
    assert_eq!(list.split(',').count(), 3, "{list}");
    assert!(
        list.contains("/token,") && list.contains("$(DOLLAR)(pilot)"),
        "{list}"
    );
}

#[test]
fn the_description_asks_for_what_was_decided() {
    let mut job = job(Path::new("/srv/pilot jobs/$HOME"));
    job.notice = Span::from_millis(29_500);
    let settings = HtcondorSettings {
        accounting_group: Some("group_grid.pilots".to_owned()),
        requirements: Some("TARGET.HasKvm =?= true".to_owned()),
        rank: Some("-TARGET.TotalLoadAvg".to_owned()),
        submit_lines: vec!["+Project = \"workspaces\"".to_owned()],
        ..HtcondorSettings::default()
    };
    assert_eq!(
        description(&settings, &job).unwrap(),
        r#"# Pilot job wp-7 of site lab
universe = vanilla
executable = /srv/pilot jobs/$(DOLLAR)HOME/job.sh
initialdir = /srv/pilot jobs/$(DOLLAR)HOME
output = pilot.log
error = pilot.log
log = condor.log
getenv = false
notification = never
request_cpus = 2
request_memory = 1024MB
request_disk = 4096MB
should_transfer_files = NO
allowed_job_duration = 600
job_max_vacate_time = 30
want_graceful_removal = true
max_retries = 0
job_lease_duration = 2400
requirements = (TARGET.MachineMaxVacateTime =?= undefined || TARGET.MachineMaxVacateTime >= 30) && (NumJobStarts =?= undefined || NumJobStarts == 0) && (TARGET.HasKvm =?= true)
rank = -TARGET.TotalLoadAvg
accounting_group = group_grid.pilots
periodic_remove = (JobStatus == 2 && time() - JobCurrentStartDate > 690) || (JobStatus == 5 && (HoldReasonCode =?= 46 || HoldReasonCode =?= 47)) || (JobStatus == 5 && HoldReasonCode =!= 1 && HoldReasonCode =!= 15 && time() - EnteredCurrentStatus > 600) || ((JobStatus == 1 || JobStatus == 5) && NumJobStarts > 0)
leave_in_queue = (JobStatus == 3 || JobStatus == 4) && time() - EnteredCurrentStatus < 600
+MaxJobRetirementTime = 0
+WorkspacePilotKey = "wp-7"
+WorkspacePilotRerun = false
+Project = "workspaces"
queue 1
"#
    );
}

#[test]
fn a_rerunnable_job_may_start_again() {
    let settings = HtcondorSettings {
        rerunnable: true,
        ..HtcondorSettings::default()
    };
    let text = description(&settings, &job(Path::new("/srv/j"))).unwrap();
    assert!(!text.contains("NumJobStarts"), "{text}");
    assert!(text.contains("+WorkspacePilotRerun = true"), "{text}");
}

#[test]
fn nothing_can_slip_a_line_or_a_second_job_in() {
    let good = job(Path::new("/srv/j"));
    let line = |line: &str| HtcondorSettings {
        submit_lines: vec![line.to_owned()],
        ..HtcondorSettings::default()
    };
    for bad in ["queue 5", " Queue", "x = 1\nqueue"] {
        assert!(description(&line(bad), &good).is_err(), "{bad}");
    }
    let group = HtcondorSettings {
        accounting_group: Some("a\nqueue 5".to_owned()),
        ..HtcondorSettings::default()
    };
    assert!(description(&group, &good).is_err());
    for directory in ["/srv/a\nqueue", "/srv/$$(Name)"] {
        let e = description(&HtcondorSettings::default(), &job(Path::new(directory)));
        assert!(e.is_err(), "{directory}");
    }
}

#[test]
fn commands_name_schedd_and_pool_where_the_site_does() {
    let settings = HtcondorSettings {
        bin_dir: Some("/opt/condor/bin".into()),
        schedd: Some("submit1".to_owned()),
        pool: Some("cm:9618".to_owned()),
        ..HtcondorSettings::default()
    };
    let key = SubmitKey::new("wp-7").unwrap();
    let id = LrmJobId::new("14.0").unwrap();
    let which = with_id_and_key(&id, &key).unwrap();
    assert_eq!(
        shell_words::join(remove(&settings, &which, Cancel::Always)),
        "/opt/condor/bin/condor_rm -name submit1 -pool cm:9618 -constraint \
         'ClusterId == 14 && ProcId == 0 && WorkspacePilotKey == \"wp-7\" && JobStatus != 3 && JobStatus != 4'"
    );
    let waiting = remove(&settings, &which, Cancel::WhileWaiting);
    assert_eq!(
        waiting.last().unwrap(),
        "ClusterId == 14 && ProcId == 0 && WorkspacePilotKey == \"wp-7\" && (JobStatus == 1 || JobStatus == 5)"
    );
    assert_eq!(
        with_id_and_key(&LrmJobId::new("999999999").unwrap(), &key).unwrap(),
        "ClusterId == 999999999 && ProcId == 0 && WorkspacePilotKey == \"wp-7\""
    );
    for odd in ["14.0 || true", "14.x", "-1"] {
        assert_eq!(
            with_id_and_key(&LrmJobId::new(odd).unwrap(), &key),
            None,
            "{odd}"
        );
    }
}

#[test]
fn nodes_to_avoid_are_ruled_out_by_their_machine_and_odd_names_are_left_out() {
    let avoiding = PilotJob {
        avoid: ["n1.site", "n2\" || true", "n3"]
            .map(|n| protocol::ids::NodeName::new(n).unwrap())
            .to_vec(),
        ..job(Path::new("/srv/wp-7"))
    };
    let settings = HtcondorSettings {
        requirements: Some("HasKvm".to_owned()),
        ..HtcondorSettings::default()
    };
    let text = description(&settings, &avoiding).unwrap();
    let line = text
        .lines()
        .find(|l| l.starts_with("requirements"))
        .unwrap();
    assert!(
        line.ends_with(
            " && (TARGET.Machine =!= \"n1.site\") && (TARGET.Machine =!= \"n3\") && (HasKvm)"
        ),
        "{line}"
    );
}
