//! What must hold on Xen when something is killed: the guest goes on, or is gone with its last good
//! state, and nothing of it is left. Run as root inside of a dom0, by the tests of the part `xen`.

mod guests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guests::{Site, counts_to, ended, eventually, first_seen, order, suspend};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pilot::hypervisor::{ExitHow, Helper};
use pilot::journal::What;
use pilot::reclaim::{Effort, reclaim};
use protocol::slot_file::{HypervisorKind, XEN_HELPER};

/// Bytes of a guest's stream of 84 MB after which something is killed.
const MOMENTS: [u64; 2] = [0, 50 << 20];
/// Set in a process that is to be killed: it works in this directory.
const VICTIM: &str = "WP_XEN_VICTIM";

fn site() -> Site {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests kill what is root's"
    );
    assert_eq!(leftovers(), [""; 0], "something was there before");
    Site::new(HypervisorKind::Xen)
}

fn helper() -> Helper {
    Helper::at(Path::new(XEN_HELPER))
}

/// Processes of this program whose arguments have that word.
fn processes(program: &str, word: &str) -> Vec<Pid> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        let is_it = words[0].ends_with(program.as_bytes()) && words.contains(&word.as_bytes());
        is_it.then(|| Pid::from_raw(pid))
    })
    .collect()
}

fn kill_all(program: &str, word: &str) -> usize {
    let found = processes(program, word);
    for pid in &found {
        // It may have ended by itself.
        let _ = kill(*pid, Signal::SIGKILL);
    }
    found.len()
}

/// Domains, entries of the registry and loop devices that the driver makes.
fn leftovers() -> Vec<String> {
    let listed = Command::new("xl").arg("list").output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut left: Vec<String> = listed
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with("Domain-0 "))
        .map(str::to_owned)
        .collect();
    let registry = fs::read_dir("/run/workspace-pilot/xen")
        .into_iter()
        .flatten()
        .flatten();
    left.extend(registry.map(|e| e.path()).filter_map(|path| {
        let hidden = path.file_name()?.to_str()?.starts_with('.');
        (!hidden).then(|| path.display().to_string())
    }));
    for block in fs::read_dir("/sys/block").unwrap().flatten() {
        left.extend(fs::read_to_string(block.path().join("loop/backing_file")));
    }
    left
}

async fn nothing_is_left() {
    let mut last = Vec::new();
    eventually("nothing is left", || {
        let now = leftovers();
        if now != last {
            println!("left: {now:?}");
            last.clone_from(&now);
        }
        now.is_empty().then_some(())
    })
    .await;
}

/// Waits until the stream of a save is that long, or the save is over.
async fn stream_reaches(site: &Site, bytes: u64, name: &str) {
    let states = site.store.join("states");
    eventually("a stream in the store", || {
        let begun = fs::read_dir(&states)
            .ok()?
            .flatten()
            .find(|e| e.file_name().to_string_lossy().contains(name))?;
        let length = fs::metadata(begun.path().join("memory")).map_or(0, |m| m.len());
        let is_over = !begun.file_name().to_string_lossy().starts_with(".tmp-");
        (length >= bytes.max(1) || is_over).then_some(())
    })
    .await;
}

async fn a_save_survives_that_death(program: &str, word: &str) {
    let site = site();
    let mut generation = 0;
    for moment in MOMENTS {
        generation += 1;
        let slot = site.slot(&format!("s{generation}"));
        let spec = site.spec_with_disk("");
        let (guest, mut events) = slot.run(generation, &spec, None).await;
        let seen = first_seen(&guest).await;
        let name = format!("ws-1.g{generation}");
        let (made, killed) = tokio::join!(guest.suspend(order(&guest)), async {
            stream_reaches(&site, moment, &name).await;
            kill_all(program, word)
        });
        println!("{moment}: {killed} killed, {made:?}");
        match made {
            Ok(_) => assert_eq!(site.states(), [name]),
            Err(e) if e.guest_alive => {
                assert_eq!(site.states(), [""; 0]);
                counts_to(&guest, seen.n + 5).await;
                // As good as ever.
                suspend(&guest).await;
                assert_eq!(site.states(), [name]);
            }
            Err(_) => assert_eq!(site.states(), [""; 0]),
        }
        let how = ended(&mut events).await;
        println!("{moment}: {how:?}");
        nothing_is_left().await;
        for state in site.states() {
            slot.hypervisor
                .discard(&state.parse().unwrap())
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn killing_xl_in_a_save() {
    a_save_survives_that_death("xl", "save").await;
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn killing_the_helper_of_a_save() {
    a_save_survives_that_death("pilot-xen-helper", "save").await;
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn killing_the_helper_of_a_guest_ends_the_guest() {
    let site = site();
    let slot = site.slot("s1");
    let (guest, mut events) = slot.run(1, &site.spec_with_disk(""), None).await;
    first_seen(&guest).await;
    assert_eq!(kill_all("pilot-xen-helper", "guest"), 1);
    match ended(&mut events).await {
        ExitHow::Crashed(reason) => assert!(reason.text.contains("helper"), "{reason}"),
        other => panic!("{other:?}"),
    }
    nothing_is_left().await;
}

/// A process that runs a guest and suspends it, to be killed.
fn victim(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "the_victim", "--nocapture"])
        .env(VICTIM, dir)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "is killed by the others"]
async fn the_victim() {
    #[expect(clippy::disallowed_methods, reason = "so it knows that it is one")]
    let Some(dir) = std::env::var_os(VICTIM).map(PathBuf::from) else {
        return;
    };
    let site = Site::at(&dir, HypervisorKind::Xen);
    let slot = site.slot("s1");
    let helper = PathBuf::from(XEN_HELPER);
    let _stays_open = slot.journal.intend(What::Domains { helper }).unwrap();
    let (guest, _events) = slot.run(1, &site.spec_with_disk(""), None).await;
    first_seen(&guest).await;
    fs::write(dir.join("runs"), "").unwrap();
    suspend(&guest).await;
    std::future::pending::<()>().await;
}

async fn the_pilot_dies(with_its_helpers: bool) {
    for moment in MOMENTS {
        let site = site();
        let mut victim = victim(site.root.path());
        let runs = site.root.path().join("runs");
        eventually("it runs", || runs.exists().then_some(())).await;
        stream_reaches(&site, moment, "ws-1.g1").await;
        victim.kill().unwrap();
        if with_its_helpers {
            // As a batch system does with all that is in a job's control group.
            for (program, word) in [
                ("pilot-xen-helper", "guest"),
                ("pilot-xen-helper", "save"),
                ("xl", "save"),
                ("libxl-save-helper", "--save-domain"),
            ] {
                kill_all(program, word);
            }
            victim.wait().unwrap();
            if moment == 0 {
                // The warden, or the site's epilogue: by the journal.
                let scratch = site.root.path().join("s1");
                let report = reclaim(&scratch, Effort::default()).unwrap();
                println!("{report}");
                assert!(report.is_clean() && !scratch.exists(), "{report}");
                assert!(
                    report.removed.iter().any(|r| r.starts_with("domain wp-")),
                    "{report}"
                );
            }
            // The next pilot's start: by the registry alone.
            eventually("a sweep", || {
                let swept = helper().sweep_now().unwrap();
                println!("{moment}: {swept:?}");
                leftovers().is_empty().then_some(())
            })
            .await;
        } else {
            victim.wait().unwrap();
        }
        nothing_is_left().await;
        // A state that is there is whole.
        for name in site.states().iter().filter(|n| !n.starts_with(".tmp-")) {
            let manifest = site.store.join("states").join(name).join("manifest.json");
            assert!(manifest.is_file(), "{name} has no manifest");
        }
    }
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn a_pilot_that_is_killed_in_a_save_leaves_no_domain() {
    the_pilot_dies(false).await;
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn a_job_that_is_killed_in_a_save_leaves_what_a_sweep_removes() {
    the_pilot_dies(true).await;
}

#[tokio::test]
#[ignore = "needs a Xen control domain"]
async fn a_guest_that_does_not_fit_is_refused_and_nothing_is_taken_from_dom0() {
    let site = site();
    let slot = site.slot("s1");
    let before = helper().info().await.unwrap();
    let mut spec = site.spec("");
    spec.resources.memory_mib = before.free_mib;
    let staged = slot
        .hypervisor
        .stage(slot.request(1, &spec, None))
        .await
        .unwrap();
    let e = slot.hypervisor.start(staged).await.unwrap_err();
    assert!(e.to_string().contains("MiB free"), "{e}");
    assert_eq!(helper().info().await.unwrap().free_mib, before.free_mib);
    nothing_is_left().await;
}
