//! Which of the things that are held somebody in this process looks after. What nobody looks after any
//! more (its process died, its worker was dropped) is for the next worker to settle.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use uuid::Uuid;

/// The claims of one store.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashSet<Uuid>>);

impl Claims {
    fn ids(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is held under `hold_id` into one's care, unless somebody has it.
    pub(super) fn claim(self: &Arc<Self>, hold_id: Uuid) -> Option<Claim> {
        self.ids().insert(hold_id).then(|| Claim {
            claims: self.clone(),
            hold_id,
            settled: AtomicBool::new(false),
        })
    }
}

/// The care of one hold; given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    hold_id: Uuid,
    settled: AtomicBool,
}

impl Claim {
    /// Whether the caller is the first to settle it.
    pub(crate) fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    /// Whether it is settled.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.ids().remove(&self.hold_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_has_one_keeper_until_that_one_is_gone() {
        let claims = Arc::new(Claims::default());
        let id = Uuid::from_u128(1);
        let claim = claims.claim(id).unwrap();
        assert!(claims.claim(id).is_none());
        assert!(claims.claim(Uuid::from_u128(2)).is_some());
        assert!(claim.settle());
        assert!(!claim.settle());
        drop(claim);
        assert!(claims.claim(id).is_some());
    }
}
