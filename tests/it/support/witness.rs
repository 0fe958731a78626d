//! What a workflow of the chaos tests says in its own history of what it published: the truth that the
//! comparison holds against the store. Plain data that worker and tests share.

use serde::{Deserialize, Serialize};

/// The type of the event that workflow code publishes.
pub const SAID: &str = "chaos.said";
/// The type of the event that activities publish by hand.
pub const BY_HAND: &str = "chaos.by_hand";
/// The memo field in which the workflow bears witness.
pub const WITNESS: &str = "witness";

/// What the workflow leaves in history of what it published, with the same task: it is there if and
/// only if the server accepted that task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// What workflow code published.
    pub said: String,
    /// The attempts of the local activity whose result this is.
    pub attempts: Vec<Attempt>,
}

/// An attempt of a local activity, as its own code saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub activity_id: String,
    pub number: u32,
    /// What it published by hand.
    pub by_hand: Vec<String>,
    /// How it ended; nothing if it had not when its result was asked for.
    pub status: Option<String>,
}

/// The message with which an attempt fails: it names what the attempt published by hand, for history
/// keeps it also where no workflow code hears of the attempt.
pub fn failure_message(nonce: &str, by_hand: &[String]) -> String {
    format!("{nonce} after {}", by_hand.join(","))
}

/// What the attempt published that failed with this message.
pub fn by_hand_of(message: &str) -> impl Iterator<Item = &str> {
    let (_, by_hand) = message.split_once(" after ").unwrap_or_default();
    by_hand.split(',').filter(|nonce| !nonce.is_empty())
}
