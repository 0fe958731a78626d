//! What a workflow task published, and what it did in local activities, is in the store if and only if
//! the server accepted that task, however often it is executed.

use super::*;
use std::collections::HashMap;

/// Answers differently each time that it is asked.
struct Fickle;

static ANSWERS: AtomicU32 = AtomicU32::new(0);

#[activities]
impl Fickle {
    #[activity]
    async fn answer(_ctx: ActivityContext, _input: ()) -> Result<u32, ActivityError> {
        let answer = ANSWERS.fetch_add(1, Ordering::SeqCst);
        temporal_eventstore::publish(Event::new("said").data(json!({ "answer": answer })));
        Ok(answer)
    }

    /// Fails the first time, in each place.
    #[activity]
    async fn second(_ctx: ActivityContext, first_time: bool) -> Result<(), ActivityError> {
        if first_time {
            return Err(anyhow::anyhow!("on purpose").into());
        }
        Ok(())
    }
}

fn once() -> RetryPolicy {
    RetryPolicy::builder().maximum_attempts(1_u32).build()
}

fn local() -> LocalActivityOptions {
    LocalActivityOptions::builder()
        .start_to_close_timeout(TIMEOUT)
        .retry_policy(once())
        .build()
}

/// Its only task runs two local activities and panics once behind them.
#[workflow]
#[derive(Default)]
struct Wavers;

static WAVERED: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);

#[workflow_methods]
impl Wavers {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<u32> {
        let answer = ctx
            .execute_local_activity(Fickle::answer, (), local())
            .await?;
        temporal_eventstore::publish(Event::new("heard").data(json!({ "answer": answer })));
        let first_time = {
            let mut wavered = WAVERED.lock().unwrap();
            let executions = wavered
                .get_or_insert_default()
                .entry(ctx.workflow_id().to_owned())
                .or_default();
            *executions += u32::from(!ctx.is_replaying());
            *executions == 1
        };
        let second = ctx
            .execute_local_activity(Fickle::second, first_time, local())
            .await;
        if first_time {
            assert!(second.is_err());
            panic!("on purpose");
        }
        second?;
        Ok(answer)
    }
}

#[tokio::test]
async fn a_task_with_local_activities_that_panics_leaves_nothing_of_the_execution_that_was_not_accepted()
 {
    const RUNS: usize = 10;
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<Wavers>()
        .unwrap()
        .register_activities(Fickle)
        .build();
    let results = with_worker(&client, options, async {
        let runs = (0..RUNS).map(|number| {
            let client = &client;
            async move {
                outcome(client, Wavers::run, (), &format!("wavers-{number}"))
                    .await
                    .unwrap()
            }
        });
        futures::future::join_all(runs).await
    })
    .await;
    assert!(
        ANSWERS.load(Ordering::SeqCst) >= 2 * RUNS as u32,
        "no task was executed twice, so that the test shows nothing"
    );
    events.shutdown(TIMEOUT).await.unwrap();
    let rows = ground.events();
    for (number, answer) in results.into_iter().enumerate() {
        let id = format!("wavers-{number}");
        let published: Vec<(String, Value)> = rows
            .iter()
            .filter(|row| row.is_of(&id) && row.event_type != "application_events")
            .map(|row| (row.event_type.clone(), row.data("answer").clone()))
            .collect();
        assert_eq!(
            published,
            [
                ("said".to_owned(), json!(answer)),
                ("heard".to_owned(), json!(answer))
            ],
            "{id}"
        );
        assert_eq!(
            lifecycle(&rows, &id),
            [
                "workflow_start running",
                "activity_start Fickle::answer 1",
                "activity_end Fickle::answer 1 completed",
                "activity_start Fickle::second 1",
                "activity_end Fickle::second 1 completed",
                "workflow_end completed",
            ],
            "{id}"
        );
    }
    assert_eq!(events.stats().held, 0);
}

/// Publishes in its only task and then sleeps.
#[workflow]
#[derive(Default)]
struct Sleeps;

#[workflow_methods]
impl Sleeps {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        temporal_eventstore::publish(Event::new("good.night"));
        ctx.timer(Duration::from_secs(30 * 24 * 60 * 60)).await;
        Ok(())
    }
}

#[tokio::test]
async fn a_workflow_that_publishes_and_sleeps_for_a_month_does_not_wait_for_its_next_task() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<Sleeps>()
        .unwrap()
        .build();
    with_worker(&client, options, async {
        client
            .start_workflow(Sleeps::run, (), start("sleeps"))
            .await
            .unwrap();
        let began = std::time::Instant::now();
        until("what it published is stored", || {
            user_events(&ground, "sleeps") == ["good.night"]
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(10));
    })
    .await;
    assert_eq!(events.stats().held, 0);
}

/// Takes longer than a workflow task may, behind an event.
struct Slow;

#[activities]
impl Slow {
    #[activity]
    async fn linger(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok(())
    }

    #[activity]
    async fn never(_ctx: ActivityContext, _input: ()) -> Result<(), ActivityError> {
        tokio::time::sleep(Duration::from_secs(600)).await;
        Ok(())
    }
}

/// Publishes before and after a local activity that needs heartbeats of its workflow task.
#[workflow]
#[derive(Default)]
struct Beats;

#[workflow_methods]
impl Beats {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<()> {
        temporal_eventstore::publish(Event::new("before"));
        ctx.execute_local_activity(Slow::linger, (), local())
            .await?;
        temporal_eventstore::publish(Event::new("after"));
        Ok(())
    }
}

#[tokio::test]
async fn a_heartbeat_that_the_server_accepted_keeps_what_came_before_it() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<Beats>()
        .unwrap()
        .register_activities(Slow)
        .build();
    with_worker(&client, options, async {
        client
            .start_workflow(
                Beats::run,
                (),
                WorkflowStartOptions::new("orders", "beats")
                    .task_timeout(Duration::from_secs(2))
                    .build(),
            )
            .await
            .unwrap()
            .get_result(WorkflowGetResultOptions::default())
            .await
            .unwrap();
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(user_events(&ground, "beats"), ["before", "after"]);
    assert_eq!(
        lifecycle(&ground.events(), "beats"),
        [
            "workflow_start running",
            "activity_start Slow::linger 1",
            "activity_end Slow::linger 1 completed",
            "workflow_end completed",
        ]
    );
    assert_eq!(events.stats().held, 0);
}

/// Gives a local activity up while its code runs.
#[workflow]
#[derive(Default)]
struct GivesUp;

#[workflow_methods]
impl GivesUp {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, _input: ()) -> WorkflowResult<bool> {
        let options = LocalActivityOptions::builder()
            .start_to_close_timeout(Duration::from_millis(200))
            .retry_policy(once())
            .build();
        Ok(ctx
            .execute_local_activity(Slow::never, (), options)
            .await
            .is_err())
    }
}

#[tokio::test]
async fn a_local_activity_that_times_out_while_its_code_runs_has_the_end_that_history_has() {
    let (ground, events, client) = Ground::with_plugin().await;
    let options = WorkerOptions::new("orders")
        .register_workflow::<GivesUp>()
        .unwrap()
        .register_activities(Slow)
        .build();
    with_worker(&client, options, async {
        assert!(
            outcome(&client, GivesUp::run, (), "gives-up")
                .await
                .unwrap()
        );
    })
    .await;
    events.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(
        lifecycle(&ground.events(), "gives-up"),
        [
            "workflow_start running",
            "activity_start Slow::never 1",
            "activity_end Slow::never 1 timed_out",
            "workflow_end completed",
        ]
    );
}
