//! Event ids: derived from what an event is about, so that everybody who observes the same thing derives the same
//! id; and ordered by time, so that indexes grow near their right edge. The bytes that go into an id must never
//! change: ids are stored.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::SystemTime};
use uuid::Uuid;

/// The UUID namespace in which keys are hashed for derived ids. It was chosen at random and never changes.
pub const EVENT_NAMESPACE: Uuid = Uuid::from_u128(0x6b2f_3a0e_93d4_4f7c_8a51_c0de_e7e2_7501);

/// The id of an event: a UUID, either derived from what the event is about or random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

/// The input of a derived id. Fields that do not apply are empty or 0.
///
/// ```
/// use temporal_eventstore::event::{EventId, EventKey};
///
/// let key = EventKey {
///     namespace: "default",
///     workflow_id: "order-1",
///     run_id: "01a20750-58f5-75c7-af38-d0761a33cd63",
///     kind: "workflow_end",
///     ..EventKey::default()
/// };
/// assert_eq!(EventId::derive(&key), EventId::derive(&key));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EventKey<'a> {
    /// The Temporal namespace.
    pub namespace: &'a str,
    /// The workflow id; empty for a standalone activity.
    pub workflow_id: &'a str,
    /// The workflow's run id, or that of a standalone activity.
    pub run_id: &'a str,
    /// The name of the lifecycle event, or the kind of user event.
    pub kind: &'a str,
    /// The activity id with the time at which the activity was scheduled, or the type and id of a local activity.
    /// Empty for workflow-side events.
    pub activity_id: &'a str,
    /// The activity attempt, from 1; 0 for workflow-side events.
    pub attempt: u32,
    /// A number, from 1, that tells apart events that are otherwise alike; 0 for lifecycle events.
    pub ordinal: u64,
    /// The time by which ids are ordered, used to the millisecond. It is not when the event happened, but a time on
    /// which all observers agree. For a run and its local activities it is the `event_time` of the first event of the
    /// run's history. For any other activity it is the time at which the activity was scheduled, as recorded in
    /// `ActivityTaskScheduled`.
    pub time: Option<SystemTime>,
}

/// How many bits of an id follow its time: the hash, with the version and the variant in it.
const BITS_BELOW_TIME: u32 = 80;

impl EventId {
    /// Creates a random id that is ordered by time (UUIDv7).
    #[allow(
        clippy::new_without_default,
        reason = "a default that differs each time would surprise"
    )]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns the id of the event that `key` describes (UUIDv8).
    ///
    /// The id has 48 bits of the key's time in Unix milliseconds, and 74 bits of the SHA-1 over the rest of the key.
    /// A missing time, a time before 1970, and a time that does not fit into 48 bits (after the year 10889) count as 0.
    ///
    /// Each text is hashed with its length in front of it (four bytes, big endian), so that no two keys give the same
    /// bytes. Numbers are hashed as big-endian bytes.
    pub fn derive(key: &EventKey<'_>) -> Self {
        let texts = [
            key.namespace,
            key.workflow_id,
            key.run_id,
            key.kind,
            key.activity_id,
        ];
        let length = texts.iter().map(|text| text.len() + 4).sum::<usize>() + 12;
        let mut bytes = Vec::with_capacity(length);
        for text in texts {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&key.attempt.to_be_bytes());
        bytes.extend_from_slice(&key.ordinal.to_be_bytes());
        // The SHA-1 that `uuid` has for version 5, and with it a namespace; version and variant stand in the
        // same places there, so that what is left below the time is the hash.
        let hash = Uuid::new_v5(&EVENT_NAMESPACE, &bytes).as_u128();
        let below_time = hash & ((1 << BITS_BELOW_TIME) - 1);
        let id = u128::from(milliseconds(key.time)) << BITS_BELOW_TIME | below_time;
        Self(Uuid::new_v8(id.to_be_bytes()))
    }

    /// Returns the id as a UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

/// Returns Unix milliseconds, cut and not rounded; 0 for a time that does not fit into 48 bits.
fn milliseconds(time: Option<SystemTime>) -> u64 {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let milliseconds = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    milliseconds
        .filter(|milliseconds| *milliseconds < 1 << 48)
        .unwrap_or_default()
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<EventId> for Uuid {
    fn from(id: EventId) -> Self {
        id.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = super::EventError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| super::EventError::InvalidField {
                field: "event_id".to_owned(),
                value: super::shortened(text),
                allowed: "a UUID",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn key<'a>() -> EventKey<'a> {
        EventKey {
            namespace: "default",
            workflow_id: "order-1",
            run_id: "01a20750-58f5-75c7-af38-d0761a33cd63",
            kind: "activity_end",
            activity_id: "2",
            attempt: 1,
            ordinal: 0,
            time: at(1_795_419_036, 123_999_999),
        }
    }

    fn at(seconds: u64, nanoseconds: u32) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
    }

    #[test]
    fn derived_ids_never_change() {
        assert_eq!(
            EventId::derive(&key()).to_string(),
            "01a20750-59db-81cc-9837-d1ec286a7cf2"
        );
        assert_eq!(
            EventId::derive(&EventKey {
                kind: "workflow_end",
                activity_id: "",
                attempt: 0,
                ..key()
            })
            .to_string(),
            "01a20750-59db-854b-9023-78a463245ebd"
        );
    }

    #[test]
    fn times_are_cut_to_the_millisecond_and_those_that_no_id_holds_are_0() {
        let id = |time| EventId::derive(&EventKey { time, ..key() });
        assert_eq!(id(at(1_795_419_036, 123_000_000)), id(key().time));
        assert_ne!(id(at(1_795_419_036, 122_999_999)), id(key().time));
        let last = (1 << 48) - 1;
        let bits = |time| id(time).as_uuid().as_u128() >> 80;
        assert_eq!(bits(at(last / 1000, 655_999_999)), u128::from(last));
        for none in [
            at(last / 1000, 656_000_000),
            SystemTime::UNIX_EPOCH.checked_sub(Duration::from_nanos(1)),
            at(i64::MAX.unsigned_abs(), 999_999_999),
            at(0, 999_999),
            None,
        ] {
            assert_eq!(bits(none), 0, "{none:?}");
        }
        assert_eq!(
            id(None).as_uuid().get_version(),
            Some(uuid::Version::Custom)
        );
        assert_eq!(id(None).as_uuid().get_variant(), uuid::Variant::RFC4122);
    }

    #[test]
    fn where_one_field_ends_and_the_next_begins_matters() {
        let one = EventKey {
            namespace: "ab",
            workflow_id: "c",
            ..EventKey::default()
        };
        let two = EventKey {
            namespace: "a",
            workflow_id: "bc",
            ..EventKey::default()
        };
        assert_ne!(EventId::derive(&one), EventId::derive(&two));
    }

    #[test]
    fn random_ids_are_ordered_by_time() {
        let first = EventId::new();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(first < EventId::new());
    }

    type Fields = ([String; 5], u32, u64, u64);

    fn fields() -> impl Strategy<Value = Fields> {
        (
            prop::array::uniform5("[a-c]{0,3}"),
            0_u32..3,
            0_u64..3,
            0_u64..3,
        )
    }

    fn key_of(
        ([namespace, workflow_id, run_id, kind, activity_id], attempt, ordinal, seconds): &Fields,
    ) -> EventKey<'_> {
        EventKey {
            namespace,
            workflow_id,
            run_id,
            kind,
            activity_id,
            attempt: *attempt,
            ordinal: *ordinal,
            time: at(*seconds, 0),
        }
    }

    proptest! {
        #[test]
        fn equal_keys_and_only_they_have_equal_ids(a in fields(), b in fields()) {
            let (a, b) = (key_of(&a), key_of(&b));
            prop_assert_eq!(a == b, EventId::derive(&a) == EventId::derive(&b));
        }

        #[test]
        fn time_and_the_rest_of_the_key_matter_each_by_itself(a in fields(), b in fields()) {
            let (a, b) = (key_of(&a), key_of(&b));
            let later = EventKey { time: b.time, ..a };
            let other = EventKey { time: a.time, ..b };
            prop_assert_eq!(a.time == b.time, EventId::derive(&a) == EventId::derive(&later));
            prop_assert_eq!(a == other, EventId::derive(&a) == EventId::derive(&other));
        }

        #[test]
        fn ids_are_ordered_by_time(a in fields(), b in fields(), milliseconds in 0_u64..1 << 48, more in 1_u64..1 << 40) {
            let time = |milliseconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds));
            let later = (milliseconds + more).min((1 << 48) - 1);
            prop_assume!(milliseconds < later);
            let a = EventId::derive(&EventKey { time: time(milliseconds), ..key_of(&a) });
            let b = EventId::derive(&EventKey { time: time(later), ..key_of(&b) });
            prop_assert!(a < b && a.to_string() < b.to_string());
        }

        #[test]
        fn text_round_trip(bits: u128) {
            let id = EventId::from(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        }
    }
}
