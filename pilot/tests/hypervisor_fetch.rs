//! Artefacts from URLs: verified into the store once, or not used.

use std::fs;
use std::path::Path;

use pilot::exec_guest::Trampoline;
use pilot::hypervisor::{GuestId, Hypervisor, Setup, StageError, StageRequest};
use pilot::journal::{Claim, Journal, What};
use protocol::codes::ReasonCode;
use protocol::ids::{Generation, Incarnation, SiteName, SubmitKey, WorkspaceId};
use protocol::resources::Resources;
use protocol::slot_file::{HypervisorKind, HypervisorSection};
use protocol::time::Span;
use protocol::workspace::{Artefact, Image, WorkspaceSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SHA_OF_ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// A server that gives each caller the same answer. Says where it is.
async fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/kernel", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            // One read is enough: what was asked for does not matter.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

struct Lab {
    root: tempfile::TempDir,
    journal: Journal,
    hypervisor: Hypervisor,
}

impl Lab {
    fn new() -> Self {
        // Another test of this program may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        fs::create_dir(&store).unwrap();
        let journal = Journal::create(&Claim {
            submit_key: &SubmitKey::new("s1").unwrap(),
            incarnation: &Incarnation::new("1").unwrap(),
            scratch: &root.path().join("s1"),
            store: &store,
            node_state: root.path(),
        })
        .unwrap();
        let section = HypervisorSection {
            kind: HypervisorKind::Null,
            accelerator: None,
            binary: None,
            machine: None,
            cpu: None,
        };
        let trampoline = Trampoline::of(Path::new(env!("CARGO_BIN_EXE_pilot")));
        let site = SiteName::new("lab").unwrap();
        let setup = Setup {
            site,
            store,
            trampoline,
        };
        let hypervisor = Hypervisor::new(&section, setup).unwrap();
        Self {
            root,
            journal,
            hypervisor,
        }
    }

    async fn stage(&self, url: &str, digest: Option<&str>) -> Result<(), StageError> {
        let guest = GuestId {
            workspace: WorkspaceId::new("ws-1").unwrap(),
            generation: Generation(1),
        };
        let kernel = Artefact {
            url: url.to_owned(),
            digest: digest.map(str::to_owned),
        };
        let request = StageRequest {
            dir: self.journal.scratch().join("guest"),
            marker: self
                .journal
                .intend(What::Process {
                    program: "guest".to_owned(),
                })
                .unwrap()
                .marker(),
            spec: WorkspaceSpec {
                name: "test".to_owned(),
                image: Image {
                    kernel: Some(kernel),
                    ..Image::default()
                },
                resources: Resources {
                    cores: 1,
                    memory_mib: 64,
                    disk_mib: 0,
                },
                run_time: Span::from_secs(1),
                policy: protocol::workspace::Policy::default(),
                advance_to: protocol::workspace::AdvanceTo::default(),
                network: protocol::workspace::Network::default(),
                context: protocol::workspace::Context::default(),
            },
            state: None,
            guest,
        };
        self.hypervisor.stage(request).await.map(drop)
    }

    fn blobs(&self) -> Vec<String> {
        fs::read_dir(self.root.path().join("store/blobs"))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }
}

#[tokio::test]
async fn what_was_fetched_once_is_in_the_store_for_ever() {
    let lab = Lab::new();
    let url = server("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc").await;
    lab.stage(&url, Some(SHA_OF_ABC)).await.unwrap();
    assert_eq!(lab.blobs(), [SHA_OF_ABC.replace(':', "-")]);
    // Now from wherever it is said to be: it is known by what it is.
    lab.stage("http://127.0.0.1:1/gone", Some(SHA_OF_ABC))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_gone_altered_cut_short_or_unreachable_is_told_apart() {
    let lab = Lab::new();
    let answers = [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ReasonCode::ImageMissing,
            true,
            "404",
        ),
        (
            "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ReasonCode::ImageMissing,
            false,
            "503",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabd",
            ReasonCode::ImageCorrupt,
            true,
            "expected sha256:",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 30\r\nconnection: close\r\n\r\nabc",
            ReasonCode::ImageMissing,
            false,
            "can't be fetched",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ReasonCode::ImageCorrupt,
            true,
            "expected sha256:",
        ),
    ];
    for (answer, code, permanent, words) in answers {
        let url = server(answer).await;
        let e = lab.stage(&url, Some(SHA_OF_ABC)).await.unwrap_err();
        assert_eq!((e.reason().code, e.permanent()), (code, permanent), "{e}");
        assert!(
            e.to_string().contains(words) && e.to_string().contains(&url),
            "{e}"
        );
        assert_eq!(lab.blobs(), [""; 0], "{answer}");
    }
    let e = lab
        .stage("http://127.0.0.1:1/kernel", Some(SHA_OF_ABC))
        .await
        .unwrap_err();
    assert_eq!(
        (e.reason().code, e.permanent()),
        (ReasonCode::ImageMissing, false),
        "{e}"
    );
}
