//! Staging files that the journal does not name. Those of drafts that have ended are left over and go. Those of which
//! it says nothing may be all that there is of files that were closed or synced: the journal was taken away, or its
//! end was damaged. They are set aside, with a line that says so; nothing deletes them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::layout;
use super::record::DraftId;
use super::state::State;
use crate::clock;
use crate::disk;

/// A journal is about to be begun: no staging file that is there can be one of its drafts'.
pub(super) fn set_all_aside(folder: &Path) -> io::Result<()> {
    let names = names_in(&layout::staging(folder))?;
    if names.is_empty() {
        return Ok(());
    }
    let path = layout::journal(folder);
    let what = if disk::exists(&path) { "damaged, and set aside beside them" } else { "missing" };
    set_aside(folder, &names, &format!("the journal that says which files they are is {what}"))
}

/// Removes what drafts that have ended left behind, and sets aside what no record speaks of. Called before the
/// first new draft.
///
/// # Errors
/// Those of the folder.
pub(super) fn sweep(folder: &Path, state: &State) -> io::Result<()> {
    let staging = layout::staging(folder);
    let (mut left_over, mut unknown) = (Vec::new(), BTreeSet::new());
    for name in names_in(&staging)? {
        match draft_of(&name) {
            Some((draft, true)) if state.drafts.contains_key(&draft) => {}
            // A copy that was not finished is left over, whichever draft it is of.
            Some((draft, whole)) if !whole || draft < state.next_draft => left_over.push(name),
            _ => _ = unknown.insert(name),
        }
    }
    left_over.iter().try_for_each(|name| disk::remove_file(staging.join(name)))?;
    if unknown.is_empty() {
        return Ok(());
    }
    set_aside(folder, &unknown, "the end of the journal, which says which files they are, is lost")
}

/// The draft whose file has this name, and whether it is the file itself, or a copy of it in the making.
fn draft_of(name: &OsString) -> Option<(DraftId, bool)> {
    let name = name.to_str()?;
    let (id, whole) = name.strip_suffix(".new").map_or((name, true), |id| (id, false));
    let is_number = id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_number.then(|| Some((DraftId::from_str_radix(id, 16).ok()?, whole)))?
}

fn names_in(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    match disk::names_in(folder) {
        Ok(names) => Ok(names.into_iter().collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Moves these staging files into a folder of their own.
fn set_aside(folder: &Path, names: &BTreeSet<OsString>, why: &str) -> io::Result<()> {
    let (staging, aside) = (layout::staging(folder), new_folder(folder)?);
    let mut bytes = 0;
    for name in names {
        bytes += disk::symlink_metadata(staging.join(name))?.len();
        disk::rename(staging.join(name), aside.join(name))?;
    }
    for changed in [&aside, &staging, folder] {
        disk::sync_dir(changed)?;
    }
    ::log::error!(
        "{} files with {bytes} bytes that may have been closed or synced and not sent are kept in {}: {why}; put it \
         back as {} with that folder as {}, and mount again, or remove the folder if nothing is missing",
        names.len(),
        aside.display(),
        layout::journal(folder).display(),
        staging.display(),
    );
    Ok(())
}

/// `staging.orphaned-SECONDS`, or the first such name that is free.
fn new_folder(folder: &Path) -> io::Result<PathBuf> {
    let now = clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for seconds in now.. {
        let path = folder.join(format!("staging.orphaned-{seconds}"));
        match disk::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                crate::private::folder(&path)?;
                return Ok(path);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
