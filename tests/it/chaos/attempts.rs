//! The activities that scripts call, and a book of what the attempts of local ones did in this process:
//! the workflow code that gets the result reads there what to bear witness to.

use crate::witness::{Attempt, BY_HAND, failure_message};
use futures::FutureExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, MutexGuard},
    time::Duration,
};
use temporal_eventstore::{Event, PublishError};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};

/// By a name that each execution makes anew, so that none reads what another one did.
static BOOK: LazyLock<Mutex<HashMap<String, Vec<Attempt>>>> = LazyLock::new(Mutex::default);

fn book() -> MutexGuard<'static, HashMap<String, Vec<Attempt>>> {
    BOOK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Something that no other execution says.
pub fn nonce() -> String {
    format!("{:012x}", fastrand::u64(..1 << 48))
}

/// Opens a page of the book.
pub fn open() -> String {
    let page = nonce();
    book().insert(page.clone(), Vec::new());
    page
}

/// Closes it: what attempts do from now on comes too late for the result.
pub fn close(page: &str) -> Vec<Attempt> {
    book().remove(page).unwrap_or_default()
}

/// None where it was refused: the activity was given up just before.
fn publish_by_hand() -> Option<String> {
    let nonce = nonce();
    let event = Event::new(BY_HAND).data(json!({ "nonce": nonce }));
    let answer = temporal_eventstore::publish(event).now_or_never();
    let is_refused = matches!(answer, Some(Err(PublishError::GivenUp)));
    (!is_refused).then_some(nonce)
}

/// Publishes while the page is open, under its lock, so that what is published is in the book.
fn begin(page: &str, activity_id: &str, number: u32, by_hand: u8) -> Vec<String> {
    let mut book = book();
    let Some(attempts) = book.get_mut(page) else {
        return Vec::new();
    };
    let by_hand: Vec<String> = (0..by_hand).filter_map(|_| publish_by_hand()).collect();
    attempts.push(Attempt {
        activity_id: activity_id.to_owned(),
        number,
        by_hand: by_hand.clone(),
        status: None,
    });
    by_hand
}

fn end(page: &str, number: u32, status: &str) {
    if let Some(attempts) = book().get_mut(page)
        && let Some(attempt) = attempts.iter_mut().find(|attempt| attempt.number == number)
    {
        attempt.status = Some(status.to_owned());
    }
}

#[derive(Serialize, Deserialize)]
pub struct LocalInput {
    pub page: String,
    pub by_hand: u8,
    pub millis: u64,
    pub fails_percent: u8,
    pub panics_percent: u8,
    pub stubborn: bool,
}

#[derive(Serialize, Deserialize)]
pub struct RemoteInput {
    pub millis: u64,
    pub fails_percent: u8,
    pub heartbeats: bool,
}

fn falls(percent: u8) -> bool {
    fastrand::u8(..100) < percent
}

pub struct Chaos;

#[activities]
impl Chaos {
    /// A local activity.
    #[activity]
    pub async fn local(ctx: ActivityContext, input: LocalInput) -> Result<String, ActivityError> {
        let (number, page) = (ctx.info().attempt, &input.page);
        let by_hand = begin(page, &ctx.info().activity_id, number, input.by_hand);
        let pause = tokio::time::sleep(Duration::from_millis(fastrand::u64(..=input.millis)));
        if input.stubborn {
            pause.await;
        } else {
            tokio::select! {
                () = pause => {}
                () = ctx.cancelled() => {
                    end(page, number, "cancelled");
                    return Err(ActivityError::cancelled());
                }
            }
        }
        if falls(input.panics_percent) {
            end(page, number, "failed");
            panic!("the dice say so");
        }
        let nonce = nonce();
        if falls(input.fails_percent) {
            end(page, number, "failed");
            return Err(anyhow::anyhow!(failure_message(&nonce, &by_hand)).into());
        }
        end(page, number, "completed");
        Ok(nonce)
    }

    /// An activity; its result is what it published by hand.
    #[activity]
    pub async fn remote(ctx: ActivityContext, input: RemoteInput) -> Result<String, ActivityError> {
        let nonce = publish_by_hand().unwrap_or_default();
        let mut left = fastrand::u64(..=input.millis);
        while left > 0 {
            if ctx.is_cancelled() {
                return Err(ActivityError::cancelled());
            }
            if input.heartbeats {
                ctx.record_heartbeat(left).await?;
            }
            let step = left.min(50);
            tokio::time::sleep(Duration::from_millis(step)).await;
            left -= step;
        }
        if falls(input.fails_percent) {
            return Err(anyhow::anyhow!(failure_message("", &[nonce])).into());
        }
        Ok(nonce)
    }
}
