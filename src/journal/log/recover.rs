//! What an earlier process left in its log, fed into the store when that is opened. Knows what was left; how
//! the store takes it is the caller's.

use super::file::{list, read_left};
use crate::journal::record::Change;
use std::{io, path::Path};
use tracing::{error, info, warn};
use uuid::Uuid;

/// How many changes are fed at once.
const AT_ONCE: usize = 4096;

/// Where the store stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Place {
    /// Which store it is; nil when it cannot be read.
    pub(in crate::journal) store_id: Uuid,
    /// The last frame that it has.
    pub(in crate::journal) position: u64,
    /// It was made just now: it takes whatever log is beside it for its own.
    pub(in crate::journal) is_new: bool,
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Recovered {
    /// The store's id; that of the log, where the store is new.
    pub(in crate::journal) store_id: Uuid,
    pub(in crate::journal) last_number: u64,
    pub(in crate::journal) last_generation: u64,
}

/// Feeds what is left, in order. `feed` takes changes and the number of their last frame, and says whether
/// they will be there after a crash; only then their file goes.
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
            // Torn right at its beginning: nothing was ever in it that somebody was told of.
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

/// Gives a file a name under which nobody takes it for a file of the log.
fn set_aside(path: &Path, why: &str) -> io::Result<std::path::PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{why}"));
    let aside = std::path::PathBuf::from(name);
    std::fs::rename(path, &aside)?;
    Ok(aside)
}
