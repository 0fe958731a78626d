//! Publishing to a topic of a pub/sub component: a CloudEvent in structured mode. Knows nothing of bindings.

use super::{
    sidecar::{Sidecar, with_code},
    too_large,
};
use crate::sink::{
    SinkError, SinkEvent,
    shared::{
        attributes::Attributes,
        http_client::{Head, Request, Verdict},
        parts::Part,
        route::Route,
    },
};

/// Publishes an event to a topic of the component `name`.
pub(super) async fn publish(
    sidecar: &Sidecar,
    name: &str,
    topic: &Route,
    max_bytes: Option<usize>,
    event: &SinkEvent,
) -> Result<Part, SinkError> {
    let made = Attributes::of(event).and_then(|attributes| {
        let mut body = Vec::new();
        attributes.write_around(event, &mut body)?;
        Ok((attributes, body, topic.target(event)?))
    });
    let (attributes, body, target) = match made {
        Ok(made) => made,
        Err(error) => return Ok(Part::Unsendable(error.to_string())),
    };
    if let Some(unsendable) = too_large(body.len(), max_bytes) {
        return Ok(unsendable);
    }
    let mut path = vec!["v1.0", "publish", name];
    // A topic of some brokers has slashes.
    path.extend(target.split('/'));
    let mut url = sidecar.url(&path);
    if let Some(key) = event.key() {
        // What keeps a workflow's events in order where the broker has partitions.
        url.query_pairs_mut()
            .append_pair("metadata.partitionKey", key);
    }
    let request = Request::post(url, "application/cloudevents+json", body);
    let mut request = sidecar.request(request).await?;
    if let Some(traceparent) = attributes.traceparent {
        // The sidecar puts its own in the event's place, as the child of this one.
        request.headers.push(("traceparent", traceparent));
    }
    request.head = Head::OfEvent;
    let answer = sidecar.client.answer(&request).await?;
    match answer.verdict {
        Ok(Verdict::Accepted) => Ok(Part::Taken),
        // About the component, and not about the event.
        Ok(Verdict::Refused(ref refusal)) if answer.body.contains("ERR_PUBSUB_NOT_") => {
            Err(with_code(&answer, SinkError::new(&*refusal.reason)))
        }
        Ok(Verdict::Refused(refusal)) => Ok(Part::Refused(refusal)),
        // The topic is not among those that the application may publish to.
        Err(ref error) if !topic.is_fixed() && answer.body.contains("ERR_PUBSUB_FORBIDDEN") => {
            let error = with_code(&answer, error.clone());
            Ok(Part::Refused(error.reason().to_owned().into()))
        }
        Err(ref error) => Err(with_code(&answer, error.clone())),
    }
}
