//! Bad input of every kind: a clear error, or a clear reason, and nothing lost.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result};
use e2e::harness::wait::{PATIENCE, until};
use e2e::harness::{Binaries, Guests, Installation, Setup};
use e2e::requests;
use pilot_submit::client::{Client, ClientSettings, Token};
use protocol::codes::{ErrorCode, ReasonCode, exit};
use protocol::ids::EventSeq;
use protocol::time::Span;
use protocol::workspace::{Artefact, WorkspaceState};

fn setup() -> Setup {
    Setup {
        walltime: "20s",
        notice: "8s",
        idle_limit: "2s",
        lease_ttl: "6s",
        overhead: "1s",
        ..Setup::new(Guests::Null)
    }
}

fn run(program: &Path, args: &[&str]) -> Result<Output> {
    Command::new(program)
        .args(args)
        .env_remove("PILOT_BROKER")
        .output()
        .with_context(|| format!("failed to run {}", program.display()))
}

/// The program refused the file: by exit code, and by a message with the place and these words.
fn refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::USAGE), "{output:?}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in:\n{said}");
    }
}

const REQUEST: &str = r#"name = "guest"
run_time = "5s"
[image]
kernel = "/proc/self/exe"
[resources]
memory = "64 MiB"
"#;

const SLOT: &str = r#"version = 1
site = "lab"
submit_key = "wp-1"
incarnation = "1"
node = "n1"
[broker]
url = "http://127.0.0.1:1"
token_file = "/nonexistent"
[resources]
cores = 1
memory = "1 GiB"
disk = "1 GiB"
[clock]
start = "2030-01-01T00:00:00Z"
end = "2030-01-01T01:00:00Z"
notice = "5s"
[paths]
scratch = "/nonexistent/scratch"
store = "/nonexistent/store"
[hypervisor]
kind = "null"
"#;

const BROKER: &str = r#"listen = "127.0.0.1:0"
[leases]
ttl = "60s"
"#;

const LRM: &str = r#"profile = "slurm"
kill_wait = "5s"
[[nodes]]
name = "n1"
cores = 1
memory = "1 GiB"
disk = "1 GiB"
"#;

#[test]
fn unknown_keys_and_negative_spans_are_refused_with_their_place() -> Result<()> {
    let it = Binaries::find()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("bad.toml");
    let path = file.display().to_string();
    let lrm_dir = dir.path().join("lrm").display().to_string();
    let commands: [(&Path, Vec<&str>, &str, &str, &str); 5] = [
        (&it.submit, vec!["check", &path], REQUEST, "run_time", "5s"),
        (
            &it.pilot,
            vec!["run", "--slot", &path],
            SLOT,
            "notice",
            "5s",
        ),
        (
            &it.broker,
            vec!["check-config", "--config", &path],
            BROKER,
            "ttl",
            "60s",
        ),
        (
            &it.broker,
            vec!["serve", "--config", &path],
            BROKER,
            "ttl",
            "60s",
        ),
        (
            &it.lrm,
            vec!["--dir", &lrm_dir, "serve", "--config", &path],
            LRM,
            "kill_wait",
            "5s",
        ),
    ];
    for (program, args, good, key, value) in commands {
        let line = good.lines().position(|l| l.starts_with(key));
        let line = line.context("the key is in the text")? + 1;
        let place = format!("{line}");
        // A key that nobody knows: the place, the line itself, and a caret below it.
        let typo = format!("{key}x");
        fs::write(&file, good.replacen(key, &typo, 1))?;
        let caret = "^";
        refused(&run(program, &args)?, &["bad.toml", &place, &typo, caret]);
        // A span that lies before now.
        let negative = format!("\"-{value}\"");
        fs::write(&file, good.replacen(&format!("\"{value}\""), &negative, 1))?;
        refused(
            &run(program, &args)?,
            &["bad.toml", &place, &negative, caret],
        );
        // Not TOML at all.
        fs::write(&file, "= =\n")?;
        refused(&run(program, &args)?, &["bad.toml", caret]);
        // Not there at all.
        fs::remove_file(&file)?;
        refused(&run(program, &args)?, &["bad.toml"]);
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_image_fails_the_request_once_and_names_the_file() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut spec = requests::null("lost", Span::from_secs(3));
    spec.image.kernel = Some(Artefact {
        url: "/nonexistent/vmlinux".into(),
        digest: None,
    });
    let id = it.queue(&spec, "k1").await?;
    let view = it.reaches(&id, WorkspaceState::Failed).await?;
    let reason = view.reason.context("a final state has a reason")?;
    assert_eq!(reason.code, ReasonCode::ImageMissing, "{reason:?}");
    assert!(reason.text.contains("/nonexistent/vmlinux"), "{reason:?}");
    let why = it.submit_command(&["explain", id.as_str()]).await?;
    let why = String::from_utf8_lossy(&why.stdout);
    assert!(why.contains("/nonexistent/vmlinux"), "{why}");
    it.life_is_sound(&id).await?;
    it.is_clean().await
}

#[tokio::test]
async fn an_image_with_another_digest_fails_the_request() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut spec = requests::null("forged", Span::from_secs(3));
    let file = it.place().join("kernel");
    fs::write(&file, "not what was promised")?;
    spec.image.kernel = Some(Artefact {
        url: file.display().to_string(),
        digest: Some(format!("sha256:{}", "0".repeat(64))),
    });
    let id = it.queue(&spec, "k1").await?;
    let view = it.reaches(&id, WorkspaceState::Failed).await?;
    let reason = view.reason.context("a final state has a reason")?;
    assert_eq!(reason.code, ReasonCode::ImageCorrupt, "{reason:?}");
    it.life_is_sound(&id).await?;
    it.is_clean().await
}

#[tokio::test]
async fn a_request_larger_than_any_slot_waits_says_why_and_can_be_cancelled() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut spec = requests::null("huge", Span::from_secs(3));
    spec.resources.memory_mib = 512 * 1024;
    let id = it.queue(&spec, "k1").await?;
    let small = it
        .queue(&requests::null("small", Span::from_secs(2)), "k2")
        .await?;
    // It holds nobody up.
    it.reaches(&small, WorkspaceState::Done).await?;
    assert_eq!(it.show(&id).await?.state, WorkspaceState::Queued);
    let why = it.user.explain(&id).await?.sentences.join("\n");
    assert!(why.contains("lab") && why.contains("memory"), "{why}");
    let out = it.submit_command(&["cancel", id.as_str()]).await?;
    assert!(out.status.success(), "{out:?}");
    it.reaches(&id, WorkspaceState::Cancelled).await?;
    it.life_is_sound(&id).await?;
    it.is_clean().await
}

#[tokio::test]
async fn a_walltime_too_short_for_any_use_is_explained() -> Result<()> {
    // A stay costs 40 s here; a slot of a minute can't gain twice that for a long request.
    let it = Installation::start(&Setup {
        walltime: "60s",
        overhead: "40s",
        ..setup()
    })
    .await?;
    let long = it
        .queue(&requests::null("long", Span::from_mins(60)), "k1")
        .await?;
    let why = until(
        "explain to speak of the slot's time",
        PATIENCE,
        async || {
            let why = it.user.explain(&long).await?.sentences.join("\n");
            Ok(why.contains("lab").then_some(why))
        },
    )
    .await?;
    assert_eq!(it.show(&long).await?.state, WorkspaceState::Queued);
    assert!(why.contains("no site has slots long enough"), "{why}");
    assert_eq!(it.jobs().await?, [], "a pilot was submitted for nothing");
    it.submit_command(&["cancel", long.as_str()]).await?;
    it.reaches(&long, WorkspaceState::Cancelled).await?;
    it.is_clean().await
}

#[tokio::test]
async fn a_walltime_of_a_minute_is_enough_for_a_short_request() -> Result<()> {
    let it = Installation::start(&Setup {
        walltime: "60s",
        overhead: "5s",
        ..setup()
    })
    .await?;
    let id = it
        .queue(&requests::null("short", Span::from_secs(3)), "k1")
        .await?;
    it.reaches(&id, WorkspaceState::Done).await?;
    it.is_clean().await
}

#[tokio::test]
async fn a_full_store_keeps_the_guest_running_as_long_as_it_may() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let mut spec = requests::null("full", Span::from_secs(14));
    spec.image.cmdline = Some("null.suspend_fails".into());
    spec.policy.max_restarts = 0;
    let id = it.queue(&spec, "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    let out = it.submit_command(&["suspend", id.as_str()]).await?;
    assert!(out.status.success(), "{out:?}");
    let failed = it.sees(&id, "suspend_failed", EventSeq(0)).await?;
    assert!(failed.text.contains("space"), "{failed:?}");
    assert_eq!(it.show(&id).await?.saved, None);
    // The guest lives: it is not taken for suspended, and can be let go on.
    let out = it.submit_command(&["resume", id.as_str()]).await?;
    assert!(out.status.success(), "{out:?}");
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    assert_eq!(view.restarts, 0, "{}", it.story(&id).await?);
    it.life_is_sound(&id).await?;
    it.is_clean().await
}

/// A request whose state is spoilt between two slots starts again from its image, with the reason.
async fn spoilt(spoil: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let spec = requests::null("spoilt", Span::from_secs(8));
    let id = it.queue(&spec, "k1").await?;
    it.sees(&id, "running", EventSeq(0)).await?;
    it.submit_command(&["suspend", id.as_str()]).await?;
    let view = it.reaches(&id, WorkspaceState::Suspended).await?;
    let saved = view.saved.context("a suspended workspace has a state")?;
    let state = it.place().join("store/states").join(saved.id.as_str());
    spoil(&state)?;
    it.submit_command(&["resume", id.as_str()]).await?;
    let view = it.reaches(&id, WorkspaceState::Done).await?;
    let story = it.story(&id).await?;
    assert_eq!(view.restarts, 1, "{story}");
    let told = it.events(&id).await?;
    let told = told
        .iter()
        .filter(|e| e.text.contains(saved.id.as_str()) && e.seq > EventSeq(0));
    assert!(told.count() >= 2, "nobody says what was wrong\n{story}");
    // The spoilt memory was never started.
    assert!(!story.contains("guest_running: resumed"), "{story}");
    it.life_is_sound(&id).await?;
    it.is_clean().await
}

#[tokio::test]
async fn a_truncated_state_is_found_out_before_it_is_started() -> Result<()> {
    spoilt(|state| {
        let memory = fs::read(state.join("memory"))?;
        fs::write(state.join("memory"), &memory[..memory.len() / 2])?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_flipped_bit_is_found_out_before_it_is_started() -> Result<()> {
    spoilt(|state| {
        let mut memory = fs::read(state.join("memory"))?;
        let middle = memory.len() / 2;
        memory[middle] ^= 1;
        fs::write(state.join("memory"), memory)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_state_without_its_manifest_is_no_state() -> Result<()> {
    spoilt(|state| Ok(fs::remove_file(state.join("manifest.json"))?)).await
}

#[tokio::test]
async fn a_state_that_is_gone_is_no_state() -> Result<()> {
    spoilt(|state| Ok(fs::remove_dir_all(state)?)).await
}

#[tokio::test]
async fn wrong_expired_and_foreign_tokens_open_nothing() -> Result<()> {
    let it = Installation::start(&setup()).await?;
    let id = it
        .queue(&requests::null("mine", Span::from_secs(60)), "k1")
        .await?;
    let with = |token: &str| -> Result<Client> {
        let mut settings = ClientSettings::new(it.url());
        settings.token = Some(Token::new(token)?);
        Ok(Client::new(&settings)?)
    };
    let config = it.place().join("broker.toml").display().to_string();
    let make = |args: &[&str]| -> Result<String> {
        let common = ["token", "create", "--config", &config];
        let args: Vec<&str> = common.into_iter().chain(args.iter().copied()).collect();
        let out = run(&it.binaries.broker, &args)?;
        anyhow::ensure!(out.status.success(), "{out:?}");
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    };
    let bob = make(&["--kind", "user", "--name", "bob"])?;
    let error = with(&bob)?.workspace(&id).await.err();
    let code = error.and_then(|e| e.refused());
    assert_eq!(code, Some(ErrorCode::NotFound), "bob sees ada's workspace");
    let pilot = make(&["--kind", "pilot", "--key", "wp-x", "--site", "lab"])?;
    let error = with(&pilot)?.workspace(&id).await.err();
    let code = error.and_then(|e| e.refused());
    assert_eq!(code, Some(ErrorCode::Forbidden), "a pilot is no user");
    // One letter of the signature changed.
    let last = bob.chars().last().context("a token is not empty")?;
    let other = if last == 'A' { 'E' } else { 'A' };
    let forged = format!("{}{other}", &bob[..bob.len() - 1]);
    let error = with(&forged)?.workspace(&id).await.err();
    let code = error.and_then(|e| e.refused());
    assert_eq!(code, Some(ErrorCode::Unauthenticated));
    let short = make(&["--kind", "user", "--name", "ada", "--expires", "1s"])?;
    let short = with(&short)?;
    until("the token to expire", PATIENCE, async || {
        let code = short.workspace(&id).await.err().and_then(|e| e.refused());
        Ok((code == Some(ErrorCode::Unauthenticated)).then_some(()))
    })
    .await?;
    // On the command line: the exit code says so.
    let file = it.place().join("forged.token");
    fs::write(&file, &forged)?;
    let forged = file.display().to_string();
    let out = run(
        &it.binaries.submit,
        &["--broker", it.url(), "--token-file", &forged, "list"],
    )?;
    assert_eq!(out.status.code(), Some(exit::DENIED), "{out:?}");
    let out = it.submit_command(&["show", "ws-nosuch"]).await?;
    assert_eq!(out.status.code(), Some(exit::NOT_FOUND), "{out:?}");
    Ok(())
}
