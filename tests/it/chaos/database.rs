//! The PostgreSQL database to which a fleet delivers.

use crate::support::Row;
use crate::support::{
    servers::{DATABASE, PASSWORD_IN_URL, Server, USER},
    target_postgres::client,
};

pub fn url(server: &Server) -> String {
    format!(
        "postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}/{DATABASE}",
        server.port()
    )
}

pub async fn rows(server: &Server) -> Vec<Row> {
    let client = client(server).await;
    let found = client
        .query(
            "SELECT event_id::text, event_type, event_name, workflow_id, workflow_run_id, \
             workflow_state, activity_type, activity_id, attempt, event FROM events ORDER BY seq",
            &[],
        )
        .await
        .unwrap();
    let row = |row: &tokio_postgres::Row| Row {
        event_id: row.get(0),
        event_type: row.get(1),
        event_name: row.get(2),
        workflow_id: row.get(3),
        workflow_run_id: row.get(4),
        workflow_state: row.get(5),
        activity_type: row.get(6),
        activity_id: row.get(7),
        attempt: row
            .get::<_, Option<i64>>(8)
            .map(|attempt| u32::try_from(attempt).unwrap()),
        event: row.get(9),
    };
    found.iter().map(row).collect()
}
