//! The text of an error with its causes, for whoever shows one line. Knows no kind of error.

use std::error::Error;

/// Returns an error's text with those of its causes, each once: libraries differ in whether a text repeats its cause.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn link(text: &'static str, source: Option<Link>) -> Link {
        Link {
            text,
            source: source.map(Box::new),
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let error = link("a: b", Some(link("b", Some(link("c", None)))));
        assert_eq!(with_causes(&error), "a: b: c");
    }
}
