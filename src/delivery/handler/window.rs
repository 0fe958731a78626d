//! The events that a handler has in hand: whose turn it is, and how far everything is done. Plain data; knows no handler.

use crate::sink::SinkEvent;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// How many events are in hand at most before no further ones are read, and how many bytes they have.
const MOST_EVENTS: usize = 1000;
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// The events behind the cursor that were read.
#[derive(Debug)]
pub(super) struct Window {
    /// Everything up to this position was read.
    read: u64,
    unfinished: BTreeSet<u64>,
    bytes: usize,
    ready: VecDeque<SinkEvent>,
    /// For each workflow of which an event is ready or being handled, those behind it.
    behind: HashMap<String, VecDeque<SinkEvent>>,
}

impl Window {
    /// Returns a window in which everything up to `position` is done.
    pub(super) fn after(position: u64) -> Self {
        Self {
            read: position,
            unfinished: BTreeSet::new(),
            bytes: 0,
            ready: VecDeque::new(),
            behind: HashMap::new(),
        }
    }

    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Notes that everything up to `position` was read.
    pub(super) fn read_up_to(&mut self, position: u64) {
        self.read = self.read.max(position);
    }

    /// Adds an event that is to be handled. Positions grow.
    pub(super) fn add(&mut self, event: SinkEvent) {
        self.read_up_to(event.position);
        self.unfinished.insert(event.position);
        self.bytes += event.json.len();
        // Without a workflow there is no order to keep.
        let Some(key) = event.key() else {
            self.ready.push_back(event);
            return;
        };
        match self.behind.get_mut(key) {
            Some(behind) => behind.push_back(event),
            None => {
                self.behind.insert(key.to_owned(), VecDeque::new());
                self.ready.push_back(event);
            }
        }
    }

    /// Takes an event whose turn it is.
    pub(super) fn next(&mut self) -> Option<SinkEvent> {
        self.ready.pop_front()
    }

    /// Notes that an event is done, for better or worse. The next of its workflow is ready then.
    pub(super) fn done(&mut self, event: &SinkEvent) {
        if self.unfinished.remove(&event.position) {
            self.bytes = self.bytes.saturating_sub(event.json.len());
        }
        let Some(key) = event.key() else {
            return;
        };
        match self.behind.get_mut(key).and_then(VecDeque::pop_front) {
            Some(next) => self.ready.push_back(next),
            None => drop(self.behind.remove(key)),
        }
    }

    /// Returns the position up to which everything is done.
    pub(super) fn cursor(&self) -> u64 {
        match self.unfinished.first() {
            Some(first) => first.saturating_sub(1),
            None => self.read,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.unfinished.len() >= MOST_EVENTS || self.bytes >= MOST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId};

    fn event(position: u64, workflow: Option<&str>) -> SinkEvent {
        let mut event = Event::new("test");
        event.metadata.event_id = Some(EventId::new());
        event.metadata.created_at = Some(chrono::Utc::now());
        event.metadata.workflow_id = workflow.map(str::to_owned);
        SinkEvent::new(position, &event).unwrap()
    }

    fn ready(window: &mut Window) -> Vec<SinkEvent> {
        std::iter::from_fn(|| window.next()).collect()
    }

    fn positions(events: &[SinkEvent]) -> Vec<u64> {
        events.iter().map(|event| event.position).collect()
    }

    #[test]
    fn one_event_of_each_workflow_is_ready_and_the_cursor_is_below_the_first_that_is_not_done() {
        let mut window = Window::after(10);
        assert_eq!(window.cursor(), 10);
        for (position, workflow) in [
            (12, Some("a")),
            (13, Some("a")),
            (14, Some("b")),
            (15, None),
            (16, None),
            (17, Some("b")),
        ] {
            window.add(event(position, workflow));
        }
        window.read_up_to(20);
        assert_eq!((window.cursor(), window.read()), (11, 20));
        let first = ready(&mut window);
        assert_eq!(positions(&first), [12, 14, 15, 16]);
        window.done(&first[1]);
        let second = ready(&mut window);
        assert_eq!((positions(&second), window.cursor()), (vec![17], 11));
        window.done(&first[0]);
        let third = ready(&mut window);
        assert_eq!((positions(&third), window.cursor()), (vec![13], 12));
        for done in first[2..].iter().chain(&second) {
            window.done(done);
        }
        assert_eq!(window.cursor(), 12);
        window.done(&third[0]);
        assert_eq!(window.cursor(), 20);
        assert!(window.behind.is_empty() && window.bytes == 0);
        // A workflow that comes again.
        window.add(event(21, Some("a")));
        assert_eq!(positions(&ready(&mut window)), [21]);
    }

    #[test]
    fn it_has_a_bound() {
        let mut window = Window::after(0);
        for position in 1..1000 {
            window.add(event(position, Some("a")));
        }
        assert!(!window.is_full());
        window.add(event(1000, Some("b")));
        assert!(window.is_full());
        let mut window = Window::after(0);
        let mut large = event(1, None);
        large.json = " ".repeat(MOST_BYTES);
        window.add(large.clone());
        assert!(window.is_full());
        window.done(&large);
        assert!(!window.is_full());
    }
}
