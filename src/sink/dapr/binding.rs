//! Handing events to an output binding, in the reference's form. Knows nothing of pub/sub components.

use super::{
    sidecar::{Sidecar, with_code},
    too_large,
};
use crate::sink::{
    SinkError, SinkEvent,
    shared::{
        auth::AuthHeader,
        http_client::{Answer, Head, Request, Verdict, is_about_the_request},
        parts::{Part, Refusal},
    },
};
use reqwest::StatusCode;
use serde_json::Value;

/// Hands an event to the binding `name`; after a 401 behind it, once more with new credentials.
pub(super) async fn invoke(
    sidecar: &Sidecar,
    name: &str,
    max_bytes: Option<usize>,
    event: &SinkEvent,
) -> Result<Part, SinkError> {
    if let Some(unsendable) = too_large(event.json.len(), max_bytes) {
        return Ok(unsendable);
    }
    let auth = sidecar.client.auth_headers().await?;
    let answer = invoke_with(sidecar, name, event, &auth).await?;
    if behind(&answer) != Some(StatusCode::UNAUTHORIZED) {
        return became(answer);
    }
    sidecar.client.renew(&auth).await;
    let auth = sidecar.client.auth_headers().await?;
    became(invoke_with(sidecar, name, event, &auth).await?)
}

async fn invoke_with(
    sidecar: &Sidecar,
    name: &str,
    event: &SinkEvent,
    auth: &[AuthHeader],
) -> Result<Answer, SinkError> {
    // By hand, because a map would sort its members.
    let mut metadata = r#""content-type":"application/json""#.to_owned();
    for header in auth {
        let name = Value::from(capitalized(header.name()));
        let value = Value::from(header.secret_value());
        metadata.push_str(&format!(",{name}:{value}"));
    }
    let body = format!(
        r#"{{"operation":"create","metadata":{{{metadata}}},"data":{}}}"#,
        event.json
    );
    let url = sidecar.url(&["v1.0", "bindings", name]);
    let request = Request {
        secret_body: auth.to_vec(),
        ..sidecar
            .request(Request::post(url, "application/json", body))
            .await?
    };
    sidecar.client.send_with(&request, &[]).await
}

/// The HTTP binding passes on as headers what begins with a capital letter.
fn capitalized(name: &str) -> String {
    let mut characters = name.chars();
    match characters.next() {
        Some(first) => first.to_ascii_uppercase().to_string() + characters.as_str(),
        None => String::new(),
    }
}

/// The status of the server behind an HTTP binding, of which the sidecar tells only in its error's
/// text, itself answering 500.
fn behind(answer: &Answer) -> Option<StatusCode> {
    if answer.status.is_success() {
        return None;
    }
    let (_, rest) = answer.body.split_once("received status code ")?;
    let digits = rest.trim_start_matches('\'').get(..3)?;
    StatusCode::from_bytes(digits.as_bytes()).ok()
}

/// What became of an event, by the answer of the sidecar and what is behind it.
fn became(answer: Answer) -> Result<Part, SinkError> {
    let behind = behind(&answer);
    let error = match answer.verdict {
        Ok(Verdict::Accepted) => return Ok(Part::Taken),
        Ok(Verdict::Refused(refusal)) => return Ok(Part::Refused(refusal)),
        Err(ref error) => with_code(&answer, error.clone()),
    };
    let Some(status) = behind else {
        return Err(error);
    };
    let reason = format!("{}, and the server behind it {status}", error.reason());
    // The sidecar makes what it sends to that server the same way for each event.
    if is_about_the_request(status, Head::Fixed) {
        Ok(Part::Refused(Refusal {
            reason,
            answer: answer.said,
        }))
    } else {
        Err(SinkError::new(reason).with_retry_after(error.retry_after()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_passed_on_by_their_capital() {
        assert_eq!(capitalized("authorization"), "Authorization");
        assert_eq!(capitalized("x-api-key"), "X-api-key");
        assert_eq!(capitalized(""), "");
    }

    #[test]
    fn the_status_behind_a_binding_is_read() {
        for (status, body, wanted) in [
            (
                500,
                "binding eventstore: received status code 401",
                Some(401),
            ),
            (
                500,
                "binding eventstore: received status code '422'\"}",
                Some(422),
            ),
            (500, "received status code 4", None),
            (500, "connection refused", None),
            (200, "received status code 401", None),
        ] {
            let answer = Answer {
                status: StatusCode::from_u16(status).unwrap(),
                body: body.to_owned(),
                said: None,
                verdict: Ok(Verdict::Accepted),
            };
            assert_eq!(
                behind(&answer).map(|status| status.as_u16()),
                wanted,
                "{body}"
            );
        }
    }
}
