//! `eventstore sql`: a question in the store's own SQL.

use super::{
    arguments::{Arguments, Format, Sql},
    failure::Failure,
    load,
    screen::{Field, Screen},
};
use serde_json::{Map, Value};

pub(super) async fn run(
    arguments: &Arguments,
    sql: &Sql,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if arguments.redact {
        return Err(Failure::usage(
            "--redact cannot know what a statement in SQL returns",
            "name the columns that may be shown, such as event_name and created_at, instead of `event`",
        ));
    }
    let reader = load::open(arguments).await?;
    let found = reader.sql(&sql.statement, sql.limit).await?;
    if found.rows.is_empty() {
        return Err(Failure::nothing_found("no row", ""));
    }
    if sql.output.output == Format::Text {
        let head: Vec<&str> = found.columns.iter().map(String::as_str).collect();
        let rows = found.rows.iter().map(|row| row.iter().map(field).collect());
        return screen.table(&head, rows.collect());
    }
    let rows = found.rows.into_iter().map(|row| {
        let names = found.columns.iter().cloned();
        names.zip(row).collect::<Map<String, Value>>()
    });
    screen.json(sql.output.output, rows)
}

fn field(value: &Value) -> Field {
    match value {
        Value::Null => Field::default(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => Field::number(number),
        value => value.to_string().into(),
    }
}
