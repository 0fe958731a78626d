//! `eventstore stats`: numbers by workflow and activity type.

use super::{
    arguments::{Arguments, Format, Stats},
    failure::Failure,
    load,
    model::{Statistics, statistics},
    screen::{Field, Screen},
    words,
};
use crate::reader::EventQuery;
use comfy_table::Color;
use serde_json::json;
use std::collections::BTreeMap;

pub(super) async fn run(
    arguments: &Arguments,
    stats: &Stats,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reader = load::open(arguments).await?;
    let mut query = EventQuery::new().only("lifecycle")?;
    if let Some(since) = stats.since {
        query = query.since(since.0);
    }
    let model = load::model(&reader, query, arguments.redact).await?;
    let (workflows, activities) = statistics(&model);
    if workflows.is_empty() && activities.is_empty() {
        return Err(Failure::nothing_found(
            format!("{} has no runs and no attempts", reader.url()),
            "ask for an earlier time with --since",
        ));
    }
    let kinds = [("workflow", &workflows), ("activity", &activities)];
    match stats.output.output {
        Format::Text => {
            let rows = kinds
                .into_iter()
                .flat_map(|(kind, types)| rows(kind, types));
            screen.table(&HEAD, rows.collect())
        }
        Format::Json => {
            let document = json!({ "workflows": workflows, "activities": activities });
            screen.document(Format::Json, &document)
        }
        Format::Jsonl => {
            let lines = kinds.into_iter().flat_map(|(kind, types)| {
                types.iter().map(move |(name, numbers)| {
                    let mut line = json!(numbers);
                    if let Some(fields) = line.as_object_mut() {
                        fields.insert("kind".to_owned(), kind.into());
                        fields.insert("type".to_owned(), name.as_str().into());
                    }
                    line
                })
            });
            screen.json(Format::Jsonl, lines)
        }
    }
}

const HEAD: [&str; 11] = [
    "kind",
    "type",
    "count",
    "running",
    "completed",
    "failed",
    "rate",
    "retries",
    "p50",
    "p95",
    "p99",
];

fn rows(kind: &str, types: &BTreeMap<String, Statistics>) -> Vec<Vec<Field>> {
    let row = |(name, numbers): (&String, &Statistics)| {
        let rate = numbers.failure_rate;
        let time = |ms: Option<f64>| Field::number(ms.map(words::duration).unwrap_or_default());
        let failed = match numbers.failed {
            0 => Field::number(0),
            failed => {
                let mut field = Field::number(failed);
                field.color(Color::Red);
                field
            }
        };
        vec![
            kind.into(),
            name.clone().into(),
            Field::number(numbers.count),
            Field::number(numbers.running),
            Field::number(numbers.completed),
            failed,
            Field::number(
                rate.map(|rate| format!("{:.1} %", rate * 100.0))
                    .unwrap_or_default(),
            ),
            Field::number(numbers.retries),
            time(numbers.p50_ms),
            time(numbers.p95_ms),
            time(numbers.p99_ms),
        ]
    };
    types.iter().map(row).collect()
}
