//! What a user event says, as a hash, from which its id is derived. Knows neither workflows nor activities.

use crate::event::Event;
use uuid::Uuid;

/// The namespace of content hashes; random, fixed for ever, since stored ids rest on it.
const CONTENT_NAMESPACE: Uuid = Uuid::from_u128(0x1f0b_5b0e_6a5c_4c55_9a71_5d3e_0c2f_8d10);

/// What a user event says, as a hash, and the kind under which its id is derived: workflow tasks are
/// executed again with other inputs, so that positions do not tell events apart. What is hashed is what is
/// stored, in the same order, of an event that was found valid.
pub(super) fn user_event_kind(event: &mut Event) -> (Uuid, String) {
    event.make_canonical();
    let content = content_hash(event);
    (content, format!("user:{}", content.simple()))
}

fn content_hash(event: &Event) -> Uuid {
    let content = (
        &event.event_type,
        &event.event_name,
        &event.data,
        &event.metadata.custom,
    );
    // A map with string keys always encodes.
    let bytes = serde_json::to_vec(&content).unwrap_or_default();
    Uuid::new_v5(&CONTENT_NAMESPACE, &bytes)
}
