//! Event ids: derived from what an event is about, so that whoever sees the same thing happen comes
//! to the same id. The bytes that go into an id are fixed for ever: stored ids rest on them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// The UUIDv5 namespace of derived ids. Made once, at random; never changes.
pub const EVENT_NAMESPACE: Uuid = Uuid::from_u128(0x6b2f_3a0e_93d4_4f7c_8a51_c0de_e7e2_7501);

/// The id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

/// What a derived id is derived from. Fields that do not apply are empty or 0.
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
    /// The lifecycle event's name, or the kind of user event.
    pub kind: &'a str,
    /// The activity id; empty for workflow-side events.
    pub activity_id: &'a str,
    /// The activity attempt, from 1; 0 for workflow-side events.
    pub attempt: u32,
    /// Which of several events with the same key; 0 for lifecycle events.
    pub ordinal: u64,
}

impl EventId {
    /// What `publish` answers where events are skipped: no store is configured. No event has it.
    pub const SKIPPED: Self = Self(Uuid::nil());

    /// A new id, ordered by time (UUIDv7).
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id of the event that `key` describes (UUIDv5).
    ///
    /// Each text field enters with its length in front (four bytes, big endian), so that no two keys
    /// give the same bytes; numbers enter as big-endian bytes.
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
        Self(Uuid::new_v5(&EVENT_NAMESPACE, &bytes))
    }

    /// The id as a UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
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

    fn key<'a>() -> EventKey<'a> {
        EventKey {
            namespace: "default",
            workflow_id: "order-1",
            run_id: "01a20750-58f5-75c7-af38-d0761a33cd63",
            kind: "activity_end",
            activity_id: "2",
            attempt: 1,
            ordinal: 0,
        }
    }

    #[test]
    fn derived_ids_never_change() {
        assert_eq!(
            EventId::derive(&key()).to_string(),
            "da14594c-9be7-51cc-9837-d1ec286a7cf2"
        );
        assert_eq!(
            EventId::derive(&EventKey {
                kind: "workflow_end",
                activity_id: "",
                attempt: 0,
                ..key()
            })
            .to_string(),
            "993f3f03-470d-554b-9023-78a463245ebd"
        );
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
        let first = EventId::random();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(first < EventId::random());
    }

    proptest! {
        #[test]
        fn equal_keys_and_only_they_have_equal_ids(
            a in ("[a-c]{0,3}", "[a-c]{0,3}", "[a-c]{0,3}", "[a-c]{0,3}", "[a-c]{0,3}", 0_u32..3, 0_u64..3),
            b in ("[a-c]{0,3}", "[a-c]{0,3}", "[a-c]{0,3}", "[a-c]{0,3}", "[a-c]{0,3}", 0_u32..3, 0_u64..3),
        ) {
            fn key(t: &(String, String, String, String, String, u32, u64)) -> EventKey<'_> {
                EventKey {
                    namespace: &t.0, workflow_id: &t.1, run_id: &t.2, kind: &t.3,
                    activity_id: &t.4, attempt: t.5, ordinal: t.6,
                }
            }
            prop_assert_eq!(key(&a) == key(&b), EventId::derive(&key(&a)) == EventId::derive(&key(&b)));
        }

        #[test]
        fn text_round_trip(bits: u128) {
            let id = EventId::from(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        }
    }
}
