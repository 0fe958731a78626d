//! Ranges of time, and times as visibility queries take them. Plain functions.

use prost_types::Timestamp;
use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The end of the year 9999, since 1970: what RFC 3339 can say.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

pub(super) fn before(time: SystemTime, by: Duration) -> SystemTime {
    time.checked_sub(by).unwrap_or(UNIX_EPOCH)
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    Timestamp::from(time.min(UNIX_EPOCH + END_OF_TIME)).to_string()
}

/// Microseconds since 1970, as the journal keeps them.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A range in parts of at most `length`.
pub(super) fn windows(
    range: Range<SystemTime>,
    length: Duration,
) -> impl Iterator<Item = Range<SystemTime>> {
    let length = length.max(Duration::from_secs(1));
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let end = start
            .checked_add(length)
            .map_or(range.end, |end| end.min(range.end));
        let window = start..end;
        start = end;
        Some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_protobuf_does() {
        let at = UNIX_EPOCH + Duration::new(1_795_629_451, 544_935_973);
        assert_eq!(rfc3339(at), "2026-11-25T17:57:31.544935973Z");
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00Z");
        let late = UNIX_EPOCH + END_OF_TIME * 2;
        assert_eq!(rfc3339(late), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn windows_cover_a_range_without_gaps() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let parts: Vec<_> = windows(at(0)..at(25), Duration::from_secs(10)).collect();
        assert_eq!(parts, [at(0)..at(10), at(10)..at(20), at(20)..at(25)]);
        assert_eq!(windows(at(5)..at(5), Duration::from_secs(10)).count(), 0);
    }
}
