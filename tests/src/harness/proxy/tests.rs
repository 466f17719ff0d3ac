use super::*;

/// Answers every call with itself; says which it has had.
async fn broker() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let mine = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heard = Arc::clone(&mine);
            tokio::spawn(async move {
                let mut wire = Wire::new(stream).unwrap();
                while let Ok(Some(call)) = wire.read().await {
                    let body = String::from_utf8_lossy(call.body()).into_owned();
                    locked(&heard).push(number(&body));
                    wire.send(&call).await.unwrap_or_default();
                }
            });
        }
    });
    (address, heard)
}

fn number(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    value["number"].to_string()
}

/// A sync of the slot `key`; true when it was answered in full.
async fn sync(proxy: &Proxy, key: &str, number: u32) -> bool {
    let mut wire = Wire::new(TcpStream::connect(proxy.address).await.unwrap()).unwrap();
    let body = format!(r#"{{"submit_key":"{key}","number":{number}}}"#);
    let token = format!("token-of-{key}");
    let call = wire.post("/v1/pilot/sync", &token, body.as_bytes());
    matches!(
        tokio::time::timeout(Duration::from_secs(20), call).await,
        Ok(Ok(_))
    )
}

async fn hears(heard: &Mutex<Vec<String>>, want: &[&str]) {
    let what = format!("the broker to have heard {want:?}");
    let got = super::super::wait::until(&what, Duration::from_secs(20), async || {
        Ok((*locked(heard) == *want).then_some(()))
    });
    got.await
        .unwrap_or_else(|e| panic!("{e:#}: it has heard {:?}", locked(heard)));
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let (address, heard) = broker().await;
    let proxy = Proxy::start(address).await.unwrap();
    assert!(sync(&proxy, "k", 1).await);
    proxy.inject(Fault::DropCall, 1);
    assert!(!sync(&proxy, "k", 2).await);
    hears(&heard, &["1"]).await;
    proxy.inject(Fault::DropAnswer, 1);
    assert!(!sync(&proxy, "k", 3).await);
    hears(&heard, &["1", "3"]).await;
    proxy.inject(Fault::TornAnswer, 1);
    assert!(!sync(&proxy, "k", 4).await);
    hears(&heard, &["1", "3", "4"]).await;
    proxy.inject(Fault::Delay(Duration::from_millis(5)), 1);
    assert!(sync(&proxy, "k", 5).await);
    proxy.inject(Fault::Repeat(Duration::from_millis(5)), 1);
    assert!(sync(&proxy, "k", 6).await);
    hears(&heard, &["1", "3", "4", "5", "6", "6"]).await;
    proxy.inject(Fault::Overtaken, 1);
    assert!(!sync(&proxy, "k", 7).await);
    // Another caller does not count.
    assert!(sync(&proxy, "other", 8).await);
    assert!(sync(&proxy, "k", 9).await);
    hears(&heard, &["1", "3", "4", "5", "6", "6", "8", "9", "7"]).await;
    let done = proxy.done();
    assert!(
        done.values().all(|n| *n == 1) && done.len() == 6,
        "{done:?}"
    );
}

#[tokio::test]
async fn a_cut_takes_one_caller_off_until_it_is_joined() {
    let (address, heard) = broker().await;
    let proxy = Proxy::start(address).await.unwrap();
    let key = SubmitKey::new("far").unwrap();
    proxy.cut(&key);
    assert!(sync(&proxy, "near", 1).await);
    {
        let lost = sync(&proxy, "far", 2);
        tokio::pin!(lost);
        let still = tokio::time::timeout(Duration::from_millis(50), &mut lost).await;
        assert!(
            still.is_err(),
            "a caller that is cut off was told something"
        );
        proxy.join(&key);
        assert!(!lost.await, "what was sent meanwhile is lost");
    }
    assert!(sync(&proxy, "far", 3).await);
    proxy.cut_all();
    proxy.heal();
    assert!(sync(&proxy, "near", 4).await);
    hears(&heard, &["1", "3", "4"]).await;
}

#[tokio::test]
async fn every_third_call_is_lost() {
    let (address, _) = broker().await;
    let proxy = Proxy::start(address).await.unwrap();
    proxy.every(3, Some(Fault::DropAnswer));
    let mut answered = Vec::new();
    for n in 1..=6 {
        answered.push(sync(&proxy, "k", n).await);
    }
    assert_eq!(answered, [true, true, false, true, true, false]);
}
