//! Events as objects of a store, or files of a folder: lines of JSON, one object for each batch and day. An object
//! is named by the position of its first event and is never written twice, so that whoever comes later, a program that
//! was restarted or a call that was given up, finds out what is in it and goes on behind. Documented in
//! `docs/sinks/objects.md`.

mod address;
mod encoding;
mod name;
mod place;
mod shelf;

use super::{
    Delivered, Filling, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::attempt::{outcome, within},
};
use address::ObjectAddress;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use object_store::ObjectStore as _;
use shelf::Shelves;
use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::Mutex;
use uuid::Uuid;

/// How long a call may take in all.
const CALL_LIMIT: Duration = Duration::from_secs(12);
const NO_ANSWER: &str = "the object store does not answer";

/// The sink for `s3:`, `gs:`, `az:` and `file:`.
struct Objects {
    address: ObjectAddress,
    // Until it is told, one of its own: positions of a journal in memory begin anew with each process.
    journal: std::sync::Mutex<String>,
    shelves: Mutex<Shelves>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("name", &self.address.name)
            .field("compression", &self.address.compression)
            .field("filling", &self.address.filling)
            .finish_non_exhaustive()
    }
}

/// The sink of the URL of an object store, or of a folder.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    Ok(Arc::new(Objects {
        address: ObjectAddress::parse(url)?,
        journal: std::sync::Mutex::new(Uuid::new_v4().to_string()),
        shelves: Mutex::default(),
    }))
}

impl Objects {
    async fn put_all(&self, batch: &[SinkEvent], done: &mut Delivered) -> Result<(), SinkError> {
        let journal = self
            .journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut shelves = self.shelves.lock().await;
        let store = self.address.place.open().await?;
        let mut left: Vec<(usize, &SinkEvent)> = batch.iter().enumerate().collect();
        // The day of the first event that is left, and of all others of that day.
        while let Some((_, first)) = left.first() {
            let day = name::day(first);
            let (of_day, others): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|(_, event)| name::day(event) == day);
            let events = of_day.into_iter().map(|(_, event)| event).collect();
            shelves
                .put(&*store, &self.address, &journal, &day, events)
                .await?;
            done.taken = others.first().map_or(batch.len(), |(index, _)| *index);
            left = others;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for Objects {
    fn name(&self) -> &str {
        &self.address.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let mut done = Delivered::default();
        let end = within(CALL_LIMIT, NO_ANSWER, self.put_all(batch, &mut done)).await;
        outcome(done, end)
    }

    async fn check(&self) -> Result<(), SinkError> {
        let ask = async {
            let store = self.address.place.open().await?;
            let prefix = &self.address.prefix;
            let mut objects = store.list(Some(prefix));
            match objects.next().await {
                Some(Err(error)) => Err(place::failed("objects cannot be listed", &error)),
                _ => Ok(()),
            }
        };
        within(CALL_LIMIT, NO_ANSWER, ask).await
    }

    fn comes_from(&self, journal: &str) {
        *self.journal.lock().unwrap_or_else(PoisonError::into_inner) = journal.to_owned();
    }

    fn filling(&self) -> Option<Filling> {
        Some(self.address.filling)
    }
}
