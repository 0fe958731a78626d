//! The bounds of each option, in values and in words, and the parsing of numbers and durations within them.

use crate::store::BuildError;
use std::{str::FromStr, time::Duration};

/// The bounds of an option.
pub(super) struct Allowed<T> {
    pub(super) least: T,
    pub(super) most: T,
    /// The bounds in words, for errors.
    words: &'static str,
}

impl<T: PartialOrd + Copy> Allowed<T> {
    fn has(&self, value: T) -> bool {
        (self.least..=self.most).contains(&value)
    }

    fn only(&self, value: T) -> Result<T, String> {
        if self.has(value) {
            Ok(value)
        } else {
            Err(self.words.to_owned())
        }
    }

    pub(super) fn check(
        &self,
        name: &str,
        value: Option<T>,
        shown: impl FnOnce(T) -> String,
    ) -> Result<(), BuildError> {
        match value.filter(|value| !self.has(*value)) {
            None => Ok(()),
            Some(value) => Err(BuildError::InvalidOption {
                name: name.to_owned(),
                value: shown(value),
                allowed: self.words.to_owned(),
            }),
        }
    }
}

impl<T: FromStr + PartialOrd + Copy> Allowed<T> {
    pub(super) fn number(&self, value: &str) -> Result<T, String> {
        parse(value, self.words).and_then(|number| self.only(number))
    }
}

impl Allowed<Duration> {
    pub(super) fn duration(&self, value: &str) -> Result<Duration, String> {
        duration(value)
            .map_err(|_| self.words.to_owned())
            .and_then(|duration| self.only(duration))
    }
}

pub(super) const QUEUE_SIZE: Allowed<usize> = Allowed {
    least: 1,
    most: 10_000_000,
    words: "a whole number from 1 to 10000000",
};
// The lower bound leaves room for one large event and its encoding.
pub(super) const MAX_QUEUED_BYTES: Allowed<usize> = Allowed {
    least: 1024 * 1024,
    most: 1 << 40,
    words: "a whole number of bytes from 1048576 to 1099511627776",
};
pub(super) const BATCH_SIZE: Allowed<usize> = Allowed {
    least: 1,
    most: 100_000,
    words: "a whole number from 1 to 100000",
};
pub(super) const LINGER: Allowed<Duration> = Allowed {
    least: Duration::ZERO,
    most: Duration::from_secs(60),
    words: "a duration from `0s` to `1m`, such as `5ms`",
};
// With no time to wait, every commit would be late.
pub(super) const COMMIT_TIMEOUT: Allowed<Duration> = Allowed {
    least: Duration::from_millis(1),
    most: Duration::from_secs(60 * 60),
    words: "a duration from `1ms` to `1h`, such as `2s`",
};
// Events age by whole seconds.
pub(super) const RETENTION: Allowed<Duration> = Allowed {
    least: Duration::from_secs(1),
    most: Duration::from_secs(36_500 * 24 * 60 * 60),
    words: "a duration from `1s` to `36500days`, such as `30days`",
};
// Twice what an empty file takes.
pub(super) const MAX_JOURNAL_BYTES: Allowed<u64> = Allowed {
    least: 128 * 1024,
    most: u64::MAX,
    words: "a whole number of bytes from 131072",
};
pub(super) const MAX_EVENT_BYTES: Allowed<usize> = Allowed {
    least: 1,
    most: 8 * 1024 * 1024,
    words: "a whole number of bytes from 1 to 8388608",
};

pub(super) fn parse<T: FromStr>(value: &str, allowed: &str) -> Result<T, String> {
    value.trim().parse().map_err(|_| allowed.to_owned())
}

pub(super) fn duration(value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value.trim())
        .map_err(|_| "a duration such as `500ms`, `2s` or `30days`".to_owned())
}
