//! Workflows that are started, and what is done to them from outside.

use super::{
    dice,
    script::{Local, Script},
};
use crate::support::handle;
use fastrand::Rng;
use serde::Serialize;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use temporalio_client::{
    Client, NamespacedClient as _, UntypedSignal, UntypedUpdate, UntypedWorkflow,
    WorkflowCancelOptions, WorkflowExecuteUpdateOptions, WorkflowSignalOptions,
    WorkflowStartOptions, WorkflowTerminateOptions, tonic::IntoRequest as _,
};
use temporalio_common::{
    data_converters::{PayloadConverter, RawValue, TemporalSerializable},
    protos::temporal::api::{
        common::v1::WorkflowExecution,
        workflowservice::v1::{ResetActivityRequest, reset_activity_request::Activity},
    },
};

/// Short, so that a task that is lost with its worker comes again soon.
pub const TASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Activities that were reset on the server, by workflow id and activity id: history does not tell.
pub type Resets = Arc<Mutex<BTreeSet<(String, String)>>>;

/// The example workflows, and how often scripts are played beside them.
const KINDS: [&str; 9] = [
    "Noop", "Order", "Fail", "Local", "Parent", "Chain", "Wait", "Wait", "Slow",
];
const SCRIPTS_OF_TEN: usize = 7;

/// What is done to a workflow from outside.
enum Act {
    Leave,
    Signal(Vec<Message>),
    /// Signals until nobody wants them any more.
    KeepSignalling,
    Update(String, Local),
    Cancel,
    Terminate,
    FinishAndTerminate,
    Finish,
    Reset(Vec<String>, Resets),
}

/// A signal of a script, and the local activity that its handler runs.
struct Message {
    name: String,
    activity: Option<Local>,
}

fn raw<T: Serialize + TemporalSerializable + Send + Sync + 'static>(value: T) -> RawValue {
    RawValue::from_value(&value, &PayloadConverter::default())
}

async fn send(client: &Client, id: &str, message: &Message) -> bool {
    let name = message.name.clone();
    let (signal, input) = match &message.activity {
        None => ("tell", raw(name)),
        Some(activity) => ("tell_and_do", raw((name, activity.clone()))),
    };
    handle(client, id)
        .signal(
            UntypedSignal::new(signal),
            input,
            WorkflowSignalOptions::default(),
        )
        .await
        .is_ok()
}

async fn keep_signalling(client: &Client, id: &str) {
    let mut pause = Duration::from_millis(300);
    let mut refused = 0;
    for number in 0..200 {
        let message = Message {
            name: format!("again {number}"),
            activity: None,
        };
        // Refused when it is over, or while the server is away.
        refused = match send(client, id, &message).await {
            true => 0,
            false => refused + 1,
        };
        if refused > 15 {
            return;
        }
        tokio::time::sleep(pause).await;
        // An end that a signal overtakes is tried again; it must get its chance.
        pause = (pause * 11 / 10).min(Duration::from_secs(2));
    }
}

async fn reset(client: &Client, id: &str, activity_id: &str) -> bool {
    let request = ResetActivityRequest {
        namespace: client.namespace(),
        execution: Some(WorkflowExecution {
            workflow_id: id.to_owned(),
            run_id: String::new(),
        }),
        activity: Some(Activity::Id(activity_id.to_owned())),
        ..ResetActivityRequest::default()
    };
    client
        .connection()
        .workflow_service()
        .reset_activity(request.into_request())
        .await
        .is_ok()
}

async fn finish(client: &Client, id: &str) -> bool {
    handle(client, id)
        .signal(
            UntypedSignal::new("finish"),
            raw(()),
            WorkflowSignalOptions::default(),
        )
        .await
        .is_ok()
}

async fn act(client: &Client, id: &str, act: Act) {
    // Refused when the workflow has ended or the server restarts; both are part of the game, but a
    // workflow that nothing else ends must get its signal.
    for _ in 0..100 {
        let workflow = handle(client, id);
        let terminate = || {
            let options = WorkflowTerminateOptions::builder().reason("chaos").build();
            workflow.terminate(options)
        };
        let done = match &act {
            Act::Leave => return,
            Act::KeepSignalling => return keep_signalling(client, id).await,
            Act::Signal(messages) => {
                for message in messages {
                    send(client, id, message).await;
                }
                return;
            }
            Act::Update(name, activity) => {
                let options = WorkflowExecuteUpdateOptions::builder()
                    .update_id(name.clone())
                    .build();
                let input = raw((name.clone(), activity.clone()));
                let update = workflow.execute_update(UntypedUpdate::new("ask"), input, options);
                // Nobody waits for the answer.
                tokio::time::timeout(Duration::from_secs(20), update)
                    .await
                    .ok();
                return;
            }
            Act::Reset(activities, resets) => {
                for _ in 0..20 {
                    for activity in activities {
                        if reset(client, id, activity).await {
                            let reset = (id.to_owned(), activity.clone());
                            resets.lock().unwrap().insert(reset);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(70)).await;
                }
                return;
            }
            Act::Finish => finish(client, id).await,
            Act::Cancel => workflow
                .cancel(WorkflowCancelOptions::default())
                .await
                .is_ok(),
            Act::Terminate => terminate().await.is_ok(),
            Act::FinishAndTerminate => {
                finish(client, id).await;
                terminate().await.is_ok()
            }
        };
        if done {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn message(rng: &mut Rng, number: usize) -> Message {
    Message {
        name: format!("{number}"),
        activity: (rng.usize(..3) == 0).then(|| dice::local(rng)),
    }
}

fn act_on_script(rng: &mut Rng, script: &Script, resets: Option<&Resets>) -> Act {
    let activities = dice::remote_ids(script);
    if let Some(resets) = resets
        && !activities.is_empty()
        && rng.usize(..3) == 0
    {
        return Act::Reset(activities, resets.clone());
    }
    match rng.usize(..20) {
        0 => Act::Cancel,
        1 => Act::Terminate,
        _ if dice::waits_for_signals(script) => Act::KeepSignalling,
        2..=6 => Act::Signal((0..rng.usize(1..=3)).map(|n| message(rng, n)).collect()),
        7 | 8 => Act::Update("first".to_owned(), dice::local(rng)),
        9 => Act::Cancel,
        10 => Act::Terminate,
        _ => Act::Leave,
    }
}

/// Starts a workflow of some kind, and sees to what happens to it; resolves when it is started.
pub fn start_one(
    client: &Client,
    rng: &mut Rng,
    number: usize,
    resets: Option<&Resets>,
    is_peaceful: bool,
) -> impl Future<Output = ()> + Send + 'static {
    let mut run_timeout = None;
    let (kind, input, what) = if is_peaceful {
        let mut script = dice::script(rng);
        dice::appease(&mut script);
        ("Play", raw(script), Act::Leave)
    } else if rng.usize(..10) < SCRIPTS_OF_TEN {
        let script = dice::script(rng);
        let act = act_on_script(rng, &script, resets);
        // One that waits for signals must come to an end when it is not sent them any more.
        let may_wait = dice::waits_for_signals(&script) && !matches!(act, Act::KeepSignalling);
        if may_wait || rng.usize(..12) == 0 {
            run_timeout = Some(Duration::from_millis(rng.u64(1000..8000)));
        }
        ("Play", raw(script), act)
    } else {
        let kind = KINDS[rng.usize(..KINDS.len())];
        let input = match kind {
            "Chain" => raw(rng.u64(0..3)),
            "Slow" => raw(rng.u64(0..2)),
            _ => raw(()),
        };
        let act = match (kind, rng.u32(..6)) {
            ("Wait", 0 | 1) => Act::Finish,
            ("Wait", 2) => Act::Cancel,
            ("Wait", 3) => Act::Terminate,
            ("Wait", 4) => Act::FinishAndTerminate,
            ("Wait", _) => {
                run_timeout = Some(Duration::from_millis(rng.u64(1000..6000)));
                Act::Leave
            }
            (_, 0) => Act::Terminate,
            _ => Act::Leave,
        };
        (kind, input, act)
    };
    let id = format!("{kind}-{number}");
    let task_timeout = [TASK_TIMEOUT, TASK_TIMEOUT / 2][rng.usize(..2)];
    let mut options = WorkflowStartOptions::new("orders", &id)
        .task_timeout(task_timeout)
        .build();
    options.run_timeout = run_timeout;
    let pause = Duration::from_millis(rng.u64(0..2500));
    let client = client.clone();
    async move {
        // A start whose answer was lost with the server is found to be there already.
        let began = Instant::now();
        loop {
            let started = client
                .start_workflow(UntypedWorkflow::new(kind), input.clone(), options.clone())
                .await;
            match started {
                Ok(_) => break,
                Err(error) if error.to_string().to_lowercase().contains("already") => break,
                Err(error) => assert!(
                    began.elapsed() < Duration::from_secs(90),
                    "{id} cannot be started: {error}"
                ),
            }
        }
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            act(&client, &id, what).await;
        });
    }
}
