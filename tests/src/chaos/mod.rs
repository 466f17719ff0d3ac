//! `scripts/chaos`: a campaign of faults against a whole installation of real processes.
//!
//! ```text
//! seed -> plan (what goes wrong when), sites (profiles, notices), requests
//!   ground: broker + proxy + four batch systems + pilots + guests
//!   striker: does what the plan says        stream: keeps requests open
//!   onlooker: sees processes                story: what was done, to whom
//! then: faults stop, all requests end, all slots end -> verdict -> summary
//! ```
//!
//! The same seed makes the same plan, sites and requests. What the processes do meanwhile differs
//! from run to run: that is what a campaign is for; the simulation is what repeats exactly.

mod clock;
mod ground;
mod logs;
mod onlooker;
pub mod plan;
pub mod sites;
mod story;
mod stream;
mod strike;
mod summary;
mod verdict;
pub mod volume;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

pub use self::summary::{Ratios, Summary};

use self::ground::Ground;
use self::onlooker::Onlooker;
use self::plan::Planned;
use self::story::Story;
use self::stream::Stream;
use self::strike::Striker;
use self::verdict::Evidence;
use crate::harness::Binaries;
use crate::harness::wait::until;

/// Null guests in demand at once: more than the null sites' slots hold.
const NULL_REQUESTS: usize = 36;
/// Real guests in demand at once.
const REAL_REQUESTS: usize = 2;
/// So long before the faults stop, users ask for nothing new.
const LAST_FEED: Duration = Duration::from_secs(10);
/// Between two looks at what is due.
const STEP: Duration = Duration::from_millis(50);
/// How long requests that are open when the faults stop have to end.
const TO_END: Duration = Duration::from_secs(300);
/// How long pilot jobs have to be over after that.
const TO_LEAVE: Duration = Duration::from_secs(120);
/// How long wardens and sweeps have to clean up after that.
const TO_BE_CLEAN: Duration = Duration::from_secs(30);

/// What a campaign is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// What everything is drawn from.
    pub seed: u64,
    /// How long faults are made.
    pub length: Duration,
    /// Directory of the programs.
    pub programs: PathBuf,
    /// Directory of the guest that `scripts/guest/build` made.
    pub guest: PathBuf,
    /// There is a mount namespace of our own: one store may be a small file system.
    pub own_mounts: bool,
}

/// What came of a campaign.
#[derive(Debug)]
pub struct Outcome {
    /// The figures.
    pub summary: Summary,
    /// What was done when, to whom.
    pub story: String,
    /// The directory with all logs; kept when a promise was broken.
    pub kept: Option<PathBuf>,
}

/// Runs a campaign.
///
/// # Errors
/// It could not be run; a broken promise is no error, but in the summary.
pub async fn campaign(options: &Options) -> Result<Outcome> {
    let binaries = Binaries::in_dir(&options.programs)?;
    let sites = sites::draw(options.seed);
    let mut ground = Ground::start(sites, binaries, options.own_mounts).await?;
    let (mut story, mut summary) = (Story::default(), Summary::default());
    summary.seed = options.seed;
    summary.minutes = options.length.as_secs_f64() / 60.0;
    for site in &ground.sites {
        story.say(format!(
            "site {}: {}, {} guests, {} nodes, walltime {} s, notice {} s",
            site.name,
            site.profile,
            if site.real { "real" } else { "null" },
            site.nodes,
            site.walltime_s,
            site.notice_s
        ));
    }
    if ground.volume.is_none() {
        story.say("no small file system can be made here: no disk gets full");
    }
    let onlooker = Onlooker::start(&ground.scratch());
    let kernel = ground.place().join("kernel");
    let mut stream = Stream::new(
        options.seed,
        NULL_REQUESTS,
        REAL_REQUESTS,
        &kernel,
        &options.guest,
    );
    let ran = run(options, &mut ground, &mut stream, &mut story, &mut summary).await;
    let notes = onlooker.finish();
    let judged = match ran {
        Ok(()) => {
            let evidence = Evidence {
                ground: &ground,
                stream: &stream,
                story: &story,
                notes: &notes,
            };
            evidence.judge(&mut summary).await
        }
        Err(e) => Err(e),
    };
    if let Err(e) = judged {
        let kept = ground.keep();
        return Err(e.context(format!(
            "the campaign broke off; all logs are in {}\n{}",
            kept.display(),
            story.tell()
        )));
    }
    let late: Vec<String> = ground
        .slots()
        .await?
        .iter()
        .filter(|s| !s.used.overrun.is_zero())
        .map(|s| format!("{} by {}", s.submit_key, s.used.overrun))
        .collect();
    story.say(format!(
        "slots that ended after their walltime, within their notice: {}",
        late.join(", ")
    ));
    summary.faults.clone_from(&story.done);
    for (kind, calls) in ground.proxy.done() {
        // Cuts are counted by the story.
        if !kind.starts_with("cut") {
            summary.faults.insert(kind, calls);
        }
    }
    story.say(format!("most real guests at once: {}", notes.most_guests));
    let kept = (!summary.violations.is_empty()).then(|| ground.keep());
    let story = story.tell();
    Ok(Outcome {
        summary,
        story,
        kept,
    })
}

async fn run(
    options: &Options,
    ground: &mut Ground,
    stream: &mut Stream,
    story: &mut Story,
    summary: &mut Summary,
) -> Result<()> {
    let mut striker = Striker::default();
    let mut plan: VecDeque<Planned> = plan::draw(options.seed, options.length).into();
    let begin = clock::mono();
    let (mut round, mut told) = (0_u64, Duration::ZERO);
    loop {
        let now = begin.elapsed();
        if now >= options.length {
            break;
        }
        striker.undo(ground, story, false).await?;
        if let Some(planned) = plan.pop_front_if(|p| p.at <= now) {
            striker.strike(&planned, ground, stream, story).await?;
        }
        summary.violations.extend(ground.fallen()?);
        if round.is_multiple_of(6) && now + LAST_FEED < options.length {
            stream.feed(&ground.user).await;
        }
        if round.is_multiple_of(14) {
            stream.look(&ground.user).await;
        }
        if now >= told + Duration::from_secs(15) {
            told = now;
            eprintln!(
                "chaos: {:>4} s of {}: {} requests accepted, {} open, {} faults",
                now.as_secs(),
                options.length.as_secs(),
                stream.accepted.len(),
                stream.open.len(),
                story.done.values().sum::<u64>()
            );
        }
        round += 1;
        tokio::time::sleep(STEP).await;
    }
    settle(ground, stream, story, summary, &mut striker).await
}

/// Faults stop; everything is given the time to end.
async fn settle(
    ground: &mut Ground,
    stream: &mut Stream,
    story: &mut Story,
    summary: &mut Summary,
    striker: &mut Striker,
) -> Result<()> {
    story.say("the faults stop");
    eprintln!(
        "chaos: the faults stop; {} requests are open",
        stream.open.len()
    );
    striker.undo(ground, story, true).await?;
    ground.proxy.heal();
    let names: Vec<&'static str> = ground.sites.iter().map(|s| s.name).collect();
    for site in &names {
        let cleared = until("a batch system to behave again", TO_LEAVE, async || {
            ground.lrm(site, &["fault", "clear"]).await.map(Some)
        });
        cleared.await?;
    }
    while !striker.is_idle() {
        striker.undo(ground, story, true).await?;
        tokio::time::sleep(STEP).await;
    }
    let ended = until("all requests to end", TO_END, async || {
        stream.send(&ground.user).await;
        stream.look(&ground.user).await;
        let all = stream.open.is_empty() && !stream.has_unanswered();
        Ok(all.then_some(()))
    });
    if let Err(e) = ended.await {
        // Which, and why, is told when they are checked.
        story.say(format!("{e:#}"));
        return Ok(());
    }
    story.say("all requests have ended");
    summary.violations.extend(ground.fallen()?);
    for site in names {
        let over = until("all pilot jobs to be over", TO_LEAVE, async || {
            let jobs = ground.jobs(site).await?;
            let live = ["PENDING", "RUNNING", "COMPLETING", "HELD"];
            let mut ours = jobs.iter().filter(|j| j.key.is_some());
            Ok((!ours.any(|j| live.contains(&j.state.as_str()))).then_some(()))
        });
        if let Err(e) = over.await {
            summary.violations.push(format!("{site}: {e:#}"));
        }
    }
    story.say("all pilot jobs are over");
    clean(ground, story, summary).await
}

/// Nothing is left on the nodes; where a pilot and its warden were both killed, after the site's
/// epilogue.
async fn clean(ground: &Ground, story: &mut Story, summary: &mut Summary) -> Result<()> {
    let killed = story.killed_pilots();
    let is_clean = async || {
        let clean = until("the nodes to be as they were", TO_BE_CLEAN, async || {
            ground.clear_unbegun(&killed)?;
            Ok(ground.leftovers().is_empty().then_some(()))
        });
        clean.await.is_ok()
    };
    if is_clean().await {
        return Ok(());
    }
    let mut left = ground.leftovers();
    if story.has_orphans() {
        for site in &ground.sites {
            let said = ground.reclaim(site.name).await?;
            story.say(format!("{}: the site's epilogue: {said}", site.name));
        }
        left = ground.leftovers();
    }
    summary.leftovers = u64::try_from(left.len()).context("more is left than can be counted")?;
    for what in left {
        summary.violations.push(format!("left on a node: {what}"));
    }
    Ok(())
}
