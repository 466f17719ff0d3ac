//! From what is written to [`Settings`]: defaults, absolute paths, and values that fit together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use broker_core::{BrokerConfig, ProvisionPolicy, SiteConfig};
use protocol::ids::SiteName;
use protocol::resources::Resources;
use protocol::slot_file::{HypervisorKind, SlotResources};
use protocol::text::{FileError, parse_toml};
use protocol::time::Span;

use super::raw::{RawConfig, RawLrm, RawProvision, RawSite, RawTls};
use super::{DEFAULT_CONFIG, Http, JobSettings, Settings, Site, SiteLrm, Tls, Tokens};

/// What is wrong, as a sentence; the file's name is put before it at the end.
type Wrong = String;

pub(super) fn settings(file: &str, base: &Path, text: &str) -> Result<Settings, FileError> {
    let raw = complete(file, base, text)?;
    build(raw).map_err(|message| FileError {
        file: file.to_owned(),
        message,
    })
}

pub(super) fn shown(file: &str, base: &Path, text: &str) -> Result<String, FileError> {
    settings(file, base, text)?;
    let raw = complete(file, base, text)?;
    toml::to_string(&raw).map_err(|e| FileError {
        file: file.to_owned(),
        message: format!("cannot be shown: {e}"),
    })
}

/// The file with defaults filled in and paths made absolute.
fn complete(file: &str, base: &Path, text: &str) -> Result<RawConfig, FileError> {
    let written: RawConfig = parse_toml(file, text)?;
    let defaults: RawConfig = parse_toml("the built-in defaults", DEFAULT_CONFIG)?;
    let mut raw = written.over(defaults);
    let place = |path: &mut PathBuf| *path = base.join(&path);
    raw.state_dir.as_mut().map(place);
    if let Some(RawTls { cert, key }) = &mut raw.tls {
        place(cert);
        place(key);
    }
    let defaults = raw.site_defaults.clone();
    for site in std::iter::once(&mut raw.site_defaults).chain(raw.site.values_mut()) {
        let written = std::mem::take(site);
        let sim = written
            .sim
            .clone()
            .map(|s| s.over(defaults.sim.clone().unwrap_or_default()));
        *site = written.over(defaults.clone());
        if sim.is_some() {
            site.sim = sim;
        }
        for path in [
            &mut site.broker_ca,
            &mut site.store,
            &mut site.scratch,
            &mut site.program,
        ] {
            path.as_mut().map(place);
        }
        if let Some(sim) = &mut site.sim {
            sim.dir.as_mut().map(place);
            sim.program.as_mut().map(place);
        }
        if let Some(binary) = site.hypervisor.as_mut().and_then(|h| h.binary.as_mut())
            && binary.components().count() > 1
        {
            place(binary);
        }
    }
    Ok(raw)
}

/// A key that the defaults have; missing only if the embedded file is wrong, which a test checks.
fn have<T>(value: Option<T>, key: &str) -> Result<T, Wrong> {
    value.ok_or_else(|| format!("`{key}` is missing"))
}

fn build(raw: RawConfig) -> Result<Settings, Wrong> {
    let tls = raw.tls.map(|t| Tls {
        cert: t.cert,
        key: t.key,
    });
    let listen = have(raw.listen, "listen")?;
    let listen: SocketAddr = listen.parse().map_err(|_| {
        format!("`listen` is \"{listen}\"; write an address and a port, as in \"127.0.0.1:8440\"")
    })?;
    if tls.is_none() && !listen.ip().is_loopback() {
        return Err(format!(
            "`listen` is {listen}, which others can reach, and there is no [tls]: tokens would \
             cross the network in the clear\nhelp: add [tls] with `cert` and `key`, or listen on \
             127.0.0.1"
        ));
    }
    let ttl = have(raw.leases.ttl, "leases.ttl")?.0;
    let hold = have(raw.leases.hold, "leases.hold")?.0;
    if hold.times(3) > ttl {
        return Err(format!(
            "`leases.hold` ({hold}) is more than a third of `leases.ttl` ({ttl}): one lost answer \
             could end every lease"
        ));
    }
    let (mut sites, mut terms) = (BTreeMap::new(), Vec::new());
    for (name, raw) in raw.site {
        let (site, config, preference) = site(&name, raw, tls.is_some(), listen)?;
        sites.insert(name, site);
        terms.push((preference, config));
    }
    terms.sort_by_key(|(preference, _)| *preference);
    let log = have(raw.log, "log")?;
    Ok(Settings {
        listen,
        state_dir: have(raw.state_dir, "state_dir")?,
        log: log.parse().map_err(|_| {
            format!(
                "`log` is \"{log}\"; write \"error\", \"warn\", \"info\", \"debug\" or \"trace\""
            )
        })?,
        http: Http {
            body_limit: usize::try_from(bytes(have(raw.http.body_limit, "http.body_limit")?.0))
                .map_err(|_| "`http.body_limit` is too large".to_owned())?,
            request_timeout: at_least(
                Span::from_secs(1),
                have(raw.http.request_timeout, "http.request_timeout")?.0,
                "http.request_timeout",
            )?,
            max_wait: have(raw.http.max_wait, "http.max_wait")?.0,
        },
        core: BrokerConfig {
            lease_ttl: ttl,
            lease_margin: have(raw.leases.margin, "leases.margin")?.0,
            hold,
            thrash_factor: have(raw.queue.gain, "queue.gain")?,
            max_open_per_user: have(raw.queue.per_user, "queue.per_user")?,
            provision: provision(raw.provision)?,
            sites: terms.into_iter().map(|(_, config)| config).collect(),
        },
        tokens: Tokens {
            user: have(raw.tokens.user, "tokens.user")?.0,
            pilot: have(raw.tokens.pilot, "tokens.pilot")?.0,
        },
        console_limit: bytes(have(raw.console.limit, "console.limit")?.0),
        keep_pilot_logs: have(raw.keep.pilot_logs, "keep.pilot_logs")?.0,
        sites,
        tls,
    })
}

fn provision(raw: RawProvision) -> Result<ProvisionPolicy, Wrong> {
    let back_off = have(raw.back_off, "provision.back_off")?;
    if back_off.is_empty() {
        return Err("`provision.back_off` is empty; write at least one span".to_owned());
    }
    Ok(ProvisionPolicy {
        round: have(raw.round, "provision.round")?.0,
        max_per_round: have(raw.max_per_round, "provision.max_per_round")?,
        attenuation: have(raw.attenuation, "provision.attenuation")?.max(1),
        back_off: back_off.into_iter().map(|s| s.0).collect(),
        pause_after_failures: have(raw.pause_after_failures, "provision.pause_after_failures")?,
        pause_after_died_young: have(
            raw.pause_after_died_young,
            "provision.pause_after_died_young",
        )?,
        look_up_every: have(raw.look_up_every, "provision.look_up_every")?.0,
        absent_listings: have(raw.absent_listings, "provision.absent_listings")?,
        absent_for: have(raw.absent_for, "provision.absent_for")?.0,
        close_after: have(raw.close_after, "provision.close_after")?.0,
        surplus_after: have(raw.surplus_after, "provision.surplus_after")?.0,
        avoid_node_after: have(raw.avoid_node_after, "provision.avoid_node_after")?,
        avoid_node_for: have(raw.avoid_node_for, "provision.avoid_node_for")?.0,
    })
}

const fn bytes(mib: u64) -> u64 {
    mib.saturating_mul(1 << 20)
}

/// One site: how pilots come there, what it agreed to, and its preference.
fn site(
    name: &SiteName,
    raw: RawSite,
    tls: bool,
    listen: SocketAddr,
) -> Result<(Site, SiteConfig, i32), Wrong> {
    let key = |key: &str| format!("site.{name}.{key}");
    let missing = |what: &str, example: &str| format!("`{}` is missing; add {example}", key(what));
    let walltime_min = have(raw.walltime_min, &key("walltime_min"))?.0;
    let walltime_max = have(raw.walltime_max, &key("walltime_max"))?.0;
    if walltime_max < walltime_min || walltime_max.is_zero() {
        return Err(format!(
            "`{}` ({walltime_max}) is less than `walltime_min` ({walltime_min})",
            key("walltime_max")
        ));
    }
    let slot = raw.slot.ok_or_else(|| {
        missing(
            "slot",
            "[site.NAME.slot] with cores, memory and disk: what a pilot job asks for",
        )
    })?;
    let slot = resources(slot);
    if slot.cores == 0 || slot.memory_mib == 0 {
        return Err(format!(
            "`{}` needs at least 1 core and 1 MiB of memory",
            key("slot")
        ));
    }
    let lrm = match raw
        .lrm
        .ok_or_else(|| missing("lrm", "\"sim\", or \"none\""))?
    {
        RawLrm::None => SiteLrm::None,
        RawLrm::Sim => {
            let sim = raw.sim.unwrap_or_default();
            let hypervisor = raw.hypervisor.ok_or_else(|| {
                missing(
                    "hypervisor",
                    "[site.NAME.hypervisor] with `kind = \"qemu\"` or \"null\"",
                )
            })?;
            if hypervisor.kind == HypervisorKind::Qemu && hypervisor.accelerator.is_none() {
                return Err(missing(
                    "hypervisor.accelerator",
                    "\"tcg\" or \"kvm\": it is never guessed",
                ));
            }
            if let Some(url) = &raw.broker_url {
                check_url(&key("broker_url"), url)?;
            } else if tls && listen.ip().is_unspecified() {
                return Err(missing(
                    "broker_url",
                    "the URL by which nodes reach this broker",
                ));
            }
            let job = JobSettings {
                broker_url: raw.broker_url,
                broker_ca: raw.broker_ca,
                store: raw
                    .store
                    .ok_or_else(|| missing("store", "a directory that all nodes see"))?,
                scratch: raw
                    .scratch
                    .ok_or_else(|| missing("scratch", "a directory on the nodes' own disks"))?,
                program: raw
                    .program
                    .ok_or_else(|| missing("program", "the path of `pilot`"))?,
                hypervisor,
            };
            SiteLrm::Sim {
                dir: sim
                    .dir
                    .ok_or_else(|| missing("sim.dir", "where its daemon serves"))?,
                program: sim
                    .program
                    .ok_or_else(|| missing("sim.program", "the path of `sim-lrm`"))?,
                queue: have(sim.queue, &key("sim.queue"))?,
                rerunnable: have(sim.rerunnable, &key("sim.rerunnable"))?,
                job,
            }
        }
        RawLrm::Slurm | RawLrm::Pbs | RawLrm::Htcondor => {
            return Err(format!(
                "`{}`: this version has no adapter for that LRM yet; it knows \"sim\" and \"none\"",
                key("lrm")
            ));
        }
    };
    let notice = have(raw.notice, &key("notice"))?.0;
    let margin = have(raw.margin, &key("margin"))?.0;
    let config = SiteConfig {
        name: name.clone(),
        lrm: match &lrm {
            SiteLrm::None => None,
            SiteLrm::Sim { .. } => Some("sim".to_owned()),
        },
        slot,
        walltime_min,
        walltime_max,
        notice,
        margin,
        overhead: have(raw.overhead, &key("overhead"))?.0,
        max_queued: have(raw.max_queued, &key("max_queued"))?,
        max_running: have(raw.max_running, &key("max_running"))?,
        idle_limit: Some(have(raw.idle_limit, &key("idle_limit"))?.0),
        enabled: have(raw.enabled, &key("enabled"))?,
    };
    let least = Span::from_millis(100);
    let site = Site {
        lrm,
        poll: at_least(least, have(raw.poll, &key("poll"))?.0, &key("poll"))?,
        command_timeout: at_least(
            least,
            have(raw.command_timeout, &key("command_timeout"))?.0,
            &key("command_timeout"),
        )?,
        notice,
        margin,
    };
    Ok((site, config, have(raw.preference, &key("preference"))?))
}

fn at_least(least: Span, span: Span, key: &str) -> Result<Span, Wrong> {
    if span < least {
        return Err(format!("`{key}` is {span}; the least is {least}"));
    }
    Ok(span)
}

fn resources(slot: SlotResources) -> Resources {
    Resources {
        cores: slot.cores,
        memory_mib: slot.memory.0,
        disk_mib: slot.disk.0,
    }
}

/// `https`, or plain `http` to a loopback address.
fn check_url(key: &str, url: &str) -> Result<(), Wrong> {
    let authority = |rest: &str| {
        rest.split(['/', '?', '#'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    if let Some(rest) = url.strip_prefix("https://") {
        if authority(rest).is_empty() {
            return Err(format!("`{key}` is \"{url}\", which names no host"));
        }
        return Ok(());
    }
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(format!(
            "`{key}` is \"{url}\"; write a URL, as in \"https://broker.example.org:8440\""
        ));
    };
    let authority = authority(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => &authority,
    };
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    if host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
        Ok(())
    } else {
        Err(format!(
            "`{key}` is \"{url}\": plain http is taken only to a loopback address, since tokens \
             cross it\nhelp: serve [tls] and write https"
        ))
    }
}
