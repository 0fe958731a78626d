//! A model of who appends: several callers and the journal's thread race for the one appender, and some ask.
//! It repeats the protocol of `Shared::push`, `append_now`, `give_back` and `question` and of `Thread::wait` and
//! `found` step by step, with `shuttle`'s locks instead of the standard library's, which the code itself has: a
//! change there belongs here, too. No clock goes on in it, so that a wake-up that is lost is a deadlock, which
//! `shuttle` finds; who waits must not depend on a linger or a tick.

use shuttle::{
    rand::{Rng as _, thread_rng},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};
use std::collections::VecDeque;

const BATCH_SIZE: usize = 2;

/// What is appended, in its order, by whoever has it.
#[derive(Default)]
struct Appender {
    appended: Vec<usize>,
    fed: usize,
}

/// An answer that somebody may wait for.
#[derive(Default)]
struct Answer {
    given: Mutex<Option<Vec<usize>>>,
    is_given: Condvar,
}

impl Answer {
    fn give(&self, what: Vec<usize>) {
        let before = self.given.lock().unwrap().replace(what);
        assert!(before.is_none(), "answered twice");
        self.is_given.notify_all();
    }

    fn wait(&self) -> Vec<usize> {
        let mut given = self.given.lock().unwrap();
        loop {
            match &*given {
                Some(what) => return what.clone(),
                None => given = self.is_given.wait(given).unwrap(),
            }
        }
    }
}

type Slot = (usize, Arc<Answer>);

#[derive(Default)]
struct State {
    queue: VecDeque<Slot>,
    // In which order things were queued.
    queued: Vec<usize>,
    appender: Option<Appender>,
    questions: Vec<Arc<Answer>>,
    is_awaited: bool,
    is_idle: bool,
    wants_appender: bool,
    is_closed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    // How many frames there are, for whoever feeds; the store reads them without the appender.
    log: Mutex<Vec<usize>>,
}

impl Shared {
    fn rouse(&self, state: &mut State) {
        if std::mem::take(&mut state.is_idle) {
            self.wake.notify_one();
        }
    }

    fn push(&self, number: usize) -> Arc<Answer> {
        let answer = Arc::new(Answer::default());
        let mut state = self.state.lock().unwrap();
        assert!(!state.is_closed);
        state.queue.push_back((number, answer.clone()));
        state.queued.push(number);
        self.rouse(&mut state);
        answer
    }

    fn append(&self, appender: &mut Appender, queue: VecDeque<Slot>) -> VecDeque<Slot> {
        for (number, _) in &queue {
            appender.appended.push(*number);
            self.log.lock().unwrap().push(*number);
        }
        queue
    }

    fn append_now(&self) {
        let (mut appender, queue) = {
            let mut state = self.state.lock().unwrap();
            if state.queue.is_empty() {
                return;
            }
            // A slow disk, a backlog, much to write.
            let is_plain = !state.is_closed && thread_rng().gen_bool(0.7);
            match state.appender.take() {
                Some(appender) if is_plain => (appender, std::mem::take(&mut state.queue)),
                appender => {
                    state.appender = appender;
                    state.is_awaited = true;
                    state.is_idle = false;
                    self.wake.notify_one();
                    return;
                }
            }
        };
        let queue = self.append(&mut appender, queue);
        self.give_back(appender);
        answer(queue);
    }

    fn give_back(&self, appender: Appender) {
        let has_unfed = appender.fed < appender.appended.len();
        let mut state = self.state.lock().unwrap();
        state.appender = Some(appender);
        if state.wants_appender || (state.is_awaited && !state.queue.is_empty()) {
            state.wants_appender = false;
            state.is_idle = false;
            self.wake.notify_one();
        } else if has_unfed {
            self.rouse(&mut state);
        }
    }

    fn ask(&self) -> Arc<Answer> {
        let answer = Arc::new(Answer::default());
        let mut state = self.state.lock().unwrap();
        state.questions.push(answer.clone());
        state.is_idle = false;
        self.wake.notify_one();
        answer
    }

    fn close(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_closed = true;
        state.is_idle = false;
        self.wake.notify_one();
    }
}

fn answer(queue: VecDeque<Slot>) {
    for (_, answer) in queue {
        answer.give(Vec::new());
    }
}

#[derive(Default)]
struct Found {
    appender: Option<(Appender, VecDeque<Slot>)>,
    questions: Vec<Arc<Answer>>,
    is_closing: bool,
}

/// The journal's thread.
struct Thread {
    shared: Arc<Shared>,
    store: Vec<usize>,
    has_append_at: bool,
    has_feed_at: bool,
}

impl Thread {
    fn run(mut self) -> Vec<usize> {
        loop {
            let found = self.wait();
            if let Some((mut appender, queue)) = found.appender {
                let queue = self.shared.append(&mut appender, queue);
                appender.fed = self.store.len();
                self.shared.give_back(appender);
                answer(queue);
            }
            if found.is_closing || !found.questions.is_empty() {
                self.store.clone_from(&self.shared.log.lock().unwrap());
                self.has_feed_at = false;
            }
            for question in found.questions {
                question.give(self.store.clone());
            }
            if found.is_closing {
                return self.store;
            }
        }
    }

    fn wait(&mut self) -> Found {
        let shared = self.shared.clone();
        let mut state = shared.state.lock().unwrap();
        loop {
            let is_closing = state.is_closed;
            let asks = !state.questions.is_empty();
            let appends = !state.queue.is_empty()
                && (state.is_awaited || asks || state.queue.len() >= BATCH_SIZE);
            if (appends || asks || is_closing) && state.appender.is_none() {
                state.wants_appender = true;
                state = shared.wake.wait(state).unwrap();
                continue;
            }
            if appends || asks || is_closing {
                return self.found(&mut state, appends);
            }
            self.has_append_at = !state.queue.is_empty();
            self.has_feed_at |= self.store.len() < shared.log.lock().unwrap().len();
            state.is_idle = !self.has_append_at && !self.has_feed_at;
            state = shared.wake.wait(state).unwrap();
            state.is_idle = false;
        }
    }

    fn found(&mut self, state: &mut MutexGuard<'_, State>, appends: bool) -> Found {
        let mut found = Found::default();
        if (appends || state.is_closed)
            && let Some(appender) = state.appender.take()
        {
            let at_most = match state.is_closed {
                true => usize::MAX,
                false => BATCH_SIZE,
            };
            let mut queue = VecDeque::new();
            while queue.len() < at_most
                && let Some(slot) = state.queue.pop_front()
            {
                queue.push_back(slot);
            }
            if state.queue.is_empty() {
                state.is_awaited = false;
                self.has_append_at = false;
            }
            found.appender = Some((appender, queue));
        }
        if state.queue.is_empty() {
            found.questions = std::mem::take(&mut state.questions);
        }
        found.is_closing = state.is_closed;
        found
    }
}

fn check() {
    const CALLERS: usize = 3;
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            appender: Some(Appender::default()),
            ..State::default()
        }),
        wake: Condvar::new(),
        log: Mutex::default(),
    });
    let journal = Thread {
        shared: shared.clone(),
        store: Vec::new(),
        has_append_at: false,
        has_feed_at: false,
    };
    let journal = thread::spawn(move || journal.run());
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let shared = shared.clone();
            thread::spawn(move || {
                for step in 0..3 {
                    let number = caller * 10 + step;
                    let receipt = shared.push(number);
                    match thread_rng().gen_range(0..3) {
                        // Nobody waits.
                        0 => {}
                        1 => {
                            shared.append_now();
                            receipt.wait();
                            assert!(shared.log.lock().unwrap().contains(&number));
                        }
                        _ => assert!(shared.ask().wait().contains(&number), "asked too early"),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    shared.close();
    let stored = journal.join().unwrap();
    let state = shared.state.lock().unwrap();
    assert!(state.queue.is_empty());
    assert_eq!(stored, state.queued, "each once, in order");
    assert_eq!(stored.len(), CALLERS * 3);
}

#[test]
fn what_is_queued_is_appended_once_and_in_order_and_nobody_waits_for_ever() {
    let schedules = std::env::var("MODEL_SCHEDULES").map_or(1_500, |it| it.parse().unwrap());
    shuttle::check_random(check, schedules);
    shuttle::check_pct(check, schedules, 4);
}
