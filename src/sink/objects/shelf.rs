//! What is stored already, and what is added. A shelf holds the objects of one journal and one day.
//!
//! An object begins with the first event that no object of its shelf has, is named by that event's position, and is
//! created only if the name is free. Whoever writes next, here or in another process, has to take that name too, or
//! to know of the object that has it: so two objects never share an event, however batches are cut and whatever is still
//! on its way. An object whose content is not known is read before anything is written over its positions. An object ends
//! before the next one of its shelf begins, whoever wrote that: so the object that has an event is the last one that begins at
//! its position or before, even if a journal that was restored from a copy gives positions again.

use super::{
    address::ObjectAddress,
    encoding::{Compression, lines},
    name::{self, Start},
    place::failed,
};
use crate::{
    event::EventId,
    sink::{SinkError, SinkEvent},
};
use futures_util::StreamExt as _;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, path::Path};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io,
    ops::Bound,
    sync::Arc,
};

/// So many shelves are remembered. Others are listed again.
const MOST_SHELVES: usize = 32;
/// So many objects that were read are remembered.
const MOST_READ: usize = 2;

/// What is known of all shelves.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    known: BTreeMap<Path, Shelf>,
    /// The events of the objects that were read last.
    read: VecDeque<(Path, Arc<HashSet<EventId>>)>,
}

/// The objects of a journal and a day.
type Shelf = BTreeMap<Start, Known>;

/// What is known of an object.
#[derive(Clone, Copy, Debug)]
struct Known {
    compression: Compression,
    /// The position of its last event, if it was written here.
    last: Option<u64>,
}

impl Shelves {
    /// Stores events of one day, which are in order, if they are not stored yet.
    pub(super) async fn put(
        &mut self,
        store: &dyn ObjectStore,
        address: &ObjectAddress,
        journal: &str,
        day: &str,
        mut events: Vec<&SinkEvent>,
    ) -> Result<(), SinkError> {
        let path = name::shelf(&address.prefix, day, journal);
        loop {
            self.leave_out_stored(store, address, &path, &mut events)
                .await?;
            loop {
                let Some(first) = events.first().map(|event| event.position) else {
                    return Ok(());
                };
                // A write that fails or is given up may be stored all the same: it is listed again then.
                let Some(mut shelf) = self.known.remove(&path) else {
                    break;
                };
                let start = free(&shelf, first);
                let own = before_the_next(&shelf, &events);
                let last = own.last().map(|event| event.position);
                let length = own.len();
                let lines = lines(own);
                let compression = address.compression;
                let object = path.clone().join(start.file_name(compression));
                let bytes = blocking(move || compression.pack(lines)).await?;
                let put = store
                    .put_opts(&object, bytes.into(), PutMode::Create.into())
                    .await;
                match put {
                    Ok(_) => {
                        shelf.insert(start, Known { compression, last });
                        self.known.insert(path.clone(), shelf);
                        events.drain(..length);
                    }
                    // By a call that was given up, by a request whose answer was lost, or by somebody else, who may have
                    // written more.
                    Err(Error::AlreadyExists { .. }) => {
                        let shelf = self.shelf(store, address, &path).await?;
                        if !shelf.contains_key(&start) {
                            return Err(SinkError::new(
                                "an object is being written by somebody else at this moment",
                            ));
                        }
                        break;
                    }
                    Err(error) => return Err(failed("an object is not stored", &error)),
                }
            }
        }
    }

    /// Leaves out the events that some object has.
    async fn leave_out_stored(
        &mut self,
        store: &dyn ObjectStore,
        address: &ObjectAddress,
        path: &Path,
        events: &mut Vec<&SinkEvent>,
    ) -> Result<(), SinkError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(());
        };
        let (first, last) = (first.position, last.position);
        let shelf = self.shelf(store, address, path).await?;
        // The last object that begins before them may reach into them.
        let begin = shelf.range(..=at(first, u32::MAX)).next_back();
        let begin = begin.map_or(first, |(start, _)| start.position);
        let may_have: Vec<(Start, Known)> = shelf
            .range(at(begin, 0)..=at(last, u32::MAX))
            .filter(|(_, known)| known.last.is_none_or(|last| last >= first))
            .map(|(start, known)| (*start, *known))
            .collect();
        for (start, Known { compression, .. }) in may_have {
            let object = path.clone().join(start.file_name(compression));
            match self.ids(store, &object, compression).await? {
                Some(ids) => events.retain(|event| !ids.contains(&event.event_id)),
                // Nobody deletes objects, but somebody's write may have been given up.
                None => {
                    if let Some(shelf) = self.known.get_mut(path) {
                        shelf.remove(&start);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns what is known of a shelf, of which the store is asked once.
    async fn shelf(
        &mut self,
        store: &dyn ObjectStore,
        address: &ObjectAddress,
        path: &Path,
    ) -> Result<&Shelf, SinkError> {
        if !self.known.contains_key(path) {
            let mut shelf = Shelf::new();
            let mut objects = store.list(Some(path));
            while let Some(object) = objects.next().await {
                let object = object.map_err(|error| failed("objects cannot be listed", &error))?;
                let name = object.location.filename().and_then(Start::of);
                shelf.extend(name.map(|(start, compression)| {
                    let last = None;
                    (start, Known { compression, last })
                }));
            }
            // What was found counts as stored from now on.
            address.place.sync(path).await?;
            if self.known.len() >= MOST_SHELVES {
                self.known.pop_first();
            }
            self.known.insert(path.clone(), shelf);
        }
        Ok(self.known.entry(path.clone()).or_default())
    }

    /// Returns the events of an object; none if it is not there.
    async fn ids(
        &mut self,
        store: &dyn ObjectStore,
        object: &Path,
        compression: Compression,
    ) -> Result<Option<Arc<HashSet<EventId>>>, SinkError> {
        if let Some((_, ids)) = self.read.iter().find(|(read, _)| read == object) {
            return Ok(Some(ids.clone()));
        }
        let what = "an object that may have the events cannot be read";
        let answer = match store.get(object).await {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(what, &error)),
        };
        let ids = blocking(move || compression.ids(&bytes)).await;
        let ids = Arc::new(ids.map_err(|error| {
            SinkError::new(format!("{object}, which may have the events: {error}"))
        })?);
        self.read.truncate(MOST_READ - 1);
        self.read.push_front((object.clone(), ids.clone()));
        Ok(Some(ids))
    }
}

fn at(position: u64, number: u32) -> Start {
    Start { position, number }
}

/// Returns the first name for a position that no object of the shelf has.
fn free(shelf: &Shelf, position: u64) -> Start {
    let taken = shelf.range(at(position, 0)..=at(position, u32::MAX));
    let number = taken.last().map_or(0, |(start, _)| start.number);
    at(position, number.saturating_add(1))
}

/// Returns those of the events, which are in order, that come before the next object of the shelf.
fn before_the_next<'a, 'b>(shelf: &Shelf, events: &'b [&'a SinkEvent]) -> &'b [&'a SinkEvent] {
    let first = events.first().map_or(0, |event| event.position);
    let behind = (Bound::Excluded(at(first, u32::MAX)), Bound::Unbounded);
    let length = match shelf.range(behind).next() {
        Some((next, _)) => events.partition_point(|event| event.position < next.position),
        None => events.len(),
    };
    events.get(..length).unwrap_or(events)
}

/// Does what takes long in a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| SinkError::new(error.to_string())),
        Err(_) => Err(SinkError::new("an object was not compressed")),
    }
}
