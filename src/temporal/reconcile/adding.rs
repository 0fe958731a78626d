//! Adding to the store what it lacks. Knows drafts and the store, and not where drafts come from.

use super::{Pass, ReconcileError, Reconciled, Reconciler};
use crate::{
    event::{ActivityStatus, EventId, LifecycleEvent},
    journal::JournalError,
    record::Draft,
    store::{PublishError, Receipt},
};
use serde_json::Value;
use std::collections::HashSet;

/// How many events wait for the journal at once.
pub(super) const APPENDED_AT_ONCE: usize = 256;

impl Reconciler {
    /// Adds those events that the store lacks.
    pub(super) async fn add(
        &self,
        drafts: Vec<Draft>,
        pass: Pass,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        if drafts.is_empty() {
            return Ok(());
        }
        let store = &self.shared.store;
        let ids = drafts.iter().flat_map(Draft::known_ids).collect();
        let missing: HashSet<EventId> = store.missing(ids).await?.into_iter().collect();
        let left_to_others = self.left_to_others(&drafts, &missing).await?;
        let is_missing = missing;
        let mut missing: Vec<Draft> = drafts
            .into_iter()
            // With activities switched off, a history is only read for its ends.
            .filter(|draft| self.shared.options.activities || draft.is_of_run())
            // What the store removed, or would at once, is absent because it was there long enough.
            .filter(|draft| pass == Pass::Backfill || !store.is_removed(draft))
            .filter(|draft| draft.known_ids().all(|id| is_missing.contains(&id)))
            .filter(|draft| {
                !is_async_end(draft)
                    || end_of(draft, &is_missing).is_some_and(|id| left_to_others.contains(&id))
            })
            .collect();
        // A part of the queue at a time: others publish, too.
        let at_once = (store.queue_size() / 4).clamp(1, APPENDED_AT_ONCE);
        while !missing.is_empty() {
            let rest = missing.split_off(missing.len().min(at_once));
            let part = std::mem::replace(&mut missing, rest);
            let mut receipts = Vec::with_capacity(part.len());
            for draft in part {
                found.count(&draft);
                receipts.push(store.append(draft));
            }
            self.all_stored(receipts).await?;
        }
        Ok(())
    }

    /// The `activity_end` events of those attempts whose code left the completion to others, as the store
    /// has it. History says of them what it says of any other attempt.
    async fn left_to_others(
        &self,
        drafts: &[Draft],
        missing: &HashSet<EventId>,
    ) -> Result<HashSet<EventId>, ReconcileError> {
        let ends = drafts
            .iter()
            .filter(|draft| is_async_end(draft))
            .filter(|draft| draft.derived_id().is_some_and(|id| missing.contains(&id)))
            .filter_map(|draft| end_of(draft, missing));
        let ends = self.shared.store.find(ends.collect()).await?.into_iter();
        Ok(ends
            .filter(|end| {
                end.data.get("status").and_then(Value::as_str)
                    == Some(ActivityStatus::WillCompleteAsync.as_str())
            })
            .filter_map(|end| end.metadata.event_id)
            .collect())
    }

    async fn all_stored(&self, receipts: Vec<Receipt>) -> Result<(), ReconcileError> {
        for receipt in receipts {
            match receipt.await {
                // A filter's wish, or an event that breaks a rule: neither will ever be otherwise.
                Ok(_) | Err(PublishError::Invalid(_)) => {}
                Err(PublishError::Journal(JournalError::Invalid { .. })) => {}
                Err(error) => return Err(ReconcileError::Store(error)),
            }
        }
        Ok(())
    }
}

fn is_async_end(draft: &Draft) -> bool {
    draft.lifecycle_event() == Some(LifecycleEvent::ActivityAsyncEnd)
}

/// The id of the `activity_end` of the same attempt, if the store has it.
fn end_of(draft: &Draft, missing: &HashSet<EventId>) -> Option<EventId> {
    draft
        .attempt_event_ids(LifecycleEvent::ActivityEnd)
        .find(|id| !missing.contains(id))
}
