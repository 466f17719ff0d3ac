use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use protocol::slot_file::SlotFile;

use super::*;
use crate::job_script::testing::awkward_job;
use crate::job_script::write_script;

fn settings(launch: Launch) -> SlurmSettings {
    SlurmSettings {
        launch,
        ..SlurmSettings::default()
    }
}

/// A directory with a `squeue` that says this, and an `srun` that runs what it is given.
fn fakes(home: &Path, squeue: &str) -> PathBuf {
    let bin = home.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let srun = "#!/bin/sh\nwhile [ \"${1#--}\" != \"$1\" ]; do shift; done\nexec \"$@\"\n";
    for (name, text) in [("squeue", squeue), ("srun", srun)] {
        std::fs::write(bin.join(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), mode).unwrap();
    }
    bin
}

/// Runs the rendered job as the node daemon would, with a pilot that prints its arguments; gives
/// the slot file that it got.
fn run(home: &Path, settings: &SlurmSettings, env: &[(&str, &str)]) -> SlotFile {
    let job = awkward_job(home);
    let files = files(settings, &job);
    for (path, text) in &files {
        write_script(path, text).unwrap();
    }
    write_script(&job.program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    let out = Command::new(&files[0].0)
        .env_clear()
        .env("PATH", format!("{}/bin:/usr/bin:/bin", home.display()))
        .env("SLURM_JOB_ID", "12")
        .env("SLURMD_NODENAME", "n1")
        .env("SLURM_CPUS_ON_NODE", "2")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}\n{files:?}");
    let said = String::from_utf8(out.stdout).unwrap();
    let path = said.strip_prefix("run\n--slot\n").unwrap().trim_end();
    SlotFile::parse("slot.toml", &std::fs::read_to_string(path).unwrap()).unwrap()
}

const TOLD: &str = "#!/bin/sh\n[ \"$SLURM_TIME_FORMAT\" = %s ] && [ \"$1 $2 $3 $4\" = '-h -j 12 -o' ] \
                    && echo '1763712000 1763712600'\n";

#[test]
fn the_job_gets_a_slot_file_that_says_what_slurm_said() {
    for launch in [Launch::Step, Launch::Batch] {
        let home = tempfile::tempdir().unwrap();
        fakes(home.path(), TOLD);
        let slot = run(
            home.path(),
            &settings(launch),
            &[("SLURM_RESTART_COUNT", "3"), ("SLURM_MEM_PER_NODE", "2000")],
        );
        let job = awkward_job(home.path());
        assert_eq!(slot.broker, job.broker);
        assert_eq!(
            slot.lrm_job_id.as_ref().map(ToString::to_string),
            Some("12".to_owned())
        );
        assert_eq!(slot.paths.scratch, job.scratch.join("wp-7.r3.n1"));
        assert_eq!(slot.incarnation.as_str(), "12/3/n1/1763712000");
        assert_eq!(slot.facts().resources.memory_mib, 2000);
        assert_eq!(slot.facts().resources.cores, 2);
        assert_eq!(slot.facts().end.as_millis(), 1_763_712_600_000);
        let probe = [
            "env",
            "SLURM_TIME_FORMAT=%s",
            "squeue",
            "-h",
            "-j",
            "12",
            "-o",
            "%e",
        ];
        assert_eq!(slot.probe.unwrap().command, probe);
    }
}

#[test]
fn what_the_environment_says_is_not_asked_for() {
    let home = tempfile::tempdir().unwrap();
    fakes(home.path(), "#!/bin/sh\necho '1 2'\n");
    let slot = run(
        home.path(),
        &settings(Launch::Batch),
        &[
            ("SLURM_JOB_START_TIME", "1763712000"),
            ("SLURM_JOB_END_TIME", "1763712300"),
        ],
    );
    assert_eq!(slot.facts().start.as_millis(), 1_763_712_000_000);
    assert_eq!(slot.facts().end.as_millis(), 1_763_712_300_000);
    assert_eq!(slot.facts().resources.memory_mib, 1024);
    assert!(slot.paths.scratch.ends_with("wp-7.r0.n1"));
}

#[test]
fn without_an_answer_the_shortest_walltime_counts_from_now() {
    for silence in ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho 'N/A N/A'\n"] {
        let home = tempfile::tempdir().unwrap();
        fakes(home.path(), silence);
        let slot = run(home.path(), &settings(Launch::Batch), &[]);
        // awkward_job asks for ten minutes and at least five.
        let facts = slot.facts();
        assert_eq!(facts.end.since(facts.start), Span::from_mins(5));
    }
}

#[test]
fn a_job_on_a_named_cluster_carries_that_in_its_id_and_not_in_its_probe() {
    let home = tempfile::tempdir().unwrap();
    fakes(home.path(), TOLD);
    let settings = SlurmSettings {
        cluster: Some("big".to_owned()),
        conf: Some(PathBuf::from("/etc/slurm/big.conf")),
        ..settings(Launch::Step)
    };
    let slot = run(home.path(), &settings, &[]);
    assert_eq!(slot.lrm_job_id.unwrap().as_str(), "12;big");
    let probe = shell_words::join(slot.probe.unwrap().command);
    assert_eq!(
        probe,
        "env 'SLURM_TIME_FORMAT=%s' 'SLURM_CONF=/etc/slurm/big.conf' squeue -h -j 12 -o '%e'"
    );
}

#[test]
fn the_submit_names_everything_that_was_asked_for() {
    let mut job = awkward_job(Path::new("/srv/50% jobs/wp-7"));
    let plain = submit(&settings(Launch::Step), &job);
    let common = [
        "sbatch",
        "--job-name=wp-7",
        "--comment=wp-7",
        "--chdir=/srv/50% jobs/wp-7",
        "--output=/srv/50%% jobs/wp-7/pilot.log",
        "--open-mode=append",
        "--export=PATH=/usr/local/bin:/usr/bin:/bin",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=2",
        "--mem=1024M",
        "--time=10",
        "--time-min=5",
    ];
    assert_eq!(plain[..13], common);
    assert_eq!(
        plain[13..],
        ["--parsable", "--no-requeue", "/srv/50% jobs/wp-7/batch.sh"]
    );
    job.walltime = Span::from_secs(61);
    job.min_walltime = Some(Span::from_secs(61));
    let site = SlurmSettings {
        bin_dir: Some(PathBuf::from("/opt/slurm/bin")),
        conf: Some(PathBuf::from("/etc/s.conf")),
        cluster: Some("big".to_owned()),
        partition: Some("spot".to_owned()),
        account: Some("grid".to_owned()),
        qos: Some("scavenge".to_owned()),
        constraint: Some("kvm".to_owned()),
        reservation: Some("pilots".to_owned()),
        nice: Some(100),
        rerunnable: true,
        options: vec!["--tmp=1G".to_owned()],
        ..settings(Launch::Batch)
    };
    let argv = submit(&site, &job);
    assert_eq!(
        argv[..4],
        [
            "env",
            "SLURM_CONF=/etc/s.conf",
            "/opt/slurm/bin/sbatch",
            "--clusters=big"
        ]
    );
    assert_eq!(
        argv[14..],
        [
            "--time=2",
            "--partition=spot",
            "--account=grid",
            "--qos=scavenge",
            "--constraint=kvm",
            "--reservation=pilots",
            "--nice=100",
            "--parsable",
            "--requeue",
            "--tmp=1G",
            "/srv/50% jobs/wp-7/job.sh"
        ]
    );
}

#[test]
fn walltimes_are_whole_minutes_rounded_up_and_never_none() {
    for (millis, minutes) in [(0, 1), (1, 1), (60_000, 1), (60_001, 2), (14_400_000, 240)] {
        assert_eq!(
            whole_minutes(Span::from_millis(millis)),
            minutes,
            "{millis}"
        );
    }
}

/// What a remote shell would read as more than a word: the site's own paths excepted.
#[test]
fn commands_survive_a_remote_shell() {
    let settings = settings(Launch::Step);
    let key = SubmitKey::new("wp-7").unwrap();
    let mut avoiding = awkward_job(Path::new("/srv/wp-7"));
    avoiding.avoid = ["n1", "n2; reboot", "n-3.site", "--uid=0"]
        .map(|n| protocol::ids::NodeName::new(n).unwrap())
        .to_vec();
    let told = submit(&settings, &avoiding);
    assert!(
        told.contains(&"--exclude=n1,n-3.site".to_owned()),
        "{told:?}"
    );
    let all = [
        list(&settings, None),
        find(&settings, Some("big"), &key),
        cancel(&settings, Some("big"), "12", Cancel::WhileWaiting),
        submit(&settings, &avoiding),
    ];
    for argv in all {
        let told = Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s\\n' {}", argv.join(" ")))
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(told.stdout).unwrap().trim_end(),
            argv.join("\n")
        );
    }
}

#[test]
fn a_job_on_several_nodes_is_one_step_with_a_task_on_each() {
    let home = tempfile::tempdir().unwrap();
    fakes(home.path(), TOLD);
    let settings = settings(Launch::Step);
    let job = PilotJob {
        nodes: 2,
        ..awkward_job(home.path())
    };
    let line = submit(&settings, &job).join(" ");
    assert!(
        line.contains(" --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=2 "),
        "{line}"
    );
    let files = files(&settings, &job);
    let srun = files[0].1.lines().last().unwrap();
    for word in [
        "exec srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=2 --wait=0 ",
        " --kill-on-bad-exit=0 ",
    ] {
        assert!(srun.contains(word), "{srun}");
    }
    for (path, text) in &files {
        write_script(path, text).unwrap();
    }
    write_script(&job.program, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    let out = Command::new(&files[0].0)
        .env_clear()
        .env(
            "PATH",
            format!("{}/bin:/usr/bin:/bin", home.path().display()),
        )
        .env("SLURM_JOB_ID", "12")
        .env("SLURM_PROCID", "1")
        .env("SLURMD_NODENAME", "n2")
        .env("SLURM_CPUS_ON_NODE", "2")
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let said = std::fs::read_to_string(home.path().join("pilot.1.log")).unwrap();
    let path = said.strip_prefix("run\n--slot\n").unwrap().trim_end();
    let slot = SlotFile::parse("slot.toml", &std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(slot.submit_key.as_str(), "wp-7.1");
    assert_eq!(slot.node.as_str(), "n2");
    assert_eq!(slot.paths.scratch, job.scratch.join("wp-7.1.r0.n2"));
    let token = format!("{}.1", job.broker.token_file.display());
    assert_eq!(slot.broker.token_file.display().to_string(), token);
}
