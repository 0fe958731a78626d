//! A sink of your own, and the suite that says whether it keeps what every sink has to keep:
//!
//! ```text
//! cargo run --example own_sink --features testing
//! cargo test --example own_sink --features testing
//! ```
//!
//! The server is a ledger in this process, which can be taken away and paused as a real one can. Yours is real, and
//! [`SinkUnderTest`](temporal_eventstore::testing::conformance::SinkUnderTest) starts it.

use async_trait::async_trait;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use temporal_eventstore::{
    Event, EventStore,
    sink::{Delivered, Rejection, Sink, SinkError, SinkEvent},
};
use tokio::{sync::watch, time::timeout};

/// How long the sink waits for an answer: shorter than the delivery waits for the sink.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest event that the ledger takes.
const MOST_BYTES: usize = 100_000;

/// What a server can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only the suite takes it away"))]
enum Server {
    Working,
    Paused,
    Gone,
}

/// An event in the ledger.
#[derive(Clone, Debug)]
struct Entry {
    id: String,
    key: Option<String>,
}

/// The server: takes each event once, by its id.
#[derive(Debug)]
struct Ledger {
    state: watch::Sender<Server>,
    entries: Mutex<Vec<Entry>>,
}

impl Ledger {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: watch::channel(Server::Working).0,
            entries: Mutex::default(),
        })
    }

    /// Answers when the server works, and never while it is paused.
    async fn answer(&self) -> Result<(), SinkError> {
        let mut states = self.state.subscribe();
        let state = states.wait_for(|state| *state != Server::Paused).await;
        match state.map(|state| *state) {
            Ok(Server::Working) => Ok(()),
            _ => Err(SinkError::new("the ledger is not there")),
        }
    }

    /// Notes an event, unless it is there already.
    fn note(&self, event: &SinkEvent) {
        let entry = Entry {
            id: event.event_id.to_string(),
            key: event.key().map(str::to_owned),
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.iter().any(|other| other.id == entry.id) {
            entries.push(entry);
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.clone()
    }
}

/// The sink. Opening it connects to nothing.
#[derive(Debug)]
struct LedgerSink {
    ledger: Arc<Ledger>,
}

impl LedgerSink {
    async fn answer(&self) -> Result<(), SinkError> {
        match timeout(PATIENCE, self.ledger.answer()).await {
            Ok(answer) => answer,
            Err(late) => Err(SinkError::caused_by("the ledger does not answer", late)),
        }
    }
}

#[async_trait]
impl Sink for LedgerSink {
    fn name(&self) -> &str {
        "ledger"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        self.answer().await?;
        let mut rejected = Vec::new();
        for (index, event) in batch.iter().enumerate() {
            if event.json.len() > MOST_BYTES {
                let reason = format!("{} bytes are too many", event.json.len());
                rejected.push(Rejection::new(index, reason));
            } else {
                self.ledger.note(event);
            }
        }
        Ok(Delivered::up_to(batch.len(), rejected))
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.answer().await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ledger = Ledger::new();
    let sink = Arc::new(LedgerSink {
        ledger: ledger.clone(),
    });
    let events = EventStore::builder().sink(sink).build().await?;
    events.publish(Event::new("data.processed")).await?;
    events.shutdown(Duration::from_secs(5)).await?;
    for Entry { id, key } in ledger.entries() {
        println!("{id} {key:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use temporal_eventstore::testing::conformance::{Received, SinkUnderTest};

    struct LedgerUnderTest {
        ledger: Arc<Ledger>,
    }

    impl LedgerUnderTest {
        fn set(&self, state: Server) {
            self.ledger.state.send_replace(state);
        }
    }

    impl SinkUnderTest for LedgerUnderTest {
        const DEDUPES: bool = true;
        const SECRETS: &'static [&'static str] = &[];

        async fn begin() -> Self {
            Self {
                ledger: Ledger::new(),
            }
        }

        fn open(&self) -> Arc<dyn Sink> {
            Arc::new(LedgerSink {
                ledger: self.ledger.clone(),
            })
        }

        async fn received(&self) -> Vec<Received> {
            let entries = self.ledger.entries().into_iter();
            entries
                .map(|Entry { id, key }| Received { event_id: id, key })
                .collect()
        }

        async fn stop(&mut self) {
            self.set(Server::Gone);
        }

        async fn start(&mut self) {
            self.set(Server::Working);
        }

        async fn pause(&mut self) {
            self.set(Server::Paused);
        }

        async fn resume(&mut self) {
            self.set(Server::Working);
        }

        fn poison() -> Option<Event> {
            None
        }

        fn oversize() -> Option<usize> {
            Some(MOST_BYTES)
        }
    }

    temporal_eventstore::sink_conformance!(LedgerUnderTest);
}
