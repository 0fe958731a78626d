//! What the sink knows of its streams, and how it finds out what became of a batch whose answer was lost. What it reads
//! counts only once a write, or the server's role, has shown that it asked the server that takes the writes.

use super::{
    REDIS,
    connection::{Connection, Peer, is_broken},
    failed, text_of,
};
use crate::{
    event::EventId,
    sink::{
        SinkError, SinkEvent,
        shared::{
            doubt::{Found, MOST_CALLS, MOST_READ, Origin, Reach, Seen},
            recent::Recent,
        },
    },
};
use ::redis::streams::StreamRangeReply;
use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};
use tracing::warn;

/// How many entries are read at first, and at most at once.
const FIRST_PAGE: usize = 16;
const LARGEST_PAGE: usize = 256;
/// How many of the last entries of a stream are looked at in any case, or twice the batch if that is more. More than somebody
/// sends again by hand while a batch is in doubt: such an entry has a low position and stands behind higher ones.
const FIRST_LOOK: u64 = 1000;
/// The fields with the id of the journal that an event comes from, and with its position there.
pub(super) const JOURNAL: &str = "journal";
pub(super) const POSITION: &str = "position";

/// What the sink knows between calls.
#[derive(Default)]
pub(super) struct State {
    pub(super) connection: Option<Connection>,
    /// What it knows of each stream that it had events for.
    streams: HashMap<String, Stream>,
    /// The connection that the batch in doubt was sent over.
    doubtful: Option<Peer>,
    /// Events that are in one of the streams, of late.
    known: Recent,
}

/// What the sink knows of one stream.
struct Stream {
    /// The last entry that this sink has written, or seen.
    last_entry: Option<String>,
    /// A batch may have been written that nobody has acknowledged: by an earlier run of the program,
    /// at the start.
    in_doubt: bool,
    /// Events that are in the stream and not handed over yet.
    found: Found,
    /// What is being found out.
    look: Look,
}

/// A look at the stream, which may take more than one call. It belongs to the server that was asked.
struct Look {
    found: Found,
    newest: Option<String>,
    /// Where a look backwards goes on.
    oldest: Option<String>,
    entries: u64,
    /// How many calls were cut off.
    calls: u32,
    /// Whether an entry was seen that was there before the events in doubt.
    is_far_enough: bool,
    /// How many entries are asked for next.
    page: usize,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            found: Found::default(),
            newest: None,
            oldest: None,
            entries: 0,
            calls: 0,
            is_far_enough: false,
            page: FIRST_PAGE,
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            last_entry: None,
            in_doubt: true,
            found: Found::default(),
            look: Look::default(),
        }
    }
}

/// A batch that is about to be written, with what looks at its streams have found. If it is dropped, the doubt is back and
/// what was found is forgotten.
pub(super) struct Attempt {
    looks: HashMap<String, Look>,
    has_looked: bool,
}

impl Attempt {
    /// Whether a stream was looked at for this attempt.
    pub(super) fn has_looked(&self) -> bool {
        self.has_looked
    }

    pub(super) fn found(&self, stream: &str, id: EventId) -> bool {
        let look = self.looks.get(stream);
        look.is_some_and(|look| look.found.contains(id))
    }
}

impl State {
    /// There is a new connection, perhaps to a server that took over without what the old one had: what was found is looked
    /// for again.
    pub(super) fn begin_anew(&mut self) {
        for stream in self.streams.values_mut() {
            stream.in_doubt = true;
        }
    }

    /// Whether an event is known to be in its stream.
    pub(super) fn knows(&self, stream: &str, id: EventId) -> bool {
        let stream = self.streams.get(stream);
        self.known.contains(id) || stream.is_some_and(|stream| stream.found.contains(id))
    }

    /// Resolves the doubt about each of the streams, if there is one, and begins an attempt to write to them. The doubt about
    /// others stays until they have events again.
    pub(super) async fn begin(
        &mut self,
        streams: &[&str],
        connection: &mut Connection,
        batch: &[SinkEvent],
        origin: &Origin,
    ) -> Result<Attempt, SinkError> {
        // Whichever streams it wrote to: this batch may not have events for all of them.
        if let Some(peer) = self.doubtful.clone() {
            end_the_old_connection(&peer, connection).await?;
            self.doubtful = None;
        }
        let reach = Reach::of(batch, origin);
        let mut has_looked = false;
        for name in streams {
            let stream = self.streams.entry((*name).to_owned()).or_default();
            if !stream.in_doubt {
                continue;
            }
            stream
                .resolve(name, connection, batch.len(), &reach)
                .await?;
            has_looked = true;
        }
        if has_looked {
            // It may have become a replica meanwhile; if all is found, nothing is written that would tell.
            connection.require_primary().await?;
        }
        let mut looks = HashMap::with_capacity(streams.len());
        for name in streams {
            if let Some(stream) = self.streams.get_mut(*name) {
                stream.in_doubt = true;
                looks.insert((*name).to_owned(), std::mem::take(&mut stream.look));
            }
        }
        Ok(Attempt { looks, has_looked })
    }

    /// From now on, what comes over this connection is in doubt.
    pub(super) fn writes_over(&mut self, connection: &Connection) {
        self.doubtful = connection.peer.clone();
    }

    /// The server has all of these: what was found, and what was added to each stream, with its last entry.
    pub(super) fn end(
        &mut self,
        attempt: Attempt,
        batch: &[SinkEvent],
        last_entries: &HashMap<&str, String>,
    ) {
        self.doubtful = None;
        for (name, look) in attempt.looks {
            if let Some(stream) = self.streams.get_mut(&name) {
                stream.in_doubt = false;
                let seen = last_entries.get(&*name).cloned().or(look.newest);
                stream.last_entry = seen.or(stream.last_entry.take());
                stream.found.extend(look.found);
                stream.found.pass(batch);
            }
        }
        for event in batch {
            self.known.insert(event.event_id);
        }
        self.known.forget_oldest();
    }
}

impl Stream {
    /// Finds out which events of a batch in doubt are in the stream.
    async fn resolve(
        &mut self,
        name: &str,
        connection: &mut Connection,
        batch: usize,
        reach: &Reach,
    ) -> Result<(), SinkError> {
        // Another server, perhaps, which took over without what the old one had.
        if let Some(newest) = &self.look.newest
            && !is_there(name, connection, newest).await?
        {
            self.look = Look::default();
            self.found.clear();
        }
        if let Some(last) = &self.last_entry
            && !is_there(name, connection, last).await?
        {
            self.last_entry = None;
            self.look = Look::default();
            self.found.clear();
        }
        match self.last_entry.clone() {
            None => self.look_backwards(name, connection, batch, reach).await,
            Some(last) => self.look_behind(last, name, connection, reach).await,
        }
    }

    /// The last entries, from the newest on: to one that was there before the events in doubt.
    async fn look_backwards(
        &mut self,
        name: &str,
        connection: &mut Connection,
        batch: usize,
        reach: &Reach,
    ) -> Result<(), SinkError> {
        let wanted = FIRST_LOOK.max(2 * batch as u64);
        self.look.is_far_enough |= reach.is_unknown();
        while !self.look.is_far_enough || self.look.entries < wanted {
            if self.look.is_too_long() && self.look.entries >= wanted {
                say_unread(name);
                break;
            }
            let from = match &self.look.oldest {
                None => "+".to_owned(),
                Some(oldest) => format!("({oldest}"),
            };
            let command = ["XREVRANGE", name, &from, "-"];
            let page = self.look.read(&command, connection, reach).await?;
            if let Some(first) = page.entries.first() {
                let newest = &mut self.look.newest;
                newest.get_or_insert_with(|| first.clone());
            }
            if let Some(last) = page.entries.last() {
                self.look.oldest = Some(last.clone());
            }
            if page.is_last {
                break;
            }
        }
        Ok(())
    }

    /// The entries behind the last one that is known.
    async fn look_behind(
        &mut self,
        last: String,
        name: &str,
        connection: &mut Connection,
        reach: &Reach,
    ) -> Result<(), SinkError> {
        loop {
            if self.look.entries >= MOST_READ {
                say_unread(name);
                break;
            }
            let from = format!("({}", self.look.newest.as_ref().unwrap_or(&last));
            let command = ["XRANGE", name, &from, "+"];
            let page = self.look.read(&command, connection, reach).await?;
            if let Some(last) = page.entries.last() {
                self.look.newest = Some(last.clone());
            }
            if page.is_last {
                break;
            }
        }
        Ok(())
    }
}

impl Look {
    fn is_too_long(&self) -> bool {
        self.entries >= MOST_READ || self.calls >= MOST_CALLS
    }

    /// Reads a page. One that does not come in time is smaller the next time, so that large entries are seen, too.
    async fn read(
        &mut self,
        command: &[&str],
        connection: &mut Connection,
        reach: &Reach,
    ) -> Result<Page, SinkError> {
        let wanted = self.page;
        self.page = (wanted / 4).max(1);
        let (name, rest) = command.split_first().unwrap_or((&"PING", &[]));
        self.calls += 1;
        let page = ::redis::cmd(name)
            .arg(rest)
            .arg("COUNT")
            .arg(wanted)
            .query_async::<StreamRangeReply>(&mut connection.redis)
            .await;
        // Not where the call is dropped meanwhile.
        self.calls -= 1;
        let page = page.map_err(|error| failed(REDIS, error))?;
        self.page = (wanted * 2).min(LARGEST_PAGE);
        self.entries += page.ids.len() as u64;
        for entry in &page.ids {
            let [id, journal, position] =
                ["id", JOURNAL, POSITION].map(|field| entry.get::<String>(field));
            let seen = Seen {
                id: id.as_deref(),
                journal: journal.as_deref(),
                position: position.as_deref(),
                at: written_at(&entry.id),
            };
            self.found.note(seen, reach);
            self.is_far_enough |= reach.ends_at(seen);
        }
        Ok(Page {
            is_last: page.ids.len() < wanted,
            entries: page.ids.into_iter().map(|entry| entry.id).collect(),
        })
    }
}

/// When an entry was written, by the clock of the server.
fn written_at(entry: &str) -> Option<std::time::SystemTime> {
    let milliseconds = entry.split('-').next()?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds))
}

fn say_unread(stream: &str) {
    warn!(
        stream,
        "others wrote so much to the stream that it was not read to the end of the doubt: events may come twice"
    );
}

/// The ids of some entries, in the order in which they were asked for.
struct Page {
    entries: Vec<String>,
    is_last: bool,
}

async fn is_there(name: &str, connection: &mut Connection, entry: &str) -> Result<bool, SinkError> {
    let found = ::redis::cmd("XRANGE")
        .arg(&[name, entry, entry, "COUNT", "1"])
        .query_async::<StreamRangeReply>(&mut connection.redis)
        .await
        .map_err(|error| failed(REDIS, error))?;
    Ok(!found.ids.is_empty())
}

/// What the server has not read yet of the old connection would come after the look.
async fn end_the_old_connection(peer: &Peer, connection: &mut Connection) -> Result<(), SinkError> {
    let killed = ::redis::cmd("CLIENT")
        .arg(&["KILL", "ID", &peer.id, "ADDR", &peer.address])
        .query_async::<u64>(&mut connection.redis)
        .await;
    if let Err(error) = killed {
        if is_broken(&error) {
            return Err(failed(REDIS, error));
        }
        warn!(
            error = text_of(&error),
            "the old connection cannot be ended by CLIENT KILL; an event may come twice"
        );
    }
    Ok(())
}
