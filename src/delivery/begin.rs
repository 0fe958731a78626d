//! Where a sink begins when it is named for the first time. Knows no sink and no journal.

use chrono::{DateTime, Utc};
use std::time::SystemTime;

/// Where a new sink begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the first event that the journal has.
    #[default]
    Beginning,
    /// Behind the newest event that the journal has.
    Now,
    /// With the first event that was stored at this time or later.
    At(SystemTime),
}

impl Begin {
    /// Parses `beginning`, `now` or a time (RFC 3339). None for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "beginning" => Some(Self::Beginning),
            "now" => Some(Self::Now),
            text => {
                let time = DateTime::parse_from_rfc3339(text).ok()?;
                Some(Self::At(time.with_timezone(&Utc).into()))
            }
        }
    }
}
