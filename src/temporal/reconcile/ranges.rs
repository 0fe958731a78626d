//! Ranges of time, and times as visibility queries take them. Plain functions.

use chrono::{DateTime, SecondsFormat, Utc};
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
    let time = time.min(UNIX_EPOCH + END_OF_TIME);
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Nanos, true)
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
    fn windows_cover_a_range_without_gaps() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let parts: Vec<_> = windows(at(0)..at(25), Duration::from_secs(10)).collect();
        assert_eq!(parts, [at(0)..at(10), at(10)..at(20), at(20)..at(25)]);
        assert_eq!(windows(at(5)..at(5), Duration::from_secs(10)).count(), 0);
    }
}
