-- Version 2. The events, in `seq` order; the columns beside the JSON are for people who query them.
CREATE TABLE IF NOT EXISTS events (
    -- The newest row is never removed, so that no position is used twice.
    seq             INTEGER PRIMARY KEY,
    event_id        TEXT NOT NULL UNIQUE,
    event_type      TEXT NOT NULL,
    event_name      TEXT NOT NULL,
    workflow_type   TEXT,
    workflow_id     TEXT,
    workflow_run_id TEXT,
    workflow_state  TEXT,
    activity_type   TEXT,
    activity_id     TEXT,
    attempt         INTEGER,
    created_at      TEXT NOT NULL,
    -- Seconds since 1970; what retention counts from, by a clock that does not jump.
    stored_at       INTEGER NOT NULL,
    event           TEXT NOT NULL
);
-- Workflow ids come in no order. An index by them alone would be written all over, and more so the larger it is. This one
-- is written only where its newest block of 8,192 positions is; who looks for a workflow id looks into each block.
CREATE INDEX IF NOT EXISTS events_by_workflow ON events (seq >> 13, workflow_id);
-- SQLite looks into each block ("skip-scan") only where it is told that blocks are few against events. Told, not counted:
-- what was counted in a small file is wrong in a large one, of the other indexes, too.
ANALYZE sqlite_schema;
DELETE FROM sqlite_stat1 WHERE tbl = 'events' AND (idx, stat) IS NOT ('events_by_workflow', '10000000 8192 4');
INSERT INTO sqlite_stat1 (tbl, idx, stat) SELECT 'events', 'events_by_workflow', '10000000 8192 4'
    WHERE NOT EXISTS (SELECT 1 FROM sqlite_stat1 WHERE idx = 'events_by_workflow');
ANALYZE sqlite_schema;

-- What workflow tasks published and how they ended, until it is known whether the server accepted them.
CREATE TABLE IF NOT EXISTS held (
    namespace       TEXT NOT NULL,
    held_workflow   TEXT NOT NULL,
    held_run        TEXT NOT NULL,
    hold_id         TEXT NOT NULL,
    position        INTEGER NOT NULL,
    -- Which execution of which workflow task it was.
    evidence        TEXT NOT NULL,
    event_id        TEXT NOT NULL,
    event_type      TEXT NOT NULL,
    event_name      TEXT NOT NULL,
    workflow_type   TEXT,
    workflow_id     TEXT,
    workflow_run_id TEXT,
    workflow_state  TEXT,
    activity_type   TEXT,
    activity_id     TEXT,
    attempt         INTEGER,
    created_at      TEXT NOT NULL,
    event           TEXT NOT NULL,
    PRIMARY KEY (namespace, held_workflow, held_run, hold_id, position)
) WITHOUT ROWID;

-- How far each sink has read, as a position; and how far the reconciler has come, as a time.
CREATE TABLE IF NOT EXISTS cursors (
    name TEXT PRIMARY KEY,
    seq  INTEGER NOT NULL
) WITHOUT ROWID;

-- Events that a sink refused for good, and why.
CREATE TABLE IF NOT EXISTS dead_letters (
    sink       TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    event_id   TEXT NOT NULL,
    reason     TEXT NOT NULL,
    refused_at INTEGER NOT NULL,
    event      TEXT NOT NULL,
    PRIMARY KEY (sink, seq)
);
CREATE INDEX IF NOT EXISTS dead_letters_by_position ON dead_letters (seq);
CREATE INDEX IF NOT EXISTS dead_letters_by_age ON dead_letters (refused_at);

-- schema_version; store_id, which the log's files have, too; log_position, the number of the last frame of the log
-- that is in here; removed_user_until and removed_lifecycle_until, when the last removed event was stored.
CREATE TABLE IF NOT EXISTS meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT OR IGNORE INTO meta (key, value) VALUES ('schema_version', '2');
