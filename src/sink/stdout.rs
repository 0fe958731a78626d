//! Events as lines of JSON on standard output, for a look at them and for whoever collects the output
//! of containers.

use super::{Delivered, Sink, SinkError, SinkEvent, SinkUrlError, redacted};
use async_trait::async_trait;
use std::io::{self, Write};

pub(super) const ALLOWED: &str = "`stdout:`, with nothing after the colon";

/// The sink for `stdout:`.
#[derive(Debug)]
pub(super) struct Stdout;

impl Stdout {
    pub(super) fn open(url: &str) -> Result<Self, SinkUrlError> {
        if url == "stdout:" {
            return Ok(Self);
        }
        Err(SinkUrlError {
            url: redacted(url),
            reason: "`stdout:` takes nothing after the colon".to_owned(),
            allowed: ALLOWED.to_owned(),
        })
    }
}

#[async_trait]
impl Sink for Stdout {
    fn name(&self) -> &'static str {
        "stdout"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let lines = lines(batch);
        // Whoever reads the output may be slow, and a full pipe blocks.
        tokio::task::spawn_blocking(move || write(&mut io::stdout().lock(), &lines))
            .await
            .map_err(|error| SinkError::new(format!("standard output: {error}")))?
            .map_err(|error| SinkError::new(format!("standard output: {error}")))?;
        Ok(Delivered::all(batch))
    }

    async fn check(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

fn lines(batch: &[SinkEvent]) -> Vec<u8> {
    let length = batch.iter().map(|event| event.json.len() + 1).sum();
    let mut lines = Vec::with_capacity(length);
    for event in batch {
        lines.extend_from_slice(event.json.as_bytes());
        lines.push(b'\n');
    }
    lines
}

fn write(output: &mut impl Write, lines: &[u8]) -> io::Result<()> {
    output.write_all(lines)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_takes_nothing_is_an_error() {
        let mut space = [0; 2];
        // Only flushing tells: the buffer takes the line.
        let mut output = io::BufWriter::new(&mut space[..]);
        assert!(write(&mut output, b"{}\n").is_err());
    }
}
