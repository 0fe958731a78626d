//! The events that are published, and the stores that they are published to.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use temporal_eventstore::{Event, EventStore, PublishError};
use uuid::Uuid;

/// How large an event is, as JSON in the store.
pub const BYTES: usize = 500;
/// How long a store may take for what it has to do.
pub const PATIENCE: Duration = Duration::from_secs(3600);
/// How many events are published before somebody looks whether they are durable.
const CHUNK: usize = 512;
/// How many events may be on their way to the store: far less than its log takes.
const ON_THE_WAY: u64 = 50_000;

/// Makes events such as workflows bring, four of each run; each with ids of its own, as long as they would
/// be.
pub struct Events {
    template: Event,
    made: u64,
}

impl Events {
    /// Events that are stored as `bytes` of JSON, in the store or a little less.
    pub async fn of(bytes: usize) -> anyhow::Result<Self> {
        let mut template = Event::new("order.shipped").name("OrderShipped");
        let metadata = &mut template.metadata;
        metadata.workflow_type = Some("OrderWorkflow".to_owned());
        metadata.activity_type = Some("Orders::ship".to_owned());
        metadata.activity_id = Some("3".to_owned());
        metadata.attempt = Some(1);
        let mut events = Self { template, made: 0 };
        let store = open("memory:").await?;
        store.publish(events.next()).await?;
        let stored = store.read_after(0, 1).await?;
        let length = stored.first().map_or(0, |event| event.json.len());
        // What `"note":""` and its comma take is already there in `"data":{}`, but for so many.
        let padding = bytes.saturating_sub(length + r#""note":"""#.len());
        events.template = events
            .template
            .data(serde_json::json!({ "note": "x".repeat(padding) }));
        Ok(events)
    }

    pub fn next(&mut self) -> Event {
        if self.made.is_multiple_of(4) {
            let metadata = &mut self.template.metadata;
            // Workflow ids are what users make them: in no order.
            metadata.workflow_id = Some(format!("order-{:016x}", fastrand::u64(..)));
            metadata.workflow_run_id = Some(Uuid::now_v7().to_string());
        }
        self.made += 1;
        self.template.clone()
    }
}

/// A store with a queue that is not what is measured.
pub async fn open(url: &str) -> anyhow::Result<EventStore> {
    let builder = EventStore::builder().application_name("orders");
    Ok(builder.store(url).queue_size(100_000).build().await?)
}

pub fn url(file: &Path) -> String {
    format!("sqlite:{}", file.display())
}

/// How large a store's file is, with what is still in its WAL.
pub fn file_bytes(file: &Path) -> anyhow::Result<f64> {
    let connection = rusqlite::Connection::open(file)?;
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, f64>(0));
    Ok(
        number("SELECT CAST(page_count AS REAL) FROM pragma_page_count")?
            * number("SELECT CAST(page_size AS REAL) FROM pragma_page_size")?,
    )
}

/// Publishes so many events as fast as the log takes them, and no faster than the store keeps up with;
/// everything is in the log then.
pub async fn ingest(
    store: &EventStore,
    events: &mut Events,
    mut count: usize,
) -> anyhow::Result<()> {
    let before = store.stats().written;
    let mut published = 0;
    let mut last = None;
    while count > 0 {
        let chunk = count.min(CHUNK);
        for _ in 1..chunk {
            drop(store.publish(events.next()));
        }
        let receipt = store.publish(events.next());
        // One chunk is made while the one before is written.
        if let Some(last) = last.replace(receipt) {
            durable(last.await)?;
        }
        count -= chunk;
        published += chunk as u64;
        while before + published > store.stats().written + ON_THE_WAY {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    if let Some(last) = last {
        durable(last.await)?;
    }
    let stats = store.stats();
    anyhow::ensure!(stats.refused + stats.lost == 0, "events were lost");
    Ok(())
}

fn durable<T>(result: Result<T, PublishError>) -> anyhow::Result<()> {
    result?;
    Ok(())
}

/// A number that different places count in.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, number: usize) {
        self.0.fetch_add(number as u64, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
