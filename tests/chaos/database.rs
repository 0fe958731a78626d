//! The PostgreSQL database to which a fleet delivers.

use super::servers::{DATABASE, PASSWORD, PASSWORD_IN_URL, Server, USER};
use crate::support::Row;
use tokio_postgres::{Config, NoTls};

pub fn url(server: &Server) -> String {
    format!(
        "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}",
        server.port()
    )
}

pub async fn rows(server: &Server) -> Vec<Row> {
    let (client, connection) = Config::new()
        .host("127.0.0.1")
        .port(server.port())
        .user(USER)
        .password(PASSWORD)
        .dbname(DATABASE)
        .connect(NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let found = client
        .query(
            "SELECT seq, event_id::text, event_type, event_name, workflow_id, workflow_run_id, \
             workflow_state, activity_type, activity_id, attempt, event FROM events ORDER BY seq",
            &[],
        )
        .await
        .unwrap();
    let row = |row: &tokio_postgres::Row| Row {
        seq: row.get(0),
        event_id: row.get(1),
        event_type: row.get(2),
        event_name: row.get(3),
        workflow_id: row.get(4),
        workflow_run_id: row.get(5),
        workflow_state: row.get(6),
        activity_type: row.get(7),
        activity_id: row.get(8),
        attempt: row
            .get::<_, Option<i64>>(9)
            .map(|attempt| u32::try_from(attempt).unwrap()),
        event: row.get(10),
    };
    found.iter().map(row).collect()
}
