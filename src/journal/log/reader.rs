//! The reading side of the log, from which the store is fed. Removes the files that the store has all of.

use super::{
    FEED_BYTES, Log,
    file::{HEADER, LogFile, Numbered},
    lock, recover,
};
use crate::{crash_point::crash_point, journal::record::Change};
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

/// How many changes of a file that an earlier process left are fed at once.
const CHANGES_AT_ONCE: usize = 4096;

/// Changes that were read from frames, for the store.
#[derive(Debug)]
pub(in crate::journal) struct Frames {
    pub(in crate::journal) changes: Vec<Change>,
    pub(in crate::journal) progress: Progress,
}

/// How far frames were read.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Progress {
    /// The number of the last frame.
    pub(in crate::journal) last: u64,
    bytes: u64,
    // Where the next frame begins in the file; none in a file that an earlier process left.
    end: Option<u64>,
}

/// A file that an earlier process left, while it is fed.
#[derive(Debug)]
struct LeftFile {
    frames: VecDeque<Numbered>,
    is_damaged: bool,
    // What was handed out last is not known to be in the store.
    is_handed_out: bool,
}

/// The reading side, which feeds the store. Owned by the journal's thread.
#[derive(Debug)]
pub(in crate::journal) struct Reader {
    log: Arc<Log>,
    // What an earlier process left comes first.
    left: VecDeque<PathBuf>,
    left_file: Option<LeftFile>,
    // How far the first of this process's own files is fed, in bytes.
    at: u64,
    // The number of the last frame that the store has.
    fed: u64,
    // Files are not removed: memory stands in for a damaged store, and ends with this process.
    keeps_files: bool,
}

impl Reader {
    pub(in crate::journal) fn new(log: Arc<Log>, left: super::Recovered) -> Self {
        Self {
            log,
            left: left.files,
            left_file: None,
            at: HEADER as u64,
            fed: left.position,
            keeps_files: false,
        }
    }

    /// Whether something was appended that the store does not have.
    pub(in crate::journal) fn is_behind(&self) -> bool {
        self.fed < self.log.appended()
    }

    /// From now on files are not removed: the next start reads them again.
    pub(in crate::journal) fn keep_files(&mut self) {
        self.keeps_files = true;
    }

    /// Returns the next frames; none if the store has everything. Removes the files that the store has all of.
    pub(in crate::journal) fn next(&mut self) -> io::Result<Option<Frames>> {
        if let Some(frames) = self.next_left()? {
            return Ok(Some(frames));
        }
        loop {
            let appended = self.log.appended();
            let file = {
                let mut files = lock(&self.log.files);
                let Some(file) = files.front().cloned() else {
                    return Ok(None);
                };
                // Only the last file is appended to.
                if self.at >= file.end() && files.len() > 1 {
                    files.pop_front();
                    self.at = HEADER as u64;
                    drop(files);
                    self.let_go(&file);
                    continue;
                }
                file
            };
            let recent = lock(&self.log.recent).take(file.header.generation, self.at);
            if let Some((changes, written)) = recent {
                return Ok(Some(Frames {
                    changes,
                    progress: Progress {
                        last: written.last,
                        bytes: written.end - self.at,
                        end: Some(written.end),
                    },
                }));
            }
            if self.at >= file.end() {
                // Numbers have gaps.
                self.reach(appended);
                return Ok(None);
            }
            let (frames, end) = match file.read(self.at, FEED_BYTES) {
                Ok(read) => read,
                Err(error) if is_gone_for_good(&error) => {
                    // What comes must get into the store all the same.
                    let end = file.end();
                    tracing::error!(
                        path = %file.path().display(),
                        bytes = end - self.at,
                        %error,
                        "a file of the journal's log was changed by another program: what was in it, and not \
                         yet in the store, is lost"
                    );
                    self.log
                        .unfed_bytes
                        .fetch_sub(end - self.at, Ordering::Relaxed);
                    self.at = end;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let last = frames.last().map(|(number, _)| *number);
            return Ok(Some(Frames {
                changes: frames
                    .into_iter()
                    .flat_map(|(_, changes)| changes)
                    .collect(),
                progress: Progress {
                    last: last.unwrap_or(self.fed),
                    bytes: end - self.at,
                    end: Some(end),
                },
            }));
        }
    }

    /// Returns the next frames that an earlier process left.
    fn next_left(&mut self) -> io::Result<Option<Frames>> {
        while let Some(path) = self.left.front() {
            let file = match &mut self.left_file {
                Some(file) if !file.is_handed_out => file,
                // The store did not take what was handed out, which is read again.
                unread => unread.insert({
                    let left = recover::read(path, self.fed)?;
                    LeftFile {
                        frames: left.frames.into(),
                        is_damaged: left.is_damaged,
                        is_handed_out: false,
                    }
                }),
            };
            let mut changes = Vec::new();
            let mut last = self.fed;
            while changes.len() < CHANGES_AT_ONCE
                && let Some((number, of_frame)) = file.frames.pop_front()
            {
                last = number;
                changes.extend(of_frame);
            }
            if last > self.fed {
                file.is_handed_out = true;
                return Ok(Some(Frames {
                    changes,
                    progress: Progress {
                        last,
                        bytes: 0,
                        end: None,
                    },
                }));
            }
            let is_damaged = file.is_damaged;
            if !self.keeps_files {
                crash_point("before-removal");
                recover::let_go(path, is_damaged)?;
            }
            self.left.pop_front();
            self.left_file = None;
        }
        Ok(None)
    }

    fn reach(&mut self, number: u64) {
        self.fed = self.fed.max(number);
        self.log.fed.store(self.fed, Ordering::Release);
    }

    /// Notes that the store has these frames.
    pub(in crate::journal) fn done_with(&mut self, progress: &Progress) {
        match progress.end {
            Some(end) => self.at = end,
            None => {
                if let Some(file) = &mut self.left_file {
                    file.is_handed_out = false;
                }
            }
        }
        self.reach(progress.last);
        self.log
            .unfed_bytes
            .fetch_sub(progress.bytes, Ordering::Relaxed);
    }

    /// Whether files are kept for the next start.
    pub(in crate::journal) fn keeps_files(&self) -> bool {
        self.keeps_files
    }

    /// Removes all files. Call it only when the store has everything and nothing is appended any more.
    pub(in crate::journal) fn remove_all(&mut self) {
        let files = std::mem::take(&mut *lock(&self.log.files));
        let next = lock(&self.log.next).take();
        for file in files.into_iter().chain(next) {
            self.let_go(&file);
        }
    }

    fn let_go(&self, file: &LogFile) {
        if self.keeps_files {
            return;
        }
        crash_point("before-removal");
        // If it stays, the next start finds that the store has its frames, and removes it.
        if let Err(error) = file.remove() {
            tracing::debug!(path = %file.path().display(), %error, "a file of the log stays");
        }
    }
}

/// Whether what was written is not there, however often it is read.
fn is_gone_for_good(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}
