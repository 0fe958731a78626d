//! Rescue of a file that was deleted, renamed or replaced while it was open: notices that, and copies
//! everything in it to the path.

use super::{
    LOG_POSITION, OpenFailure, STORE_ID, SqliteLog,
    connect::{ConnectFailure, connect, unusable},
    place::{
        BESIDE, beside, identities_beside, identity, identity_of, lock, lock_path, private_file,
    },
    queries::COLUMNS,
    room::{Looked, removed_until},
};
use crate::journal::Synchronous;
use rusqlite::Connection;
use std::path::Path;

impl SqliteLog {
    /// Whether `path` still names this store's file.
    pub(in crate::journal) fn is_at(&self, path: &Path) -> bool {
        let is_at = self.identity == identity_of(path);
        if is_at {
            self.beside.set(identities_beside(path));
        }
        is_at
    }

    /// Copies everything into the file that is at `path` now, or into a new one, and goes on there. The store's
    /// own file was deleted or replaced, and only this connection reaches it.
    pub(in crate::journal) fn move_to(
        &mut self,
        path: &Path,
        synchronous: Synchronous,
    ) -> Result<(), OpenFailure> {
        // If the lock's file was deleted, too, another store could take the path: lock it anew.
        let is_ours = self
            .lock
            .file
            .metadata()
            .is_ok_and(|ours| identity_of(&lock_path(path)) == Some(identity(&ours)));
        if is_ours {
            private_file(path).map_err(|error| OpenFailure::Refused(unusable(path, &error)))?;
        } else {
            self.lock = lock(path).map_err(OpenFailure::Refused)?;
        }
        let refused = |error: rusqlite::Error| OpenFailure::Refused(unusable(path, &error));
        let Some(name) = path.to_str() else {
            return Err(OpenFailure::Refused(unusable(
                path,
                &"its name is no UTF-8",
            )));
        };
        // SQLite would take this store's own side files for those of the new file. The open connection still
        // reaches what is in them. Side files that came with the new file stay.
        for (suffix, ours) in BESIDE.into_iter().zip(self.beside.get()) {
            let side = beside(path, suffix);
            if ours.is_some() && identity_of(&side) == ours {
                std::fs::remove_file(&side)
                    .map_err(|error| OpenFailure::Refused(unusable(&side, &error)))?;
            }
        }
        drop(connect(path, synchronous).map_err(|failure| match failure {
            ConnectFailure::Refused(error) => OpenFailure::Refused(error),
            ConnectFailure::Sqlite(error) => refused(error),
        })?);
        self.connection
            .execute("ATTACH DATABASE ?1 AS fresh", [name])
            .map_err(refused)?;
        let copied = copy_to_attached(&mut self.connection, self.highest);
        self.connection
            .execute("DETACH DATABASE fresh", [])
            .map_err(refused)?;
        copied.map_err(refused)?;
        self.connection = connect(path, synchronous).map_err(|failure| match failure {
            ConnectFailure::Refused(error) => OpenFailure::Refused(error),
            ConnectFailure::Sqlite(error) => refused(error),
        })?;
        self.removed_until
            .set(removed_until(&self.connection).unwrap_or_default());
        self.looked_for_user_events = Looked::default();
        self.identity = identity_of(path);
        self.beside.set(identities_beside(path));
        self.go_on_after(self.highest);
        Ok(())
    }
}

/// Copies everything into the attached file. This store's events keep their positions, so that its cursors stay
/// valid. What the other file held gets positions after them, and after `highest`, and is delivered from there;
/// the other file's cursors are dropped, since they refer to its old positions.
fn copy_to_attached(connection: &mut Connection, highest: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(&format!(
        "CREATE TEMP TABLE others AS SELECT * FROM fresh.events ORDER BY seq; \
         DELETE FROM fresh.events; \
         INSERT INTO fresh.events (seq, {COLUMNS}) \
         SELECT seq, {COLUMNS} FROM main.events ORDER BY seq; \
         INSERT INTO fresh.events (seq, event_id, event_type, event_name, created_at, stored_at, event) \
         SELECT {highest}, '', '', '', '', 0, '' \
         WHERE {highest} > (SELECT COALESCE(MAX(seq), 0) FROM fresh.events); \
         INSERT OR IGNORE INTO fresh.events ({COLUMNS}) \
         SELECT {COLUMNS} FROM temp.others ORDER BY seq; \
         DELETE FROM fresh.events WHERE event_id = ''; \
         DROP TABLE temp.others; \
         INSERT OR IGNORE INTO fresh.held SELECT * FROM main.held; \
         DELETE FROM fresh.cursors; \
         INSERT INTO fresh.cursors SELECT * FROM main.cursors; \
         CREATE TEMP TABLE others AS SELECT * FROM fresh.dead_letters; \
         DELETE FROM fresh.dead_letters; \
         INSERT INTO fresh.dead_letters SELECT * FROM main.dead_letters; \
         INSERT INTO fresh.dead_letters SELECT others.sink, COALESCE(events.seq, others.seq + \
         (SELECT COALESCE(MAX(seq), 0) FROM fresh.events)), others.event_id, \
         others.reason, others.refused_at, others.event FROM temp.others AS others \
         LEFT JOIN fresh.events AS events ON events.event_id = others.event_id WHERE TRUE \
         ON CONFLICT (sink, seq) DO NOTHING; \
         DROP TABLE temp.others; \
         INSERT INTO fresh.meta SELECT key, value FROM main.meta WHERE key LIKE 'removed_%' \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value \
         WHERE CAST(excluded.value AS INTEGER) > CAST(value AS INTEGER); \
         INSERT INTO fresh.meta SELECT key, value FROM main.meta \
         WHERE key IN ('{STORE_ID}', '{LOG_POSITION}') \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    ))?;
    transaction.commit()
}
