//! The executions that were listed and looked at recently. They cost nothing in the next pass, and an execution that
//! is not among them was shown late by visibility. Plain data, bounded.

use std::{collections::BTreeSet, time::SystemTime};

/// How many executions are remembered: a few megabytes.
const REMEMBERED: usize = 50_000;

/// Executions by the time at which they closed, and their run ids.
#[derive(Debug, Default)]
pub(super) struct Seen {
    closed: BTreeSet<(SystemTime, Box<str>)>,
    /// Whatever closed later than this and was listed is remembered.
    since: Option<SystemTime>,
}

impl Seen {
    /// From here on all that is listed is remembered.
    pub(super) fn begin(&mut self, from: SystemTime) {
        self.since = Some(self.since.map_or(from, |since| since.min(from)));
    }

    pub(super) fn contains(&self, closed_at: SystemTime, run_id: &str) -> bool {
        self.closed.contains(&(closed_at, run_id.into()))
    }

    /// Whether what closed then and is not remembered was not listed before.
    pub(super) fn is_complete_at(&self, closed_at: SystemTime) -> bool {
        self.since.is_some_and(|since| closed_at > since)
    }

    pub(super) fn remember(&mut self, closed_at: SystemTime, run_id: &str) {
        self.remember_among(closed_at, run_id, REMEMBERED);
    }

    fn remember_among(&mut self, closed_at: SystemTime, run_id: &str, most: usize) {
        self.closed.insert((closed_at, run_id.into()));
        if self.closed.len() > most
            && let Some((forgotten, _)) = self.closed.pop_first()
        {
            // A time that was set already stands for all that was forgotten before it.
            self.since = self.since.max(Some(forgotten));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_forgotten_is_not_taken_for_what_comes_late() {
        let mut seen = Seen::default();
        assert!(!seen.is_complete_at(at(5)));
        seen.begin(at(1));
        for second in 2..=4 {
            seen.remember_among(at(second), "run", 2);
        }
        assert!(!seen.contains(at(2), "run"));
        assert!(seen.contains(at(4), "run"));
        assert!(!seen.is_complete_at(at(2)));
        assert!(seen.is_complete_at(at(3)));
        // One that closed long ago is the first to go, and changes nothing.
        seen.remember_among(at(1), "late", 2);
        assert!(seen.is_complete_at(at(3)));
    }
}
