//! The whole system on a virtual clock: every promise is checked at every step, against what is
//! really there.
//!
//! A failing seed prints its story and the command that replays it.

use e2e::simulation::{Fault, Faults, Options, Summary, run};

fn options(seed: u64) -> Options {
    Options {
        slots: 200,
        requests: 500,
        seed,
        faults: 100,
        breaks: None,
    }
}

fn passes(options: Options) -> Summary {
    let summary = run(options).unwrap_or_else(|violation| panic!("{violation}"));
    println!("seed {}: {summary}", options.seed);
    assert!(summary.slots >= options.slots && summary.requests >= options.requests);
    // A run in which nothing was suspended or resumed would prove little.
    assert!(
        summary.suspends.made > 50 && summary.resumes > 50 && summary.evictions > 50,
        "{summary}"
    );
    assert!(
        summary.checkpoints > 50 && summary.flushes > 50,
        "{summary}"
    );
    // Without a fault nobody is lost.
    assert!(
        summary.from_checkpoints > 0 || options.faults == 0,
        "{summary}"
    );
    summary
}

#[test]
fn promises_hold_under_slurm_and_slurm_with_cgroups() {
    passes(options(0));
}

#[test]
fn promises_hold_under_slurm_with_cgroups_and_pbs() {
    passes(options(5));
}

#[test]
fn promises_hold_under_pbs_and_htcondor() {
    passes(options(6));
}

#[test]
fn promises_hold_under_htcondor_and_slurm() {
    passes(options(7));
}

#[test]
fn promises_hold_when_everything_goes_wrong_twice_as_often() {
    let mut faults = Faults::default();
    for seed in 20..22 {
        let options = Options {
            slots: 100,
            requests: 200,
            faults: 200,
            ..options(seed)
        };
        faults.add(&passes(options).faults);
    }
    for fault in Fault::ALL {
        assert!(faults.of(*fault) > 0, "never: {}", fault.text());
    }
}

#[test]
fn without_faults_nothing_is_lost_or_killed_by_accident() {
    let summary = passes(Options {
        faults: 0,
        ..options(4)
    });
    assert_eq!(summary.faults.total(), 0);
    // What the sites' own users and administrators do is no fault, and excuses nothing.
    assert_eq!((summary.kills.excused, summary.overruns), (0, 0));
    assert_eq!(summary.suspends.failed, 0);
}

#[test]
fn a_seed_plays_the_same_every_time() {
    let once = || {
        run(Options {
            slots: 40,
            requests: 60,
            ..options(9)
        })
        .unwrap_or_else(|v| panic!("{v}"))
    };
    assert_eq!(once(), once());
}
