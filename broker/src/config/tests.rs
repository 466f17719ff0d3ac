use lrm_adapters::htcondor::Transfer;

use super::*;

const SITE: &str = r#"
[site.lab]
lrm = "sim"
store = "store"
scratch = "/scratch"
program = "bin/pilot"
[site.lab.slot]
cores = 2
memory = "1 GiB"
disk = "4 GiB"
[site.lab.hypervisor]
kind = "qemu"
accelerator = "tcg"
[site.lab.sim]
dir = "sim"
program = "bin/sim-lrm"
"#;

fn parse(text: &str) -> Result<Settings, FileError> {
    Settings::parse("broker.toml", Path::new("/etc/pilot"), text)
}

#[test]
fn an_empty_file_means_the_defaults() {
    let s = parse("").unwrap();
    assert_eq!(s.listen.to_string(), "127.0.0.1:8440");
    assert_eq!(s.state_dir, Path::new("/etc/pilot/state"));
    assert_eq!(s.core.lease_ttl, Span::from_mins(5));
    assert_eq!(s.http.body_limit, 1 << 20);
    assert_eq!(s.keep_ended, Span::from_mins(90 * 24 * 60));
    assert!(s.sites.is_empty() && s.tls.is_none());
    assert_eq!(
        parse(DEFAULT_CONFIG).unwrap(),
        s,
        "the defaults written out mean the same"
    );
}

#[test]
fn an_htcondor_site_needs_no_section_and_can_say_a_lot() {
    let condor = SITE.replace("\"sim\"\nstore", "\"htcondor\"\nstore");
    let condor = &condor[..condor.find("[site.lab.sim]").unwrap()];
    let settings = |text: &str| {
        let s = parse(text).unwrap();
        let (site, core) = (&s.sites[&SiteName::new("lab").unwrap()], &s.core.sites[0]);
        assert_eq!(core.lrm.as_deref(), Some("htcondor"));
        match &site.lrm {
            SiteLrm::Htcondor { settings, .. } => (**settings).clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(settings(condor), HtcondorSettings::default());
    let said = "[site.lab.htcondor]\nbin_dir = \"condor/bin\"\nschedd = \"s1\"\ntransfer = \"copied\"\n\
                rerunnable = true\njob_lease = \"20m\"\nsubmit_lines = [\"+Project = 1\"]\n";
    let said = settings(&format!("{condor}{said}"));
    let wanted = HtcondorSettings {
        bin_dir: Some("/etc/pilot/condor/bin".into()),
        schedd: Some("s1".to_owned()),
        transfer: Transfer::Copied,
        rerunnable: true,
        job_lease: Span::from_mins(20),
        submit_lines: vec!["+Project = 1".to_owned()],
        ..HtcondorSettings::default()
    };
    assert_eq!(said, wanted);
    let wrong = format!("{condor}[site.lab.htcondor]\ntransfer = \"spool\"\n");
    let e = parse(&wrong).unwrap_err().to_string();
    assert!(e.contains("\"copied\"") || e.contains("`copied`"), "{e}");
}

#[test]
fn a_site_takes_what_it_leaves_out_from_the_defaults() {
    let s = parse(&format!("[site-defaults]\nmax_running = 3\n{SITE}")).unwrap();
    let terms = &s.core.sites[0];
    assert_eq!((terms.max_running, terms.max_queued), (3, 2));
    assert_eq!(terms.slot.memory_mib, 1024);
    let site = &s.sites[&SiteName::new("lab").unwrap()];
    let SiteLrm::Sim {
        dir,
        program,
        job,
        queue,
        ..
    } = &site.lrm
    else {
        panic!("{site:?}")
    };
    assert_eq!(dir, Path::new("/etc/pilot/sim"));
    assert_eq!(program, Path::new("/etc/pilot/bin/sim-lrm"));
    assert_eq!(queue, "pilots");
    assert_eq!(job.program, Path::new("/etc/pilot/bin/pilot"));
    assert_eq!(job.scratch, Path::new("/scratch"));
}

#[test]
fn a_site_with_pbs_says_how_pilots_are_submitted() {
    let site = |section: &str| {
        let text = SITE.replace("lrm = \"sim\"", "lrm = \"pbs\"");
        let at = text.find("[site.lab.sim]").unwrap();
        parse(&format!("{}{section}", &text[..at]))
    };
    let settings =
        |section: &str| match &site(section).unwrap().sites[&SiteName::new("lab").unwrap()].lrm {
            SiteLrm::Pbs { settings, .. } => (**settings).clone(),
            other => panic!("{other:?}"),
        };
    let plain = PbsSettings::new();
    assert_eq!(settings(""), plain, "the defaults are those of the adapter");
    let all = settings(
        "[site-defaults.pbs]\nrerunnable = true\n[site.lab.pbs]\nqueue = \"pilots\"\n\
         dialect = \"torque\"\nbin_dir = \"bin\"\noptions = [\"-W\", \"x=y\"]\n",
    );
    assert!(all.rerunnable && all.history);
    assert_eq!(all.queue.as_deref(), Some("pilots"));
    assert_eq!(all.dialect, Some(lrm_adapters::pbs::Dialect::Torque));
    assert_eq!(all.bin_dir.as_deref(), Some(Path::new("/etc/pilot/bin")));
    for (section, want) in [
        ("[site.lab.pbs]\nqueue = \"a b\"", "no name"),
        ("[site.lab.pbs]\nlisted_queues = [\"7\"]", "no name"),
        ("[site.lab.pbs]\ndialect = \"lsf\"", "`lsf` is not one of"),
        ("[site.lab.pbs]\nqos = \"x\"", "unknown field `qos`"),
    ] {
        let e = site(section).unwrap_err().to_string();
        assert!(e.contains(want), "{section}: {e}");
    }
}

#[test]
fn a_site_with_slurm_says_how_pilots_are_submitted() {
    let site = |section: &str| {
        let text = SITE.replace("lrm = \"sim\"", "lrm = \"slurm\"");
        let at = text.find("[site.lab.sim]").unwrap();
        parse(&format!("{}{section}", &text[..at]))
    };
    let settings =
        |section: &str| match &site(section).unwrap().sites[&SiteName::new("lab").unwrap()].lrm {
            SiteLrm::Slurm { settings, .. } => (**settings).clone(),
            other => panic!("{other:?}"),
        };
    let plain = SlurmSettings::default();
    assert_eq!(settings(""), plain, "the defaults are those of the adapter");
    let all = settings(
        "[site-defaults.slurm]\nrerunnable = true\n[site.lab.slurm]\npartition = \"spot\"\n\
         nice = 5\nlaunch = \"batch\"\nconf = \"slurm.conf\"\noptions = [\"--tmp=1G\"]\n",
    );
    assert!(all.rerunnable);
    assert_eq!(all.partition.as_deref(), Some("spot"));
    assert_eq!(
        all.conf.as_deref(),
        Some(Path::new("/etc/pilot/slurm.conf"))
    );
    assert_eq!(all.launch, lrm_adapters::slurm::Launch::Batch);
    for (section, want) in [
        ("[site.lab.slurm]\npartition = \"a b\"", "no name"),
        ("[site.lab.slurm]\noptions = [\"-p x\"]", "one word"),
        ("[site.lab.slurm]\nqueue = \"x\"", "unknown field `queue`"),
        (
            "[site-defaults]\nwalltime_max = \"90m 1s\"",
            "whole minutes",
        ),
    ] {
        let e = site(section).unwrap_err().to_string();
        assert!(e.contains(want), "{section}: {e}");
    }
}

#[test]
fn sites_come_in_order_of_preference() {
    let none = "lrm = \"none\"\nslot = { cores = 1, memory = \"1 GiB\", disk = \"1 GiB\" }\n";
    let s = parse(&format!(
        "[site.a]\npreference = 1\n{none}[site.c]\n{none}[site.b]\n{none}"
    ));
    let names: Vec<String> = s
        .unwrap()
        .core
        .sites
        .iter()
        .map(|s| s.name.to_string())
        .collect();
    assert_eq!(names, ["b", "c", "a"]);
}

#[test]
fn the_defaults_are_those_of_the_core() {
    let core = BrokerConfig::default();
    assert_eq!(parse("").unwrap().core, core);
}

#[test]
fn what_is_shown_means_the_same_as_what_was_written() {
    let base = Path::new("/etc/pilot");
    let shown = resolve::shown("broker.toml", base, SITE).unwrap();
    let again = Settings::parse("shown.toml", Path::new("/elsewhere"), &shown).unwrap();
    assert_eq!(again, parse(SITE).unwrap(), "{shown}");
    for key in ["ttl", "per_user", "max_queued", "broker.toml"] {
        assert_eq!(shown.contains(key), key != "broker.toml", "{shown}");
    }
}

#[test]
fn wrong_files_say_what_is_wrong() {
    let site = |from: &str, to: &str| {
        assert!(SITE.contains(from), "{from}");
        SITE.replace(from, to)
    };
    let cases = [
        ("lisen = \"x\"".to_owned(), "unknown field `lisen`"),
        ("listen = \"8440\"".to_owned(), "\"127.0.0.1:8440\""),
        ("listen = \"0.0.0.0:8440\"".to_owned(), "no [tls]"),
        ("[leases]\nttl = \"-1s\"".to_owned(), "negative"),
        (
            "[leases]\nttl = \"30s\"\nhold = \"20s\"".to_owned(),
            "more than a third",
        ),
        ("log = \"loud\"".to_owned(), "\"warn\""),
        ("[tls]\ncert = \"c\"".to_owned(), "missing field `key`"),
        (
            "[http]\nrequest_timeout = \"1ms\"".to_owned(),
            "the least is 1s",
        ),
        ("[keep]\nended = \"1h\"".to_owned(), "the least is 1day"),
        (
            site("lrm = \"sim\"", "lrm = \"lsf\""),
            "`lsf` is not one of",
        ),
        (site("lrm = \"sim\"", ""), "`site.lab.lrm` is missing"),
        (site("accelerator = \"tcg\"", ""), "never guessed"),
        (
            site("kind = \"qemu\"", "kind = \"xen\""),
            "`site.lab.hypervisor.accelerator` means nothing",
        ),
        (site("store = \"store\"", ""), "`site.lab.store` is missing"),
        (
            site("program = \"bin/pilot\"", "prog = \"x\""),
            "unknown field `prog`",
        ),
        (site("dir = \"sim\"", ""), "`site.lab.sim.dir` is missing"),
        (site("memory = \"1 GiB\"", "memory = \"1\""), "\"512 MiB\""),
        (site("cores = 2", "cores = 0"), "at least 1 core"),
        (
            site("[site.lab]", "[site.lab]\nwalltime_max = \"1m\""),
            "is less than",
        ),
        (
            site(
                "[site.lab]",
                "[site.lab]\nbroker_url = \"http://b.example.org\"",
            ),
            "loopback",
        ),
        (
            site("[site.lab]", "[site.lab]\nbroker_url = \"b.example.org\""),
            "https://",
        ),
        (
            site("[site.lab]", "[site.\"a b\"]\nlrm = \"none\"\n[site.lab]"),
            "site name",
        ),
    ];
    for (text, want) in cases {
        let e = parse(&text).unwrap_err().to_string();
        assert!(
            e.contains(want) && e.contains("broker.toml"),
            "{text}\nwanted {want}, got\n{e}"
        );
    }
    for (text, line) in [
        ("\n[leases]\nttl = \"x\"\n", "line 3"),
        ("\n[leases]\nttl = \"60s\"\nhold = \"59s\"", "line 4"),
        ("\nlisten = \"1.2.3.4:5\"", "line 2"),
    ] {
        let e = parse(text).unwrap_err().to_string();
        assert!(e.contains(line) && e.contains('^'), "{e}");
    }
    for url in [
        "http://localhost:1/x",
        "http://[::1]:80",
        "http://127.0.0.1",
        "https://b:1",
    ] {
        let text = site("[site.lab]", &format!("[site.lab]\nbroker_url = \"{url}\""));
        assert!(parse(&text).is_ok(), "{url}");
    }
}

#[test]
fn a_real_lrm_is_not_polled_fast_without_an_explicit_word() {
    let site = |more: &str| SITE.replace("lrm = \"sim\"", &format!("lrm = \"slurm\"\n{more}"));
    let said = |text: &str| match parse(text) {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    };
    let no = said(&site("poll = \"29s\""));
    assert!(
        no.contains("more often than every 30s") && no.contains("fast_poll"),
        "{no}"
    );
    for fine in ["poll = \"30s\"", "poll = \"1s\"\nfast_poll = true"] {
        let text = said(&site(fine));
        assert!(!text.contains("more often"), "{fine}: {text}");
    }
    assert!(parse(&SITE.replace("lrm = \"sim\"", "lrm = \"sim\"\npoll = \"100ms\"")).is_ok());
}

#[test]
fn jobs_on_several_nodes_are_taken_only_where_a_pilot_can_be_started_on_each() {
    let with = |nodes: &str, from: &str, to: &str| {
        let text = SITE.replace("lrm = \"sim\"", &format!("nodes = {nodes}\nlrm = \"sim\""));
        parse(&text.replace(from, to))
    };
    assert_eq!(with("3", "", "").unwrap().core.sites[0].nodes, 3);
    assert_eq!(parse(SITE).unwrap().core.sites[0].nodes, 1);
    for odd in ["0", "1001"] {
        let e = with(odd, "", "").unwrap_err().to_string();
        assert!(
            e.contains("site.lab.nodes") && e.contains("1 to 1000"),
            "{e}"
        );
    }
    let lrm = |to: &str| with("2", "lrm = \"sim\"", &format!("lrm = \"{to}\""));
    assert_eq!(lrm("slurm").unwrap().core.sites[0].nodes, 2);
    for (kind, why) in [
        ("pbs", "task manager"),
        ("htcondor", "parallel universe"),
        ("none", "one by one"),
    ] {
        let e = lrm(kind).unwrap_err().to_string();
        assert!(
            e.contains("site.lab.nodes") && e.contains(why),
            "{kind}: {e}"
        );
        let one = with("1", "lrm = \"sim\"", &format!("lrm = \"{kind}\""));
        assert_eq!(one.unwrap().core.sites[0].nodes, 1);
    }
    let batch = with(
        "2",
        "[site.lab.sim]\n",
        "[site.lab.slurm]\nlaunch = \"batch\"\n[site.lab.sim]\n",
    );
    assert!(
        batch.is_ok(),
        "what Slurm does is no matter to the simulated LRM"
    );
    let text = SITE.replace("lrm = \"sim\"", "nodes = 2\nlrm = \"slurm\"");
    let text = format!("{text}[site.lab.slurm]\nlaunch = \"batch\"\n");
    let e = parse(&text).unwrap_err().to_string();
    assert!(e.contains("site.lab.nodes") && e.contains("step"), "{e}");
}
