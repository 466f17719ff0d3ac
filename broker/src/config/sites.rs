//! One `[site.NAME]`, resolved: how pilots come there, and what the site agreed to.

use std::net::SocketAddr;

use broker_core::SiteConfig;
use lrm_adapters::htcondor::{self, HtcondorSettings, Transfer};
use lrm_adapters::pbs::{self, PbsSettings};
use lrm_adapters::slurm::{Launch, SlurmSettings};
use protocol::ids::SiteName;
use protocol::resources::Resources;
use protocol::slot_file::HypervisorKind;
use protocol::time::Span;

use super::raw::{RawHtcondor, RawLaunch, RawLrm, RawPbs, RawSite, RawSlurm, RawTransfer};
use super::resolve::{Wrong, have, span, span_from};
use super::{JobSettings, Site, SiteLrm};

/// Nothing is asked for more often, and no command is given less time.
const LEAST: Span = Span::from_millis(100);

/// A real LRM's listing is asked for no more often without an explicit word.
const LEAST_POLL: Span = Span::from_secs(30);

/// More nodes for one job are a slip of the pen.
const MOST_NODES: u32 = 1000;

/// Makes errors about keys of one site.
struct Keys<'a> {
    site: &'a SiteName,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("site.{}.{key}", self.site)
    }

    fn wrong(&self, key: &str, what: &str) -> Wrong {
        let key = self.key(key);
        let message = format!("`{key}` {what}");
        Wrong::new(key, message)
    }

    fn missing(&self, key: &str, what: &str) -> Wrong {
        self.wrong(key, &format!("is missing: {what}"))
    }
}

/// One site, what it agreed to, and its preference.
pub(super) fn site(
    name: &SiteName,
    raw: RawSite,
    tls: bool,
    listen: SocketAddr,
) -> Result<(Site, SiteConfig, i32), Wrong> {
    let keys = Keys { site: name };
    let key = |key: &str| keys.key(key);
    let walltime_min = span(raw.walltime_min, &key("walltime_min"))?;
    let walltime_max = span(raw.walltime_max, &key("walltime_max"))?;
    if walltime_max < walltime_min || walltime_max.is_zero() {
        let what = format!("({walltime_max}) is less than `walltime_min` ({walltime_min})");
        return Err(keys.wrong("walltime_max", &what));
    }
    let notice = span(raw.notice, &key("notice"))?;
    let margin = span(raw.margin, &key("margin"))?;
    if walltime_max <= margin {
        let what = format!("({walltime_max}) is not longer than `margin` ({margin})");
        return Err(keys.wrong("walltime_max", &what));
    }
    let slot = raw
        .slot
        .ok_or_else(|| keys.missing("slot", "what a pilot job asks for: cores, memory and disk"))?;
    let slot = Resources {
        cores: slot.cores,
        memory_mib: slot.memory.0,
        disk_mib: slot.disk.0,
    };
    if slot.cores == 0 || slot.memory_mib == 0 {
        return Err(keys.wrong("slot", "needs at least 1 core and 1 MiB of memory"));
    }
    let preference = have(raw.preference, &key("preference"))?;
    let mut config = SiteConfig {
        name: name.clone(),
        preference,
        lrm: None,
        slot,
        nodes: nodes(&keys, &raw)?,
        walltime_min,
        walltime_max,
        notice,
        margin,
        overhead: span(raw.overhead, &key("overhead"))?,
        max_queued: have(raw.max_queued, &key("max_queued"))?,
        max_running: have(raw.max_running, &key("max_running"))?,
        idle_limit: Some(span(raw.idle_limit, &key("idle_limit"))?),
        enabled: have(raw.enabled, &key("enabled"))?,
    };
    let site = Site {
        poll: poll(&keys, &raw)?,
        command_timeout: span_from(LEAST, raw.command_timeout, &key("command_timeout"))?,
        command_prefix: have(raw.command_prefix.clone(), &key("command_prefix"))?,
        notice,
        margin,
        lrm: lrm(&keys, raw, tls, listen)?,
    };
    config.lrm = match &site.lrm {
        SiteLrm::None => None,
        lrm @ (SiteLrm::Sim { .. }
        | SiteLrm::Slurm { .. }
        | SiteLrm::Pbs { .. }
        | SiteLrm::Htcondor { .. }) => Some(lrm.as_str().to_owned()),
    };
    Ok((site, config, preference))
}

/// On how many nodes each job is. Where there is no way to start a pilot on each, or no knowing
/// what those pilots hear before they are killed, it is refused here and not by the first submit.
fn nodes(keys: &Keys<'_>, raw: &RawSite) -> Result<u32, Wrong> {
    let nodes = have(raw.nodes, &keys.key("nodes"))?;
    if !(1..=MOST_NODES).contains(&nodes) {
        return Err(keys.wrong("nodes", &format!("is {nodes}: write 1 to {MOST_NODES}")));
    }
    let batch = (raw.slurm.as_ref()).is_some_and(|s| s.launch == Some(RawLaunch::Batch));
    let why = match raw.lrm {
        Some(RawLrm::None) => "pilots that are started by hand come one by one",
        Some(RawLrm::Pbs) => pbs::ONE_NODE,
        Some(RawLrm::Htcondor) => htcondor::ONE_NODE,
        Some(RawLrm::Slurm) if batch => {
            "`slurm.launch = \"batch\"` starts a pilot on the job's first node only; write \
             `slurm.launch = \"step\"`"
        }
        Some(RawLrm::Slurm | RawLrm::Sim) | None => return Ok(nodes),
    };
    if nodes > 1 {
        return Err(keys.wrong("nodes", &format!("is {nodes}: {why}")));
    }
    Ok(nodes)
}

/// How often the listing is asked for. For all users of a real LRM's controller it is a cost.
fn poll(keys: &Keys<'_>, raw: &RawSite) -> Result<Span, Wrong> {
    let poll = span_from(LEAST, raw.poll, &keys.key("poll"))?;
    let real = match raw.lrm {
        Some(RawLrm::Slurm | RawLrm::Pbs | RawLrm::Htcondor) => true,
        Some(RawLrm::Sim | RawLrm::None) | None => false,
    };
    if real && poll < LEAST_POLL && !have(raw.fast_poll, &keys.key("fast_poll"))? {
        let what = format!(
            "is {poll}: asking a batch system more often than every {LEAST_POLL} can slow it down \
             for everybody\nhelp: write a longer one, or `fast_poll = true` if the site's \
             administrator agrees"
        );
        return Err(keys.wrong("poll", &what));
    }
    Ok(poll)
}

fn lrm(keys: &Keys<'_>, raw: RawSite, tls: bool, listen: SocketAddr) -> Result<SiteLrm, Wrong> {
    let kind = raw.lrm.ok_or_else(|| {
        keys.missing(
            "lrm",
            "write \"sim\" or \"htcondor\", or \"none\" for pilots that are started by hand",
        )
    })?;
    match kind {
        RawLrm::None => Ok(SiteLrm::None),
        RawLrm::Sim => {
            let sim = raw.sim.clone().unwrap_or_default();
            let program = "the path of `sim-lrm`, as this host and the nodes see it";
            Ok(SiteLrm::Sim {
                job: Box::new(job(keys, raw, tls, listen)?),
                dir: sim
                    .dir
                    .ok_or_else(|| keys.missing("sim.dir", "where the daemon serves"))?,
                program: sim
                    .program
                    .ok_or_else(|| keys.missing("sim.program", program))?,
                queue: have(sim.queue, &keys.key("sim.queue"))?,
                rerunnable: have(sim.rerunnable, &keys.key("sim.rerunnable"))?,
            })
        }
        RawLrm::Htcondor => {
            let settings = condor_settings(keys, raw.htcondor.clone().unwrap_or_default())?;
            Ok(SiteLrm::Htcondor {
                settings: Box::new(settings),
                job: Box::new(job(keys, raw, tls, listen)?),
            })
        }
        RawLrm::Pbs => {
            let settings = pbs_settings(keys, raw.pbs.clone().unwrap_or_default())?;
            Ok(SiteLrm::Pbs {
                settings: Box::new(settings),
                job: Box::new(job(keys, raw, tls, listen)?),
            })
        }
        RawLrm::Slurm => {
            let walltime_max = span(raw.walltime_max, &keys.key("walltime_max"))?;
            let settings = slurm(keys, raw.slurm.clone().unwrap_or_default(), walltime_max)?;
            Ok(SiteLrm::Slurm {
                settings: Box::new(settings),
                job: Box::new(job(keys, raw, tls, listen)?),
            })
        }
    }
}

/// Time limit and prefix of the commands are filled in by who runs them.
fn condor_settings(keys: &Keys<'_>, raw: RawHtcondor) -> Result<HtcondorSettings, Wrong> {
    let key = |key: &str| keys.key(&format!("htcondor.{key}"));
    Ok(HtcondorSettings {
        bin_dir: raw.bin_dir,
        schedd: raw.schedd,
        pool: raw.pool,
        accounting_group: raw.accounting_group,
        requirements: raw.requirements,
        rank: raw.rank,
        submit_lines: have(raw.submit_lines, &key("submit_lines"))?,
        transfer: match have(raw.transfer, &key("transfer"))? {
            RawTransfer::Shared => Transfer::Shared,
            RawTransfer::Copied => Transfer::Copied,
        },
        rerunnable: have(raw.rerunnable, &key("rerunnable"))?,
        job_lease: span_from(Span::from_secs(1), raw.job_lease, &key("job_lease"))?,
        keep_ended: span(raw.keep_ended, &key("keep_ended"))?,
        ..HtcondorSettings::default()
    })
}

/// What a site says about its Slurm; all but time limit and prefix.
fn slurm(keys: &Keys<'_>, raw: RawSlurm, walltime_max: Span) -> Result<SlurmSettings, Wrong> {
    // Walltimes are rounded up to Slurm's minutes, which must not go over what the site allows.
    if !walltime_max.as_millis().is_multiple_of(60_000) {
        let what = format!("is {walltime_max}: Slurm counts whole minutes");
        return Err(keys.wrong("walltime_max", &what));
    }
    let words = [
        ("slurm.cluster", &raw.cluster),
        ("slurm.partition", &raw.partition),
        ("slurm.account", &raw.account),
        ("slurm.qos", &raw.qos),
        ("slurm.reservation", &raw.reservation),
    ];
    let good = |c: char| c.is_ascii_alphanumeric() || "._-,+".contains(c);
    for (key, value) in words {
        if value
            .as_ref()
            .is_some_and(|v| v.is_empty() || !v.chars().all(good))
        {
            return Err(keys.wrong(key, "is no name of Slurm's"));
        }
    }
    let options = have(raw.options, &keys.key("slurm.options"))?;
    if let Some(odd) = options.iter().find(|o| !o.starts_with("--")) {
        let what = format!("has \"{odd}\": write each option in one word, as \"--tmp=10G\"");
        return Err(keys.wrong("slurm.options", &what));
    }
    Ok(SlurmSettings {
        bin_dir: raw.bin_dir,
        conf: raw.conf,
        cluster: raw.cluster,
        partition: raw.partition,
        account: raw.account,
        qos: raw.qos,
        constraint: raw.constraint,
        reservation: raw.reservation,
        nice: raw.nice,
        launch: match have(raw.launch, &keys.key("slurm.launch"))? {
            RawLaunch::Step => Launch::Step,
            RawLaunch::Batch => Launch::Batch,
        },
        rerunnable: have(raw.rerunnable, &keys.key("slurm.rerunnable"))?,
        options,
        ..SlurmSettings::default()
    })
}

/// What a site says about its PBS; all but time limit and prefix.
fn pbs_settings(keys: &Keys<'_>, raw: RawPbs) -> Result<PbsSettings, Wrong> {
    let listed_queues = have(raw.listed_queues, &keys.key("pbs.listed_queues"))?;
    let named = [
        ("pbs.queue", raw.queue.as_slice()),
        ("pbs.account", raw.account.as_slice()),
        ("pbs.project", raw.project.as_slice()),
        ("pbs.user", raw.user.as_slice()),
        ("pbs.listed_queues", &listed_queues),
    ];
    // A queue that begins with a digit would be taken for a job's id.
    let name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._@-".contains(c))
    };
    for (key, names) in named {
        if let Some(odd) = names.iter().find(|text| !name(text)) {
            return Err(keys.wrong(key, &format!("has \"{odd}\", which is no name of PBS's")));
        }
    }
    Ok(PbsSettings {
        queue: raw.queue,
        account: raw.account,
        project: raw.project,
        options: have(raw.options, &keys.key("pbs.options"))?,
        rerunnable: have(raw.rerunnable, &keys.key("pbs.rerunnable"))?,
        dialect: raw.dialect,
        user: raw.user,
        bin_dir: raw.bin_dir,
        listed_queues,
        history: have(raw.history, &keys.key("pbs.history"))?,
        ..PbsSettings::new()
    })
}

fn job(keys: &Keys<'_>, raw: RawSite, tls: bool, listen: SocketAddr) -> Result<JobSettings, Wrong> {
    let hypervisor = raw.hypervisor.ok_or_else(|| {
        keys.missing(
            "hypervisor",
            "what runs guests; write `kind = \"qemu\"`, \"xen\" or \"null\"",
        )
    })?;
    if hypervisor.kind == HypervisorKind::Qemu && hypervisor.accelerator.is_none() {
        return Err(keys.missing(
            "hypervisor.accelerator",
            "write \"tcg\" or \"kvm\"; it is never guessed",
        ));
    }
    if let Some((key, text)) = hypervisor.contradiction() {
        return Err(keys.wrong(&format!("hypervisor.{key}"), &text));
    }
    match &raw.broker_url {
        Some(url) => check_url(keys, url)?,
        None if tls && listen.ip().is_unspecified() => {
            return Err(keys.missing("broker_url", "the URL by which nodes reach this broker"));
        }
        None => {}
    }
    let dir = |value, key, what| have_dir(keys, value, key, what);
    Ok(JobSettings {
        broker_url: raw.broker_url,
        broker_ca: raw.broker_ca,
        store: dir(raw.store, "store", "a directory that all nodes see")?,
        scratch: dir(
            raw.scratch,
            "scratch",
            "a directory on the nodes' own disks",
        )?,
        program: dir(
            raw.program,
            "program",
            "the path of `pilot`, as nodes see it",
        )?,
        hypervisor,
    })
}

fn have_dir<T>(keys: &Keys<'_>, value: Option<T>, key: &str, what: &str) -> Result<T, Wrong> {
    value.ok_or_else(|| keys.missing(key, what))
}

/// `https`, or plain `http` to a loopback address.
fn check_url(keys: &Keys<'_>, url: &str) -> Result<(), Wrong> {
    let wrong = |what: &str| keys.wrong("broker_url", &format!("is \"{url}\"{what}"));
    let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => {
            return Err(wrong(
                "; write a URL, as in \"https://broker.example.org:8440\"",
            ));
        }
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    if host.is_empty() {
        return Err(wrong(", which names no host"));
    }
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Result<std::net::IpAddr, _> = ip.parse();
    if secure || host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
        return Ok(());
    }
    Err(wrong(
        ": plain http is taken only to a loopback address, since tokens cross it\nhelp: serve \
         [tls] and write https",
    ))
}
