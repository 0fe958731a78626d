//! What the store remembers of events that it removed for their age or for lack of room: when the last of them
//! was stored. The reconciler and a replay, which find events in histories, use it to tell an event that is
//! missing from one that was here and was removed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An event may be stored this long before the time that the server gives it: an activity's end is durable
/// before it is reported.
const REPORTED_WITHIN: Duration = Duration::from_secs(2);

/// When the last removed event was stored, in seconds since 1970; 0 if none was removed. User events and
/// lifecycle events have a time each, since user events are removed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemovedUntil {
    pub(super) user: i64,
    pub(super) lifecycle: i64,
}

impl RemovedUntil {
    /// Notes that an event is removed.
    pub(super) fn raise(&mut self, is_lifecycle: bool, stored_at: i64) {
        let until = if is_lifecycle {
            &mut self.lifecycle
        } else {
            &mut self.user
        };
        *until = stored_at.max(*until);
    }

    /// Whether an event that happened at that time, and is not in the store, counts as removed.
    pub(crate) fn has(&self, is_lifecycle: bool, happened_at: SystemTime) -> bool {
        let until = if is_lifecycle {
            self.lifecycle
        } else {
            self.user
        };
        let known_until = seconds(
            happened_at
                .checked_sub(REPORTED_WITHIN)
                .unwrap_or(UNIX_EPOCH),
        );
        // A time in the future was written under a wrong clock, and means nothing.
        until > 0 && known_until <= until && until <= seconds(SystemTime::now())
    }
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_time() {
        let mut removed = RemovedUntil::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(!removed.has(false, at(0)));
        removed.raise(false, 1_000);
        removed.raise(false, 900);
        assert!(removed.has(false, at(1_000)) && removed.has(false, at(1_002)));
        assert!(!removed.has(false, at(1_003)));
        assert!(!removed.has(true, at(10)));
    }

    #[test]
    fn a_time_to_come_says_nothing() {
        let mut removed = RemovedUntil::default();
        removed.raise(true, i64::MAX);
        assert!(!removed.has(true, SystemTime::now()));
    }
}
