//! What the crate logs, and how often.
//!
//! A `tracing` layer runs on the thread that logs, within the call, and may publish events itself. So nothing is
//! logged while a lock is held that publishing needs; that something was logged is noted before it is logged; and
//! publishing within such a layer logs nothing.

use std::{
    cell::Cell,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::dispatcher::{self, Dispatch};

/// The same thing is logged at most once in this time. The statistics count how often it happened.
const EVERY: Duration = Duration::from_secs(10);

/// When something was logged last.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Option<Instant>>);

impl Said {
    /// Whether it was never logged before. Notes that it is logged now.
    pub(crate) fn is_first(&self) -> bool {
        self.is_due_after(Duration::MAX)
    }

    /// Whether it was not logged for a while. If so, notes that it is logged now.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due_after(EVERY)
    }

    // The lock is free again when the caller logs.
    fn is_due_after(&self, pause: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|at| at.elapsed() > pause);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

thread_local! {
    static PUBLISHES: Cell<bool> = const { Cell::new(false) };
}

/// Runs `publish`. Within another call of this function on the same thread, nothing is logged: that call is just
/// logging, and a layer that publishes what is logged would go on without end.
pub(crate) fn while_publishing<T>(publish: impl FnOnce() -> T) -> T {
    /// Ends the outer call, also when a subscriber panics.
    struct Over;

    impl Drop for Over {
        fn drop(&mut self) {
            PUBLISHES.try_with(|publishes| publishes.set(false)).ok();
        }
    }

    // A thread that is ending has no such cell any more.
    match PUBLISHES.try_with(|publishes| publishes.replace(true)) {
        Ok(false) => {
            let _over = Over;
            publish()
        }
        Ok(true) | Err(_) => dispatcher::with_default(&Dispatch::none(), publish),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_it_is_due_and_then_not_for_a_while() {
        let said = Said::default();
        assert!(said.is_first());
        assert!(!said.is_first());
        assert!(!said.is_due());
        assert!(said.is_due_after(Duration::ZERO));
    }

    #[test]
    fn one_call_within_another_is_the_last_that_is_heard() {
        let depth = Cell::new(0);
        let is_heard = || {
            dispatcher::get_default(|current| !current.is::<tracing::subscriber::NoSubscriber>())
        };
        let _default = tracing::subscriber::set_default(tracing_subscriber::fmt().finish());
        while_publishing(|| {
            assert!(is_heard());
            while_publishing(|| {
                assert!(!is_heard());
                depth.set(1);
            });
            assert!(is_heard());
        });
        assert_eq!(depth.get(), 1);
        std::panic::catch_unwind(|| while_publishing(|| panic!("on purpose"))).unwrap_err();
        while_publishing(|| assert!(is_heard()));
    }
}
