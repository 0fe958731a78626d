//! Claims: which holds somebody in this process takes care of. The next worker settles those that nobody takes
//! care of any more, because their process died or their worker was dropped.

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

    /// Claims what is held under `hold_id`; none if somebody else has claimed it.
    pub(super) fn claim(self: &Arc<Self>, hold_id: Uuid) -> Option<Claim> {
        self.ids().insert(hold_id).then(|| Claim {
            claims: self.clone(),
            hold_id,
            settled: AtomicBool::new(false),
        })
    }
}

/// The claim to one hold, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    hold_id: Uuid,
    settled: AtomicBool,
}

impl Claim {
    /// Marks it as settled. Returns whether the caller is the first to do so.
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
