//! The events that a handler has in hand: whose turn it is, and how far everything is done. Plain data; knows no handler.

use crate::sink::SinkEvent;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// How many events there are in hand at most, done or not, and with how many bytes no further ones are read.
const MOST_EVENTS: usize = 1000;
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// The events behind the cursor that were read.
#[derive(Debug)]
pub(super) struct Window {
    /// Everything up to this position was read.
    read: u64,
    /// The events from the first on that is not done. A crash has all of them handled again.
    in_hand: BTreeMap<u64, InHand>,
    /// The bytes of all of them.
    bytes: usize,
    ready: BTreeMap<u64, SinkEvent>,
    /// For each workflow of which an event is ready or being handled, those behind it.
    behind: HashMap<String, VecDeque<SinkEvent>>,
}

#[derive(Debug)]
struct InHand {
    bytes: usize,
    is_done: bool,
}

impl Window {
    /// Returns a window in which everything up to `position` is done.
    pub(super) fn after(position: u64) -> Self {
        Self {
            read: position,
            in_hand: BTreeMap::new(),
            bytes: 0,
            ready: BTreeMap::new(),
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
        self.hold(&event, false);
        // Without a workflow there is no order to keep.
        let Some(key) = event.key() else {
            self.ready.insert(event.position, event);
            return;
        };
        match self.behind.get_mut(key) {
            Some(behind) => behind.push_back(event),
            None => {
                self.behind.insert(key.to_owned(), VecDeque::new());
                self.ready.insert(event.position, event);
            }
        }
    }

    /// Adds an event that was done before. Positions grow.
    pub(super) fn add_done(&mut self, event: &SinkEvent) {
        self.hold(event, true);
        self.let_go();
    }

    fn hold(&mut self, event: &SinkEvent, is_done: bool) {
        self.read_up_to(event.position);
        let bytes = event.json.len();
        self.in_hand
            .insert(event.position, InHand { bytes, is_done });
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Lets go of what is done, up to the first event that is not.
    fn let_go(&mut self) {
        while let Some(first) = self.in_hand.first_entry()
            && first.get().is_done
        {
            self.bytes = self.bytes.saturating_sub(first.remove().bytes);
        }
    }

    /// Whether it is the turn of an event.
    pub(super) fn has_next(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Takes the first event of those whose turn it is.
    pub(super) fn next(&mut self) -> Option<SinkEvent> {
        self.ready.pop_first().map(|(_, event)| event)
    }

    /// Notes that an event is done, for better or worse. The next of its workflow is ready then.
    pub(super) fn done(&mut self, event: &SinkEvent) {
        if let Some(in_hand) = self.in_hand.get_mut(&event.position) {
            in_hand.is_done = true;
        }
        self.let_go();
        let Some(key) = event.key() else {
            return;
        };
        match self.behind.get_mut(key).and_then(VecDeque::pop_front) {
            Some(next) => drop(self.ready.insert(next.position, next)),
            None => drop(self.behind.remove(key)),
        }
    }

    /// Returns the position up to which everything is done.
    pub(super) fn cursor(&self) -> u64 {
        match self.in_hand.first_key_value() {
            Some((first, _)) => first.saturating_sub(1),
            None => self.read,
        }
    }

    /// Returns how many events may be read.
    pub(super) fn room(&self) -> usize {
        if self.bytes >= MOST_BYTES {
            return 0;
        }
        MOST_EVENTS.saturating_sub(self.in_hand.len())
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
        assert!(window.behind.is_empty() && window.in_hand.is_empty() && window.bytes == 0);
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
        assert!(window.room() > 0);
        window.add(event(1000, Some("b")));
        assert_eq!(window.room(), 0);
        let mut window = Window::after(0);
        let mut large = event(1, None);
        large.json = " ".repeat(MOST_BYTES);
        window.add(large.clone());
        assert_eq!(window.room(), 0);
        window.done(&large);
        assert!(window.room() > 0);
    }

    /// All of it comes again after a crash.
    #[test]
    fn what_is_done_behind_the_first_that_is_not_has_the_same_bound() {
        let mut window = Window::after(4);
        window.add(event(5, Some("stuck")));
        let stuck = window.next().unwrap();
        for position in 6..1005 {
            assert!(window.room() > 0, "{position}");
            window.add(event(position, None));
            let done = window.next().unwrap();
            window.done(&done);
        }
        assert_eq!(window.room(), 0);
        assert_eq!((window.cursor(), window.read()), (4, 1004));
        window.done(&stuck);
        assert!(window.room() > 0);
        assert_eq!((window.cursor(), window.bytes), (1004, 0));
        // What was done before counts only behind one that is not.
        window.add_done(&event(1005, None));
        assert_eq!((window.cursor(), window.room()), (1005, MOST_EVENTS));
        window.add(event(1006, Some("stuck")));
        window.add_done(&event(1007, None));
        assert_eq!((window.cursor(), window.room()), (1005, MOST_EVENTS - 2));
        let mut large = event(1008, None);
        large.json = " ".repeat(MOST_BYTES);
        window.add(large.clone());
        window.done(&large);
        assert_eq!(window.room(), 0);
    }
}
