//! Recovery: what an earlier process left in its log, when a store is opened. Looks the files over and says where
//! the log goes on; they are fed to the store like any other, and before any other.

use super::file::{HEADER, Left, list, read_left};
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use tracing::{error, warn};
use uuid::Uuid;

/// How far the store has come.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct LogPosition {
    /// Which store it is; nil if it cannot be read.
    pub(in crate::journal) store_id: Uuid,
    /// The number of the last frame that it has.
    pub(in crate::journal) position: u64,
    /// It was created just now, and adopts the log that is beside it.
    pub(in crate::journal) is_new: bool,
}

/// What was left, and where the log continues.
#[derive(Debug)]
pub(in crate::journal) struct Recovered {
    /// The store's id; the log's, if the store is new and there was a log.
    pub(in crate::journal) store_id: Uuid,
    /// The number of the last frame that the store has.
    pub(in crate::journal) position: u64,
    /// The number of the last frame that there is.
    pub(in crate::journal) last_number: u64,
    pub(in crate::journal) last_generation: u64,
    /// The files that the store may not have all of, in order.
    pub(super) files: VecDeque<PathBuf>,
}

/// Looks over what was left beside a journal. Removes what is nobody's, sets aside what is somebody else's.
pub(in crate::journal) fn recover(journal: &Path, place: LogPosition) -> io::Result<Recovered> {
    let mut recovered = Recovered {
        store_id: place.store_id,
        position: place.position,
        last_number: place.position,
        last_generation: 0,
        files: VecDeque::new(),
    };
    let mut is_adopted = false;
    for (generation, path) in list(journal)? {
        recovered.last_generation = generation;
        let Some(left) = read_left(&path)? else {
            if path.metadata()?.len() < HEADER as u64 {
                // Its header was not written to the end, so that nobody was told that something is in it.
                std::fs::remove_file(&path)?;
            } else {
                let aside = set_aside(&path, "damaged")?;
                error!(
                    path = %aside.display(),
                    "a file of the journal's log has a header that this version does not know, or that is \
                     damaged; it was set aside"
                );
            }
            continue;
        };
        let id = left.header.store_id;
        if place.is_new && !is_adopted && !id.is_nil() {
            is_adopted = true;
            recovered.store_id = id;
        }
        // Beside a store that could not be read, nobody knew its id.
        if !id.is_nil() && !place.store_id.is_nil() && id != recovered.store_id {
            let aside = set_aside(&path, "other")?;
            warn!(
                path = %aside.display(),
                "a file of another journal's log lay beside this journal; it was set aside"
            );
            continue;
        }
        let last = recovered.last_number;
        let first = left.frames.first().map(|(number, _)| *number);
        if let Some(first) = first.filter(|first| last > 0 && *first > last + 1 && !id.is_nil()) {
            warn!(
                from = last + 1,
                to = first - 1,
                "frames of the journal's log are missing"
            );
        }
        if let Some((number, _)) = left.frames.last() {
            recovered.last_number = last.max(*number);
        }
        recovered.files.push_back(path);
    }
    if place.store_id.is_nil() {
        // Which frames the store has nobody knows: these are none of them, for it counts from 1.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = now.map_or(0, |now| now.as_micros());
        let above = u64::try_from(micros).unwrap_or_default();
        recovered.last_number = recovered.last_number.max(above);
    }
    Ok(recovered)
}

/// Reads a file that is to be fed, without the frames that the store has.
pub(super) fn read(path: &Path, fed: u64) -> io::Result<Left> {
    let mut left = read_left(path)?.ok_or(io::ErrorKind::InvalidData)?;
    left.frames.retain(|(number, _)| *number > fed);
    Ok(left)
}

/// The store has all of a file that can be read.
pub(super) fn let_go(path: &Path, is_damaged: bool) -> io::Result<()> {
    if !is_damaged {
        return std::fs::remove_file(path);
    }
    let aside = set_aside(path, "damaged")?;
    error!(
        path = %aside.display(),
        "a file of the journal's log is damaged: what could be read of it is stored, and the file was kept aside"
    );
    Ok(())
}

/// Renames a file, so that it is no longer taken for a file of the log.
fn set_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{why}"));
        if number > 1 {
            name.push(format!(".{number}"));
        }
        let aside = PathBuf::from(name);
        if aside.exists() {
            number += 1;
            continue;
        }
        std::fs::rename(path, &aside)?;
        return Ok(aside);
    }
}
