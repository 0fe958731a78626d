//! The store's numbers on the Prometheus endpoint of a worker.

use crate::support::{Ground, example, rows, start_worker};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// What a scrape returns.
fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The value of a metric with these labels.
fn value(scraped: &str, name: &str, labels: &[&str]) -> Option<f64> {
    scraped
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .find(|line| labels.iter().all(|label| line.contains(label)))
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

#[tokio::test]
async fn a_scrape_of_the_worker_has_the_numbers_of_the_store() {
    let ground = Ground::new().await;
    let address = free_address();
    let url = format!("{},stdout:?eventstore.name=lines", ground.store_url());
    let mut command = example("worker");
    command
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .env("EVENTSTORE_URL", url)
        .args(["--metrics", &address.to_string()]);
    let _worker = start_worker(&mut command);
    let starter = example("starter")
        .env("TEMPORAL_ADDRESS", ground.server.address())
        .args(["--count", "3", "--wait"])
        .output()
        .unwrap();
    assert!(starter.status.success(), "{starter:?}");
    let began = Instant::now();
    let (written, scraped) = loop {
        let written = rows(&ground.file()).len() as f64;
        let scraped = scrape(address).unwrap();
        // A workflow's end comes a moment after the client knows of it.
        let is_all = value(&scraped, "eventstore_held", &[]) == Some(0.0)
            && value(&scraped, "eventstore_events_written", &[]) == Some(written)
            && written >= 7.0;
        if is_all {
            break (written, scraped);
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{written}: {scraped}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let of = |name| value(&scraped, name, &["namespace=\"default\""]);
    assert!(of("eventstore_commits") >= Some(6.0), "{scraped}");
    assert!(of("eventstore_commit_wait_microseconds") > Some(0.0));
    assert_eq!(of("eventstore_events_lost"), Some(0.0));
    let of_sink = |name| value(&scraped, name, &["namespace=\"default\"", "sink=\"lines\""]);
    // Nobody reads what the worker prints.
    assert_eq!(of_sink("eventstore_sink_failing"), Some(1.0), "{scraped}");
    assert_eq!(of("eventstore_healthy"), Some(0.0));
    assert!(of_sink("eventstore_sink_retries") >= Some(1.0));
    assert!(of_sink("eventstore_sink_behind") <= Some(written));
    assert_eq!(of("eventstore_degraded"), Some(0.0));
    // The SDK's own are beside them, and nothing names a workflow.
    assert!(scraped.contains("temporal_workflow_completed"), "{scraped}");
    let own = scraped
        .lines()
        .filter(|line| line.starts_with("eventstore_"));
    for line in own {
        assert!(
            !line.contains("workflow_id") && !line.contains("_total"),
            "{line}"
        );
    }
}
