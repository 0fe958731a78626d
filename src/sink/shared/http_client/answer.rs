//! What a receiver answered, and what that means for what was sent. Knows neither events nor how a request is sent.

use crate::sink::{
    SinkError,
    shared::{auth::AuthHeader, parts::Refusal},
};
use reqwest::{
    Response, StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout_at};

/// How much of an answer is read, for how long, and how much of it is shown.
const READ_BYTES: usize = 1024 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(3);
const SHOWN_CHARACTERS: usize = 400;
/// Nobody is left alone for longer than this, whatever a receiver asks for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// What an answer means that would be the same next time.
#[derive(Debug)]
pub(in crate::sink) enum Verdict {
    /// 2xx.
    Accepted,
    /// The receiver refuses what was sent.
    Refused(Refusal),
}

/// What of a request is made from the event, so that an answer about it is about the event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sink) enum Head {
    /// Nothing of it: the URL and the headers are the same for every event.
    #[default]
    Fixed,
    /// Headers, or parameters of the URL.
    OfEvent,
    /// The path of the URL, which another event may have differently; and what `OfEvent` says.
    OfEventAndPath,
}

/// An answer as it came, and what it means.
#[derive(Debug)]
pub(in crate::sink) struct Answer {
    pub(in crate::sink) status: StatusCode,
    /// The beginning of the body, with whatever secrets it echoes.
    pub(in crate::sink) body: String,
    /// The same, shortened and without the secrets that were sent. It may quote the event.
    pub(in crate::sink) said: Option<String>,
    pub(in crate::sink) verdict: Result<Verdict, SinkError>,
}

impl Answer {
    /// Reads the answer of `receiver`. What it says is kept apart from the reason, which is logged: it may quote the
    /// event. Of that, too, nothing is kept that is among the `secrets` that were sent.
    pub(super) async fn read<'a>(
        response: Response,
        receiver: &str,
        head: Head,
        secrets: impl Iterator<Item = &'a AuthHeader>,
    ) -> Self {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = text(response).await;
        let said = Some(shown(&body, secrets)).filter(|said| !said.is_empty());
        let reason = format!("{receiver} answered {status}");
        let verdict = if status.is_success() {
            Ok(Verdict::Accepted)
        } else if is_about_the_request(status, head) {
            Ok(Verdict::Refused(Refusal {
                reason,
                answer: said.clone(),
            }))
        } else {
            Err(SinkError::new(reason).with_retry_after(retry_after))
        };
        Self {
            status,
            body,
            said,
            verdict,
        }
    }
}

/// Whether a status says that this very request will never do. Those that speak of the sender (401,
/// 403, 407), of the place (404, 405, 410, 421), of the way of sending (415, 426) or of the moment are
/// answered alike to every event. So are those about the size of the URL and the headers (414, 431), unless these are
/// made from the event. So are those that say that nothing is at a path, unless the path is made from it.
pub(in crate::sink) fn is_about_the_request(status: StatusCode, head: Head) -> bool {
    if matches!(status.as_u16(), 414 | 431) {
        return head != Head::Fixed;
    }
    if matches!(status.as_u16(), 404 | 405 | 410) {
        return head == Head::OfEventAndPath;
    }
    status.is_client_error()
        && !matches!(
            status.as_u16(),
            401 | 402 | 403 | 407 | 408 | 415 | 421 | 423 | 424 | 425 | 426 | 428 | 429 | 451
        )
}

/// The beginning of an answer's body, as far as it comes: what the status says holds without it.
pub(in crate::sink) async fn text(mut response: Response) -> String {
    let deadline = Instant::now() + READ_TIMEOUT;
    let mut bytes = Vec::new();
    while bytes.len() < READ_BYTES
        && let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(READ_BYTES);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `Retry-After`, in seconds or as a date.
pub(in crate::sink) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(pause.min(LONGEST_RETRY_AFTER))
}

/// The beginning of a body, on one line, without the secrets of the request: receivers echo.
fn shown<'a>(body: &str, secrets: impl Iterator<Item = &'a AuthHeader>) -> String {
    let mut body = body.to_owned();
    for secret in secrets {
        // The whole value, and the token of `Bearer TOKEN`.
        let value = secret.secret_value();
        let token = value.rsplit(' ').next().unwrap_or_default();
        for hidden in [value, token] {
            if !hidden.is_empty() {
                body = body.replace(hidden, "***");
            }
        }
    }
    let line = body.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn pause(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        retry_after(&headers)
    }

    #[test]
    fn a_pause_is_read_in_seconds_and_as_a_date() {
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        let soon = SystemTime::now() + Duration::from_secs(90);
        let read = pause(&httpdate::fmt_http_date(soon)).unwrap();
        assert!((85..=90).contains(&read.as_secs()), "{read:?}");
        assert_eq!(pause("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("999999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(pause("soon"), None);
    }

    #[test]
    fn what_a_receiver_echoes_is_shown_without_the_secrets_and_short() {
        let sent = [AuthHeader::bearer("hunter2")];
        assert_eq!(
            shown("you sent\n hunter2 (Bearer hunter2)", sent.iter()),
            "you sent *** (***)"
        );
        assert_eq!(shown(&"é".repeat(500), sent.iter()).chars().count(), 401);
    }

    #[test]
    fn only_statuses_about_the_request_reject_it() {
        for (status, rejects) in [
            (400, true),
            (409, true),
            (413, true),
            (422, true),
            (301, false),
            (401, false),
            (403, false),
            (404, false),
            (408, false),
            (425, false),
            (429, false),
            (500, false),
            (503, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            for head in [Head::Fixed, Head::OfEvent] {
                assert_eq!(is_about_the_request(status, head), rejects, "{status}");
            }
        }
        for status in [414, 431] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(!is_about_the_request(status, Head::Fixed));
            assert!(is_about_the_request(status, Head::OfEvent));
        }
    }
}
