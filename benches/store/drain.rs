//! How fast delivery hands over what waited for a sink, where the sink itself takes no time.

use crate::{
    Scale,
    events::{self, BYTES, Count, Events, PATIENCE},
    process::{Usage, forget_most_memory, memory_mib},
};
use async_trait::async_trait;
use std::{sync::Arc, time::Instant};
use temporal_eventstore::{
    EventStore,
    sink::{Delivered, Sink, SinkError, SinkEvent},
};

#[derive(Debug, Default)]
struct Nothing {
    taken: Count,
}

#[async_trait]
impl Sink for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        self.taken.add(batch.len());
        Ok(Delivered::all(batch))
    }

    async fn check(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

pub async fn backlog(scale: &Scale) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let url = events::url(&directory.path().join("events.db"));
    let many = scale.of(1_000_000, 10_000);
    let store = events::open(&url).await?;
    events::ingest(&store, &mut Events::of(BYTES).await?, many).await?;
    store.shutdown(PATIENCE).await?;
    drop(store);

    let sink = Arc::new(Nothing::default());
    forget_most_memory()?;
    let memory = memory_mib()?.0;
    let before = Usage::of_this_process()?;
    let began = Instant::now();
    let store = EventStore::builder()
        .application_name("orders")
        .store(url)
        .sink(sink.clone())
        .build()
        .await?;
    store.flush(PATIENCE).await?;
    let seconds = began.elapsed().as_secs_f64();
    let spent = Usage::of_this_process()?.since(&before);
    anyhow::ensure!(sink.taken.get() == many as u64, "events are missing");
    store.shutdown(PATIENCE).await?;
    println!("| a backlog of {many} events of {BYTES} bytes | |");
    println!("|---|---|");
    println!("| events per second | {:.0} |", many as f64 / seconds);
    println!(
        "| CPU of one, µs | {:.2} |",
        spent.cpu_ms * 1000.0 / many as f64
    );
    println!(
        "| memory beforehand and at most, MiB | {memory:.0}, {:.0} |",
        memory_mib()?.1
    );
    Ok(())
}
