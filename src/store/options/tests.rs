use super::{bounds::*, *};
use crate::{
    event::Event,
    sink,
    store::{BuildError, EventStore},
};

fn read(variables: &[(&str, &str)]) -> Result<EventStoreOptions, BuildError> {
    EventStoreOptions::from_variables(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

#[test]
fn every_variable_is_read() {
    let options = read(&[
        ("EVENTSTORE_URL", "sqlite:events.db"),
        ("EVENTSTORE_JOURNAL", "events.db"),
        ("EVENTSTORE_APPLICATION_NAME", "orders"),
        ("EVENTSTORE_QUEUE_SIZE", "5"),
        ("EVENTSTORE_BATCH_SIZE", "6"),
        ("EVENTSTORE_LINGER", "1ms"),
        ("EVENTSTORE_COMMIT_TIMEOUT", "500ms"),
        ("EVENTSTORE_DURABILITY", "power"),
        ("EVENTSTORE_RETENTION", "30days"),
        ("EVENTSTORE_DEAD_LETTER_RETENTION", "90days"),
        ("EVENTSTORE_MAX_JOURNAL_BYTES", "1000000"),
        ("EVENTSTORE_MAX_EVENT_BYTES", "1000"),
        ("EVENTSTORE_LIFECYCLE", "workflow, worker"),
        ("EVENTSTORE_ERROR_MESSAGES", "false"),
        ("EVENTSTORE_SEARCH_ATTRIBUTES", "CustomerId, OrderId"),
        ("EVENTSTORE_MEMO", "note"),
        ("EVENTSTORE_REPAIR_ON_REPLAY", "true"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!(options.stores, ["sqlite:events.db"]);
    assert_eq!(options.commit_timeout, Some(Duration::from_millis(500)));
    assert_eq!(options.durability, Some(Durability::Power));
    assert_eq!(options.queue_size, Some(5));
    let days = |days: u64| Some(Duration::from_secs(days * 24 * 60 * 60));
    assert_eq!(options.retention, days(30));
    assert_eq!(options.dead_letter_retention, days(90));
    let lifecycle = options.lifecycle.unwrap();
    assert!(lifecycle.workflow && lifecycle.worker && !lifecycle.activity);
    assert_eq!(options.error_messages, Some(false));
    assert_eq!(options.repair_on_replay, Some(true));
    assert_eq!(options.search_attributes, ["CustomerId", "OrderId"]);
    assert_eq!(options.memo, ["note"]);
}

#[test]
fn a_wrong_value_is_an_error_with_name_value_and_what_is_allowed() {
    for (name, value) in [
        ("EVENTSTORE_QUEUE_SIZE", "many"),
        ("EVENTSTORE_COMMIT_TIMEOUT", "2"),
        ("EVENTSTORE_DURABILITY", "full"),
        ("EVENTSTORE_APPEND", "caller"),
        ("EVENTSTORE_MAX_QUEUED_BYTES", "10"),
        ("EVENTSTORE_LIFECYCLE", "workflows"),
        ("EVENTSTORE_ERROR_MESSAGES", "yes"),
        ("EVENTSTORE_SEARCH_ATTRIBUTES", "CustomerId,,OrderId"),
        ("EVENTSTORE_MEMO", " "),
    ] {
        let text = read(&[(name, value)]).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains(value), "{text}");
        assert!(text.contains("allowed"), "{text}");
    }
}

/// Options of which one holds too little or too much, and the variable that says the same.
fn beyond_bounds() -> Vec<(&'static str, EventStoreOptions, String)> {
    let builder = EventStoreOptions::builder;
    let text = |duration| humantime::format_duration(duration).to_string();
    let max = Duration::MAX;
    vec![
        ("linger", builder().linger(max).options(), text(max)),
        (
            "commit_timeout",
            builder().commit_timeout(max).options(),
            text(max),
        ),
        (
            "commit_timeout",
            builder().commit_timeout(Duration::ZERO).options(),
            "0s".into(),
        ),
        ("retention", builder().retention(max).options(), text(max)),
        (
            "retention",
            builder().retention(Duration::ZERO).options(),
            "0s".into(),
        ),
        (
            "dead_letter_retention",
            builder().dead_letter_retention(max).options(),
            text(max),
        ),
        (
            "dead_letter_retention",
            builder().dead_letter_retention(Duration::ZERO).options(),
            "0s".into(),
        ),
        (
            "queue_size",
            builder().queue_size(usize::MAX).options(),
            usize::MAX.to_string(),
        ),
        ("queue_size", builder().queue_size(0).options(), "0".into()),
        (
            "batch_size",
            builder().batch_size(usize::MAX).options(),
            usize::MAX.to_string(),
        ),
        ("batch_size", builder().batch_size(0).options(), "0".into()),
        (
            "max_journal_bytes",
            builder().max_journal_bytes(0).options(),
            "0".into(),
        ),
        (
            "max_event_bytes",
            builder().max_event_bytes(0).options(),
            "0".into(),
        ),
        (
            "max_event_bytes",
            builder().max_event_bytes(usize::MAX).options(),
            usize::MAX.to_string(),
        ),
    ]
}

fn is_about(error: &BuildError, option: &str, held: &str) -> bool {
    matches!(
        error,
        BuildError::InvalidOption { name, value, allowed }
            if name == option && held.starts_with(value.as_str()) && allowed.contains(" from ")
    )
}

#[tokio::test]
async fn what_is_beyond_the_bounds_is_an_error_wherever_it_stands() {
    for (name, options, value) in beyond_bounds() {
        let options = EventStoreOptions {
            stores: vec!["memory:".into()],
            ..options
        };
        let error = EventStore::from_options(options).await.unwrap_err();
        assert!(is_about(&error, name, &value), "{error}");
        let variable = format!("EVENTSTORE_{}", name.to_uppercase());
        let error = read(&[(&variable, &value)]).unwrap_err();
        assert!(is_about(&error, &variable, &value), "{error}");
    }
}

#[tokio::test]
async fn a_store_works_at_its_bounds() {
    let options = || EventStoreOptions::builder().store("memory:");
    for options in [
        options()
            .linger(LINGER.most)
            .commit_timeout(COMMIT_TIMEOUT.most)
            .retention(RETENTION.most)
            .dead_letter_retention(RETENTION.most)
            .queue_size(QUEUE_SIZE.most)
            .batch_size(BATCH_SIZE.most)
            .max_journal_bytes(MAX_JOURNAL_BYTES.most)
            .max_event_bytes(MAX_EVENT_BYTES.most)
            .options(),
        options()
            .linger(LINGER.least)
            .commit_timeout(COMMIT_TIMEOUT.least)
            .retention(RETENTION.least)
            .dead_letter_retention(RETENTION.least)
            .queue_size(QUEUE_SIZE.least)
            .batch_size(BATCH_SIZE.least)
            .max_journal_bytes(MAX_JOURNAL_BYTES.least)
            .options(),
    ] {
        let store = EventStore::from_options(options).await.unwrap();
        store.publish(Event::new("x")).await.unwrap();
        // Whoever waits for ever may say so.
        store.flush(Duration::MAX).await.unwrap();
        store.shutdown(Duration::MAX).await.unwrap();
    }
}

#[tokio::test]
async fn a_journal_is_the_path_of_a_file() {
    for path in [
        "",
        ":memory:",
        "memory:",
        "sqlite:events.db",
        "file:events.db",
        "file:x?mode=memory&cache=shared",
    ] {
        let options = EventStoreOptions::builder().journal(path).options();
        let error = EventStore::from_options(options).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("journal holds") && text.contains("allowed: the path"),
            "{text}"
        );
        if !path.is_empty() {
            let text = read(&[("EVENTSTORE_JOURNAL", path)])
                .unwrap_err()
                .to_string();
            assert!(text.starts_with("EVENTSTORE_JOURNAL holds"), "{text}");
        }
    }
}

#[test]
fn an_unknown_variable_is_an_error_that_does_not_show_its_value() {
    let error = read(&[("EVENTSTORE_PASSWORD", "hunter2")]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("EVENTSTORE_PASSWORD") && text.contains("EVENTSTORE_URL"));
    assert!(!text.contains("hunter2"));
}

#[test]
fn the_variables_of_sinks_are_known() {
    for name in sink::variables() {
        read(&[(name, "hunter2")]).unwrap();
    }
}

#[test]
fn an_empty_value_is_an_absent_one() {
    assert!(read(&[("EVENTSTORE_URL", "")]).unwrap().stores.is_empty());
}

#[test]
fn the_same_names_are_read_from_a_configuration_file() {
    let options: EventStoreOptions = serde_json::from_str(
        r#"{"stores":"sqlite:e.db,stdout:","commit_timeout":"1s","lifecycle":"none","durability":"power"}"#,
    )
    .unwrap();
    assert_eq!(options.commit_timeout, Some(Duration::from_secs(1)));
    assert_eq!(options.lifecycle, Some(LifecycleSelection::NONE));
    assert_eq!(options.stores, ["sqlite:e.db,stdout:"]);
    let listed = r#"{"stores":["sqlite:e.db","stdout:"]}"#;
    let options: EventStoreOptions = serde_json::from_str(listed).unwrap();
    assert_eq!(options.stores, ["sqlite:e.db", "stdout:"]);
    let options: EventStoreOptions = serde_json::from_str(r#"{"stores":null}"#).unwrap();
    assert!(options.stores.is_empty());
    assert!(serde_json::from_str::<EventStoreOptions>(r#"{"urll":"x"}"#).is_err());
}

#[tokio::test]
async fn names_are_listed_or_have_commas_between_them() {
    for text in [r#"{"memo":"a, b"}"#, r#"{"memo":["a","b"]}"#] {
        let options: EventStoreOptions = serde_json::from_str(text).unwrap();
        assert_eq!(options.memo, ["a", "b"]);
    }
    assert!(serde_json::from_str::<EventStoreOptions>(r#"{"memo":"a,"}"#).is_err());
    let long = "x".repeat(256);
    for name in ["", "a\nb", &long] {
        let options = EventStore::builder().store("memory:").memo([name]);
        let text = options.build().await.unwrap_err().to_string();
        assert!(text.starts_with("memo holds"), "{text}");
        assert!(text.contains("allowed: names of 1"), "{text}");
    }
    let code = EventStoreOptions::builder().memo(["a"]).options();
    let merged = code.or(read(&[
        ("EVENTSTORE_MEMO", "b"),
        ("EVENTSTORE_SEARCH_ATTRIBUTES", "C"),
    ])
    .unwrap());
    assert_eq!(
        (merged.memo, merged.search_attributes),
        (vec!["a".into()], vec!["C".into()])
    );
}

#[test]
fn code_wins_over_the_environment() {
    let code = EventStoreOptions::builder().application_name("a").options();
    let environment = EventStoreOptions {
        application_name: Some("b".into()),
        queue_size: Some(9),
        ..EventStoreOptions::default()
    };
    let merged = code.or(environment);
    assert_eq!(merged.application_name.as_deref(), Some("a"));
    assert_eq!(merged.queue_size, Some(9));
}

#[tokio::test]
async fn each_store_is_added_to_those_before() {
    let events = EventStore::builder()
        .store("memory:")
        .store("stdout:")
        .build()
        .await
        .unwrap();
    let sinks: Vec<String> = events
        .stats()
        .sinks
        .into_iter()
        .map(|sink| sink.name)
        .collect();
    assert_eq!(sinks, ["stdout"]);
}
