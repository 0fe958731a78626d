//! Tokens: fetched once for all, renewed in time and after a 401, and never shown.

use crate::support::{
    conformance::batch,
    stand_in::{StandIn, header},
    until,
};
use async_trait::async_trait;
use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use temporal_eventstore::{
    EventStore,
    sink::{self, AuthHeader, AuthProvider, ClientCredentials, Delivered, SinkError, StaticBearer},
};
use tracing_subscriber::fmt::MakeWriter;
use wiremock::{Request, ResponseTemplate};

const SECRET: &str = "hunter2-of-the-client";
const TOKEN: &str = "hunter2-token";

/// A token server: the n-th request gets the n-th token.
async fn token_server(expires_in: Option<u64>, delay: Duration) -> StandIn {
    let asked = AtomicUsize::new(0);
    StandIn::start(move |_| {
        let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answer = serde_json::json!({
            "access_token": format!("{TOKEN}-{number}"), "token_type": "Bearer"
        });
        if let Some(seconds) = expires_in {
            answer["expires_in"] = seconds.into();
        }
        ResponseTemplate::new(200)
            .set_body_json(answer)
            .set_delay(delay)
    })
    .await
}

fn credentials(server: &StandIn) -> ClientCredentials {
    let url = format!("http://{}/token", server.address());
    ClientCredentials::new(&url, "the-client", SECRET).unwrap()
}

async fn token(provider: &dyn AuthProvider) -> String {
    let headers = provider.headers().await.unwrap();
    assert_eq!(headers.len(), 1);
    assert_eq!(headers[0].name(), "Authorization");
    headers[0].secret_value().to_owned()
}

#[tokio::test]
async fn the_request_is_that_of_the_standard_and_of_the_reference() {
    let server = token_server(Some(3600), Duration::ZERO).await;
    token(&credentials(&server)).await;
    token(&credentials(&server).scope("events write")).await;
    let requests = server.requests_to("/token");
    assert_eq!(requests[0].method.as_str(), "POST");
    assert_eq!(
        header(&requests[0], "content-type"),
        Some("application/x-www-form-urlencoded")
    );
    let body = |request: &Request| String::from_utf8(request.body.clone()).unwrap();
    let plain =
        "grant_type=client_credentials&client_id=the-client&client_secret=hunter2-of-the-client";
    assert_eq!(body(&requests[0]), plain);
    assert_eq!(body(&requests[1]), format!("{plain}&scope=events+write"));
}

#[tokio::test]
async fn one_token_serves_all_who_ask_at_once() {
    let server = token_server(Some(3600), Duration::from_millis(200)).await;
    let provider = credentials(&server);
    let tokens = futures::future::join_all((0..20).map(|_| token(&provider))).await;
    assert!(
        tokens
            .iter()
            .all(|token| *token == format!("Bearer {TOKEN}-1"))
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    // Nine tenths of its life.
    let server = token_server(Some(2), Duration::ZERO).await;
    let provider = credentials(&server);
    let first = token(&provider).await;
    assert_eq!(token(&provider).await, first);
    tokio::time::sleep(Duration::from_millis(1850)).await;
    // Until the new one is there, the old one is used.
    assert_eq!(token(&provider).await, first);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_ne!(token(&provider).await, first);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_token_server_that_hangs_delays_nobody_while_the_token_holds() {
    let server = token_server(Some(4), Duration::ZERO).await;
    let provider = credentials(&server);
    let first = token(&provider).await;
    server.pause();
    tokio::time::sleep(Duration::from_millis(3650)).await;
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(token(&provider).await, first);
        provider.renew(&[]).await;
    }
    assert!(
        began.elapsed() < Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );
    // Who needs a token waits for no renewal that began before.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.requests().len(), 2, "one renewal is under way");
    server.resume();
    let began = Instant::now();
    assert_ne!(token(&provider).await, first);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

/// What the test below does in a process of its own, whose environment has the credentials.
#[ignore = "run by the test below"]
#[tokio::test]
async fn as_a_child_that_needs_a_token() {
    let sink = sink::open(&std::env::var("TEST_URL").unwrap()).unwrap();
    let error = sink.deliver(&batch(1, 1)).await.unwrap_err();
    assert!(error.reason().contains("holds no access_token"), "{error}");
}

#[tokio::test]
async fn the_token_server_is_trusted_by_the_same_certificates() {
    let (port, certificate) = super::http::with_tls(Arc::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, certificate).unwrap();
    let url = format!(
        "https://localhost:{port}/in?eventstore.auth=partner&eventstore.tls_ca={}",
        file.display()
    );
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "http_sinks::auth::as_a_child_that_needs_a_token",
            ])
            .env("TEST_URL", url)
            .env(
                "EVENTSTORE_AUTH_PARTNER_TOKEN_URL",
                format!("https://localhost:{port}/token"),
            )
            .env("EVENTSTORE_AUTH_PARTNER_CLIENT_ID", "id")
            .env("EVENTSTORE_AUTH_PARTNER_CLIENT_SECRET", SECRET)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What the test below does in a process of its own.
#[ignore = "run by the test below"]
#[tokio::test]
async fn as_a_child_with_two_hosts() {
    let url = std::env::var("TEST_URL").unwrap();
    let store = EventStore::builder().store(url).build().await;
    match std::env::var("TEST_REFUSED") {
        Err(_) => drop(store.unwrap()),
        Ok(words) => {
            let text = store.unwrap_err().to_string();
            assert!(text.contains(&words), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[test]
fn credentials_for_all_go_to_one_host_and_over_plain_http_to_this_machine() {
    let builds = |url: &str, refused: Option<&str>| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args([
                "--ignored",
                "--exact",
                "http_sinks::auth::as_a_child_with_two_hosts",
            ])
            .env("TEST_URL", url)
            .env("EVENTSTORE_AUTH_TOKEN", "hunter2-of-all")
            .env("EVENTSTORE_AUTH_PARTNER_TOKEN", "hunter2-of-the-partner");
        if let Some(words) = refused {
            child.env("TEST_REFUSED", words);
        }
        let output = child.output().unwrap();
        assert!(output.status.success(), "{url}: {output:?}");
    };
    builds("https://a.example/in", None);
    builds("http://127.0.0.1:1/in", None);
    builds("http://a.example/in", Some("plain HTTP"));
    builds("http://a.example/in?eventstore.auth=partner", None);
    builds("http://a.example/in?eventstore.auth=none", None);
    builds(
        "http://a.example/in?eventstore.auth=other",
        Some("EVENTSTORE_AUTH_OTHER_TOKEN"),
    );
    builds(
        "https://a.example/in,https://b.example/in",
        Some("a.example, b.example"),
    );
    builds(
        "https://a.example/in?eventstore.auth=partner,https://b.example/in?eventstore.auth=none",
        None,
    );
}

#[tokio::test]
async fn a_token_without_an_end_is_kept() {
    let server = token_server(None, Duration::ZERO).await;
    let provider = credentials(&server);
    assert_eq!(token(&provider).await, token(&provider).await);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_for_all() {
    let server = token_server(Some(3600), Duration::ZERO).await;
    let provider = credentials(&server);
    let refused = provider.headers().await.unwrap();
    provider.renew(&refused).await;
    assert_eq!(token(&provider).await, format!("Bearer {TOKEN}-2"));
    // Whoever learns later that the old one is refused does not spoil the new one.
    provider.renew(&refused).await;
    assert_eq!(token(&provider).await, format!("Bearer {TOKEN}-2"));
}

#[tokio::test]
async fn a_token_that_still_holds_is_used_while_its_server_is_away() {
    let mut server = token_server(Some(4), Duration::ZERO).await;
    let provider = credentials(&server);
    let first = token(&provider).await;
    server.stop().await;
    tokio::time::sleep(Duration::from_millis(3700)).await;
    assert_eq!(token(&provider).await, first);
    tokio::time::sleep(Duration::from_millis(6000)).await;
    provider.headers().await.unwrap_err();
    server.start_again().await;
    assert_ne!(token(&provider).await, first);
}

#[tokio::test]
async fn whoever_waited_for_a_failed_fetch_shares_its_failure() {
    let server = StandIn::start(|_| {
        ResponseTemplate::new(503)
            .insert_header("retry-after", "9")
            .set_delay(Duration::from_millis(300))
    })
    .await;
    let provider = credentials(&server);
    let answers = futures::future::join_all((0..20).map(|_| provider.headers())).await;
    for answer in answers {
        let error = answer.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
    }
    assert_eq!(server.requests().len(), 1);
    // The next one asks again.
    provider.headers().await.unwrap_err();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_fetch_that_is_dropped_leaves_the_provider_usable() {
    let server = token_server(Some(3600), Duration::from_millis(300)).await;
    let provider = credentials(&server);
    tokio::time::timeout(Duration::from_millis(100), provider.headers())
        .await
        .unwrap_err();
    assert_eq!(token(&provider).await, format!("Bearer {TOKEN}-2"));
}

#[tokio::test]
async fn what_is_no_token_is_an_error_without_a_secret() {
    for (status, body) in [
        (
            400,
            r#"{"error":"invalid_client","error_description":"hunter2-of-the-client"}"#,
        ),
        (401, "hunter2-of-the-client"),
        (400, r#"{"error":"hunter2-of-the-client"}"#),
        (500, ""),
        (302, ""),
        (200, ""),
        (200, "[]"),
        (200, r#"{"access_token":7}"#),
        (200, r#"{"access_token":"hunter2\n"}"#),
    ] {
        let server =
            StandIn::start(move |_| ResponseTemplate::new(status).set_body_string(body)).await;
        let error = credentials(&server).headers().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("no access token from http://127.0.0.1"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(
            text.contains("invalid_client"),
            body.contains("invalid_client")
        );
    }
}

/// An endpoint that takes one token and echoes what it refuses.
async fn endpoint(wanted: &'static str) -> StandIn {
    StandIn::start(move |request| {
        let sent = header(request, "authorization").unwrap_or_default();
        if sent == format!("Bearer {wanted}") {
            ResponseTemplate::new(202)
        } else {
            ResponseTemplate::new(401).set_body_string(format!("who is {sent}?"))
        }
    })
    .await
}

#[tokio::test]
async fn a_401_renews_the_token_and_the_batch_arrives() {
    let server = token_server(Some(3600), Duration::ZERO).await;
    let endpoint = endpoint("hunter2-token-2").await;
    let url = format!("http://{}/in", endpoint.address());
    let sink = sink::open_with_auth(&url, Arc::new(credentials(&server))).unwrap();
    let events = batch(1, 5);
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!(endpoint.requests().len(), 2);
    assert_eq!(
        sink.deliver(&events).await.unwrap(),
        Delivered::all(&events)
    );
    assert_eq!((endpoint.requests().len(), server.requests().len()), (3, 2));
}

#[tokio::test]
async fn a_second_401_is_an_error_and_a_failed_fetch_too() {
    let mut server = token_server(Some(3600), Duration::ZERO).await;
    let endpoint = endpoint("another").await;
    let url = format!("http://{}/in", endpoint.address());
    let sink = sink::open_with_auth(&url, Arc::new(credentials(&server))).unwrap();
    let error = sink.deliver(&batch(1, 5)).await.unwrap_err();
    assert!(error.reason().contains("401"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    assert_eq!((endpoint.requests().len(), server.requests().len()), (2, 2));
    server.stop().await;
    let error = sink.deliver(&batch(1, 5)).await.unwrap_err();
    assert!(error.reason().contains("no access token"), "{error}");
    let error = sink.check().await.unwrap_err();
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[derive(Debug)]
struct ApiKey;

#[async_trait]
impl AuthProvider for ApiKey {
    async fn headers(&self) -> Result<Vec<AuthHeader>, SinkError> {
        Ok(vec![AuthHeader::new("x-api-key", "hunter2-key")])
    }
}

#[tokio::test]
async fn a_provider_of_ones_own_gives_its_headers() {
    let endpoint = StandIn::start(|_| ResponseTemplate::new(200)).await;
    let url = format!("http://{}/in", endpoint.address());
    let sink = sink::open_with_auth(&url, Arc::new(ApiKey)).unwrap();
    sink.deliver(&batch(1, 1)).await.unwrap();
    assert_eq!(
        header(&endpoint.requests()[0], "x-api-key"),
        Some("hunter2-key")
    );
}

/// What everything that logs wrote.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.lock().unwrap()))
    }
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut server = token_server(Some(4), Duration::ZERO).await;
    let endpoint = endpoint("hunter2-token-2").await;
    let url = format!("http://{}/in?code=hunter2-code", endpoint.address());
    let provider = Arc::new(credentials(&server));
    let sink = sink::open_with_auth(&url, provider.clone()).unwrap();
    sink.deliver(&batch(1, 3)).await.unwrap();
    sink.check().await.unwrap();
    server.stop().await;
    tokio::time::sleep(Duration::from_millis(3650)).await;
    // The renewal fails while the token still holds.
    provider.headers().await.unwrap();
    until("the renewal fails", || {
        log.to_string().contains("still holds")
    })
    .await;
    let basic = format!("http://user:hunter2-password@{}/in", endpoint.address());
    sink::open(&basic)
        .unwrap()
        .deliver(&batch(1, 1))
        .await
        .unwrap_err();
    let bearer = Arc::new(StaticBearer::new("hunter2-bearer"));
    let other = sink::open_with_auth(&url, bearer).unwrap();
    other.deliver(&batch(1, 1)).await.unwrap_err();
    tracing::info!(?sink, ?provider, ?other, "shown");
    let log = log.to_string();
    // Enough is logged for this to say something.
    assert!(
        log.contains("still holds") && log.contains("shown"),
        "{log}"
    );
    assert!(!log.contains("hunter2"), "{log}");
}

/// What the test below does in a process of its own, whose environment has the key.
#[ignore = "run by the test below"]
#[tokio::test]
async fn as_a_child_that_signs() {
    let url = std::env::var("TEST_URL").unwrap();
    let events = batch(1, 3);
    for mode in ["batched", "binary"] {
        let sink = sink::open(&format!("{url}&eventstore.mode={mode}")).unwrap();
        assert!(!format!("{sink:?}").contains("hunter2"), "{sink:?}");
        // Twice, as after a lost answer.
        for _ in 0..2 {
            sink.deliver(&events).await.unwrap();
        }
        sink.check().await.unwrap();
    }
}

#[tokio::test]
async fn requests_are_signed_and_have_the_users_headers() {
    const KEY: [u8; 32] = [7; 32];
    let endpoint = StandIn::start(|_| ResponseTemplate::new(200)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let key = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let url = format!(
        "http://{}/in?eventstore.auth=hooks&eventstore.header.X-Tenant=hunter2%20b&tenant=c",
        endpoint.address()
    );
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "http_sinks::auth::as_a_child_that_signs",
            ])
            .env("TEST_URL", url)
            .env("EVENTSTORE_AUTH_HOOKS_SIGNING_KEY_FILE", file)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{output:?}");
    let requests = endpoint.requests();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &KEY);
    let mut ids = Vec::new();
    for request in &requests {
        assert_eq!(header(request, "x-tenant"), Some("hunter2 b"));
        assert_eq!(request.url.query(), Some("tenant=c"));
        if request.method.as_str() == "HEAD" {
            continue;
        }
        let value = |name: &str| header(request, name).unwrap().to_owned();
        let (id, timestamp) = (value("webhook-id"), value("webhook-timestamp"));
        let age = chrono::Utc::now().timestamp() - timestamp.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age}");
        let signed = [
            format!("{id}.{timestamp}.").into_bytes(),
            request.body.clone(),
        ]
        .concat();
        let signature = value("webhook-signature");
        let bytes = signature.strip_prefix("v1,").unwrap();
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, bytes).unwrap();
        ring::hmac::verify(&key, &signed, &bytes).unwrap();
        ids.push(id);
    }
    // One batch twice, and three events twice: what comes again has the same id.
    assert_eq!(ids.len(), 8);
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[2..5], ids[5..8]);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[test]
fn headers_that_are_not_the_users_are_refused() {
    for header in [
        "content-type=x",
        "Ce-Id=x",
        "webhook-id=x",
        "Host=x",
        "=x",
        "a:b=x",
        "x-y=a%0Ahunter2",
    ] {
        let error = sink::open(&format!("https://h/?eventstore.header.{header}")).unwrap_err();
        assert!(error.reason.contains("eventstore.header.NAME"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
