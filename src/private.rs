//! What belongs to this user alone. A directory whose content is believed (a cache with its journal, an embedded
//! store, control sockets) must not be one that another user of the machine can write to, or could have put there;
//! and what is made there is for this user's eyes only, whatever the umask is.
//!
//! Consistency: once every directory above a path can be changed by root and this user only, what was looked at
//! stays what it is. A directory above that its group may write to is believed: many systems give each user a
//! group of their own and let it. What owners and permissions the real machine has is no affair of a simulation, so std is asked.

#![allow(clippy::disallowed_methods, reason = "owners and permissions of the real machine")]

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::disk;

/// Write permission of others than the owner.
const OTHERS_WRITE: u32 = 0o022;
/// Any permission of others than the owner.
const OTHERS: u32 = 0o077;
/// Entries belong to the user that made them, whichever users may write to the directory.
const STICKY: u32 = 0o1000;

/// Why a directory is not believed. Displays as what is wrong and what cures it, without the directory's name.
#[derive(Debug)]
pub enum Flaw {
    Io(io::Error),
    /// It belongs to the user with this number.
    Owner {
        dir: PathBuf,
        owner: u32,
    },
    /// Others may write to it.
    Writable {
        dir: PathBuf,
    },
    /// A directory above it belongs to another user, who could exchange what is below.
    OwnerAbove {
        above: PathBuf,
        owner: u32,
    },
    /// All users may exchange what is in a directory above it.
    WritableAbove {
        above: PathBuf,
    },
    /// The path leads through a symbolic link of another user.
    Link {
        link: PathBuf,
        owner: u32,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Io(error) => error.fmt(f),
            Flaw::Owner { dir, owner } => write!(
                f,
                "it belongs to user {owner}, who could put anything there; run: chown -R {} {}",
                uid(),
                dir.display()
            ),
            Flaw::Writable { dir } => {
                write!(f, "others may write to it; run: chmod go-w {}", dir.display())
            }
            Flaw::OwnerAbove { above, owner } => write!(
                f,
                "{} belongs to user {owner}, who could exchange what is in it",
                above.display()
            ),
            Flaw::WritableAbove { above } => {
                let above = above.display();
                write!(f, "anybody could exchange what is in {above}; run: chmod o-w {above}")
            }
            Flaw::Link { link, owner } => {
                write!(f, "{} is a symbolic link of user {owner}; remove it", link.display())
            }
        }
    }
}

impl std::error::Error for Flaw {}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Flaw::Io(error)
    }
}

/// The user that this process acts as.
pub fn uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// The directory `dir`, made if need be, without symbolic links. Only this user and root can change what is in it.
///
/// # Errors
/// Where that is not so; before anything is made where it can be seen before.
pub fn directory(dir: &Path) -> Result<PathBuf, Flaw> {
    let dir = std::path::absolute(dir)?;
    no_foreign_link(&dir)?;
    if let Some(existing) = dir.ancestors().find(|above| above.exists())
        && existing != dir
    {
        believed_above(&existing.canonicalize()?, true)?;
    }
    create_dir_all(&dir)?;
    // Once more: where all users may make entries, another one may have been faster.
    no_foreign_link(&dir)?;
    let real = dir.canonicalize()?;
    believed_above(&real, false)?;
    believed(&open_directory(&real)?, &real)?;
    Ok(real)
}

/// As [`directory`], of one that exists.
///
/// # Errors
/// [`Flaw::Io`] where there is none.
pub fn existing_directory(dir: &Path) -> Result<PathBuf, Flaw> {
    fs::metadata(dir)?;
    directory(dir)
}

/// Makes `dir` and what is missing above it, for this user alone.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes `folder`, or takes it over: it and what lies in it are for this user alone from here on.
///
/// # Errors
/// It is a symbolic link, or another user's.
pub fn folder(folder: &Path) -> io::Result<()> {
    if disk::is_model(folder) {
        return disk::create_dir_all(folder);
    }
    create_dir_all(folder)?;
    let opened = open_directory(folder)?;
    let metadata = opened.metadata()?;
    if metadata.uid() != uid() {
        let flaw = Flaw::Owner { dir: folder.to_owned(), owner: metadata.uid() };
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, flaw));
    }
    if metadata.mode() & OTHERS == 0 {
        return Ok(());
    }
    opened.set_permissions(Permissions::from_mode(0o700))?;
    // No other user comes this far any more. What was open to others is closed one by one all the same: another
    // process may stand in this folder.
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let is_plain = metadata.is_file() || metadata.is_dir();
        if is_plain && metadata.uid() == uid() && metadata.mode() & OTHERS != 0 {
            let mode = metadata.mode() & 0o7777 & !OTHERS;
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Options that make files for this user alone, and follow no symbolic link in the last step.
pub fn file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

/// Takes the permissions of others from an open file of this user.
pub fn tighten(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.uid() == uid() && metadata.is_file() && metadata.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777 & !OTHERS))?;
    }
    Ok(())
}

/// Opens `dir` itself: no symbolic link, no file.
pub fn open_directory(dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir)
}

/// The owner of a directory that only its owner may write to.
pub fn sole_owner(opened: &File, dir: &Path) -> Result<u32, Flaw> {
    let metadata = opened.metadata()?;
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(Flaw::Writable { dir: dir.to_owned() });
    }
    Ok(metadata.uid())
}

/// This user's, and no other may write to it.
fn believed(opened: &File, dir: &Path) -> Result<(), Flaw> {
    match sole_owner(opened, dir)? {
        owner if owner == uid() => Ok(()),
        owner => Err(Flaw::Owner { dir: dir.to_owned(), owner }),
    }
}

/// Only this user and root can exchange `dir` (and what is in it, with `itself`).
fn believed_above(dir: &Path, itself: bool) -> Result<(), Flaw> {
    for above in dir.ancestors().skip(usize::from(!itself)) {
        let metadata = fs::symlink_metadata(above)?;
        let owner = metadata.uid();
        // To others than root the owners of directories above are its administrators.
        if uid() == 0 && owner != 0 {
            return Err(Flaw::OwnerAbove { above: above.to_owned(), owner });
        }
        if metadata.mode() & 0o002 != 0 && metadata.mode() & STICKY == 0 {
            return Err(Flaw::WritableAbove { above: above.to_owned() });
        }
    }
    Ok(())
}

/// Follows the path as the kernel would, but no symbolic link that another user (but root) has made.
fn no_foreign_link(dir: &Path) -> Result<(), Flaw> {
    let mut path = PathBuf::new();
    for step in dir.components() {
        path.push::<&OsStr>(step.as_os_str());
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let owner = metadata.uid();
                if owner != 0 && owner != uid() {
                    return Err(Flaw::Link { link: path, owner });
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "private_tests.rs"]
mod tests;
