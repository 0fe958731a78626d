//! Events as rows of a PostgreSQL table. The event id is the primary key: an event that comes again
//! changes nothing.

use super::{
    Delivered, Sink, SinkError, SinkEvent, SinkUrlError,
    shared::{
        address::Address,
        attempt::within,
        parts::{self, Part, Receiver},
        tls,
    },
};
use async_trait::async_trait;
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_postgres::{
    Config, NoTls,
    config::SslMode,
    error::SqlState,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::info;
use uuid::Uuid;

const ALLOWED: &str = "`postgres://user:password@host:port/database`, with the \
     parameters `table=events` or `table=schema.events`, \
     `sslmode=disable|prefer|require|verify-full`, `sslrootcert=FILE`";

/// How long connecting, and how long one statement may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// How long a call may take in all.
const CALL_LIMIT: Duration = Duration::from_secs(12);
/// One connection delivers; the other is for checks meanwhile.
const CONNECTIONS: usize = 2;
/// The longest name of a table: PostgreSQL cuts names at 63 bytes, and those of the indexes are
/// longer than the table's.
const MAX_TABLE_NAME: usize = 48;

/// The sink for `postgres://`.
struct Postgres {
    name: String,
    pool: Pool,
    table: String,
    insert: String,
    has_schema: AtomicBool,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// The sink of a `postgres:` or `postgresql:` URL.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    Ok(Arc::new(Postgres::new(url)?))
}

/// The table of a `postgres:` or `postgresql:` URL, and connections to its database.
pub(crate) struct PostgresTable {
    pub(crate) pool: Pool,
    pub(crate) name: String,
}

impl PostgresTable {
    /// Returns the name as SQL.
    pub(crate) fn quoted(&self) -> String {
        quoted(&self.name)
    }
}

/// Reads the URL. Connects to nothing.
pub(crate) fn open_table(url: &str) -> Result<PostgresTable, SinkUrlError> {
    let address = Address::parse(url, ALLOWED)?;
    let parameters = address.parameters(&["table", "sslmode", "sslrootcert"])?;
    let table = parameters.text("table").unwrap_or("events").to_owned();
    if !is_table_name(&table) {
        return Err(address.wrong(format!(
            "`table` is no plain name: letters, digits and `_`, at most {MAX_TABLE_NAME}, with \
                 or without the schema's name and a `.` in front"
        )));
    }
    let database = match address.path()?.as_slice() {
        [database] if !database.is_empty() => database.clone(),
        [] => return Err(address.wrong("it names no database")),
        _ => return Err(address.wrong("its path is more than the database's name")),
    };
    let user = address
        .user()?
        .ok_or_else(|| address.wrong("it names no user"))?;
    let environment = std::env::var("PGPASSWORD").ok().map(SecretString::from);

    let mut config = Config::new();
    config
        .host(address.host())
        .port(address.port_or(5432))
        .user(user)
        .dbname(database)
        .application_name(env!("CARGO_PKG_NAME"))
        .connect_timeout(STEP_LIMIT)
        .keepalives_idle(Duration::from_secs(30))
        .tcp_user_timeout(STEP_LIMIT);
    if let Some(password) = address.password()?.or(environment) {
        config.password(password.expose_secret());
    }
    let roots = parameters.text("sslrootcert").map(Path::new);
    let mode = match parameters.text("sslmode").unwrap_or("prefer") {
        "disable" => SslMode::Disable,
        "prefer" => SslMode::Prefer,
        "require" | "verify-full" => SslMode::Require,
        _ => return Err(address.wrong("`sslmode` is none of the known ones")),
    };
    config.ssl_mode(mode);
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = if mode == SslMode::Disable {
        if roots.is_some() {
            return Err(address.wrong("`sslrootcert` means nothing with `sslmode=disable`"));
        }
        Manager::from_config(config, NoTls, recycling)
    } else {
        let tls = tls::client_config(roots).map_err(|reason| address.wrong(reason))?;
        Manager::from_config(config, MakeRustlsConnect::new(tls), recycling)
    };
    let pool = Pool::builder(manager)
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(STEP_LIMIT))
        .create_timeout(Some(STEP_LIMIT))
        .recycle_timeout(Some(STEP_LIMIT))
        // A statement and not a startup option: connection poolers refuse those.
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move {
                let limit = STEP_LIMIT.as_millis();
                client
                    .batch_execute(&format!("SET statement_timeout = {limit}"))
                    .await
                    .map_err(HookError::Backend)
            })
        }))
        .build()
        .map_err(|error| address.wrong(error.to_string()))?;
    Ok(PostgresTable { pool, name: table })
}

impl Postgres {
    fn new(url: &str) -> Result<Self, SinkUrlError> {
        let PostgresTable { pool, name: table } = open_table(url)?;
        Ok(Self {
            name: format!("postgres {table}"),
            insert: insert_statement(&table),
            pool,
            table,
            has_schema: AtomicBool::new(false),
        })
    }

    async fn lease(&self) -> Result<Lease, SinkError> {
        const UNREACHABLE: &str = "PostgreSQL cannot be reached";
        let object = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                failed(UNREACHABLE, error)
            }
            other => SinkError::new(format!("{UNREACHABLE}: {other}")),
        })?;
        Ok(Lease {
            object: Some(object),
            answered: false,
        })
    }

    async fn create_schema_once(&self, lease: &mut Lease) -> Result<(), SinkError> {
        if self.has_schema.load(Ordering::Relaxed) {
            return Ok(());
        }
        let created = lease.create_schema(&self.table).await.map_err(|error| {
            failed(
                &format!("the table {} cannot be created", self.table),
                error,
            )
        })?;
        if created {
            info!(table = self.table, "created the table of events");
        }
        self.has_schema.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Receiver for Postgres {
    fn most(&self) -> usize {
        usize::MAX
    }

    fn timeout(&self) -> Duration {
        CALL_LIMIT
    }

    async fn send(&self, part: &[SinkEvent]) -> Result<Part, SinkError> {
        let mut lease = self.lease().await?;
        self.create_schema_once(&mut lease).await?;
        match lease.run(&self.insert, &Columns::of(part)).await {
            Ok(()) => Ok(Part::Taken),
            Err(error) if is_refusal(&error) => {
                let reason = failed("PostgreSQL refuses it", error).reason().to_owned();
                Ok(Part::Refused(reason.into()))
            }
            Err(error) => {
                if error.code() == Some(&SqlState::UNDEFINED_TABLE) {
                    self.has_schema.store(false, Ordering::Relaxed);
                }
                Err(failed("PostgreSQL", error))
            }
        }
    }
}

#[async_trait]
impl Sink for Postgres {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        parts::deliver(self, batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        let ask = async {
            let mut lease = self.lease().await?;
            lease
                .ask()
                .await
                .map_err(|error| failed("PostgreSQL", error))
        };
        within(CALL_LIMIT, "PostgreSQL does not answer", ask).await
    }
}

/// A connection of the pool, which goes back there only if its last statement was answered: one that
/// was left in the middle would let the next batch wait for the old one.
struct Lease {
    object: Option<Object>,
    answered: bool,
}

impl Lease {
    async fn run(
        &mut self,
        statement: &str,
        columns: &Columns<'_>,
    ) -> Result<(), tokio_postgres::Error> {
        let Some(client) = &self.object else {
            return Ok(());
        };
        self.answered = false;
        let result = client.execute_typed(statement, &columns.parameters()).await;
        self.answered = answered(&result);
        result.map(|_| ())
    }

    async fn ask(&mut self) -> Result<(), tokio_postgres::Error> {
        let Some(client) = &self.object else {
            return Ok(());
        };
        let result = client.batch_execute("SELECT 1").await;
        self.answered = answered(&result);
        result
    }

    /// Creates the table and its indexes, if there is no such table. Says whether it did.
    async fn create_schema(&mut self, table: &str) -> Result<bool, tokio_postgres::Error> {
        let Some(client) = &mut self.object else {
            return Ok(false);
        };
        // Asked first, for a user that may write the table and not create one.
        let known = "SELECT to_regclass($1) IS NOT NULL";
        let row = client
            .query_typed(known, &[(&table, Type::TEXT)])
            .await?
            .into_iter()
            .next();
        if row.is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            self.answered = true;
            return Ok(false);
        }
        let transaction = client.transaction().await?;
        // `IF NOT EXISTS` alone fails when two create the same table at once.
        transaction
            .query_typed(
                "SELECT pg_advisory_xact_lock(hashtext($1))",
                &[(&format!("temporal-eventstore {table}"), Type::TEXT)],
            )
            .await?;
        transaction.batch_execute(&schema(table)).await?;
        transaction.commit().await?;
        self.answered = true;
        Ok(true)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (Some(object), false) = (self.object.take(), self.answered) {
            // Taken out of the pool, it closes its connection.
            drop(Object::take(object));
        }
    }
}

/// Whether the server answered, be it with an error.
fn answered<T>(result: &Result<T, tokio_postgres::Error>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => error.as_db_error().is_some() && !error.is_closed(),
    }
}

/// Whether the server will never take what it was given, as opposed to not being able to now. Data
/// exceptions (22), broken constraints (23) and limits of the program (54) are about the rows;
/// everything else (connections, resources, rights, a table of another shape) is not the event's
/// fault.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|code| matches!(code.code().get(..2), Some("22" | "23" | "54")))
}

/// What an error says. Of what the server answered it leaves out the details of broken constraints, which quote the
/// row; the library's own error, as a source, would show them.
fn failed(what: &str, error: tokio_postgres::Error) -> SinkError {
    let Some(answer) = error.as_db_error() else {
        return SinkError::caused_by(what, error);
    };
    let (message, code) = (answer.message(), answer.code().code());
    SinkError::new(match answer.detail() {
        Some(detail) if code.starts_with("22") => format!("{what}: {message} ({code}): {detail}"),
        _ => format!("{what}: {message} ({code})"),
    })
}

fn is_table_name(name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    parts.len() <= 2
        && parts.iter().all(|part| {
            part.len() <= MAX_TABLE_NAME
                && part.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
}

/// The table's name as SQL: in quotes, since `user` or `order` would be keywords.
fn quoted(table: &str) -> String {
    format!("\"{}\"", table.replace('.', "\".\""))
}

fn schema(table: &str) -> String {
    let index = table.rsplit('.').next().unwrap_or(table);
    let table = quoted(table);
    format!(
        r#"
CREATE TABLE IF NOT EXISTS {table} (
    event_id uuid PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    position bigint NOT NULL,
    event_type text NOT NULL,
    event_name text NOT NULL,
    event_key text,
    workflow_type text,
    workflow_id text,
    workflow_run_id text,
    workflow_state text,
    activity_type text,
    activity_id text,
    attempt bigint,
    created_at timestamptz NOT NULL,
    event jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS "{index}_seq" ON {table} (seq);
CREATE INDEX IF NOT EXISTS "{index}_workflow" ON {table} (workflow_id, seq);
CREATE INDEX IF NOT EXISTS "{index}_name_time" ON {table} (event_name, created_at);
"#
    )
}

fn insert_statement(table: &str) -> String {
    let table = quoted(table);
    format!(
        "INSERT INTO {table} (event_id, position, event_type, event_name, event_key, workflow_type, \
         workflow_id, workflow_run_id, workflow_state, activity_type, activity_id, attempt, \
         created_at, event) \
         SELECT e.event_id, e.position, e.event_type, e.event_name, e.event_key, e.workflow_type, \
         e.workflow_id, e.workflow_run_id, e.workflow_state, e.activity_type, e.activity_id, \
         e.attempt, e.created_at::timestamptz, e.event::jsonb \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         AS e(event_id, position, event_type, event_name, event_key, workflow_type, workflow_id, \
         workflow_run_id, workflow_state, activity_type, activity_id, attempt, created_at, event) \
         ON CONFLICT (event_id) DO NOTHING"
    )
}

/// A batch turned into columns.
struct Columns<'a> {
    event_id: Vec<Uuid>,
    position: Vec<i64>,
    event_type: Vec<&'a str>,
    event_name: Vec<&'a str>,
    event_key: Vec<Option<&'a str>>,
    workflow_type: Vec<Option<&'a str>>,
    workflow_id: Vec<Option<&'a str>>,
    workflow_run_id: Vec<Option<&'a str>>,
    workflow_state: Vec<Option<&'a str>>,
    activity_type: Vec<Option<&'a str>>,
    activity_id: Vec<Option<&'a str>>,
    attempt: Vec<Option<i64>>,
    created_at: Vec<&'a str>,
    event: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [SinkEvent]) -> Self {
        fn column<'a, T>(batch: &'a [SinkEvent], value: impl Fn(&'a SinkEvent) -> T) -> Vec<T> {
            batch.iter().map(value).collect()
        }
        Self {
            event_id: column(batch, |event| *event.event_id.as_uuid()),
            position: column(batch, |event| {
                i64::try_from(event.position).unwrap_or(i64::MAX)
            }),
            event_type: column(batch, |event| event.event_type.as_str()),
            event_name: column(batch, |event| event.event_name.as_str()),
            event_key: column(batch, SinkEvent::key),
            workflow_type: column(batch, |event| event.workflow_type.as_deref()),
            workflow_id: column(batch, |event| event.workflow_id.as_deref()),
            workflow_run_id: column(batch, |event| event.workflow_run_id.as_deref()),
            workflow_state: column(batch, |event| event.workflow_state.as_deref()),
            activity_type: column(batch, |event| event.activity_type.as_deref()),
            activity_id: column(batch, |event| event.activity_id.as_deref()),
            attempt: column(batch, |event| event.attempt.map(i64::from)),
            created_at: column(batch, |event| event.created_at.as_str()),
            event: column(batch, |event| event.json.as_str()),
        }
    }

    /// In the order of the statement. The types are given and not asked for: one round trip instead
    /// of two, and nothing prepared that a connection pooler would have to keep.
    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 14] {
        [
            (&self.event_id, Type::UUID_ARRAY),
            (&self.position, Type::INT8_ARRAY),
            (&self.event_type, Type::TEXT_ARRAY),
            (&self.event_name, Type::TEXT_ARRAY),
            (&self.event_key, Type::TEXT_ARRAY),
            (&self.workflow_type, Type::TEXT_ARRAY),
            (&self.workflow_id, Type::TEXT_ARRAY),
            (&self.workflow_run_id, Type::TEXT_ARRAY),
            (&self.workflow_state, Type::TEXT_ARRAY),
            (&self.activity_type, Type::TEXT_ARRAY),
            (&self.activity_id, Type::TEXT_ARRAY),
            (&self.attempt, Type::INT8_ARRAY),
            (&self.created_at, Type::TEXT_ARRAY),
            (&self.event, Type::TEXT_ARRAY),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_plain() {
        for name in ["events", "audit.events", "_e1"] {
            assert!(is_table_name(name), "{name}");
        }
        for name in [
            "",
            "1e",
            "a.b.c",
            "a\"b",
            "a b",
            ".a",
            "Events",
            &"a".repeat(49),
        ] {
            assert!(!is_table_name(name), "{name}");
        }
        assert_eq!(quoted("audit.order"), r#""audit"."order""#);
    }
}
