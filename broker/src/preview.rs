//! `pilot-broker submit-preview`: the exact job and command line of a site's first submit, with
//! nothing submitted and nothing written.
//!
//! The order comes from the broker's own core, which is given this one site and one request, so
//! it is what a fresh broker would decide.

use broker_core::records::Meta;
use broker_core::{Broker, Effect, Event, PilotOrder, Records};
use lrm_adapters::{LocalResourceManager, Lrm};
use protocol::ids::{IdError, SiteName, UserName, WorkspaceId};
use protocol::lrm::PilotJob;
use protocol::resources::Resources;
use protocol::time::{Span, Timestamp};
use protocol::workspace::{AdvanceTo, Artefact, Image, WorkspaceSpec};
use serde::Serialize;

use crate::config::{JobSettings, Settings, Site};
use crate::jobs::JobDirs;
use crate::pilot_jobs;

/// Stands where a broker's own mark will stand in its submit keys.
const INSTANCE: &str = "00000000";
/// Memory of the request that is made up, MiB: fits into any slot that is of use.
const MEMORY_MIB: u64 = 64;
/// The core may want to wait a moment between two steps.
const STEPS: u32 = 120;

/// Nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// There is no such site.
    #[error("cannot find site `{site}` in the configuration; it knows: {known}")]
    NoSuchSite {
        /// The name.
        site: SiteName,
        /// Those that there are.
        known: String,
    },
    /// Pilots there are started by hand.
    #[error(
        "cannot submit to site `{site}`: `lrm = \"none\"` says that its pilots are started by hand; see \
         `pilot-submit admin new-pilot`"
    )]
    NoLrm {
        /// The site.
        site: SiteName,
    },
    /// The core would submit nothing.
    #[error("cannot find what would be submitted to site `{site}`: {why}")]
    NoOrder {
        /// The site.
        site: SiteName,
        /// The core's words.
        why: String,
    },
    /// A name was not one.
    #[error("cannot name what would be submitted")]
    Name {
        /// Why.
        #[from]
        source: IdError,
    },
}

/// A site that pilots are submitted to.
pub struct Target<'a> {
    /// Its name.
    pub name: &'a SiteName,
    /// Its configuration.
    pub site: &'a Site,
    /// What its jobs need to know.
    pub job: &'a JobSettings,
    /// Its LRM.
    pub lrm: Lrm,
}

/// Finds a site with an LRM.
///
/// # Errors
/// There is no such site, or it has none.
pub fn target<'a>(settings: &'a Settings, name: &'a SiteName) -> Result<Target<'a>, PreviewError> {
    let Some(site) = settings.sites.get(name) else {
        let known: Vec<&str> = settings.sites.keys().map(SiteName::as_str).collect();
        return Err(PreviewError::NoSuchSite {
            site: name.clone(),
            known: known.join(", "),
        });
    };
    match pilot_jobs::adapter(site) {
        Some((lrm, job)) => Ok(Target {
            name,
            site,
            job,
            lrm,
        }),
        None => Err(PreviewError::NoLrm { site: name.clone() }),
    }
}

/// How nodes reach the broker where a site says nothing else, as `serve` makes it.
pub fn broker_url(settings: &Settings) -> String {
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    format!("{scheme}://{}", settings.listen)
}

/// What would be submitted.
#[derive(Debug, Serialize)]
pub struct Preview {
    /// The site.
    pub site: SiteName,
    /// Its LRM.
    pub lrm: &'static str,
    /// The submit key; another one in earnest.
    pub key: String,
    /// What is asked for, on each node.
    pub resources: Resources,
    /// How many nodes are asked for.
    pub nodes: u32,
    /// How long is asked for.
    #[serde(rename = "walltime_ms")]
    pub walltime: Span,
    /// The shortest that would do, for LRMs that can cut a job to fit; none: all of it.
    #[serde(rename = "min_walltime_ms")]
    pub min_walltime: Option<Span>,
    /// The command and the job, as the adapter would send them.
    pub text: String,
}

/// Makes the preview for a request that needs `run_time`; for one that needs more than any slot
/// has if none is given.
///
/// # Errors
/// See [`PreviewError`].
pub fn preview(
    settings: &Settings,
    name: &SiteName,
    run_time: Option<Span>,
) -> Result<Preview, PreviewError> {
    let target = target(settings, name)?;
    let order = first_order(settings, name, run_time)?;
    let dirs = JobDirs::at(&settings.state_dir);
    let job: PilotJob =
        pilot_jobs::pilot_job(order, target.site, target.job, &dirs, &broker_url(settings));
    Ok(Preview {
        site: name.clone(),
        lrm: target.lrm.capabilities().name,
        key: job.key.to_string(),
        resources: job.resources,
        nodes: job.nodes,
        walltime: job.walltime,
        min_walltime: job.min_walltime,
        text: target.lrm.submit_preview(&job),
    })
}

/// The first order of a fresh broker with this site alone and one request.
fn first_order(
    settings: &Settings,
    name: &SiteName,
    run_time: Option<Span>,
) -> Result<PilotOrder, PreviewError> {
    let mut config = settings.core.clone();
    config.sites.retain(|site| site.name == *name);
    let no_order = |why: String| PreviewError::NoOrder {
        site: name.clone(),
        why,
    };
    let Some(site) = config.sites.first_mut() else {
        return Err(no_order("the core does not know the site".to_owned()));
    };
    // What would be submitted if it were: also of a site that is switched off as yet.
    site.enabled = true;
    site.max_queued = site.max_queued.max(1);
    site.max_running = site.max_running.max(1);
    let spec = WorkspaceSpec {
        name: "preview".to_owned(),
        image: Image {
            kernel: Some(Artefact {
                url: "/preview".to_owned(),
                digest: None,
            }),
            ..Image::default()
        },
        resources: Resources {
            cores: 1,
            memory_mib: MEMORY_MIB.min(site.slot.memory_mib),
            disk_mib: 0,
        },
        run_time: run_time.unwrap_or_else(|| site.walltime_max.times(2)),
        policy: Default::default(),
        advance_to: AdvanceTo::Finished,
        network: Default::default(),
        context: Default::default(),
    };
    let records = Records::empty(Meta::new(INSTANCE));
    let mut broker = Broker::load(config, records);
    let mut now = Timestamp::from_secs(0);
    let submit = Event::Submit {
        id: WorkspaceId::new("ws-preview")?,
        owner: UserName::new("preview")?,
        key: None,
        spec: Box::new(spec),
    };
    let ticks = std::iter::repeat_n(Event::Tick, STEPS as usize);
    for event in [Event::Started, submit].into_iter().chain(ticks) {
        for effect in broker.step(now, event).effects {
            match effect {
                Effect::SubmitPilot(order) => return Ok(order),
                Effect::LookUp { .. } | Effect::CancelPilot { .. } | Effect::Wake(_) => {}
            }
        }
        now = now + Span::from_secs(1);
    }
    let why = broker
        .explain_site(now, name)
        .map_or_else(String::new, |view| view.sentences.join("; "));
    Err(no_order(why))
}
