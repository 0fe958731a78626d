//! What a workflow of the chaos tests does: a script, made of dice by the test, played by the worker.
//! Plain data that both sides know.

use serde::{Deserialize, Serialize};

/// Groups of steps, one group after the other; those of a group run at the same time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Script {
    pub groups: Vec<Vec<Step>>,
    pub end: End,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum End {
    #[default]
    Complete,
    Fail,
    /// Continues as new, with another script.
    Again(Box<Script>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Step {
    Local(Local),
    /// Local activities of which the first to end cancels the others.
    Race(Vec<Local>),
    Remote(Remote),
    Timer {
        millis: u64,
    },
    Child(Box<Script>),
    /// Workflow code panics, if the dice say so at this execution: its task fails and comes again.
    Panic {
        percent: u8,
    },
    /// Waits until so many signals have come.
    Signals(u32),
}

/// When and how an activity is cancelled.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Cancel {
    Try,
    Wait,
    Abandon,
}

/// A local activity; how it goes is up to dice that fall anew at each attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Local {
    /// Whether its id is the step's name, else it is a number of the SDK's.
    pub named: bool,
    /// How many events each attempt publishes by hand.
    pub by_hand: u8,
    /// It works for up to so long.
    pub millis: u64,
    pub fails_percent: u8,
    pub panics_percent: u8,
    /// It takes no notice of being cancelled.
    pub stubborn: bool,
    pub retries: Retries,
    pub start_to_close_millis: u64,
    pub schedule_to_close_millis: Option<u64>,
    /// Longer pauses than this are timers of the server.
    pub timer_threshold_millis: Option<u64>,
    pub cancel: Cancel,
    pub cancel_after_millis: Option<u64>,
}

/// An activity that any worker may run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remote {
    pub millis: u64,
    pub fails_percent: u8,
    pub retries: Retries,
    pub start_to_close_millis: u64,
    pub heartbeat_millis: Option<u64>,
    pub cancel: Cancel,
    pub cancel_after_millis: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Retries {
    pub attempts: u32,
    pub pause_millis: u64,
}
