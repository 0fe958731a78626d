//! The places of workers: journals and addresses stay, the processes come and go.

use crate::support::{Program, example, start_worker};
use std::{path::PathBuf, time::Duration};

pub struct Place {
    pub namespace: String,
    pub address: String,
    /// Where events are delivered to; without one the journal is all there is.
    pub sink: Option<String>,
    pub journal: Option<PathBuf>,
    process: Option<Program>,
}

impl Place {
    pub fn new(
        namespace: &str,
        address: String,
        journal: Option<PathBuf>,
        sink: Option<String>,
    ) -> Self {
        Self {
            namespace: namespace.to_owned(),
            address,
            sink,
            journal,
            process: None,
        }
    }

    pub fn start(&mut self, cache: &str) {
        let mut command = example("chaos_worker");
        command
            .env("TEMPORAL_ADDRESS", &self.address)
            .env("TEMPORAL_NAMESPACE", &self.namespace)
            .env(
                "RUST_LOG",
                std::env::var("CHAOS_LOG").as_deref().unwrap_or("off"),
            )
            // Beside the workers, so that both ways of finding an end run at once.
            .args(["--max-cached-workflows", cache, "--reconcile", "2"]);
        match (&self.sink, &self.journal) {
            (Some(sink), journal) => {
                command.env("EVENTSTORE_URL", sink);
                if let Some(file) = journal {
                    command.env("EVENTSTORE_JOURNAL", file);
                }
            }
            (None, Some(file)) => {
                command.env("EVENTSTORE_URL", format!("sqlite:{}", file.display()));
            }
            (None, None) => panic!("a place needs somewhere to put events"),
        }
        self.process = Some(start_worker(&mut command));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Lets it stand still, and go on.
    pub async fn stand_still(&self, pause: Duration) {
        let process = self.process.as_ref().unwrap();
        process.signal("STOP");
        tokio::time::sleep(pause).await;
        process.signal("CONT");
    }

    /// SIGTERM; whether it ended well.
    pub fn stop(&mut self) -> bool {
        self.process.take().unwrap().terminate().success()
    }
}

/// Ends that wait for the server's word.
pub fn held(file: &std::path::Path) -> i64 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
        .query_row("SELECT COUNT(*) FROM held", [], |row| row.get(0))
        .unwrap()
}
