use broker_core::records::{
    CostRecord, DiscardRecord, EventRecord, IdempotencyRecord, Log, Meta, SiteRecord,
};
use broker_core::{Changes, Records};
use protocol::ids::{
    EventSeq, IdempotencyKey, NodeName, SiteName, StateId, SubmitKey, UserName, WorkspaceId,
};
use protocol::suspend_cost::{Sample, Samples};
use protocol::time::{Span, Timestamp};

use super::{Reader, Store, StoreError, revoke};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn meta() -> Meta {
    Meta::new("abc")
}

async fn open(dir: &tempfile::TempDir) -> (Store, Reader) {
    Store::open(dir.path()).await.unwrap()
}

fn event(log: Log, seq: u64) -> EventRecord {
    EventRecord {
        log,
        seq: EventSeq(seq),
        at: NOW,
        kind: "accepted".into(),
        state: None,
        generation: None,
        slot: None,
        text: format!("event \"{seq}\" with a quote and a [bracket]"),
        data: serde_json::json!({"n": seq}),
    }
}

fn cost(site: &SiteName, node: NodeName) -> CostRecord {
    let sample = Sample {
        bytes: 31,
        took: Span::from_millis(28),
    };
    CostRecord {
        version: 1,
        site: site.clone(),
        node,
        filesystem: "/shared nfs4 server:/export".into(),
        measured: 7,
        at: NOW,
        slow: false,
        samples: Samples::from_iter([sample]),
    }
}

fn changes() -> Changes {
    let site = SiteName::new("lab").unwrap();
    let (owner, key) = (
        UserName::new("a").unwrap(),
        IdempotencyKey::new("k/1 \"x\"").unwrap(),
    );
    let workspace = WorkspaceId::new("ws-1").unwrap();
    let state = StateId::new("ws-1.g1").unwrap();
    let mut changes = Changes::default();
    changes
        .sites
        .insert(site.clone(), SiteRecord::new(site.clone()));
    let record = IdempotencyRecord {
        owner: owner.clone(),
        key: key.clone(),
        workspace: workspace.clone(),
    };
    changes.idempotency.insert((owner, key), record);
    for node in ["n1", "n2"] {
        let node = NodeName::new(node).unwrap();
        changes
            .costs
            .insert((site.clone(), node.clone()), Some(cost(&site, node)));
    }
    let discard = DiscardRecord {
        state: state.clone(),
        site,
        told: None,
    };
    changes.discards.insert(state, Some(discard));
    changes.events = (1..=3)
        .map(|n| event(Log::Workspace(workspace.clone()), n))
        .collect();
    changes
        .events
        .push(event(Log::Pilot(SubmitKey::new("ws-1").unwrap()), 1));
    changes.meta = Some(Meta {
        last_submit: 7,
        ..meta()
    });
    changes
}

#[tokio::test]
async fn what_is_applied_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _reader) = open(&dir).await;
    assert_eq!(store.load(meta).await.unwrap(), Records::empty(meta()));
    assert_eq!(
        store
            .load(|| Meta::new("other"))
            .await
            .unwrap()
            .meta
            .instance,
        "abc",
        "the first start's identity is kept"
    );
    let mut expected = Records::empty(meta());
    let first = changes();
    expected.apply(&first);
    store.apply(&first).await.unwrap();
    drop(store);

    let (mut store, reader) = open(&dir).await;
    assert_eq!(store.load(meta).await.unwrap(), expected);
    let log = Log::Workspace(WorkspaceId::new("ws-1").unwrap());
    let page = reader.events(&log, EventSeq(1), 1).await.unwrap();
    assert_eq!(page, [event(log.clone(), 2)]);
    assert_eq!(reader.events(&log, EventSeq(0), 10).await.unwrap().len(), 3);
    assert_eq!(
        reader.events(&log, EventSeq(u64::MAX), 10).await.unwrap(),
        []
    );

    let mut second = Changes::default();
    second
        .discards
        .insert(StateId::new("ws-1.g1").unwrap(), None);
    let name = SiteName::new("lab").unwrap();
    let site = SiteRecord {
        submit_failures: 3,
        ..SiteRecord::new(name.clone())
    };
    second
        .costs
        .insert((name.clone(), NodeName::new("n1").unwrap()), None);
    second.sites.insert(name, site);
    expected.apply(&second);
    assert_eq!(expected.costs.len(), 1);
    store.apply(&second).await.unwrap();
    assert_eq!(store.load(meta).await.unwrap(), expected);
}

#[tokio::test]
async fn what_is_forgotten_is_gone_with_its_log_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = open(&dir).await;
    store.load(meta).await.unwrap();
    let mut first = changes();
    let other = Log::Workspace(WorkspaceId::new("ws-10").unwrap());
    first.events.push(event(other.clone(), 1));
    let mut expected = Records::empty(meta());
    expected.apply(&first);
    store.apply(&first).await.unwrap();
    let mut second = Changes::default();
    let workspace = WorkspaceId::new("ws-1").unwrap();
    second.forgotten.workspaces.insert(workspace.clone());
    let keys = first.idempotency.into_keys();
    second.forgotten.idempotency.extend(keys);
    expected.apply(&second);
    assert_eq!(expected.idempotency, []);
    store.apply(&second).await.unwrap();
    assert_eq!(store.load(meta).await.unwrap(), expected);
    let pilot = Log::Pilot(SubmitKey::new("ws-1").unwrap());
    for (log, left) in [(Log::Workspace(workspace), 0), (other, 1), (pilot, 1)] {
        let events = reader.events(&log, EventSeq(0), 10).await.unwrap();
        assert_eq!(events.len(), left, "{log:?}");
    }
}

#[tokio::test]
async fn a_transaction_is_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = open(&dir).await;
    store.load(meta).await.unwrap();
    store.apply(&changes()).await.unwrap();
    let before = store.load(meta).await.unwrap();
    // The last statement fails: these events are there already.
    let mut again = changes();
    again.sites.clear();
    again.meta = Some(Meta {
        last_submit: 8,
        ..meta()
    });
    let e = store.apply(&again).await.unwrap_err();
    assert!(matches!(e, StoreError::Write(_)), "{e:?}");
    assert_eq!(store.load(meta).await.unwrap(), before);
    // And the connection is good for the next one.
    again.events.clear();
    store.apply(&again).await.unwrap();
    assert_eq!(store.load(meta).await.unwrap().meta.last_submit, 8);
    let log = Log::Workspace(WorkspaceId::new("ws-1").unwrap());
    assert_eq!(reader.events(&log, EventSeq(0), 10).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _reader) = open(&dir).await;
    store.load(meta).await.unwrap();
    store.apply(&changes()).await.unwrap();
    let before = store.load(meta).await.unwrap();
    store.limit_pages(1).await;
    let mut large = Changes::default();
    let log = Log::Pilot(SubmitKey::new("big").unwrap());
    large.events = (1..2000).map(|n| event(log.clone(), n)).collect();
    let e = store.apply(&large).await.unwrap_err();
    assert!(
        matches!(&e, StoreError::Write(source) if source.to_string().contains("full")),
        "{e:?}"
    );
    assert_eq!(store.load(meta).await.unwrap(), before);
    store.limit_pages(1_000_000).await;
    store.apply(&large).await.unwrap();
}

#[tokio::test]
async fn a_revocation_of_another_process_is_seen_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, reader) = open(&dir).await;
    assert!(!reader.is_revoked("t1").await.unwrap());
    let later = NOW + Span::from_secs(60);
    revoke(dir.path(), "t1", later, NOW).await.unwrap();
    revoke(dir.path(), "t1", later, NOW).await.unwrap();
    assert!(reader.is_revoked("t1").await.unwrap());
    assert!(!reader.is_revoked("t2").await.unwrap());
    revoke(dir.path(), "t2", later, later + Span::from_secs(1))
        .await
        .unwrap();
    assert!(
        !reader.is_revoked("t1").await.unwrap(),
        "expired ones are forgotten"
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("broker.sqlite"),
        "not a database at all, just a text",
    )
    .unwrap();
    let e = Store::open(dir.path()).await.unwrap_err();
    assert!(e.to_string().contains("broker.sqlite"), "{e}");
}
