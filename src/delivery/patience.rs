//! How long a sink is tried with the first event that waits for it: for ever, unless its URL says otherwise. Knows no sink
//! and no journal.

use chrono::{DateTime, Utc};
use std::time::Duration;

/// When an event is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patience {
    /// After so many attempts that failed while it was the first to wait.
    pub(super) attempts: Option<u32>,
    /// After an attempt that failed, if it happened so long ago.
    pub(super) age: Option<Duration>,
}

/// How often it was tried with the first event that waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried {
    position: u64,
    attempts: u32,
}

impl Tried {
    /// Counts an attempt that failed with the event at `position` as the first.
    pub(super) fn failed(&mut self, position: u64) {
        if self.position != position {
            *self = Self {
                position,
                attempts: 0,
            };
        }
        self.attempts = self.attempts.saturating_add(1);
    }
}

impl Patience {
    /// Returns why an event is given up; none if it is not.
    pub(super) fn is_over(&self, position: u64, created_at: &str, tried: Tried) -> Option<String> {
        if tried.position == position
            && let Some(most) = self.attempts
            && tried.attempts >= most
        {
            return Some(format!("given up after {} attempts", tried.attempts));
        }
        let most = self.age?;
        let created_at = DateTime::parse_from_rfc3339(created_at).ok()?;
        let age = Utc::now().signed_duration_since(created_at).to_std().ok()?;
        (age > most).then(|| {
            let age = Duration::from_secs(age.as_secs());
            format!("given up at an age of {}", humantime::format_duration(age))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_for_the_first_event_and_age_for_all() {
        let long_ago = "2020-01-01T00:00:00Z";
        let now = Utc::now().to_rfc3339();
        let mut tried = Tried::default();
        tried.failed(7);
        tried.failed(7);
        let patience = Patience {
            attempts: Some(2),
            age: None,
        };
        let reason = patience.is_over(7, &now, tried).unwrap();
        assert_eq!(reason, "given up after 2 attempts");
        assert_eq!(patience.is_over(8, long_ago, tried), None);
        tried.failed(8);
        assert_eq!(patience.is_over(8, &now, tried), None);
        let patience = Patience {
            attempts: None,
            age: Some(Duration::from_secs(60)),
        };
        assert!(
            patience
                .is_over(9, long_ago, tried)
                .unwrap()
                .contains("age of")
        );
        assert_eq!(patience.is_over(9, &now, tried), None);
        assert_eq!(Patience::default().is_over(9, long_ago, tried), None);
    }
}
