//! What an answer of PostgreSQL means: whether a row is at fault, and what may be shown of it.

use super::rows::MAY_BE_NULL;
use crate::sink::{SinkError, shared::parts::Refusal};
use tokio_postgres::error::{DbError, SqlState};

/// How much of an answer goes into a dead letter, in characters.
const MOST_SAID: usize = 500;

/// Whether the server will never take the rows it was given, as opposed to not being able to now. Data exceptions (22),
/// broken constraints (23) and limits of the program (54) are about the rows; everything else (connections, resources,
/// rights, a table of another shape) is not the event's fault.
pub(super) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|answer| {
        matches!(answer.code().code().get(..2), Some("22" | "23" | "54"))
            && !is_about_the_table(answer)
    })
}

/// Whether the server will not take rows for this very table: a right that is missing, a schema that is not there, a table
/// of another shape (42, syntax error or access rule violation; 3F, invalid schema name).
pub(super) fn is_about_one_table(error: &tokio_postgres::Error) -> bool {
    let code = error.as_db_error().map(|answer| answer.code().code());
    code.is_some_and(|code| matches!(code.get(..2), Some("42" | "3F")))
}

/// Whether a broken constraint is one that whoever runs the table can mend: of these errors, the server names the
/// constraint or the column only where a row is at fault.
fn is_about_the_table(answer: &DbError) -> bool {
    match *answer.code() {
        // No partition takes the row; a `CHECK` has a name.
        SqlState::CHECK_VIOLATION => answer.constraint().is_none(),
        // A column that the sink does not write, or that it always writes.
        SqlState::NOT_NULL_VIOLATION => answer
            .column()
            .is_none_or(|column| !MAY_BE_NULL.contains(&column)),
        _ => false,
    }
}

/// Why the server refused rows. What it says of a value quotes it.
pub(super) fn refusal(error: &tokio_postgres::Error) -> Refusal {
    let Some(answer) = error.as_db_error() else {
        return Refusal::from("PostgreSQL refuses it".to_owned());
    };
    let (message, code) = (answer.message(), answer.code().code());
    let detail = answer.detail().unwrap_or_default();
    let shown = match code.get(..2) {
        Some("22") => "a value that it does not take",
        _ if is_said_by_code(answer) => raised_in(answer),
        _ => message,
    };
    let said: String = format!("{message} {detail}")
        .chars()
        .take(MOST_SAID)
        .collect();
    Refusal {
        reason: format!("PostgreSQL refuses it: {shown} ({code})"),
        answer: Some(said),
    }
}

/// What an error says. Of what the server answered it leaves out the details, which may quote a row; the library's own
/// error, as a source, would show them.
pub(super) fn failed(what: &str, error: tokio_postgres::Error) -> SinkError {
    let Some(answer) = error.as_db_error() else {
        return SinkError::caused_by(what, error);
    };
    let shown = match is_said_by_code(answer) {
        true => raised_in(answer),
        false => answer.message(),
    };
    SinkError::new(format!("{what}: {shown} ({})", answer.code().code()))
}

/// Whether the message comes from code that somebody put there, such as a trigger: it may say what it likes, with any
/// code, and quote the row. The server says then where it was.
fn is_said_by_code(answer: &DbError) -> bool {
    answer.where_().is_some() || answer.code().code().starts_with("P0")
}

/// Where that was: the first line, which for PL/pgSQL names the function and its line. Other lines and languages may quote
/// what was run.
fn raised_in(answer: &DbError) -> &str {
    let place = answer.where_().and_then(|places| places.lines().next());
    place
        .filter(|place| place.starts_with("PL/pgSQL function "))
        .unwrap_or("an error that a function or trigger raised")
}
