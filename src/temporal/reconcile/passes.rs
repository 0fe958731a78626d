//! The passes of the reconciler: from checkpoint to checkpoint, and now and then further back, for what visibility
//! shows late. Knows times and queries, and not what is done with the results.

use super::{
    Pass, ReconcileError, Reconciled, Reconciler,
    asking::server_error,
    ranges::{before, micros, rfc3339, windows},
};
use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tracing::warn;

/// How often it looks again for what visibility shows late, in the time that it may be late by.
const LATE_LOOKS: u32 = 4;

/// What closes, and is listed by when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Runs,
    StandaloneActivities,
}

impl Kind {
    /// What the cursors of its passes are called.
    fn cursor(self, is_late: bool) -> &'static str {
        match (self, is_late) {
            (Self::Runs, false) => "reconciler",
            (Self::Runs, true) => "reconciler late",
            (Self::StandaloneActivities, false) => "reconciler standalone",
            (Self::StandaloneActivities, true) => "reconciler standalone late",
        }
    }
}

impl Reconciler {
    /// Looks at what closed since the checkpoint, and moves the checkpoint; then, if it is time, at
    /// what closed before.
    pub(super) async fn catch_up(&self, kind: Kind) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        let until = before(SystemTime::now(), shared.options.grace);
        let name = self.cursor_name(kind, false);
        let checkpoint = shared.store.cursor(name.clone()).await?;
        let checkpoint = checkpoint.map(|micros| UNIX_EPOCH + Duration::from_micros(micros));
        let (from, known) = match checkpoint {
            Some(checkpoint) if checkpoint <= until => {
                (before(checkpoint, shared.options.overlap), Some(checkpoint))
            }
            Some(checkpoint) => {
                warn!(
                    checkpoint = rfc3339(checkpoint),
                    "this machine's clock is behind the server's, or was set back: the reconciler looks \
                     back as at its first time"
                );
                (before(until, shared.options.lookback), None)
            }
            None => (before(until, shared.options.lookback), None),
        };
        self.seen(kind).begin(from);
        let mut all = Reconciled::default();
        // The checkpoint is a time that the server gave. This machine's clock may be ahead of it, and runs
        // yet to close would be passed over.
        if let Some(newest) = self.newest(kind, from..until).await? {
            for window in windows(from..until, shared.options.window) {
                if window.start > newest {
                    break;
                }
                let end = window.end.min(newest);
                all += self.look_at(kind, window, Pass::Routine).await?;
                shared.store.move_cursor(name.clone(), micros(end)).await?;
            }
        }
        if let Some(checkpoint) = known {
            all += self
                .look_for_late(kind, before(checkpoint, shared.options.overlap))
                .await?;
        }
        Ok(all)
    }

    /// Lists again what closed before `until`, if that was not done lately, and looks at what was not
    /// listed then.
    async fn look_for_late(
        &self,
        kind: Kind,
        until: SystemTime,
    ) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        // No further back than a first look goes.
        let late = shared.options.late.min(shared.options.lookback);
        let from = before(until, late.saturating_sub(shared.options.overlap));
        let name = self.cursor_name(kind, true);
        let last = shared.store.cursor(name.clone()).await?;
        let last = last.map(|micros| UNIX_EPOCH + Duration::from_micros(micros));
        let now = SystemTime::now();
        // A clock that was set back is no reason to wait.
        let is_time = last
            .and_then(|last| now.duration_since(last).ok())
            .is_none_or(|since| since >= late / LATE_LOOKS);
        if !is_time || from >= until {
            return Ok(Reconciled::default());
        }
        let found = self.look_at(kind, from..until, Pass::Late).await?;
        shared.store.move_cursor(name, micros(now)).await?;
        Ok(found)
    }

    async fn look_at(
        &self,
        kind: Kind,
        closed: Range<SystemTime>,
        pass: Pass,
    ) -> Result<Reconciled, ReconcileError> {
        match kind {
            Kind::Runs => self.reconcile(closed, pass).await,
            Kind::StandaloneActivities => self.reconcile_standalone(closed, pass).await,
        }
    }

    fn filter(&self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Runs => self.shared.options.query(),
            Kind::StandaloneActivities => self.shared.options.standalone_query(),
        }
    }

    /// One for each namespace and filter: each has come to another point.
    fn cursor_name(&self, kind: Kind, is_late: bool) -> String {
        let what = kind.cursor(is_late);
        let query = self.filter(kind).unwrap_or_default();
        format!("{what} {} {query}", self.shared.namespace)
    }

    /// The visibility query for what closed in a time range.
    pub(super) fn query(&self, kind: Kind, closed: &Range<SystemTime>) -> String {
        let query = format!(
            "CloseTime >= '{}' AND CloseTime < '{}'",
            rfc3339(closed.start),
            rfc3339(closed.end)
        );
        match self.filter(kind) {
            Some(filter) => format!("{query} AND {filter}"),
            None => query,
        }
    }

    /// When the last of those closed that closed in a time range.
    async fn newest(
        &self,
        kind: Kind,
        closed: Range<SystemTime>,
    ) -> Result<Option<SystemTime>, ReconcileError> {
        let shared = &self.shared;
        let query = self.query(kind, &closed);
        let server = &shared.server;
        // The newest come first.
        let closed: Vec<_> = match kind {
            Kind::Runs => {
                let page = self
                    .request(|| server.closed_runs(&shared.namespace, &query, 1, Vec::new()))
                    .await
                    .map_err(server_error)?;
                page.runs.iter().filter_map(|run| run.closed_at).collect()
            }
            Kind::StandaloneActivities => {
                let page = self
                    .request(|| {
                        server.standalone_activities(&shared.namespace, &query, 1, Vec::new())
                    })
                    .await
                    .map_err(server_error)?;
                let activities = page.items.iter();
                activities.filter_map(|it| it.closed_at).collect()
            }
        };
        Ok(closed.into_iter().max())
    }
}
