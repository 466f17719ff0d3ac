use std::path::Path;
use std::process::Command;

use protocol::slot_file::SlotFile;
use protocol::time::{Span, Timestamp};

use super::*;
use crate::job_script::testing::awkward_job;
use crate::job_script::write_script;

/// A job as `qstat -f` tells it, with a broken value that looks like an end.
const RUNNING: &str = "Job Id: 12.srv\n    Job_Name = x\n    job_state = R\n    exec_host = n1/0*2\n    Resource_List.walltime = 01:00:30\n    stime = Sat Nov 21 01:24:44 2026\n    Variable_List = A=b,\n\tstime = Sat Nov 21 01:24:44 1999\n    run_count = 3\n\n";
const START: i64 = 1_795_224_284;

struct Node {
    home: tempfile::TempDir,
    job: PilotJob,
}

impl Node {
    /// A node whose `qstat` prints this, with the job written.
    fn new(qstat: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let job = awkward_job(home.path());
        let bin = home.path().join("b in");
        std::fs::create_dir(&bin).unwrap();
        std::fs::write(bin.join("answer"), qstat).unwrap();
        let answer = bin.join("answer").display().to_string();
        // In whatever zone the node is: the script has to ask for UTC.
        let fake = format!(
            "#!/bin/sh\n[ \"$TZ $*\" = 'UTC -f 12.srv' ] || exit 9\ncat {}\n",
            shell_words::quote(&answer)
        );
        write_script(&bin.join("qstat"), &fake).unwrap();
        let settings = PbsSettings {
            bin_dir: Some(bin),
            ..PbsSettings::new()
        };
        write_script(&home.path().join(SLOT_END), &slot_end(&settings)).unwrap();
        write_script(&home.path().join(JOB), &script(&job)).unwrap();
        write_script(&job.program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
        std::fs::write(home.path().join("nodes"), "n1\nn1\n").unwrap();
        Self { home, job }
    }

    fn sh(&self, args: &[&str], cores: (&str, &str)) -> String {
        let output = Command::new("/bin/sh")
            .args(args)
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "America/New_York")
            .env("PBS_JOBID", "12.srv")
            .env("PBS_NODEFILE", self.home.path().join("nodes"))
            .env(cores.0, cores.1)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn slot(&self, cores: (&str, &str)) -> SlotFile {
        let said = self.sh(&[JOB], cores);
        let path = said.strip_prefix("run\n--slot\n").unwrap().trim_end();
        SlotFile::parse("slot.toml", &std::fs::read_to_string(path).unwrap()).unwrap()
    }
}

#[test]
fn the_slot_is_what_pbs_says() {
    let node = Node::new(RUNNING);
    let slot = node.slot(("NCPUS", "4"));
    assert_eq!(slot.lrm_job_id.unwrap().as_str(), "12.srv");
    assert_eq!(slot.node.as_str(), "n1");
    assert_eq!(slot.resources.cores, 4);
    assert_eq!(slot.resources.memory.0, node.job.resources.memory_mib);
    assert_eq!(slot.clock.start, Timestamp::from_secs(START));
    assert_eq!(slot.clock.end, Timestamp::from_secs(START + 3630));
    assert!(
        slot.incarnation.as_str().starts_with("12.srv/2/"),
        "{}",
        slot.incarnation
    );
    let probe = slot.probe.unwrap().command;
    assert_eq!(probe[0], "/bin/sh");
    let told = node.sh(&[&probe[1], &probe[2]], ("X", ""));
    assert_eq!(told, format!("{}\n", START + 3630));
}

#[test]
fn a_node_that_cannot_ask_counts_from_now() {
    // Torque's variable for the cores; the server is away.
    let node = Node::new("");
    let slot = node.slot(("PBS_NUM_PPN", "3"));
    assert_eq!(slot.resources.cores, 3);
    assert_eq!(slot.clock.end.since(slot.clock.start), Span::from_mins(10));
    assert!(
        slot.incarnation.as_str().starts_with("12.srv/x/"),
        "{}",
        slot.incarnation
    );
    let probe = slot.probe.unwrap().command;
    assert_eq!(node.sh(&[&probe[1], &probe[2]], ("X", "")), "");
}

#[test]
fn the_end_is_read_from_both_dialects_and_never_guessed() {
    let torque = "Job Id: 12.srv\n    job_state = R\n    Resource_List.walltime = 2:00:00:00\n    start_time = Sat Feb  1 08:09:10 2025\n\n";
    let whole = |s: &str| s.to_owned();
    let cases = [
        (whole(RUNNING), Some(START + 3630)),
        (whole(torque), Some(1_738_397_350 + 172_800)),
        (RUNNING.replace("= R", "= S"), Some(START + 3630)),
        // It waits for its next start: its old end means nothing.
        (RUNNING.replace("= R", "= Q"), None),
        (RUNNING.replace("= R", "= F"), None),
        (RUNNING.replace("Resource_List.walltime", "x"), None),
        (RUNNING.replace("    stime", "    mtime"), None),
    ];
    for (text, want) in cases {
        let node = Node::new(&text);
        let told = node.sh(&[SLOT_END, "12.srv"], ("X", ""));
        let want = want.map_or_else(String::new, |end| format!("{end}\n"));
        assert_eq!(told, want, "{text}");
    }
}

fn settings() -> PbsSettings {
    PbsSettings {
        queue: Some("pilots".to_owned()),
        account: Some("guests".to_owned()),
        options: vec!["-W".to_owned(), "group_list=g".to_owned()],
        ..PbsSettings::new()
    }
}

#[test]
fn the_submit_in_both_dialects() {
    let mut job = awkward_job(Path::new("/jobs/wp-7"));
    job.walltime = Span::from_millis(600_001);
    let mut settings = settings();
    let line = |settings: &PbsSettings, dialect| shell_words::join(submit(settings, dialect, &job));
    assert_eq!(
        line(&settings, Dialect::Openpbs),
        "qsub -N wp-7 -l 'select=1:ncpus=2:mem=1024mb' -l 'walltime=601' -r n -m n -j oe \
         -o /jobs/wp-7/pilot.log -v 'WP_KEY=wp-7' -q pilots -A guests -W 'group_list=g' \
         -- /bin/sh /jobs/wp-7/job.sh"
    );
    assert_eq!(
        line(&settings, Dialect::Torque),
        "qsub -N wp-7 -l 'nodes=1:ppn=2,mem=1024mb' -l 'walltime=601' -r n -m n -j oe \
         -o /jobs/wp-7/pilot.log -v 'WP_KEY=wp-7' -q pilots -A guests -S /bin/sh \
         -W 'group_list=g' /jobs/wp-7/job.sh"
    );
    settings.rerunnable = true;
    settings.project = Some("p".to_owned());
    let line = line(&settings, Dialect::Openpbs);
    assert!(line.contains("-r y") && line.contains("-P p"), "{line}");
    assert!(unfit(&settings, Dialect::Torque, &job).is_some_and(|why| why.contains("account")));
    assert_eq!(unfit(&settings, Dialect::Openpbs, &job), None);
    job.nodes = 2;
    assert!(unfit(&settings, Dialect::Openpbs, &job).is_some_and(|why| why.contains("one node")));
}

#[test]
fn one_listing_command_without_ids() {
    let mut settings = settings();
    settings.bin_dir = Some("/opt/pbs/bin".into());
    let line = |s: &PbsSettings, dialect, history| shell_words::join(listing(s, dialect, history));
    assert_eq!(
        line(&settings, Dialect::Openpbs, true),
        "env 'TZ=UTC' 'LC_ALL=C' /opt/pbs/bin/qstat -f -x"
    );
    assert!(!line(&settings, Dialect::Openpbs, false).contains("-x"));
    settings.listed_queues = vec!["pilots".to_owned()];
    // `-x` is XML there.
    assert_eq!(
        line(&settings, Dialect::Torque, true),
        "env 'TZ=UTC' 'LC_ALL=C' /opt/pbs/bin/qstat -f pilots"
    );
}
