//! Events as lines of JSON on standard output, for a look at them and for whoever collects the output
//! of containers.

use super::{Delivered, Sink, SinkError, SinkEvent, SinkUrlError};
use crate::event::EventId;
use async_trait::async_trait;
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::Arc,
};
use tokio::sync::{Mutex, oneshot};

const ALLOWED: &str = "`stdout:`, with nothing after the colon";

/// The sink for `stdout:`.
#[derive(Debug, Default)]
struct Stdout {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A write whose end nobody has seen yet: whoever reads the output may have stopped.
    pending: Option<Pending>,
    /// What was written after its call was given up, and comes again.
    written: VecDeque<EventId>,
    /// Half a line may stand there.
    is_broken: bool,
}

#[derive(Debug)]
struct Pending {
    ids: VecDeque<EventId>,
    result: oneshot::Receiver<io::Result<()>>,
}

/// The sink of the URL `stdout:`.
pub(super) fn open(url: &str) -> Result<Arc<dyn Sink>, SinkUrlError> {
    if url == "stdout:" {
        return Ok(Arc::new(Stdout::default()));
    }
    let reason = "`stdout:` takes nothing after the colon";
    Err(SinkUrlError::new(url, reason, ALLOWED))
}

impl State {
    /// Waits for the write that goes on, if one does. Cancel safe: it then goes on.
    async fn finish(&mut self) -> Result<(), SinkError> {
        let Some(pending) = &mut self.pending else {
            return Ok(());
        };
        let result = (&mut pending.result).await;
        let ids = self.pending.take().map(|pending| pending.ids);
        match result {
            Ok(Ok(())) => {
                self.written = ids.unwrap_or_default();
                Ok(())
            }
            Ok(Err(error)) => {
                self.is_broken = true;
                Err(SinkError::caused_by("standard output", error))
            }
            Err(_) => Err(SinkError::new("standard output: its thread ended")),
        }
    }
}

#[async_trait]
impl Sink for Stdout {
    fn name(&self) -> &'static str {
        "stdout"
    }

    async fn deliver(&self, batch: &[SinkEvent]) -> Result<Delivered, SinkError> {
        let mut state = self.state.lock().await;
        state.finish().await?;
        let is_there = batch
            .iter()
            .zip(&state.written)
            .take_while(|(event, id)| event.event_id == **id)
            .count();
        let (_, rest) = batch.split_at(is_there.min(batch.len()));
        state.written.drain(..is_there);
        if !rest.is_empty() {
            let mut lines = lines(rest);
            if std::mem::take(&mut state.is_broken) {
                lines.insert(0, b'\n');
            }
            let (done, result) = oneshot::channel();
            // A full pipe blocks for as long as its reader likes: no thread of the runtime, for which
            // the program would wait at its end.
            std::thread::Builder::new()
                .name("eventstore-stdout".to_owned())
                .spawn(move || done.send(write(&mut io::stdout().lock(), &lines)).ok())
                .map_err(|error| SinkError::caused_by("standard output", error))?;
            let ids = rest.iter().map(|event| event.event_id).collect();
            state.pending = Some(Pending { ids, result });
            state.finish().await?;
            state.written.clear();
        }
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
