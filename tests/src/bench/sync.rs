//! One broker with 1,000 pilots and 10,000 queued requests: how many syncs it answers, and how
//! late. The pilots are puppets ([`super::puppet`]) on the same machine, and take their part of
//! its processors.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol::api::{HandPilot, HandPilotRequest};
use protocol::ids::{IdempotencyKey, SiteName};
use protocol::time::Span;
use tokio::task::JoinSet;

use super::figure::{Figure, Target, ms, percentile};
use super::puppet::{Owners, Puppet};
use super::station::{SITE, Station};
use super::{Options, clock};
use crate::requests;

const NAME: &str = "sync";
const PILOTS: usize = 1000;
const QUEUED: usize = 10_000;
/// The pilots take one each, and more while they finish some.
const REQUESTS: usize = QUEUED + PILOTS + 1000;
/// Clients that submit at once.
const CLIENTS: usize = 32;
/// How long all pilots sync as fast as they are answered.
const STORM: Duration = Duration::from_secs(20);
/// The usual: each pilot syncs so often. Real ones sync every `hold` (15 s), and when they have news.
const PERIOD: Duration = Duration::from_secs(5);
const ROUNDS: u32 = 4;
/// In the usual part one sync of so many says that a guest has finished.
const FINISH: usize = 10;
/// No answer may be later, ms.
const LATEST: Target = Target::AtMost(1000.0);

type Played = (Puppet, Vec<f64>);

pub(super) async fn run(options: &Options) -> Result<Vec<Figure>> {
    raise_descriptor_limit();
    let station = Station::start(options, "").await?;
    let begin = clock::now();
    submit(&station).await?;
    let accepted = REQUESTS as f64 / begin.elapsed().as_secs_f64();
    let given = hand_pilots(&station).await?;
    eprintln!("bench: {REQUESTS} requests and {PILOTS} pilot jobs are recorded");

    let owners = Owners::default();
    let (puppets, registered) = register(&station, given, &owners).await?;
    let (puppets, granted) = all(puppets, |_, puppet| take_a_guest(puppet)).await?;
    eprintln!("bench: {PILOTS} pilots have a guest each");
    let begin = clock::now();
    let (puppets, storm) = all(puppets, |_, puppet| as_fast_as_answered(puppet)).await?;
    let per_second = storm.len() as f64 / begin.elapsed().as_secs_f64();
    let (puppets, usual) = all(puppets, at_their_pace).await?;
    // Those that have just finished a guest have had no time to get the next one.
    let finished = PILOTS * ROUNDS as usize / FINISH;
    ensure!(
        REQUESTS - PILOTS - finished >= QUEUED && puppets.len() == PILOTS,
        "too little was queued"
    );
    let memory = station.broker_memory()?;

    let many = "1,000 pilots, 10,000 queued";
    let mut figures = vec![Figure::one(
        NAME,
        format!("{many}; all sync as fast as they are answered"),
        per_second,
        "/s",
    )];
    for (what, took) in [
        ("as fast as answered", &storm),
        ("all ask for their first guest at once", &granted),
        ("each every 5 s, a tenth finish a guest", &usual),
    ] {
        for (name, percent) in [
            ("median", 50.0),
            ("99th percentile", 99.0),
            ("slowest", 100.0),
        ] {
            let mut figure = Figure::one(
                NAME,
                format!("{what}: {name}"),
                percentile(took, percent),
                "ms",
            );
            figure.samples = took.len();
            figure.target = (percent >= 100.0).then_some(LATEST);
            figures.push(figure);
        }
    }
    figures.push(Figure {
        samples: registered.len(),
        ..Figure::one(
            NAME,
            "all register at once: slowest",
            percentile(&registered, 100.0),
            "ms",
        )
    });
    figures.push(Figure::one(
        NAME,
        "requests accepted, 32 clients at once",
        accepted,
        "/s",
    ));
    figures.push(Figure::one(
        NAME,
        format!("{many}: memory of the broker"),
        memory,
        "MB",
    ));
    Ok(figures)
}

async fn submit(station: &Station) -> Result<()> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let user = station.user.clone();
        clients.spawn(async move {
            let spec = requests::null("queued", Span::from_mins(60));
            for n in (client..REQUESTS).step_by(CLIENTS) {
                let key = IdempotencyKey::new(&format!("bench-{n}"))?;
                user.submit(&key, &spec)
                    .await
                    .context("failed to queue a request")?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

async fn hand_pilots(station: &Station) -> Result<Vec<HandPilot>> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let admin = station.admin.clone();
        clients.spawn(async move {
            let mut given = Vec::new();
            for _ in (client..PILOTS).step_by(CLIENTS) {
                let site = SiteName::new(SITE)?;
                given.push(admin.hand_pilot(&HandPilotRequest { site }).await?);
            }
            anyhow::Ok(given)
        });
    }
    let mut all = Vec::new();
    while let Some(given) = clients.join_next().await {
        all.extend(given??);
    }
    Ok(all)
}

/// All at once.
async fn register(
    station: &Station,
    given: Vec<HandPilot>,
    owners: &Owners,
) -> Result<(Vec<Puppet>, Vec<f64>)> {
    let mut tasks = JoinSet::new();
    for one in given {
        let (owners, address) = (Arc::clone(owners), station.address);
        tasks.spawn(async move {
            let (puppet, took) = Puppet::register(address, one, owners).await?;
            Ok((puppet, vec![ms(took)]))
        });
    }
    gather(tasks).await
}

/// The first sync gets the lease, the second says that its guest runs.
async fn take_a_guest(mut puppet: Puppet) -> Result<Played> {
    let mut took = Vec::new();
    for _ in 0..2 {
        took.push(ms(puppet.sync().await?));
        ensure!(puppet.is_busy(), "a pilot with room got no guest");
    }
    Ok((puppet, took))
}

async fn all<F>(
    puppets: Vec<Puppet>,
    play: impl Fn(usize, Puppet) -> F,
) -> Result<(Vec<Puppet>, Vec<f64>)>
where
    F: Future<Output = Result<Played>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (n, puppet) in puppets.into_iter().enumerate() {
        tasks.spawn(play(n, puppet));
    }
    gather(tasks).await
}

async fn gather(mut tasks: JoinSet<Result<Played>>) -> Result<(Vec<Puppet>, Vec<f64>)> {
    let (mut puppets, mut all) = (Vec::new(), Vec::new());
    while let Some(played) = tasks.join_next().await {
        let (puppet, took) = played??;
        puppets.push(puppet);
        all.extend(took);
    }
    Ok((puppets, all))
}

async fn as_fast_as_answered(mut puppet: Puppet) -> Result<Played> {
    let begin = clock::now();
    let mut took = Vec::new();
    while begin.elapsed() < STORM {
        took.push(ms(puppet.sync().await?));
    }
    Ok((puppet, took))
}

/// Spread evenly over the period.
async fn at_their_pace(n: usize, mut puppet: Puppet) -> Result<Played> {
    let begin = clock::now() + PERIOD.mul_f64(n as f64 / PILOTS as f64);
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        tokio::time::sleep_until((begin + PERIOD * round).into()).await;
        let finishes = puppet.is_busy() && (n + round as usize).is_multiple_of(FINISH);
        took.push(ms(if finishes {
            puppet.finish().await?
        } else {
            puppet.sync().await?
        }));
    }
    Ok((puppet, took))
}

/// A connection for each pilot; where that is not allowed, connecting fails and says so.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        eprintln!("bench: the limit of open files can't be raised: {e}");
    }
}
