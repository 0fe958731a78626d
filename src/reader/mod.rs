//! Reading a store from outside: the SQLite file of a store, also while a worker writes it, or the PostgreSQL table of
//! the sink `postgres:`. Knows the format of events and where they are kept, and nothing of Temporal. It changes
//! nothing, except through [`EventReader::delete_dead_letters`].

mod error;
#[cfg(feature = "cli")]
mod inspection;
#[cfg(feature = "postgres")]
mod postgres;
mod query;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "cli")]
pub(crate) use crate::journal::lock;
pub use error::ReadError;
#[cfg(feature = "cli")]
pub(crate) use inspection::Condition;
pub use query::EventQuery;

use crate::{
    event::{DeadLetter, StoredEvent},
    sink::redacted,
};
use futures_util::{Stream, stream};
use serde::Serialize;
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

/// What [`EventReader::open`] takes, for errors.
const ALLOWED: &str =
    "`sqlite:PATH` (the file of a store) or `postgres://user:password@host/database?table=events`";

/// Reads stored events, beside the program that stores them. A cheap handle: clones share one connection.
///
/// ```no_run
/// use futures_util::StreamExt as _;
/// use temporal_eventstore::{EventQuery, EventReader};
/// # async fn f() -> Result<(), temporal_eventstore::ReadError> {
/// let reader = EventReader::open("sqlite:events.db").await?;
/// for event in reader.read(&EventQuery::new().workflow_id("order-1")).await? {
///     println!("{} {}", event.created_at, event.event_name);
/// }
/// // What is stored from now on.
/// let newest = reader.newest().await?;
/// let mut live = std::pin::pin!(reader.follow(EventQuery::new().after(newest).only("workflow_end")?));
/// while let Some(event) = live.next().await {
///     println!("{}", event?.json);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct EventReader {
    source: Source,
    shown: Arc<str>,
}

#[derive(Clone)]
enum Source {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::File),
    #[cfg(feature = "postgres")]
    Postgres(postgres::Table),
}

/// How far a sink has come, as the store's file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SinkPosition {
    /// The sink's name.
    pub name: String,
    /// The position up to which it is done; 0 if it has not begun.
    pub position: u64,
    /// How many events are behind that position, whether they are selected for it or not.
    pub behind: u64,
    /// When the oldest of these happened, as the event has it.
    pub oldest: Option<String>,
    /// How many events it rejected that are kept as dead letters.
    pub dead_letters: u64,
    /// Whether somebody paused it ([`EventStore::pause_sink`](crate::EventStore::pause_sink)).
    pub is_paused: bool,
}

/// A page of events, and how far it was looked for them.
struct Page {
    events: Vec<StoredEvent>,
    is_last: bool,
}

impl EventReader {
    /// Opens a store to read it: `sqlite:PATH` with the feature `sqlite`, `postgres://…` with the feature `postgres`,
    /// as [`EventStoreOptions::stores`](crate::EventStoreOptions::stores) has them. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ReadError`], which says what is wrong with the URL, the file or the server.
    pub async fn open(url: &str) -> Result<Self, ReadError> {
        let url = url.trim();
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        let source = match scheme {
            #[cfg(feature = "sqlite")]
            "sqlite" => Source::Sqlite(sqlite::File::open(url).await?),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Source::Postgres(postgres::Table::open(url).await?),
            #[cfg(not(feature = "sqlite"))]
            "sqlite" => return Err(ReadError::without_feature(url, "sqlite")),
            #[cfg(not(feature = "postgres"))]
            "postgres" | "postgresql" => return Err(ReadError::without_feature(url, "postgres")),
            _ => return Err(ReadError::invalid_url(url, "events cannot be read from it")),
        };
        Ok(Self {
            source,
            shown: redacted(url).into(),
        })
    }

    /// Opens a store's file.
    #[cfg(feature = "sqlite")]
    pub(crate) async fn open_file(path: &std::path::Path) -> Result<Self, ReadError> {
        Ok(Self {
            source: Source::Sqlite(sqlite::File::at(path.to_owned()).await?),
            shown: format!("sqlite:{}", path.display()).into(),
        })
    }

    /// Returns the URL without user name, password and parameters.
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Reads events in the order of their positions: at most [`limit`](EventQuery::limit), and fewer if they are
    /// large (a call ends at about 8 MiB). To go on, ask for those [`after`](EventQuery::after) the last position.
    /// Cancel safe.
    ///
    /// Positions are those of this store: in a SQLite file the journal's, in PostgreSQL the column `seq`.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    pub async fn read(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, ReadError> {
        Ok(self.page(query).await?.events)
    }

    async fn page(&self, query: &EventQuery) -> Result<Page, ReadError> {
        match &self.source {
            #[cfg(feature = "sqlite")]
            Source::Sqlite(file) => file.read(query.clone()).await,
            #[cfg(feature = "postgres")]
            Source::Postgres(table) => table.read(query).await,
        }
    }

    /// Returns the position of the newest event; 0 if there is none.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    pub async fn newest(&self) -> Result<u64, ReadError> {
        match &self.source {
            #[cfg(feature = "sqlite")]
            Source::Sqlite(file) => file.newest().await,
            #[cfg(feature = "postgres")]
            Source::Postgres(table) => table.newest().await,
        }
    }

    /// Returns all events that the store has now and that the query selects, page by page.
    /// [`limit`](EventQuery::limit) is the size of a page. After an error the stream ends.
    pub fn stream(
        &self,
        query: EventQuery,
    ) -> impl Stream<Item = Result<StoredEvent, ReadError>> + Send + use<> {
        let state = Reading {
            reader: self.clone(),
            query,
            waiting: VecDeque::new(),
            end: End::AtTheNewest,
            is_over: false,
        };
        stream::unfold(state, Reading::next)
    }

    /// Returns the events that the query selects, those that are stored already and then each that comes, for ever, or
    /// until the position [`up_to`](EventQuery::up_to) is reached. Looks for new ones four times a second. After an error the stream ends; a new one goes on
    /// [`after`](EventQuery::after) the last position. Cancel safe.
    ///
    /// In PostgreSQL, numbers of `seq` are given before a row is committed, and rows of several programs come in any
    /// order. Where numbers are missing, the stream first waits until the transactions that may bring them are over, for
    /// one second at least and 12 at most, so that no event is passed over. It waits once for all that are missing when
    /// it first looks.
    pub fn follow(
        &self,
        query: EventQuery,
    ) -> impl Stream<Item = Result<StoredEvent, ReadError>> + Send + use<> {
        let state = Reading {
            reader: self.clone(),
            query,
            waiting: VecDeque::new(),
            end: End::Never(Pause::default()),
            is_over: false,
        };
        stream::unfold(state, Reading::next)
    }

    /// Returns how far each sink has come that the store delivers to. PostgreSQL is a sink itself and has none.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read.
    pub async fn sinks(&self) -> Result<Vec<SinkPosition>, ReadError> {
        match &self.source {
            #[cfg(feature = "sqlite")]
            Source::Sqlite(file) => file.sinks().await,
            #[cfg(feature = "postgres")]
            Source::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// Returns events that sinks rejected, in the order of their positions: those of one sink, or of all, at most
    /// `limit` of those after `position` (0 for the beginning), and then the rest of those that share the last
    /// position.
    ///
    /// # Errors
    /// [`ReadError`] if the store cannot be read. PostgreSQL has no dead letters: they are in the journal of the
    /// program that delivers.
    pub async fn dead_letters(
        &self,
        sink: Option<&str>,
        position: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        match &self.source {
            #[cfg(feature = "sqlite")]
            Source::Sqlite(file) => {
                let sink = sink.map(str::to_owned);
                file.dead_letters(sink, position, limit).await
            }
            #[cfg(feature = "postgres")]
            Source::Postgres(_) => Err(self.has_no_dead_letters(sink, position, limit)),
        }
    }

    /// Deletes dead letters for good, each named by its sink and its position, and returns how many there were. The
    /// one change that a reader makes; a worker may have the file open meanwhile.
    ///
    /// # Errors
    /// As [`dead_letters`](Self::dead_letters), and if the file cannot be written.
    pub async fn delete_dead_letters(&self, letters: &[(String, u64)]) -> Result<u64, ReadError> {
        match &self.source {
            #[cfg(feature = "sqlite")]
            Source::Sqlite(file) => file.delete_dead_letters(letters.to_vec()).await,
            #[cfg(feature = "postgres")]
            Source::Postgres(_) => Err(self.has_no_dead_letters(None, 0, letters.len())),
        }
    }

    #[cfg(feature = "postgres")]
    fn has_no_dead_letters(&self, _: Option<&str>, _: u64, _: usize) -> ReadError {
        ReadError::invalid_url(
            &self.shown,
            "dead letters are in the journal of the program that delivers: name its `sqlite:` file",
        )
    }
}

impl fmt::Debug for EventReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader")
            .field("url", &self.shown)
            .finish_non_exhaustive()
    }
}

/// A stream's way through the store.
struct Reading {
    reader: EventReader,
    query: EventQuery,
    waiting: VecDeque<StoredEvent>,
    end: End,
    is_over: bool,
}

enum End {
    AtTheNewest,
    Never(Pause),
}

/// How a live stream waits for more.
#[derive(Default)]
struct Pause {
    #[cfg(feature = "postgres")]
    gaps: postgres::Gaps,
    // What is stored already is read without a pause.
    is_caught_up: bool,
}

impl Reading {
    /// How long a live stream waits before it looks again.
    const INTERVAL: Duration = Duration::from_millis(250);

    async fn next(mut self) -> Option<(Result<StoredEvent, ReadError>, Self)> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.query.after = event.position;
                return Some((Ok(event), self));
            }
            if self.is_over {
                return None;
            }
            if let End::Never(pause) = &self.end
                && pause.is_caught_up
            {
                tokio::time::sleep(Self::INTERVAL).await;
            }
            if let Err(error) = self.fill().await {
                self.is_over = true;
                return Some((Err(error), self));
            }
        }
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        match &mut self.end {
            End::AtTheNewest => {
                let page = self.reader.page(&self.query).await?;
                self.is_over = page.is_last;
                self.waiting = page.events.into();
            }
            End::Never(pause) => {
                // Read before the events: later ones wait for the next look.
                let newest = match &self.reader.source {
                    #[cfg(feature = "sqlite")]
                    Source::Sqlite(file) => file.newest().await?,
                    #[cfg(feature = "postgres")]
                    Source::Postgres(table) => {
                        table.settled(self.query.after, &mut pause.gaps).await?
                    }
                };
                let up_to = self.query.up_to.unwrap_or(u64::MAX);
                self.is_over = up_to <= self.query.after;
                let newest = newest.min(up_to);
                if newest <= self.query.after {
                    pause.is_caught_up = true;
                    return Ok(());
                }
                let query = self.query.clone().up_to(newest);
                let page = self.reader.page(&query).await?;
                pause.is_caught_up = page.is_last;
                if page.events.is_empty() && page.is_last {
                    // None of them is selected, and none is looked at again.
                    self.query.after = newest;
                }
                self.waiting = page.events.into();
            }
        }
        Ok(())
    }
}
