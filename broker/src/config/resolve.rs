//! From what is written to [`Settings`]: defaults, absolute paths, and values that fit together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use broker_core::{BrokerConfig, ProvisionPolicy};
use protocol::text::{FileError, SpanText, parse_toml};
use protocol::time::Span;

use super::raw::{RawConfig, RawHttp, RawProvision, RawTls};
use super::sites::site;
use super::{DEFAULT_CONFIG, Http, Settings, Tls, Tokens};

/// Records of what has ended are kept so long at least: a client that had no answer to a submit, or
/// a pilot whose network was away, finds them again.
const LEAST_KEPT: Span = Span::from_mins(24 * 60);

/// A value that can't be: its dotted key, and what is wrong with it.
pub(super) struct Wrong {
    pub(super) key: String,
    pub(super) message: String,
}

impl Wrong {
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}

pub(super) fn settings(file: &str, base: &Path, text: &str) -> Result<Settings, FileError> {
    let raw = complete(file, base, text)?;
    build(raw).map_err(|wrong| FileError::at_key(file, text, &wrong.key, &wrong.message))
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
        *site = std::mem::take(site).with_sections_over(defaults.clone());
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
        if let Some(condor) = &mut site.htcondor {
            condor.bin_dir.as_mut().map(place);
        }
        if let Some(slurm) = &mut site.slurm {
            slurm.bin_dir.as_mut().map(place);
            slurm.conf.as_mut().map(place);
        }
        if let Some(pbs) = &mut site.pbs {
            pbs.bin_dir.as_mut().map(place);
        }
        // A bare name is searched in PATH on the node.
        if let Some(binary) = site.hypervisor.as_mut().and_then(|h| h.binary.as_mut())
            && binary.components().count() > 1
        {
            place(binary);
        }
    }
    Ok(raw)
}

/// A key that the defaults have; missing only if the embedded file is wrong, which a test checks.
pub(super) fn have<T>(value: Option<T>, key: &str) -> Result<T, Wrong> {
    value.ok_or_else(|| Wrong::new(key, format!("`{key}` is missing")))
}

/// The same for a span.
pub(super) fn span(value: Option<SpanText>, key: &str) -> Result<Span, Wrong> {
    have(value, key).map(|text| text.0)
}

/// The same for a span that can't be arbitrarily short.
pub(super) fn span_from(least: Span, value: Option<SpanText>, key: &str) -> Result<Span, Wrong> {
    let span = span(value, key)?;
    if span < least {
        return Err(Wrong::new(
            key,
            format!("`{key}` is {span}; the least is {least}"),
        ));
    }
    Ok(span)
}

fn build(raw: RawConfig) -> Result<Settings, Wrong> {
    let tls = raw.tls.map(|t| Tls {
        cert: t.cert,
        key: t.key,
    });
    let listen = listen(&have(raw.listen, "listen")?, tls.is_some())?;
    let ttl = span(raw.leases.ttl, "leases.ttl")?;
    let hold = span(raw.leases.hold, "leases.hold")?;
    if hold.times(3) > ttl {
        return Err(Wrong::new(
            "leases.hold",
            format!(
                "`leases.hold` ({hold}) is more than a third of `leases.ttl` ({ttl}): one lost \
                 answer could end every lease"
            ),
        ));
    }
    let (mut sites, mut terms) = (BTreeMap::new(), Vec::new());
    for (name, raw) in raw.site {
        let (site, config, preference) = site(&name, raw, tls.is_some(), listen)?;
        sites.insert(name, site);
        terms.push((preference, config));
    }
    terms.sort_by_key(|(preference, _)| *preference);
    Ok(Settings {
        listen,
        state_dir: have(raw.state_dir, "state_dir")?,
        log: level(&have(raw.log, "log")?)?,
        http: http(&raw.http)?,
        core: BrokerConfig {
            lease_ttl: ttl,
            lease_margin: span(raw.leases.margin, "leases.margin")?,
            hold,
            thrash_factor: have(raw.queue.gain, "queue.gain")?,
            max_open_per_user: have(raw.queue.per_user, "queue.per_user")?,
            provision: provision(raw.provision)?,
            sites: terms.into_iter().map(|(_, config)| config).collect(),
        },
        tokens: Tokens {
            user: span(raw.tokens.user, "tokens.user")?,
            pilot: span(raw.tokens.pilot, "tokens.pilot")?,
        },
        console_limit: bytes(have(raw.console.limit, "console.limit")?.0),
        keep_pilot_logs: span(raw.keep.pilot_logs, "keep.pilot_logs")?,
        keep_ended: span_from(LEAST_KEPT, raw.keep.ended, "keep.ended")?,
        sites,
        tls,
    })
}

fn listen(text: &str, tls: bool) -> Result<SocketAddr, Wrong> {
    let wrong = |message| Wrong::new("listen", message);
    let listen: SocketAddr = text.parse().map_err(|_| {
        wrong(format!(
            "`listen` is \"{text}\"; write an address and a port, as in \"127.0.0.1:8440\""
        ))
    })?;
    if tls || listen.ip().is_loopback() {
        return Ok(listen);
    }
    Err(wrong(format!(
        "`listen` is {listen}, which others can reach, and there is no [tls]: tokens would cross \
         the network in the clear\nhelp: add [tls] with `cert` and `key`, or listen on 127.0.0.1"
    )))
}

fn level(text: &str) -> Result<tracing::Level, Wrong> {
    text.parse().map_err(|_| {
        let levels = "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
        Wrong::new("log", format!("`log` is \"{text}\"; write {levels}"))
    })
}

fn http(raw: &RawHttp) -> Result<Http, Wrong> {
    let limit = bytes(have(raw.body_limit, "http.body_limit")?.0);
    let second = Span::from_secs(1);
    Ok(Http {
        body_limit: usize::try_from(limit)
            .map_err(|_| Wrong::new("http.body_limit", "`http.body_limit` is too large"))?,
        request_timeout: span_from(second, raw.request_timeout, "http.request_timeout")?,
        max_wait: span(raw.max_wait, "http.max_wait")?,
    })
}

fn provision(raw: RawProvision) -> Result<ProvisionPolicy, Wrong> {
    let back_off = have(raw.back_off, "provision.back_off")?;
    if back_off.is_empty() {
        let message = "`provision.back_off` is empty; write at least one span";
        return Err(Wrong::new("provision.back_off", message));
    }
    let died_young = have(
        raw.pause_after_died_young,
        "provision.pause_after_died_young",
    )?;
    Ok(ProvisionPolicy {
        round: span(raw.round, "provision.round")?,
        max_per_round: have(raw.max_per_round, "provision.max_per_round")?,
        attenuation: have(raw.attenuation, "provision.attenuation")?.max(1),
        back_off: back_off.into_iter().map(|s| s.0).collect(),
        pause_after_failures: have(raw.pause_after_failures, "provision.pause_after_failures")?,
        pause_after_died_young: died_young,
        look_up_every: span(raw.look_up_every, "provision.look_up_every")?,
        absent_listings: have(raw.absent_listings, "provision.absent_listings")?,
        absent_for: span(raw.absent_for, "provision.absent_for")?,
        close_after: span(raw.close_after, "provision.close_after")?,
        surplus_after: span(raw.surplus_after, "provision.surplus_after")?,
        avoid_node_after: have(raw.avoid_node_after, "provision.avoid_node_after")?,
        avoid_node_for: span(raw.avoid_node_for, "provision.avoid_node_for")?,
        refused_for: span(raw.refused_for, "provision.refused_for")?,
        cancel_every: span(raw.cancel_every, "provision.cancel_every")?,
        forgive_after: have(raw.forgive_after, "provision.forgive_after")?,
    })
}

const fn bytes(mib: u64) -> u64 {
    mib.saturating_mul(1 << 20)
}
