//! The code of one attempt of a local activity, as a place to publish from.

use super::{local::AttemptName, stage::RunStage, user_event::user_event_kind};
use crate::{
    context::Context,
    event::{Event, EventId, EventKey},
    record::{Draft, Identity},
    store::{EventStore, Place, PublishError, Published, Receipt},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// The code of one attempt of a local activity, as a place to publish from. Its events wait with the run:
/// the attempt has happened only if a workflow task that knows its outcome is accepted.
pub(super) struct LocalAttempt {
    // None: nobody waits for this attempt.
    waiting: Option<(Arc<RunStage>, AttemptName)>,
    occurrences: Mutex<HashMap<Uuid, u64>>,
}

impl LocalAttempt {
    pub(super) fn new(waiting: Option<(Arc<RunStage>, AttemptName)>) -> Self {
        Self {
            waiting,
            occurrences: Mutex::default(),
        }
    }

    /// How often this attempt published an event with this content, with this one.
    fn count(&self, content: Uuid) -> u64 {
        let mut occurrences = self
            .occurrences
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let occurrence = occurrences.entry(content).or_default();
        *occurrence += 1;
        *occurrence
    }
}

impl Place for LocalAttempt {
    fn publish(
        &self,
        store: &EventStore,
        is_own: bool,
        mut event: Event,
        context: Context,
    ) -> Receipt {
        if let Err(error) = event.validate() {
            store.count_invalid(&error);
            return Receipt::ready(Err(PublishError::Invalid(error)));
        }
        let (content, kind) = user_event_kind(&mut event);
        let Some(activity) = context.activity() else {
            return store.append(Draft::published(
                store.rules(),
                event,
                context.without_extension(),
                Identity::Random,
            ));
        };
        // The content, not the position: another execution may publish something else in this place.
        let id = event.metadata.event_id.unwrap_or_else(|| {
            EventId::derive(&EventKey {
                namespace: &activity.namespace,
                workflow_id: activity.workflow_id.as_deref().unwrap_or_default(),
                run_id: activity.workflow_run_id.as_deref().unwrap_or_default(),
                kind: &kind,
                activity_id: &format!("{}/{}", activity.activity_type, activity.activity_id),
                attempt: activity.attempt,
                ordinal: self.count(content),
                time: activity.workflow_start_time,
            })
        });
        let mut draft = Draft::published(
            store.rules(),
            event,
            context.without_extension(),
            Identity::Known(id),
        );
        // Another store is told of no task's completion.
        if !is_own {
            drop(store.append(draft));
            return Receipt::ready(Ok(Published::Staged(id)));
        }
        if !draft.reserve() {
            return Receipt::ready(Err(store.refuse_for_lack_of_room()));
        }
        let staged = self
            .waiting
            .as_ref()
            .is_some_and(|(stage, name)| stage.publish_in_local(*name, draft));
        if staged {
            store.count_staged();
            Receipt::ready(Ok(Published::Staged(id)))
        } else {
            store.count_skipped();
            Receipt::ready(Err(PublishError::GivenUp))
        }
    }
}
