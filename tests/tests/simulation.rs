//! The whole system on a virtual clock: every promise is checked at every step.
//!
//! A failing seed prints its story and the command that replays it (`cargo run -p e2e --bin sim`).

use e2e::simulation::{Options, run};

fn options(seed: u64) -> Options {
    Options {
        slots: 200,
        requests: 500,
        seed,
        faults: 100,
    }
}

fn passes(options: Options) {
    match run(options) {
        Ok(summary) => {
            println!("seed {}: {summary}", options.seed);
            assert!(summary.slots >= options.slots && summary.requests >= options.requests);
            // A run in which nothing was suspended or resumed would prove little.
            assert!(summary.suspends > 50 && summary.resumes > 50, "{summary}");
            assert!(
                summary.checkpoints > 50 && summary.from_checkpoints > 0,
                "{summary}"
            );
        }
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn promises_hold_under_slurm_and_slurm_with_cgroups() {
    (0..2).for_each(|n| passes(options(n * 4)));
}

#[test]
fn promises_hold_under_slurm_with_cgroups_and_pbs() {
    (0..2).for_each(|n| passes(options(n * 4 + 1)));
}

#[test]
fn promises_hold_under_pbs_and_htcondor() {
    (0..2).for_each(|n| passes(options(n * 4 + 2)));
}

#[test]
fn promises_hold_under_htcondor_and_slurm() {
    (0..2).for_each(|n| passes(options(n * 4 + 3)));
}

#[test]
fn without_faults_nothing_is_lost_or_killed_by_accident() {
    let summary = run(Options {
        faults: 0,
        ..options(4)
    })
    .unwrap_or_else(|v| panic!("{v}"));
    assert_eq!(
        (
            summary.broker_crashes,
            summary.lost_messages,
            summary.lrm_lies
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_seed_plays_the_same_every_time() {
    let once = || {
        run(Options {
            slots: 40,
            requests: 60,
            seed: 9,
            faults: 100,
        })
        .unwrap_or_else(|v| panic!("{v}"))
    };
    assert_eq!(once(), once());
}
