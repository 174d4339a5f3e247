//! Which mounts a command is about.

use std::io;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::control::client::Client;
use crate::control::mount_table::{self, Mounted};
use crate::private::uid;

/// The live mount at `given`.
pub fn live_mount(given: &Path) -> Result<Client, Failure> {
    let path = mount_table::resolve(given).map_err(|e| unresolved(given, &e))?;
    Client::of_mount(&path).ok_or_else(|| Failure::Failed(no_live_mount(given, &path)))
}

/// A file of a live mount.
pub struct InMount {
    pub client: Client,
    /// Where it is mounted.
    pub mounted: PathBuf,
    /// The file, absolute and without links.
    pub path: PathBuf,
}

/// What of which live mount is meant by `given`, which need not be there (any more).
pub fn in_live_mount(given: &Path) -> Result<InMount, Failure> {
    let path = resolve_missing(given).map_err(|e| Failure::Failed(unresolved(given, &e)))?;
    let mounted = mount_point_above(&path).ok_or_else(|| {
        Failure::Failed(format!(
            "{} is in no mount of ratchetfs; see ratchetfs status",
            given.display()
        ))
    })?;
    let client = Client::of_mount(&mounted);
    let client = client.ok_or_else(|| Failure::Failed(no_live_mount(&mounted, &mounted)))?;
    Ok(InMount { client, mounted, path })
}

/// As [`mount_table::resolve`], of a path whose end may not be there.
fn resolve_missing(given: &Path) -> io::Result<PathBuf> {
    let missing = match mount_table::resolve(given) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        resolved => return resolved,
    };
    let absolute = std::path::absolute(given)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(resolve_missing(parent)?.join(name)),
        _ => Err(missing),
    }
}

/// The nearest mount point of ours that a path is at or below.
fn mount_point_above(path: &Path) -> Option<PathBuf> {
    let mounts = mount_table::ours().ok()?;
    let above = mounts.into_iter().map(|mounted| mounted.mount_point);
    above.filter(|mounted| path.starts_with(mounted)).max_by_key(|it| it.as_os_str().len())
}

/// What is told where a path cannot be resolved.
pub fn unresolved(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}; ratchetfs status tells what is mounted", path.display())
}

/// Why there is no live mount to speak to at `path`, which is `given` without links.
pub fn no_live_mount(given: &Path, path: &Path) -> String {
    let shown = given.display();
    match mount_table::at(path) {
        Ok(Some(mounted)) if mounted.is_ours() => {
            format!("no live mount at {shown} can be asked: {}", why_unreachable(&mounted))
        }
        _ => format!("no live mount at {shown}; see ratchetfs status"),
    }
}

/// Why a mount that the kernel has cannot be spoken to, and what can be done about it.
pub fn why_unreachable(mounted: &Mounted) -> String {
    let shown = mounted.mount_point.display();
    match mounted.owner {
        Some(owner) if owner != uid() && uid() != 0 => {
            format!("{shown} is mounted by user {owner}; run this as that user, or as root")
        }
        _ if mounted.is_dead() => {
            format!(
                "the process of {shown} has died; take the mount away: ratchetfs umount {shown}"
            )
        }
        _ => format!(
            "{shown} is mounted, but its process has no control socket here (another container's, or \
             XDG_RUNTIME_DIR was another directory); unmount it: fusermount3 -u {shown}"
        ),
    }
}

/// What a command does to what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only looks.
    Looks,
    /// It goes on with something or drops what is damaged: of one mount, unless several are named.
    Mends,
    /// It drops something: of nothing that is not named.
    Drops,
}

/// The mounts that a command means which names none.
///
/// # Errors
/// It has to name one, or say that all are meant. One line that says so.
pub fn unnamed(effect: Effect, all: bool, what: &str) -> Result<Vec<Client>, Failure> {
    let mounts = Client::of_own_mounts();
    let is_clear = match effect {
        Effect::Looks => true,
        Effect::Mends => mounts.len() <= 1,
        Effect::Drops => false,
    };
    if all || is_clear {
        return Ok(mounts);
    }
    let mounted = match names_of(mounts) {
        names if names.is_empty() => String::new(),
        names => format!("; mounted: {}", names.join(", ")),
    };
    Err(Failure::Usage(format!("name {what}, or say --all{mounted}")))
}

/// Whether the cache directory was said to this command itself. One of the environment or of a file is where mounts
/// have theirs, and no word about which is meant.
pub fn is_cache_dir_said() -> bool {
    std::env::args_os().any(|argument| {
        let argument = argument.to_string_lossy();
        argument == "--cache-dir" || argument.starts_with("--cache-dir=")
    })
}

/// Where they are mounted, as far as they say so.
pub fn names_of(mounts: Vec<Client>) -> Vec<String> {
    let asked: Vec<_> = mounts
        .into_iter()
        .map(|mut client| std::thread::spawn(move || client.status().ok()))
        .collect();
    let mut names: Vec<String> = asked
        .into_iter()
        .filter_map(|asked| asked.join().ok().flatten())
        .map(|status| status.place.mount_point)
        .collect();
    names.sort();
    names
}
