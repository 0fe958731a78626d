//! The changes that were appended most recently. The store is fed with them, so that the file need not be read back.
//! They are always consecutive frames of one file. The file has them, too, and whatever is not here is read from
//! there.

use super::FEED_BYTES;
use crate::journal::record::Change;

/// Where frames were written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    /// The file.
    pub(super) generation: u64,
    /// Where in the file the first one begins, and where the last one ends.
    pub(super) start: u64,
    pub(super) end: u64,
    /// The number of the last frame.
    pub(super) last: u64,
    /// The store had everything that was appended before.
    pub(super) follows_what_is_fed: bool,
}

impl Written {
    fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// The frames that follow what the store has, or has been handed.
#[derive(Debug, Default)]
pub(super) struct Recent {
    // `start` is `end` when nothing is here.
    written: Written,
    changes: Vec<Change>,
}

impl Recent {
    /// Whether as much is here as is fed at once.
    pub(super) fn is_full(&self) -> bool {
        self.written.bytes() >= FEED_BYTES as u64
    }

    /// Keeps what was written, if it follows what is here and there is room: about as much as is fed at once, and never
    /// twice that.
    pub(super) fn keep(&mut self, written: Written, mut changes: Vec<Change>) {
        if written.bytes() > FEED_BYTES as u64 {
            return;
        }
        let follows =
            written.generation == self.written.generation && written.start == self.written.end;
        if follows && !self.is_full() {
            self.written.end = written.end;
            self.written.last = written.last;
            self.changes.append(&mut changes);
        } else if self.changes.is_empty() && written.follows_what_is_fed {
            self.written = written;
            self.changes = changes;
        }
    }

    /// Takes what is here, if it is what stands at that place of that file.
    pub(super) fn take(&mut self, generation: u64, at: u64) -> Option<(Vec<Change>, Written)> {
        let written = self.written;
        if self.changes.is_empty() || (written.generation, written.start) > (generation, at) {
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        self.written.start = written.end;
        // What was read from the file meanwhile is not needed any more.
        ((written.generation, written.start) == (generation, at)).then_some((changes, written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(generation: u64, start: u64, end: u64) -> Written {
        Written {
            generation,
            start,
            end,
            last: end,
            follows_what_is_fed: false,
        }
    }

    fn change() -> Vec<Change> {
        vec![Change::Insert(Vec::new())]
    }

    fn first(start: u64, end: u64) -> Written {
        Written {
            follows_what_is_fed: true,
            ..written(1, start, end)
        }
    }

    fn taken(recent: &mut Recent, generation: u64, at: u64) -> Option<(usize, u64)> {
        let taken = recent.take(generation, at);
        taken.map(|(changes, written)| (changes.len(), written.end))
    }

    #[test]
    fn what_follows_is_kept_together_and_taken_once() {
        let mut recent = Recent::default();
        recent.keep(written(1, 10, 20), change());
        assert_eq!(
            taken(&mut recent, 1, 10),
            None,
            "nobody knows what is before it"
        );
        recent.keep(first(20, 30), change());
        recent.keep(written(1, 30, 40), change());
        assert_eq!(taken(&mut recent, 1, 20), Some((2, 40)));
        assert_eq!(taken(&mut recent, 1, 40), None);
        // While the store takes those, more comes.
        recent.keep(written(1, 40, 50), change());
        assert_eq!(taken(&mut recent, 1, 40), Some((1, 50)));
    }

    #[test]
    fn behind_a_gap_nothing_is_kept_until_the_store_has_everything() {
        let mut recent = Recent::default();
        let full = 10 + FEED_BYTES as u64;
        recent.keep(first(10, full), change());
        assert!(recent.is_full());
        recent.keep(written(1, full, full + 5), change());
        assert_eq!(taken(&mut recent, 1, 10), Some((1, full)));
        recent.keep(written(1, full + 5, full + 9), change());
        assert_eq!(taken(&mut recent, 1, full), None);
        recent.keep(first(full + 9, full + 12), change());
        assert_eq!(taken(&mut recent, 1, full + 9), Some((1, full + 12)));
    }

    #[test]
    fn what_is_too_much_for_memory_is_not_kept() {
        let mut recent = Recent::default();
        let large = FEED_BYTES as u64 + 1;
        recent.keep(first(10, 10 + large), change());
        assert_eq!(taken(&mut recent, 1, 10), None);
        recent.keep(first(20, 30), change());
        recent.keep(written(1, 30, 30 + large), change());
        recent.keep(written(1, 30 + large, 40 + large), change());
        assert_eq!(
            taken(&mut recent, 1, 20),
            Some((1, 30)),
            "without what is behind the gap"
        );
    }

    #[test]
    fn what_was_read_from_the_file_is_not_taken_again() {
        let mut recent = Recent::default();
        recent.keep(first(10, 20), change());
        // The store did not take them, and the reader goes back.
        assert_eq!(taken(&mut recent, 1, 5), None);
        assert_eq!(taken(&mut recent, 1, 15), None, "it went beyond, and");
        assert_eq!(taken(&mut recent, 1, 10), None, "they are gone");
        recent.keep(written(1, 20, 30), change());
        assert_eq!(
            taken(&mut recent, 2, 20),
            None,
            "it is in the next file, and"
        );
        assert_eq!(taken(&mut recent, 1, 20), None, "they are gone");
    }
}
