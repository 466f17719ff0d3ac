use protocol::time::Span;
use reqwest::Client;

use crate::support::{Broker, CONFIG, Caller, PATIENCE, settings};

fn write_pair(dir: &std::path::Path, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let made = made.unwrap();
    let pem = made.cert.pem();
    std::fs::write(dir.join(format!("{name}.crt")), &pem).unwrap();
    std::fs::write(
        dir.join(format!("{name}.key")),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    pem
}

fn config(cert: &str, key: &str) -> String {
    format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}\n{CONFIG}")
}

#[tokio::test]
async fn https_is_served_to_who_trusts_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let pem = write_pair(dir.path(), "a");
    let broker = Broker::start_in(dir, &config("a.crt", "a.key")).await;
    assert!(broker.running.url().starts_with("https://127.0.0.1:"));
    let trusted = reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    let client = Client::builder()
        .tls_certs_only([trusted])
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .unwrap();
    let user = Caller {
        client,
        ..broker.user("a")
    };
    user.get("/v1/sites").await.json();
    let stranger = broker
        .client
        .get(format!("{}/v1/health", broker.running.url()));
    assert!(stranger.send().await.is_err(), "taken without trust");
    let plain = broker
        .client
        .get(broker.running.url().replace("https", "http"));
    assert!(plain.send().await.is_err(), "plain http was answered");
    assert!(broker.running.clock().now().since(Default::default()) > Span::ZERO);
}

#[tokio::test]
async fn certificates_and_keys_that_can_not_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), "a");
    write_pair(dir.path(), "b");
    std::fs::write(dir.path().join("empty"), "").unwrap();
    for (cert, key, want) in [
        ("a.crt", "b.key", "b.key"),
        ("empty", "a.key", "no certificate"),
        ("a.crt", "empty", "empty"),
        ("missing", "a.key", "missing"),
    ] {
        let settings = settings(dir.path(), &config(cert, key));
        let e = broker::serve(settings).await.unwrap_err().to_string();
        assert!(e.contains(want) && e.contains("TLS"), "{cert} {key}: {e}");
    }
}
