//! Recovery: when a store is opened, what an earlier process left in its log is fed to it. Knows the files; the
//! caller knows the store.

use super::file::{list, read_left};
use crate::journal::record::Change;
use std::{io, path::Path};
use tracing::{error, info, warn};
use uuid::Uuid;

/// How many changes are fed at once.
const AT_ONCE: usize = 4096;

/// How far the store has come.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Place {
    /// Which store it is; nil if it cannot be read.
    pub(in crate::journal) store_id: Uuid,
    /// The number of the last frame that it has.
    pub(in crate::journal) position: u64,
    /// It was created just now, and adopts the log that is beside it.
    pub(in crate::journal) is_new: bool,
}

/// Where the log continues.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Recovered {
    /// The store's id; the log's, if the store is new and there was a log.
    pub(in crate::journal) store_id: Uuid,
    pub(in crate::journal) last_number: u64,
    pub(in crate::journal) last_generation: u64,
}

/// Feeds what was left, in order. `feed` takes the store's id, changes, and the number of their last frame, and
/// returns whether the changes will survive a crash: only then their file is removed.
pub(in crate::journal) fn recover(
    journal: &Path,
    place: Place,
    mut feed: impl FnMut(Uuid, Vec<Change>, u64) -> bool,
) -> io::Result<Recovered> {
    let mut recovered = Recovered {
        store_id: place.store_id,
        last_number: place.position,
        last_generation: 0,
    };
    let mut is_adopted = false;
    let mut count = 0;
    for (generation, path) in list(journal)? {
        recovered.last_generation = generation;
        let Some(left) = read_left(&path)? else {
            // Its header was not written to the end, so that nobody was told that something is in it.
            std::fs::remove_file(&path)?;
            continue;
        };
        let id = left.header.store_id;
        if place.is_new && !is_adopted && !id.is_nil() {
            is_adopted = true;
            recovered.store_id = id;
            recovered.last_number = 0;
        }
        let is_other = !id.is_nil() && !place.store_id.is_nil() && id != recovered.store_id;
        if is_other {
            let aside = set_aside(&path, "other")?;
            warn!(
                path = %aside.display(),
                "a file of another journal's log lay beside this journal; it was set aside"
            );
            continue;
        }
        let mut is_kept = true;
        let mut changes = Vec::new();
        let mut last = recovered.last_number;
        for (number, of_frame) in left.frames {
            if number <= last {
                continue;
            }
            if number != last + 1 && last != 0 {
                warn!(
                    from = last + 1,
                    to = number - 1,
                    "frames of the journal's log are missing"
                );
            }
            last = number;
            count += 1;
            changes.extend(of_frame);
            if changes.len() >= AT_ONCE {
                is_kept &= feed(recovered.store_id, std::mem::take(&mut changes), last);
            }
        }
        if !changes.is_empty() {
            is_kept &= feed(recovered.store_id, changes, last);
        }
        recovered.last_number = last;
        if left.is_damaged {
            let aside = set_aside(&path, "damaged")?;
            error!(
                path = %aside.display(),
                "a file of the journal's log is damaged: what could be read of it is stored, and the \
                 file was kept aside"
            );
        } else if is_kept {
            std::fs::remove_file(&path)?;
        }
    }
    if count > 0 {
        info!(
            frames = count,
            "what an earlier process left in the journal's log is stored"
        );
    }
    Ok(recovered)
}

/// Renames a file, so that it is no longer taken for a file of the log.
fn set_aside(path: &Path, why: &str) -> io::Result<std::path::PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{why}"));
    let aside = std::path::PathBuf::from(name);
    std::fs::rename(path, &aside)?;
    Ok(aside)
}
