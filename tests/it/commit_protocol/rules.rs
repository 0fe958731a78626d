//! Each rule of the protocol, left out: the test that stands guard over it fails.

use crate::support::broken::is_caught_by;

#[test]
fn what_a_task_published_is_held() {
    is_caught_by(
        "hold",
        "commit_protocol::accepted_tasks::a_task_with_local_activities_that_panics_leaves_nothing_of_the_execution_that_was_not_accepted",
    );
}

#[test]
fn local_activities_wait_for_their_outcome() {
    is_caught_by(
        "local",
        "commit_protocol::accepted_tasks::a_task_with_local_activities_that_panics_leaves_nothing_of_the_execution_that_was_not_accepted",
    );
}

#[test]
fn a_local_activity_ends_as_history_says() {
    is_caught_by(
        "outcome",
        "commit_protocol::given_up::a_local_activity_that_is_cancelled_while_its_code_runs_ends_as_history_says",
    );
}

#[test]
fn an_end_is_held() {
    is_caught_by(
        "confirm",
        "commit_protocol::a_signal_that_overtakes_the_end_leaves_one_end_and_nothing_of_the_rejected_task",
    );
}

#[test]
fn what_was_rejected_is_discarded() {
    is_caught_by(
        "discard",
        "commit_protocol::a_signal_that_overtakes_the_end_leaves_one_end_and_nothing_of_the_rejected_task",
    );
}

#[test]
fn what_is_unclear_is_asked() {
    is_caught_by(
        "ask",
        "commit_protocol::a_run_that_is_terminated_while_its_end_is_on_the_way_ends_terminated",
    );
}

#[test]
fn what_an_earlier_process_left_is_recovered() {
    is_caught_by(
        "recover",
        "commit_protocol::held_ends_of_an_earlier_process_are_settled_on_start",
    );
}

#[test]
fn a_run_that_is_silent_is_asked_for() {
    is_caught_by(
        "watch",
        "commit_protocol::accepted_tasks::a_workflow_that_publishes_and_sleeps_for_a_month_does_not_wait_for_its_next_task",
    );
}

#[test]
fn what_an_activity_published_is_durable_before_its_result() {
    is_caught_by(
        "activity-wait",
        "commit_protocol::many_hands::what_activities_publish_is_durable_before_their_result_without_their_lifecycle_too",
    );
}
