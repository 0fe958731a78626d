//! The task of one handler: reads events ahead, calls the handler with those whose turn it is, and moves the cursor to the
//! position below which everything is done. An event that fails is tried again beside the others.

use super::{Handler, window::Window};
use crate::{
    delivery::{
        patience::Tried,
        reading::{Reading, Standing},
        status::Progress,
        task::{LONGEST_PAUSE, insist, pauses},
    },
    event::DeadLetter,
    journal::JournalError,
    sink::SinkEvent,
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{Fuse, FusedFuture as _},
    stream::FuturesUnordered,
};
use std::{
    collections::{BTreeMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

/// How many events are read at once.
const AT_ONCE: usize = 100;

pub(in crate::delivery) struct Handling {
    pub(in crate::delivery) handler: Arc<Handler>,
    pub(in crate::delivery) reading: Arc<Reading>,
    pub(in crate::delivery) progress: Arc<Progress>,
}

/// An event that is done; with the reason, if it is a dead letter now.
struct Done {
    event: SinkEvent,
    given_up: Option<String>,
}

/// The events that failed and are tried again, with the reasons.
#[derive(Default)]
struct Failing(Mutex<BTreeMap<u64, String>>);

impl Handling {
    /// Handles events until it is told to stop or the journal is closed. Ends at once if the handler is paused.
    pub(in crate::delivery) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            // An error means that the delivery is gone, and this task with it.
            _ = stop.wait_for(|stop| *stop) => {}
            _ = self.handle_all() => {}
        }
    }

    /// Returns where the handler stands. The journal is asked once: its file may be behind what is known here.
    pub(in crate::delivery) async fn standing(&self) -> Result<Standing, JournalError> {
        match self.progress.standing() {
            Some(known) => Ok(known),
            None => {
                let (standing, _) = self.reading.standing().await?;
                Ok(self.progress.learn(standing))
            }
        }
    }

    async fn handle_all(&self) -> Result<(), JournalError> {
        let name = self.handler.name();
        let Standing {
            position,
            is_paused,
        } = insist(name, &self.progress, || self.standing()).await?;
        if is_paused {
            return Ok(());
        }
        // Behind the cursor there may be events that were given up before a restart.
        let buried = insist(name, &self.progress, || {
            self.reading.dead_letters(position, usize::MAX)
        });
        let buried: HashSet<u64> = buried.await?.iter().map(|letter| letter.position).collect();
        let slots = Semaphore::new(self.handler.max_concurrent);
        let failing = Failing::default();
        let mut window = Window::after(position);
        let mut running = FuturesUnordered::new();
        let mut reading = pin!(Fuse::terminated());
        loop {
            if reading.is_terminated() && !window.is_full() {
                reading.set(self.read(window.read()).fuse());
            }
            tokio::select! {
                Some(done) = running.next() => self.note(done, &mut window)?,
                read = &mut reading => {
                    let read: Vec<SinkEvent> = read?;
                    let mut passed_over = 0;
                    for event in read {
                        window.read_up_to(event.position);
                        if buried.contains(&event.position) {
                        } else if self.handler.selection.contains(&event) {
                            window.add(event);
                        } else {
                            passed_over += 1;
                        }
                    }
                    self.progress.passed_over.fetch_add(passed_over, Relaxed);
                    self.settle(&window, Vec::new())?;
                }
            }
            while let Some(event) = window.next() {
                running.push(self.handle(event, &slots, &failing));
            }
        }
    }

    /// Reads the next events. Waits until there are any.
    async fn read(&self, after: u64) -> Result<Vec<SinkEvent>, JournalError> {
        loop {
            let read = insist(self.handler.name(), &self.progress, || {
                self.reading.read(after, AT_ONCE)
            });
            let events = read.await?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.reading.more(after).await;
        }
    }

    /// Calls the handler with an event until it is done, or given up.
    async fn handle(&self, event: SinkEvent, slots: &Semaphore, failing: &Failing) -> Done {
        let name = self.handler.name();
        let position = event.position;
        let patience = self.handler.patience();
        let mut pauses = pauses();
        let mut tried = Tried::default();
        loop {
            let called = {
                // It is never closed. Who pauses gives its place to others.
                let _slot = slots.acquire().await;
                let began = Instant::now();
                let called = self.handler.call(event.clone()).await;
                if called.is_ok() {
                    self.progress.handled(began.elapsed());
                }
                called
            };
            let Err(reason) = called else {
                failing.forget(position, &self.progress);
                return Done {
                    event,
                    given_up: None,
                };
            };
            tried.failed(position);
            if let Some(why) = patience.is_over(position, &event.created_at, tried) {
                failing.forget(position, &self.progress);
                return Done {
                    event,
                    given_up: Some(format!("{why}: {reason}")),
                };
            }
            let event_id = event.event_id;
            if failing.note(position, &reason, &self.progress) {
                warn!(handler = name, %event_id, reason, "the handler failed; it is called again");
            } else {
                debug!(handler = name, %event_id, reason, "the handler failed again");
            }
            self.progress.retries.fetch_add(1, Relaxed);
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
            tokio::time::sleep(pause).await;
        }
    }

    fn note(&self, done: Done, window: &mut Window) -> Result<(), JournalError> {
        let Done { event, given_up } = done;
        window.done(&event);
        let mut dead = Vec::new();
        match given_up {
            None => self.reading.taken(event.position)?,
            Some(reason) => {
                warn!(
                    handler = self.handler.name(),
                    event_id = %event.event_id,
                    reason,
                    "the handler does not manage an event; it is a dead letter now"
                );
                self.progress.rejected.fetch_add(1, Relaxed);
                dead.push(DeadLetter::new(self.handler.name(), &event, reason));
            }
        }
        self.settle(window, dead)
    }

    fn settle(&self, window: &Window, dead: Vec<DeadLetter>) -> Result<(), JournalError> {
        let cursor = window.cursor();
        if !dead.is_empty() || cursor > self.progress.position() {
            self.reading.settle(cursor, dead)?;
            self.progress.move_to(cursor);
        }
        Ok(())
    }
}

impl Failing {
    /// Notes a failure. Returns whether it is the first of this event.
    fn note(&self, position: u64, reason: &str, progress: &Progress) -> bool {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = failing.insert(position, reason.to_owned()).is_none();
        if let Some(oldest) = failing.values().next() {
            progress.failed(oldest.clone());
        }
        is_first
    }

    /// Notes that an event is tried no longer.
    fn forget(&self, position: u64, progress: &Progress) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.remove(&position).is_none() {
            return;
        }
        match failing.values().next() {
            Some(oldest) => {
                progress.failed(oldest.clone());
            }
            None => progress.recovered(),
        }
    }
}
