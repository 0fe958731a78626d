//! What is stored already, and what is added. A shelf holds the objects of one journal and one day.
//!
//! An object begins with the first event that no object of its shelf has, is named by that event's position, and is
//! created only if the name is free. Whoever writes next, here or in another process, has to take that name too, or
//! to know of the object that has it: so two objects never share an event, however batches are cut and whatever is still
//! on its way. An object whose content is not known is read before anything is written over its positions.

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
            self.leave_out_stored(store, &path, &mut events).await?;
            let (Some(first), Some(last)) = (events.first(), events.last()) else {
                return Ok(());
            };
            let (first, last) = (first.position, last.position);
            let compression = address.compression;
            let start = self.free(&path, first);
            let object = path.clone().join(start.file_name(compression));
            let lines = lines(&events);
            let bytes = blocking(move || compression.pack(lines)).await?;
            let put = store
                .put_opts(&object, bytes.into(), PutMode::Create.into())
                .await;
            match put {
                Ok(_) => {
                    let last = Some(last);
                    let shelf = self.known.entry(path).or_default();
                    shelf.insert(start, Known { compression, last });
                    return Ok(());
                }
                // By a call that was given up, by a request whose answer was lost, or by somebody else, who may have
                // written more.
                Err(Error::AlreadyExists { .. }) => {
                    self.known.remove(&path);
                    if !self.shelf(store, &path).await?.contains_key(&start) {
                        return Err(SinkError::new(
                            "an object is being written by somebody else at this moment",
                        ));
                    }
                }
                Err(error) => return Err(failed("an object is not stored", &error)),
            }
        }
    }

    /// Returns the first name that no object has, as far as is known.
    fn free(&self, path: &Path, position: u64) -> Start {
        let taken = self.known.get(path).and_then(|shelf| {
            let of_position = Start {
                position,
                number: 0,
            }..=Start {
                position,
                number: u32::MAX,
            };
            shelf.range(of_position).next_back()
        });
        Start {
            position,
            number: taken.map_or(1, |(start, _)| start.number.saturating_add(1)),
        }
    }

    /// Leaves out the events that some object has.
    async fn leave_out_stored(
        &mut self,
        store: &dyn ObjectStore,
        path: &Path,
        events: &mut Vec<&SinkEvent>,
    ) -> Result<(), SinkError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(());
        };
        let (first, last) = (first.position, last.position);
        let shelf = self.shelf(store, path).await?;
        let at = |position, number| Start { position, number };
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
    async fn shelf(&mut self, store: &dyn ObjectStore, path: &Path) -> Result<&Shelf, SinkError> {
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

/// Does what takes long in a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, SinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| SinkError::new(error.to_string())),
        Err(_) => Err(SinkError::new("an object was not compressed")),
    }
}
