use std::path::Path;
use std::process::Command;

use protocol::slot_file::SlotFile;
use protocol::time::Span;

use super::*;
use crate::job_script::testing::awkward_job as job;
use crate::job_script::write_script;

fn settings(home: &Path) -> SimLrmSettings {
    SimLrmSettings::new(home.join("sim-lrm '\"$x"), home.join("lrm %s"))
}

/// Runs the rendered script with a pilot that prints its arguments.
fn run(home: &Path, job: &PilotJob, restarts: &str) -> String {
    let script = home.join("job.sh");
    write_script(&script, &script_text(home, job)).unwrap();
    write_script(&job.program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    let out = Command::new(&script)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs([
            ("SIMLRM_JOB_ID", "12"),
            ("SIMLRM_RESTARTS", restarts),
            ("SIMLRM_NODE", "n1"),
            ("SIMLRM_CORES", "2"),
            ("SIMLRM_MEMORY_MIB", "1024"),
            ("SIMLRM_DISK_MIB", "4096"),
            ("SIMLRM_START", "1763712000.250"),
            ("SIMLRM_END", "1763712600.250"),
        ])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}\n{}", script_text(home, job));
    String::from_utf8(out.stdout).unwrap()
}

fn script_text(home: &Path, job: &PilotJob) -> String {
    super::script(&settings(home), job)
}

#[test]
fn the_script_writes_a_slot_file_that_says_what_we_meant() {
    let home = tempfile::tempdir().unwrap();
    let job = job(home.path());
    let said = run(home.path(), &job, "3");
    let path = said.strip_prefix("run\n--slot\n").unwrap().trim_end();
    let slot = SlotFile::parse("slot.toml", &std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(slot.broker, job.broker);
    assert_eq!(slot.hypervisor, job.hypervisor);
    assert_eq!(slot.paths.store, job.store);
    assert_eq!(slot.paths.scratch, job.scratch.join("wp-7.r3"));
    assert_eq!(
        path,
        job.scratch.join("wp-7.r3/slot.toml").display().to_string()
    );
    assert_eq!(slot.incarnation.as_str(), "12/3/1763712000.250");
    assert_eq!(slot.facts().resources, job.resources);
    assert_eq!(slot.facts().notice, job.notice);
    assert_eq!(
        slot.facts().end.since(slot.facts().start),
        Span::from_mins(10)
    );
    let settings = settings(home.path());
    let probe: Vec<String> = command(&settings, &["end".to_owned(), "12".to_owned()]);
    assert_eq!(slot.probe.unwrap().command, probe);
}

#[test]
fn two_starts_share_no_directory() {
    let home = tempfile::tempdir().unwrap();
    let job = job(home.path());
    assert_ne!(run(home.path(), &job, "0"), run(home.path(), &job, "1"));
}

#[test]
fn the_command_names_everything_that_was_asked_for() {
    let home = Path::new("/srv/pilot-jobs/wp-7");
    let args = shell_words::join(submit_args(&settings(home), &job(home)));
    assert_eq!(
        args,
        "submit --key wp-7 --name wp-7 --queue pilots --priority 0 --cores 2 --memory 1024MiB \
         --disk 4096MiB --walltime 600000ms --min-walltime 300000ms --launch step \
         --chdir /srv/pilot-jobs/wp-7 --output /srv/pilot-jobs/wp-7/pilot.log -- \
         /srv/pilot-jobs/wp-7/job.sh"
    );
}

#[test]
fn the_pilots_of_a_job_on_several_nodes_share_nothing() {
    let home = tempfile::tempdir().unwrap();
    let job = PilotJob {
        nodes: 3,
        ..job(home.path())
    };
    let line = shell_words::join(submit_args(&settings(home.path()), &job));
    assert!(line.contains(" --nodes 3 "), "{line}");
    let mut slots = Vec::new();
    for rank in ["0", "2"] {
        let (script, log) = (home.path().join("job.sh"), format!("pilot.{rank}.log"));
        write_script(&script, &script_text(home.path(), &job)).unwrap();
        write_script(&job.program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
        // The same node and start for all, as where the LRM has packed them.
        let out = Command::new(&script)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs([
                ("SIMLRM_JOB_ID", "12"),
                ("SIMLRM_RESTARTS", "1"),
                ("SIMLRM_RANK", rank),
                ("SIMLRM_NODE", "n1"),
                ("SIMLRM_CORES", "2"),
                ("SIMLRM_MEMORY_MIB", "1024"),
                ("SIMLRM_DISK_MIB", "4096"),
                ("SIMLRM_START", "1763712000.250"),
                ("SIMLRM_END", "1763712600.250"),
            ])
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        assert!(out.stdout.is_empty(), "it has a log of its own: {out:?}");
        let said = std::fs::read_to_string(job.directory.join(log)).unwrap();
        let path = said.strip_prefix("run\n--slot\n").unwrap().trim_end();
        let text = std::fs::read_to_string(path).unwrap();
        let slot = SlotFile::parse("slot.toml", &text).unwrap();
        assert_eq!(slot.submit_key.as_str(), format!("wp-7.{rank}"));
        assert_eq!(
            slot.paths.scratch,
            job.scratch.join(format!("wp-7.{rank}.r1"))
        );
        assert_eq!(slot.broker.url, job.broker.url);
        assert_eq!(slot.broker.ca_file, job.broker.ca_file);
        let token = format!("{}.{rank}", job.broker.token_file.display());
        assert_eq!(slot.broker.token_file.display().to_string(), token);
        assert_eq!(slot.hypervisor, job.hypervisor);
        assert_eq!(slot.facts().resources, job.resources);
        slots.push((path.to_owned(), slot));
    }
    assert_ne!(slots[0].0, slots[1].0);
}
