//! Adding to the store what it lacks. Knows drafts and the store, and not where drafts come from.

use super::{Pass, ReconcileError, Reconciled, Reconciler};
use crate::{
    event::EventId,
    journal::JournalError,
    store::{PublishError, Receipt, publish::Draft},
};
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
        let ids = drafts.iter().filter_map(Draft::derived_id).collect();
        let missing: HashSet<EventId> = store.missing(ids).await?.into_iter().collect();
        let mut missing: Vec<Draft> = drafts
            .into_iter()
            // With activities switched off, a history is only read for its ends.
            .filter(|draft| self.shared.options.activities || draft.is_of_run())
            // What is older than the store keeps is absent because it was there long enough.
            .filter(|draft| pass == Pass::Backfill || !store.is_past_retention(draft.happened_at()))
            .filter(|draft| draft.derived_id().is_some_and(|id| missing.contains(&id)))
            .collect();
        // A part of the queue at a time: others publish, too.
        let at_once = (store.queue_size() / 4).clamp(1, APPENDED_AT_ONCE);
        while !missing.is_empty() {
            let rest = missing.split_off(missing.len().min(at_once));
            let part = std::mem::replace(&mut missing, rest);
            let mut receipts = Vec::with_capacity(part.len());
            for draft in part {
                found.count(draft.event_name());
                receipts.push(store.append(draft));
            }
            self.all_stored(receipts).await?;
        }
        Ok(())
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
