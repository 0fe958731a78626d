//! Waiting until replicas have what was written. Knows nothing of events.

use super::{
    REDIS,
    connection::{Connection, Role},
    failed,
};
use crate::sink::SinkError;
use std::time::{Duration, Instant};

/// How long replicas have.
const LIMIT: Duration = Duration::from_secs(4);
/// How often the server is asked how far they are.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `wanted` replicas have what this connection has written.
pub(super) async fn wait(connection: &mut Connection, wanted: u32) -> Result<(), SinkError> {
    let have = ::redis::cmd("WAIT")
        .arg(wanted)
        .arg(LIMIT.as_millis().to_string())
        .query_async::<u32>(&mut connection.redis)
        .await
        .map_err(|error| failed(REDIS, error))?;
    enough(have, wanted)
}

/// Waits until `wanted` replicas have what is on the server now, whoever wrote it: `WAIT` knows the writes of its own
/// connection alone.
pub(super) async fn wait_for_what_was_there(
    connection: &mut Connection,
    wanted: u32,
) -> Result<(), SinkError> {
    let started = Instant::now();
    let mut goal = None;
    loop {
        let Role::Primary { offset, replicas } = connection.role().await? else {
            return Err(SinkError::new(
                "Redis does not say how far its replicas are: `wait` needs a primary, and a user that may call ROLE",
            ));
        };
        let goal = *goal.get_or_insert(offset);
        let have = replicas.iter().filter(|replica| **replica >= goal).count();
        let have = u32::try_from(have).unwrap_or(u32::MAX);
        if have >= wanted || started.elapsed() >= LIMIT {
            return enough(have, wanted);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn enough(have: u32, wanted: u32) -> Result<(), SinkError> {
    match have >= wanted {
        true => Ok(()),
        false => Err(SinkError::new(format!(
            "Redis: {have} replicas have the batch, of the {wanted} that `wait` demands"
        ))),
    }
}
