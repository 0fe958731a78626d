//! Events as the bytes of an object, and back to the ids that are in it. The same events make the same bytes. Knows
//! no place.

use crate::{event::EventId, sink::SinkEvent};
use flate2::{Compression as GzipLevel, read::GzDecoder, write::GzEncoder};
use serde::Deserialize;
use std::{
    collections::HashSet,
    io::{self, BufRead as _, BufReader, Read, Write as _},
};

/// What zstd's own program uses.
const ZSTD_LEVEL: i32 = 3;

/// How the lines of an object are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Zstd,
    Gzip,
    None,
}

impl Compression {
    const ALL: [Self; 3] = [Self::Zstd, Self::Gzip, Self::None];

    /// What the name of an object ends with.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Zstd => ".jsonl.zst",
            Self::Gzip => ".jsonl.gz",
            Self::None => ".jsonl",
        }
    }

    /// Returns what stands before the extension of an object, and how it is compressed; none for the name of something
    /// else.
    pub(super) fn of(name: &str) -> Option<(&str, Self)> {
        Self::ALL.into_iter().find_map(|compression| {
            Some((name.strip_suffix(compression.extension())?, compression))
        })
    }

    /// Compresses lines. Takes as long as that takes: not for a thread that others wait for.
    pub(super) fn pack(self, lines: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Zstd => zstd::bulk::compress(&lines, ZSTD_LEVEL),
            // Without a time or a name in its header.
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), GzipLevel::default());
                encoder.write_all(&lines)?;
                encoder.finish()
            }
            Self::None => Ok(lines),
        }
    }

    /// Returns the ids of the events in an object, as [`pack`](Self::pack) made it.
    pub(super) fn ids(self, object: &[u8]) -> io::Result<HashSet<EventId>> {
        let lines: Box<dyn Read + '_> = match self {
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(object)?),
            Self::Gzip => Box::new(GzDecoder::new(object)),
            Self::None => Box::new(object),
        };
        let mut lines = BufReader::new(lines);
        let mut ids = HashSet::new();
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            ids.insert(serde_json::from_slice::<Line>(&line)?.metadata.event_id);
            line.clear();
        }
        Ok(ids)
    }
}

/// What has to be known of an event.
#[derive(Deserialize)]
struct Line {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    event_id: EventId,
}

/// Returns the events as lines, each its native JSON.
pub(super) fn lines(events: &[&SinkEvent]) -> Vec<u8> {
    let size = events.iter().map(|event| event.json.len() + 1).sum();
    let mut lines = Vec::with_capacity(size);
    for event in events {
        lines.extend_from_slice(event.json.as_bytes());
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use chrono::DateTime;
    use uuid::Uuid;

    #[test]
    fn the_same_events_make_the_same_bytes_which_know_their_ids() {
        let events: Vec<SinkEvent> = (1..=300)
            .map(|position| {
                let mut event = Event::new("a.b").name("Größe\u{2028}");
                event.metadata.event_id = Some(Uuid::from_u128(position.into()).into());
                event.metadata.created_at = Some(DateTime::UNIX_EPOCH);
                SinkEvent::new(position, &event).unwrap()
            })
            .collect();
        let events: Vec<&SinkEvent> = events.iter().collect();
        let ids: HashSet<EventId> = events.iter().map(|event| event.event_id).collect();
        for compression in Compression::ALL {
            let object = compression.pack(lines(&events)).unwrap();
            assert_eq!(object, compression.pack(lines(&events)).unwrap());
            assert_eq!(compression.ids(&object).unwrap(), ids);
            let name = format!("7{}", compression.extension());
            assert_eq!(Compression::of(&name), Some(("7", compression)));
            // A part of one, or something else, is not taken for one with fewer events.
            assert!(
                compression
                    .ids(object.get(..object.len() - 3).unwrap())
                    .is_err()
            );
            assert!(compression.ids(b"no event\n").is_err());
        }
        assert_eq!(Compression::of("7.parquet"), None);
    }
}
