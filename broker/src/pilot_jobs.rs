//! Making pilot jobs: from a site's configuration to the adapter that submits there, and from an
//! order to the whole job. The LRM loops, `submit-preview` and `doctor` all use these, so what
//! is shown and tried is what is submitted.

use broker_core::PilotOrder;
use lrm_adapters::Lrm;
use lrm_adapters::htcondor::Htcondor;
use lrm_adapters::pbs::Pbs;
use lrm_adapters::sim::{SimLrm, SimLrmSettings};
use lrm_adapters::slurm::Slurm;
use protocol::lrm::PilotJob;
use protocol::slot_file::BrokerAccess;

use crate::config::{JobSettings, Site, SiteLrm};
use crate::jobs::{JobDirs, TOKEN_FILE};

/// The adapter to a site's LRM, and what the pilot jobs there need to know; none where pilots are
/// started by hand.
pub fn adapter(site: &Site) -> Option<(Lrm, &JobSettings)> {
    match &site.lrm {
        SiteLrm::None => None,
        SiteLrm::Sim {
            dir,
            program,
            queue,
            rerunnable,
            job,
        } => {
            let mut sim = SimLrmSettings::new(program.clone(), dir.clone());
            sim.queue.clone_from(queue);
            sim.rerunnable = *rerunnable;
            sim.timeout = site.command_timeout;
            sim.prefix.clone_from(&site.command_prefix);
            Some((Lrm::Sim(SimLrm::new(sim)), job))
        }
        SiteLrm::Slurm { settings, job } => {
            let mut slurm = (**settings).clone();
            slurm.timeout = site.command_timeout;
            slurm.prefix.clone_from(&site.command_prefix);
            Some((Lrm::Slurm(Slurm::new(slurm)), job))
        }
        SiteLrm::Pbs { settings, job } => {
            let mut pbs = (**settings).clone();
            pbs.timeout = site.command_timeout;
            pbs.prefix.clone_from(&site.command_prefix);
            Some((Lrm::Pbs(Pbs::new(pbs)), job))
        }
        SiteLrm::Htcondor { settings, job } => {
            let mut condor = (**settings).clone();
            condor.timeout = site.command_timeout;
            condor.prefix.clone_from(&site.command_prefix);
            Some((Lrm::Htcondor(Box::new(Htcondor::new(condor))), job))
        }
    }
}

/// The whole job of an order. `url` is how nodes reach the broker where the site says nothing
/// else.
pub fn pilot_job(
    order: PilotOrder,
    site: &Site,
    job: &JobSettings,
    dirs: &JobDirs,
    url: &str,
) -> PilotJob {
    let directory = dirs.path(&order.key);
    PilotJob {
        program: job.program.clone(),
        broker: BrokerAccess {
            url: job.broker_url.clone().unwrap_or_else(|| url.to_owned()),
            token_file: directory.join(TOKEN_FILE),
            ca_file: job.broker_ca.clone(),
        },
        directory,
        resources: order.resources,
        nodes: order.nodes,
        walltime: order.walltime,
        min_walltime: (order.min_walltime < order.walltime).then_some(order.min_walltime),
        notice: site.notice,
        margin: site.margin,
        hypervisor: job.hypervisor.clone(),
        scratch: job.scratch.clone(),
        store: job.store.clone(),
        avoid: order.avoid,
        key: order.key,
        site: order.site,
    }
}
