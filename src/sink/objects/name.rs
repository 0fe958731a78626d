//! The names of objects: `day=2026-01-31/journal=ID/00000000000000000042.jsonl.zst`. Knows no place.

use super::encoding::Compression;
use crate::sink::SinkEvent;
use chrono::NaiveDate;
use object_store::path::{Path, PathPart};

/// The partition of events without a time, as tools of this family call it.
const NO_DAY: &str = "__HIVE_DEFAULT_PARTITION__";

/// Which of a day's objects of one journal it is: the position of its first event, and a number from 1 that is higher if
/// the name was taken by other events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start {
    pub(super) position: u64,
    pub(super) number: u32,
}

/// Returns the day, in UTC, on which an event happened.
pub(super) fn day(event: &SinkEvent) -> String {
    let day = event.created_at.get(..10).unwrap_or_default();
    match NaiveDate::parse_from_str(day, "%Y-%m-%d") {
        Ok(day) => day.to_string(),
        Err(_) => NO_DAY.to_owned(),
    }
}

/// Returns what the names of a journal's objects of one day begin with.
pub(super) fn shelf(prefix: &Path, day: &str, journal: &str) -> Path {
    prefix
        .clone()
        .join(PathPart::from(format!("day={day}")))
        .join(PathPart::from(format!("journal={journal}")))
}

impl Start {
    /// Returns the last part of the object's name.
    pub(super) fn file_name(self, compression: Compression) -> String {
        let Self { position, number } = self;
        let extension = compression.extension();
        match number {
            // As wide as any position, so that their order is that of their names.
            ..=1 => format!("{position:020}{extension}"),
            _ => format!("{position:020}-{number}{extension}"),
        }
    }

    /// Reads the last part of an object's name; none for the name of something else.
    pub(super) fn of(name: &str) -> Option<(Self, Compression)> {
        let (stem, compression) = Compression::of(name)?;
        let (position, number) = match stem.split_once('-') {
            Some((position, number)) => (position, number.parse().ok()?),
            None => (stem, 1),
        };
        let start = Self {
            position: position.parse().ok()?,
            number,
        };
        (start.file_name(compression) == name).then_some((start, compression))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_its_events_begin() {
        for (position, number) in [(1, 1), (42, 3), (u64::MAX, u32::MAX)] {
            let start = Start { position, number };
            let name = start.file_name(Compression::Gzip);
            assert_eq!(Start::of(&name), Some((start, Compression::Gzip)), "{name}");
        }
        for other in [
            "1.jsonl",
            "00000000000000000001-1.jsonl",
            "00000000000000000001.json",
            "00000000000000000001.jsonl.zst#1",
            "+0000000000000000001.jsonl",
        ] {
            assert_eq!(Start::of(other), None, "{other}");
        }
    }
}
