//! What the stream has of a batch that nobody confirmed, perhaps of an earlier run of the program. The stream forgets
//! message ids after its duplicate window; what is written on its messages, it keeps.

use super::connection::Connection;
use crate::sink::{
    SinkError, SinkEvent,
    shared::doubt::{Found, MOST_CALLS, MOST_READ, Origin, Reach, Seen},
};
use async_nats::jetstream::{
    message::StreamMessage,
    stream::{RawMessageErrorKind, Stream},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::time::SystemTime;
use tracing::warn;

/// The header with the id of the journal that the event comes from.
pub(super) const JOURNAL: &str = "Eventstore-Journal";
/// The header with the event's position in that journal.
pub(super) const POSITION: &str = "Eventstore-Position";

/// How many messages are looked at before it is asked whether that was far enough. More than somebody sends again by hand
/// while a batch is in doubt: such a message has a low position and stands behind higher ones.
const FIRST_PAGE: u64 = 256;
const LARGEST_PAGE: u64 = 4096;
/// How many messages are asked for at once. Each may be as large as a message can be.
const AT_ONCE: usize = 64;

/// What is in doubt, and what is known of it.
pub(super) struct Doubt {
    /// A batch may be in the stream that nobody has confirmed: of an earlier run of the program, at the start.
    is_in_doubt: bool,
    /// Whether the user may read the stream, as far as is known.
    may_read: bool,
    found: Found,
    /// When the stream was made that was looked at.
    made_at: Option<SystemTime>,
    /// The stream's last message of the last batch that was confirmed as a whole.
    confirmed: u64,
    /// A look that was not finished.
    look: Option<Look>,
}

/// A look at the stream from its end, which may take more than one call.
struct Look {
    /// Where it goes on, backwards.
    next: u64,
    read: u64,
    /// How many messages are read next.
    page: u64,
    /// How many calls were cut off.
    calls: u32,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            is_in_doubt: true,
            may_read: true,
            found: Found::default(),
            made_at: None,
            confirmed: 0,
            look: None,
        }
    }
}

impl Doubt {
    /// Whether the stream has to be looked at before anything is published.
    pub(super) fn asks_for_a_look(&self) -> bool {
        self.is_in_doubt && self.may_read
    }

    pub(super) fn found(&self) -> &Found {
        &self.found
    }

    /// From now on, what is published is in doubt.
    pub(super) fn begin(&mut self, batch: &[SinkEvent]) {
        self.found.pass(batch);
        self.is_in_doubt = true;
    }

    /// The stream has the whole batch, up to this message, if it got one.
    pub(super) fn end(&mut self, last: Option<u64>) {
        self.is_in_doubt = false;
        self.confirmed = last.unwrap_or(self.confirmed).max(self.confirmed);
    }

    /// Whether a look failed because the user may not read; then there is none from now on.
    pub(super) fn gives_up(&mut self, error: &SinkError, stream: &str) -> bool {
        let reason = error.reason();
        let is_refused = reason.to_lowercase().contains("permissions violation")
            && ["STREAM.MSG.GET", "STREAM.INFO"]
                .iter()
                .any(|subject| reason.contains(subject));
        if is_refused {
            self.may_read = false;
            self.look = None;
            warn!(
                stream,
                %error,
                "the stream may not be read: after an outage beyond its duplicate window, events may come twice"
            );
        }
        is_refused
    }

    /// Finds out which events in doubt are in the stream.
    pub(super) async fn look(
        &mut self,
        connection: &Connection,
        subject: &str,
        batch: &[SinkEvent],
        origin: &Origin,
    ) -> Result<(), SinkError> {
        let failed = |error: &dyn std::fmt::Display| {
            SinkError::new(format!("the NATS stream cannot be read: {error}"))
        };
        let stream = connection
            .context
            .get_stream_no_info(&connection.stream)
            .await
            .map_err(|error| failed(&error))?;
        let info = stream.get_info().await.map_err(|error| failed(&error))?;
        let last = info.state.last_sequence;
        let made_at = SystemTime::from(info.created);
        if self.made_at.is_some_and(|at| at != made_at) {
            // Another stream of the same name: what was found is gone.
            self.found.clear();
            self.confirmed = 0;
            self.look = None;
        }
        self.made_at = Some(made_at);
        let reach = Reach::of(batch, origin);
        let floor = self
            .confirmed
            .max(info.state.first_sequence.saturating_sub(1));
        let look = match &mut self.look {
            Some(look) => look,
            look => look.insert(Look {
                next: last,
                read: 0,
                page: FIRST_PAGE.max(batch.len() as u64),
                calls: 0,
            }),
        };
        while look.next > floor {
            if look.read >= MOST_READ || look.calls >= MOST_CALLS {
                warn!(
                    stream = connection.stream,
                    "others wrote so much to the stream that it was not read to the end of the doubt: events may come twice"
                );
                break;
            }
            let before = look.next.saturating_sub(look.page).max(floor);
            // One that does not come in time is smaller the next time, so that large messages are seen, too.
            let page = look.page;
            look.page = (page / 4).max(1);
            look.calls += 1;
            let messages = read(&stream, before + 1..=look.next).await;
            // Not where this call is dropped meanwhile.
            look.calls -= 1;
            let messages = messages?;
            let mut is_over = false;
            for message in messages {
                let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
                let is_own = message.subject.as_str() == subject;
                let seen = Seen {
                    id: header(async_nats::header::NATS_MESSAGE_ID.as_ref()).filter(|_| is_own),
                    journal: header(JOURNAL),
                    position: header(POSITION).filter(|_| is_own),
                    at: Some(message.time.into()),
                };
                self.found.note(seen, &reach);
                is_over |= reach.ends_at(seen);
            }
            look.read += look.next - before;
            look.next = before;
            look.page = (page * 2).min(LARGEST_PAGE);
            if is_over || self.confirmed == 0 && reach.is_unknown() {
                break;
            }
        }
        self.look = None;
        Ok(())
    }
}

/// The messages of a part of the stream; those that were removed are left out.
async fn read(
    stream: &Stream<()>,
    sequences: std::ops::RangeInclusive<u64>,
) -> Result<Vec<StreamMessage>, SinkError> {
    let asked = stream::iter(sequences).map(|sequence| async move {
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(SinkError::caused_by(
                "the NATS stream cannot be read",
                error,
            )),
        }
    });
    let read = asked.buffer_unordered(AT_ONCE);
    // Nothing but the headers is kept of a message.
    read.map_ok(|message| {
        message.map(|message| StreamMessage {
            payload: bytes::Bytes::new(),
            ..message
        })
    })
    .try_filter_map(|message| std::future::ready(Ok(message)))
    .try_collect()
    .await
}
