//! The changes and notes as SQL, within a transaction that the caller owns.

use super::{
    super::record::{Applied, HoldKey},
    Trouble,
    queries::COLUMNS,
};
use crate::event::{DeadLetter, StoredEvent};
use rusqlite::{Connection, Transaction, params};
use uuid::Uuid;

pub(super) fn insert(
    transaction: &Transaction<'_>,
    events: &[StoredEvent],
    stored_at: i64,
    applied: &mut Applied,
) -> Result<(), Trouble> {
    let mut statement = transaction.prepare_cached(&format!(
        "INSERT INTO events ({COLUMNS}) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
         ON CONFLICT (event_id) DO NOTHING"
    ))?;
    for event in events {
        let mut buffer = Uuid::encode_buffer();
        let inserted = statement.execute(params![
            &*event
                .event_id
                .as_uuid()
                .hyphenated()
                .encode_lower(&mut buffer),
            event.event_type,
            event.event_name,
            event.workflow_type,
            event.workflow_id,
            event.workflow_run_id,
            event.workflow_state,
            event.activity_type,
            event.activity_id,
            event.attempt,
            event.created_at,
            stored_at,
            event.json,
        ])?;
        if inserted == 1 {
            applied.inserted += 1;
            applied.newest = newest(transaction);
        } else {
            applied.duplicates += 1;
        }
    }
    Ok(())
}

/// Returns the position of the event that was inserted last.
fn newest(transaction: &Transaction<'_>) -> u64 {
    u64::try_from(transaction.last_insert_rowid()).unwrap_or_default()
}

pub(super) fn hold(
    transaction: &Transaction<'_>,
    key: &HoldKey,
    evidence: &str,
    events: &[StoredEvent],
    applied: &mut Applied,
) -> Result<(), Trouble> {
    let hold_id = key.hold_id.to_string();
    let next: i64 = transaction
        .prepare_cached(&format!(
            "SELECT COALESCE(MAX(position) + 1, 0) FROM held WHERE {UNDER_KEY}"
        ))?
        .query_row(
            params![
                key.execution.namespace,
                key.execution.workflow_id,
                key.execution.run_id,
                hold_id
            ],
            |row| row.get(0),
        )?;
    if next > 0 {
        transaction
            .prepare_cached(&format!("UPDATE held SET evidence = ?5 WHERE {UNDER_KEY}"))?
            .execute(params![
                key.execution.namespace,
                key.execution.workflow_id,
                key.execution.run_id,
                hold_id,
                evidence
            ])?;
    } else if !events.is_empty() {
        applied.held += 1;
    }
    let mut statement = transaction.prepare_cached(
        "INSERT INTO held (namespace, held_workflow, held_run, hold_id, position, evidence, event_id, \
         event_type, event_name, workflow_type, workflow_id, workflow_run_id, workflow_state, \
         activity_type, activity_id, attempt, created_at, event) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?;
    for (position, event) in (next..).zip(events) {
        statement.execute(params![
            key.execution.namespace,
            key.execution.workflow_id,
            key.execution.run_id,
            hold_id,
            position,
            evidence,
            event.event_id.to_string(),
            event.event_type,
            event.event_name,
            event.workflow_type,
            event.workflow_id,
            event.workflow_run_id,
            event.workflow_state,
            event.activity_type,
            event.activity_id,
            event.attempt,
            event.created_at,
            event.json,
        ])?;
    }
    Ok(())
}

pub(super) fn move_cursor(
    transaction: &Transaction<'_>,
    name: &str,
    position: u64,
) -> Result<(), Trouble> {
    transaction
        .prepare_cached(
            "INSERT INTO cursors (name, seq) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET seq = excluded.seq",
        )?
        .execute(params![name, i64::try_from(position).unwrap_or(i64::MAX)])?;
    Ok(())
}

pub(super) fn refuse(
    transaction: &Transaction<'_>,
    letters: &[DeadLetter],
    refused_at: i64,
) -> Result<(), Trouble> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO dead_letters (sink, seq, event_id, reason, refused_at, event) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sink, seq) DO UPDATE SET \
         reason = excluded.reason, refused_at = excluded.refused_at",
    )?;
    for letter in letters {
        statement.execute(params![
            letter.sink,
            i64::try_from(letter.position).unwrap_or(i64::MAX),
            letter.event_id.to_string(),
            letter.reason,
            refused_at,
            letter.event,
        ])?;
    }
    Ok(())
}

pub(super) fn remove_dead_letter(
    transaction: &Transaction<'_>,
    sink: &str,
    position: u64,
) -> Result<(), Trouble> {
    transaction
        .prepare_cached("DELETE FROM dead_letters WHERE sink = ?1 AND seq = ?2")?
        .execute(params![sink, i64::try_from(position).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// Sets the value of a key in `meta`.
pub(super) fn remember(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO meta (key, value) VALUES (?1, ?2) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )?
        .execute([key, value])?;
    Ok(())
}

/// Inserts a placeholder at `position`, so that SQLite gives higher positions to what is inserted next.
pub(super) fn reserve(transaction: &Transaction<'_>, position: u64) -> Result<(), Trouble> {
    transaction.execute(
        "INSERT INTO events (seq, event_id, event_type, event_name, created_at, stored_at, event) \
         VALUES (?1, '', '', '', '', 0, '')",
        [i64::try_from(position).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

/// Removes the placeholder of [`reserve`].
pub(super) fn unreserve(transaction: &Transaction<'_>, position: u64) -> Result<(), Trouble> {
    transaction.execute(
        "DELETE FROM events WHERE seq = ?1 AND event_id = ''",
        [i64::try_from(position).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

/// The SQL condition for what is held under one key.
const UNDER_KEY: &str = "namespace = ?1 AND held_workflow = ?2 AND held_run = ?3 AND hold_id = ?4";

pub(super) fn release(
    transaction: &Transaction<'_>,
    key: &HoldKey,
    stored_at: i64,
    applied: &mut Applied,
) -> Result<(), Trouble> {
    let inserted = transaction
        .prepare_cached(&format!(
            "INSERT INTO events ({COLUMNS}) SELECT event_id, event_type, event_name, workflow_type, workflow_id, \
             workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, \
             ?5, event FROM held WHERE {UNDER_KEY} ORDER BY position \
             ON CONFLICT (event_id) DO NOTHING"
        ))?
        .execute(params![
            key.execution.namespace,
            key.execution.workflow_id,
            key.execution.run_id,
            key.hold_id.to_string(),
            stored_at,
        ])? as u64;
    if inserted > 0 {
        applied.newest = newest(transaction);
    }
    let held = forget(transaction, key, applied)?;
    applied.inserted += inserted;
    applied.duplicates += held.saturating_sub(inserted);
    Ok(())
}

pub(super) fn forget(
    transaction: &Transaction<'_>,
    key: &HoldKey,
    applied: &mut Applied,
) -> Result<u64, Trouble> {
    let forgotten = transaction
        .prepare_cached(&format!("DELETE FROM held WHERE {UNDER_KEY}"))?
        .execute(params![
            key.execution.namespace,
            key.execution.workflow_id,
            key.execution.run_id,
            key.hold_id.to_string()
        ])? as u64;
    if forgotten > 0 {
        applied.held -= 1;
    }
    Ok(forgotten)
}
