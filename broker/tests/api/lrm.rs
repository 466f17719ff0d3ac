//! The loops against an LRM command that is a shell script: what it is asked, and in what order.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::api::{Page, PilotState, PilotView, WorkspaceView};
use protocol::codes::ErrorCode;
use protocol::ids::{SiteName, SubmitKey};
use protocol::messages::RegisterReply;

use crate::support::{Broker, Pilot, eventually, spec};

/// A `sim-lrm` that logs its calls, and does what `submit` and `queue` say.
fn fake(dir: &Path, submit: &str, queue: &str) -> PathBuf {
    let path = dir.join("fake-lrm");
    let log = dir.join("calls").display().to_string();
    // Called as `fake-lrm --dir DIR COMMAND ...`.
    let script = format!(
        "#!/bin/sh\nshift 2\necho \"$@\" >> {log}\ncase \"$1\" in\n\
         submit) {submit} ;;\nqueue) {queue} ;;\n*) exit 9 ;;\nesac\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn config(poll: &str) -> String {
    format!(
        "listen = \"127.0.0.1:0\"\n[provision]\nround = \"100ms\"\nlook_up_every = \"50ms\"\n\
         absent_for = \"200ms\"\n\
         [site.lab]\nlrm = \"sim\"\npoll = \"{poll}\"\ncommand_timeout = \"1s\"\n\
         max_queued = 1\nstore = \"store\"\nscratch = \"scratch\"\nprogram = \"pilot\"\n\
         slot = {{ cores = 2, memory = \"1 GiB\", disk = \"4 GiB\" }}\n\
         hypervisor = {{ kind = \"null\" }}\n[site.lab.sim]\ndir = \"sim\"\nprogram = \"fake-lrm\"\n"
    )
}

const EMPTY: &str = r#"echo '{"jobs": [], "count": 0}'"#;

fn calls(broker: &Broker, what: &str) -> Vec<String> {
    let text = std::fs::read_to_string(broker.dir.path().join("calls")).unwrap_or_default();
    text.lines()
        .filter(|l| l.starts_with(what))
        .map(str::to_owned)
        .collect()
}

async fn pilots(broker: &Broker) -> Vec<PilotView> {
    broker
        .user("a")
        .get("/v1/pilots")
        .await
        .ok::<Page<PilotView>>()
        .items
}

#[tokio::test]
async fn directory_and_token_are_there_before_the_submit() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/pilot-jobs").display().to_string();
    let seen = dir.path().join("seen").display().to_string();
    let submit = format!("stat -c '%a %s' {state}/*/token > {seen}; echo submitted job 17");
    fake(dir.path(), &submit, EMPTY);
    let broker = Broker::start_in(dir, &config("10s")).await;
    broker
        .user("a")
        .submit("k", &spec("w"))
        .await
        .ok::<WorkspaceView>();
    let pilot = eventually("the pilot job is queued", async || {
        pilots(&broker)
            .await
            .into_iter()
            .find(|p| p.state == PilotState::Queued)
    })
    .await;
    assert_eq!(pilot.lrm_job_id.unwrap().as_str(), "17");
    let seen = std::fs::read_to_string(broker.dir.path().join("seen")).unwrap();
    let (mode, size) = seen.trim().split_once(' ').unwrap();
    assert_eq!(mode, "600");
    assert!(size.parse::<u32>().unwrap() > 100, "{seen}");
    let submit = &calls(&broker, "submit")[0];
    assert!(submit.contains(pilot.submit_key.as_str()), "{submit}");
    assert!(!submit.contains("wp1."), "a token on a command line");
    // A listing without the job ends nothing: it is asked for again and again, and nothing else.
    eventually("the listing was read", async || {
        (!calls(&broker, "queue --all --json").is_empty()).then_some(())
    })
    .await;
    assert_eq!(pilots(&broker).await[0].state, PilotState::Queued);
    assert_eq!(calls(&broker, "submit").len(), 1);
}

#[tokio::test]
async fn on_several_nodes_each_rank_has_a_token_for_itself_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    fake(dir.path(), "echo submitted job 17", EMPTY);
    let config = config("10s").replace("max_queued", "nodes = 2\nmax_queued");
    let broker = Broker::start_in(dir, &config).await;
    let user = broker.user("a");
    user.submit("k", &spec("w")).await.ok::<WorkspaceView>();
    let job = eventually("the pilot job is queued", async || {
        let all = pilots(&broker).await;
        all.into_iter().find(|p| p.state == PilotState::Queued)
    })
    .await;
    assert_eq!(job.nodes, 2);
    let submit = &calls(&broker, "submit")[0];
    assert!(submit.contains("--nodes 2"), "{submit}");
    let jobs = broker.dir.path().join("state/pilot-jobs");
    let directory = jobs.join(job.submit_key.as_str());
    let token = |rank: u32| {
        let text = std::fs::read_to_string(directory.join(format!("token.{rank}"))).unwrap();
        text.trim_end().to_owned()
    };
    assert!(!directory.join("token").exists());
    let register = async |token: String, key: SubmitKey| {
        let pilot = Pilot::new(broker.caller(token), key);
        let mut request = pilot.registration();
        request.slot.site = SiteName::new("lab").unwrap();
        pilot.caller.post_json("/v1/pilot/register", &request).await
    };
    let key = |rank| job.submit_key.member(rank).unwrap();
    for (rank, other) in [(0, key(1)), (1, key(0)), (0, job.submit_key.clone())] {
        let answer = register(token(rank), other).await;
        answer.refused(ErrorCode::Forbidden);
    }
    assert_eq!(pilots(&broker).await.len(), 1, "nothing was made by those");
    for rank in [0, 1] {
        let answer = register(token(rank), key(rank)).await;
        answer.ok::<RegisterReply>();
    }
    let keys: Vec<_> = (pilots(&broker).await.into_iter())
        .map(|p| p.submit_key)
        .collect();
    assert_eq!(keys, [job.submit_key.clone(), key(0), key(1)]);
    // The records of the job and of its pilots are read again as they were written.
    let broker = broker.restart_with(&config).await;
    let after = pilots(&broker).await;
    assert_eq!(after.len(), 3, "{after:?}");
    assert_eq!(after[0].state, PilotState::Started);
    assert_eq!(after[2].state, PilotState::Active);
}

#[tokio::test]
async fn a_submit_without_an_answer_is_looked_up_and_never_repeated() {
    let dir = tempfile::tempdir().unwrap();
    // The first submit hangs past its time limit although the LRM has taken the job.
    let submit = "echo \"$@\" | sed 's/.*--key \\([^ ]*\\).*/\\1/' > \"${0%/*}/taken\"; sleep 60";
    let found = "key=$(cat \"${0%/*}/taken\"); case \"$*\" in *--key*) echo \
                 '{\"jobs\":[{\"id\":\"4\",\"key\":\"'$key'\",\"state\":\"PENDING\"}],\"count\":1}' ;; \
                 *) echo '{\"jobs\":[],\"count\":0}' ;; esac";
    fake(dir.path(), submit, found);
    let broker = Broker::start_in(dir, &config("10s")).await;
    broker
        .user("a")
        .submit("k", &spec("w"))
        .await
        .ok::<WorkspaceView>();
    let pilot = eventually("the job is found by its key", async || {
        pilots(&broker)
            .await
            .into_iter()
            .find(|p| p.state == PilotState::Queued)
    })
    .await;
    assert_eq!(pilot.lrm_job_id.unwrap().as_str(), "4");
    assert_eq!(calls(&broker, "submit").len(), 1);
    assert!(
        calls(&broker, "queue")[0..]
            .iter()
            .any(|c| c.contains(pilot.submit_key.as_str()))
    );
}

#[tokio::test]
async fn a_broker_killed_during_a_submit_looks_it_up_after_its_restart() {
    let dir = tempfile::tempdir().unwrap();
    fake(dir.path(), "sleep 60", EMPTY);
    let broker = Broker::start_in(dir, &config("10s").replace("\"1s\"", "\"30s\"")).await;
    broker
        .user("a")
        .submit("k", &spec("w"))
        .await
        .ok::<WorkspaceView>();
    eventually("the submit is under way", async || {
        (!calls(&broker, "submit").is_empty()).then_some(())
    })
    .await;
    let key = pilots(&broker).await[0].submit_key.clone();
    broker.running.kill().await;
    let broker = Broker::start_in(broker.dir, &config("10s")).await;
    eventually("it is looked up by its key", async || {
        calls(&broker, "queue")
            .iter()
            .any(|c| c.contains(key.as_str()))
            .then_some(())
    })
    .await;
    let mine = calls(&broker, "submit");
    assert_eq!(
        mine.iter().filter(|c| c.contains(key.as_str())).count(),
        1,
        "{mine:?}"
    );
}

#[tokio::test]
async fn a_refused_submit_is_explained_with_the_lrms_words() {
    let dir = tempfile::tempdir().unwrap();
    fake(dir.path(), "echo 'no such account' >&2; exit 3", EMPTY);
    let broker = Broker::start_in(dir, &config("10s")).await;
    let alice = broker.user("a");
    alice.submit("k", &spec("w")).await.ok::<WorkspaceView>();
    eventually("the site explains itself", async || {
        let text = alice.get("/v1/sites/lab/explain").await.text();
        text.contains("no such account").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_listing_is_asked_for_at_the_configured_pace_and_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    fake(dir.path(), "exit 9", &format!("sleep 0.2; {EMPTY}"));
    let broker = Broker::start_in(dir, &config("100ms")).await;
    eventually("some listings", async || {
        (calls(&broker, "queue").len() >= 3).then_some(())
    })
    .await;
    let clock = broker.running.clock();
    let from = clock.now();
    let first = calls(&broker, "queue").len();
    let now = eventually("some more", async || {
        let now = calls(&broker, "queue").len();
        (now >= first + 3).then_some(now)
    })
    .await;
    // Each takes 200 ms and is followed by 100 ms of rest.
    let most = clock.now().since(from).as_millis() / 300 + 2;
    assert!(
        (now - first) as u64 <= most,
        "{} listings, at most {most}",
        now - first
    );
}

#[tokio::test]
async fn two_sites_of_one_account_cost_no_more_listings_than_one() {
    let dir = tempfile::tempdir().unwrap();
    fake(dir.path(), "exit 9", &format!("sleep 0.2; {EMPTY}"));
    let lab = config("100ms");
    let at = lab.find("[site.lab]").unwrap();
    let annex = lab[at..].replace("site.lab", "site.annex");
    let broker = Broker::start_in(dir, &format!("{lab}{annex}")).await;
    let clock = broker.running.clock();
    eventually("some listings", async || {
        (calls(&broker, "queue").len() >= 3).then_some(())
    })
    .await;
    let from = clock.now();
    let first = calls(&broker, "queue").len();
    let now = eventually("some more", async || {
        let now = calls(&broker, "queue").len();
        (now >= first + 6).then_some(now)
    })
    .await;
    // Each takes 200 ms and is followed by 100 ms of rest.
    let most = clock.now().since(from).as_millis() / 300 + 2;
    assert!(
        (now - first) as u64 <= most,
        "{} listings for two sites, at most {most}",
        now - first
    );
}
