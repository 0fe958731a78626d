//! What the streams have of a batch that nobody confirmed, perhaps of an earlier run of the program. A stream forgets
//! message ids after its duplicate window; what is written on its messages, it keeps.
//!
//! Where the subject has fields of the event, every stream that takes one of its subjects is looked at, whichever the batch
//! names: then no doubt is left about a stream that the batch that comes again has nothing for.

use super::{address::SubjectAddress, connection::Connection};
use crate::{
    event::Event,
    sink::{
        SinkError, SinkEvent,
        shared::{
            doubt::{Found, MOST_CALLS, MOST_READ, Origin, Reach, Seen},
            route::Route,
        },
    },
};
use async_nats::{
    HeaderMap,
    jetstream::{
        message::StreamMessage,
        stream::{Info, RawMessageErrorKind, State, Stream},
    },
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::{collections::HashMap, ops::RangeInclusive, time::SystemTime};
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
    /// A batch may be in the streams that nobody has confirmed: of an earlier run of the program, at the start.
    is_in_doubt: bool,
    found: Found,
    /// The streams that were looked at, or have confirmed something.
    streams: HashMap<String, Known>,
    /// The stream that is being looked at.
    looked_at: Option<String>,
}

/// What is known of one stream.
#[derive(Default)]
struct Known {
    /// Whether the user may not read it.
    is_unreadable: bool,
    /// When it was made, if it was looked at.
    made_at: Option<SystemTime>,
    /// The last message that it was seen to have.
    last: u64,
    /// The last message that it got of the batches that were confirmed as a whole.
    confirmed: u64,
    look: Look,
}

/// What was found out of what is in doubt now.
#[derive(Default)]
enum Look {
    #[default]
    Waiting,
    /// It was not finished.
    Begun(Progress),
    Done,
}

/// A look at a stream from its end, which may take more than one call.
#[derive(Clone, Copy)]
struct Progress {
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
            found: Found::default(),
            streams: HashMap::new(),
            looked_at: None,
        }
    }
}

impl Doubt {
    /// Whether the streams have to be looked at before anything is published.
    pub(super) fn asks_for_a_look(&self) -> bool {
        self.is_in_doubt
    }

    /// There is a new connection, perhaps to a server that took over without what the old one had: what was found is looked
    /// for again. A look that has begun goes on.
    pub(super) fn begin_anew(&mut self) {
        if !std::mem::replace(&mut self.is_in_doubt, true) {
            for known in self.streams.values_mut() {
                known.look = Look::Waiting;
            }
        }
    }

    pub(super) fn found(&self) -> &Found {
        &self.found
    }

    /// From now on, what is published is in doubt.
    pub(super) fn begin(&mut self, batch: &[SinkEvent]) {
        self.found.pass(batch);
        self.is_in_doubt = true;
        for known in self.streams.values_mut() {
            known.look = Look::Waiting;
        }
    }

    /// The streams have the whole batch: those that got some of it, up to these messages.
    pub(super) fn end(&mut self, last: HashMap<String, u64>) {
        self.is_in_doubt = false;
        for (stream, last) in last {
            let known = self.streams.entry(stream).or_default();
            known.confirmed = known.confirmed.max(last);
        }
    }

    /// Whether a look failed because the user may not read the stream; then there is none at it from now on.
    pub(super) fn gives_up(&mut self, error: &SinkError) -> bool {
        let Some(stream) = self.looked_at.take() else {
            return false;
        };
        let reason = error.reason();
        let is_refused = reason.to_lowercase().contains("permissions violation")
            && ["STREAM.MSG.GET", "STREAM.INFO"]
                .iter()
                .any(|subject| reason.contains(subject));
        if is_refused {
            warn!(
                stream,
                %error,
                "the stream may not be read: after an outage beyond its duplicate window, events may come twice"
            );
            self.streams.entry(stream).or_default().is_unreadable = true;
        }
        is_refused
    }

    /// Finds out which events in doubt are in the streams that take them.
    pub(super) async fn look(
        &mut self,
        connection: &Connection,
        address: &SubjectAddress,
        batch: &[SinkEvent],
        origin: &Origin,
    ) -> Result<(), SinkError> {
        let reach = Reach::of(batch, origin);
        let mut streams = Vec::new();
        for name in connection.streams(&address.pattern).await? {
            let known = self.streams.entry(name.clone()).or_default();
            if known.is_unreadable {
                continue;
            }
            self.looked_at = Some(name.clone());
            let stream = connection.context.get_stream_no_info(&name).await;
            let stream = stream.map_err(|error| failed(&error))?;
            let info = stream.get_info().await.map_err(|error| failed(&error))?;
            self.looked_at = None;
            self.has_met(&name, &info);
            streams.push((name, stream, info.state));
        }
        for (name, stream, state) in streams {
            self.looked_at = Some(name.clone());
            self.look_at((&name, &stream), &state, &address.subject, batch, &reach)
                .await?;
            self.looked_at = None;
        }
        Ok(())
    }

    fn has_met(&mut self, name: &str, info: &Info) {
        let made_at = SystemTime::from(info.created);
        let known = self.streams.entry(name.to_owned()).or_default();
        let before = known.made_at.replace(made_at);
        let last = info.state.last_sequence;
        let has_lost = last < known.last.max(known.confirmed);
        known.last = last;
        if before.is_some_and(|at| at != made_at) || has_lost {
            // Another stream of the same name, or one without its end: what was found is gone.
            self.found.clear();
            for known in self.streams.values_mut() {
                known.confirmed = 0;
                known.look = Look::Waiting;
            }
        }
    }

    async fn look_at(
        &mut self,
        (name, stream): (&str, &Stream<()>),
        state: &State,
        route: &Route,
        batch: &[SinkEvent],
        reach: &Reach,
    ) -> Result<(), SinkError> {
        let known = self.streams.entry(name.to_owned()).or_default();
        let floor = known.confirmed.max(state.first_sequence.saturating_sub(1));
        let mut progress = match known.look {
            Look::Done => return Ok(()),
            Look::Begun(progress) => progress,
            Look::Waiting => Progress {
                next: state.last_sequence,
                read: 0,
                page: FIRST_PAGE.max(batch.len() as u64),
                calls: 0,
            },
        };
        while progress.next > floor {
            if progress.read >= MOST_READ || progress.calls >= MOST_CALLS {
                warn!(
                    stream = name,
                    "others wrote so much to the stream that it was not read to the end of the doubt: events may come twice"
                );
                break;
            }
            let before = progress.next.saturating_sub(progress.page).max(floor);
            // One that does not come in time is smaller the next time, so that large messages are seen, too.
            let failed = Progress {
                page: (progress.page / 4).max(1),
                ..progress
            };
            known.look = Look::Begun(Progress {
                calls: progress.calls + 1,
                ..failed
            });
            let read = read(stream, before + 1..=progress.next, route).await;
            // Not where this call is dropped meanwhile.
            known.look = Look::Begun(failed);
            let mut is_over = false;
            for message in read? {
                let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
                let is_own = message.is_own;
                let seen = Seen {
                    id: header(async_nats::header::NATS_MESSAGE_ID.as_ref()).filter(|_| is_own),
                    journal: header(JOURNAL),
                    position: header(POSITION).filter(|_| is_own),
                    at: Some(message.at),
                };
                self.found.note(seen, reach);
                is_over |= reach.ends_at(seen);
            }
            progress = Progress {
                next: before,
                read: progress.read + (progress.next - before),
                page: (progress.page * 2).min(LARGEST_PAGE),
                calls: progress.calls,
            };
            known.look = Look::Begun(progress);
            if is_over || known.confirmed == 0 && reach.is_unknown() {
                break;
            }
        }
        known.look = Look::Done;
        Ok(())
    }
}

fn failed(error: &dyn std::fmt::Display) -> SinkError {
    SinkError::new(format!("the NATS stream cannot be read: {error}"))
}

/// Nothing but this is kept of a message.
struct Read {
    headers: HeaderMap,
    at: SystemTime,
    /// Whether it has the subject that this sink gives its event. Others write to the stream, too, and perhaps the same
    /// event to another subject.
    is_own: bool,
}

impl Read {
    fn of(message: StreamMessage, route: &Route) -> Self {
        Self {
            is_own: is_own(&message, route),
            at: message.time.into(),
            headers: message.headers,
        }
    }
}

fn is_own(message: &StreamMessage, route: &Route) -> bool {
    if route.is_fixed() {
        return message.subject.as_str() == route.shown();
    }
    let event = std::str::from_utf8(&message.payload).ok();
    let event = event.and_then(|json| Some((json, Event::from_json(json).ok()?)));
    let Some((json, event)) = event else {
        return false;
    };
    let Some(id) = event.metadata.event_id else {
        return false;
    };
    let event = SinkEvent::encoded(event, id, json.to_owned());
    let target = route.target(&event);
    target.is_ok_and(|target| target == message.subject.as_str())
}

/// The messages of a part of the stream; those that were removed are left out.
async fn read(
    stream: &Stream<()>,
    sequences: RangeInclusive<u64>,
    route: &Route,
) -> Result<Vec<Read>, SinkError> {
    let asked = stream::iter(sequences).map(|sequence| async move {
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(Read::of(message, route))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(SinkError::caused_by(
                "the NATS stream cannot be read",
                error,
            )),
        }
    });
    asked
        .buffer_unordered(AT_ONCE)
        .try_filter_map(|message| std::future::ready(Ok(message)))
        .try_collect()
        .await
}
