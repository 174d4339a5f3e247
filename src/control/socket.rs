//! Where the control sockets lie: `DIR/HASH.sock`, HASH from the mount point, DIR the first that can be had of
//! `/run/ratchetfs` (root) or `/run/user/UID/ratchetfs` (others) and `/tmp/ratchetfs-UID`, where a command finds it
//! whatever its environment is; and `$XDG_RUNTIME_DIR/ratchetfs` besides, since /tmp may be the mount's own
//! (PrivateTmp). Commands look into all of them.
//!
//! A directory of sockets is believed if its owner alone may write to it, and a socket in it if a process of that
//! owner listens there. Whatever else lies in those places is passed over: all users may make entries in /tmp.
//!
//! Crash: a killed mount leaves its socket behind; connecting is refused then, and a command that finds it so
//! removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::private::{self, Flaw, uid};

/// Sockets of one other user that root looks at: what a user may make root do is bounded.
const FOREIGN_MAX: usize = 16;

/// The socket of the mount at `mount_point` (absolute) inside `dir`.
pub fn path_in(dir: &Path, mount_point: &Path) -> PathBuf {
    let hash = blake3::hash(mount_point.as_os_str().as_bytes());
    let hex = hash.to_hex();
    // 64 bits tell a machine's mount points apart; a socket's whole path must stay below 108 bytes.
    dir.join(format!("{}.sock", &hex[..16]))
}

/// The directory for this user's mounts, made if need be.
///
/// # Errors
/// None of the places can be had. The error is that of the last one, which names the cure.
pub fn own_dir() -> io::Result<PathBuf> {
    let mut refused: io::Error = io::ErrorKind::NotFound.into();
    for dir in places_of(uid()) {
        match take(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                refused = io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
            }
        }
    }
    Err(refused)
}

/// The directory that the environment names, made if need be, where it is not [`own_dir`] anyway.
pub fn dir_of_environment() -> Option<PathBuf> {
    let dir = named_by_environment().filter(|dir| own_dir().is_ok_and(|own| own != *dir))?;
    take(&dir).is_ok().then_some(dir)
}

/// Makes `dir` (but nothing above it) for this user alone, or takes it over.
fn take(dir: &Path) -> io::Result<()> {
    let above = fs::metadata(dir.parent().unwrap_or(dir))?;
    if !above.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // In another user's directory (of sudo's caller) it would be in that user's way.
    if above.uid() != uid() && above.uid() != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    private::create_dir_all(dir)?;
    let opened = private::open_directory(dir)?;
    let metadata = opened.metadata()?;
    if metadata.uid() != uid() {
        let flaw = Flaw::Owner { dir: dir.to_owned(), owner: metadata.uid() };
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, flaw));
    }
    if metadata.mode() & 0o077 != 0 {
        opened.set_permissions(fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A directory of sockets that its owner alone may write to, held open: what is found in it is in it.
#[derive(Debug)]
struct Place {
    opened: File,
    path: PathBuf,
    owner: u32,
}

impl Place {
    /// # Errors
    /// There is none, or it is not one that `owner` alone may write to.
    fn open(path: &Path, owner: u32) -> Result<Place, Flaw> {
        let opened = private::open_directory(path)?;
        match private::sole_owner(&opened, path)? {
            found if found == owner => Ok(Place { opened, path: path.to_owned(), owner }),
            found => Err(Flaw::Owner { dir: path.to_owned(), owner: found }),
        }
    }

    /// The directory itself, whatever its path leads to by now.
    fn itself(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.opened.as_raw_fd()))
    }
}

/// A socket in a directory that is believed.
#[derive(Clone, Debug)]
pub struct Socket {
    place: Arc<Place>,
    pub name: OsString,
}

impl Socket {
    /// The socket at `path`, in a directory of this user.
    ///
    /// # Errors
    /// The directory is not one to be believed, or not there.
    pub fn at(path: &Path) -> io::Result<Socket> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let place = Place::open(dir, uid()).map_err(|flaw| match flaw {
            Flaw::Io(error) => error,
            flaw => io::Error::new(io::ErrorKind::PermissionDenied, flaw),
        })?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Socket { place: Arc::new(place), name })
    }

    /// For messages.
    pub fn path(&self) -> PathBuf {
        self.place.path.join(&self.name)
    }

    /// A path that leads to it through the directory that was looked at, short enough for a socket's.
    pub fn connectable(&self) -> PathBuf {
        self.place.itself().join(&self.name)
    }

    /// The user whose process has to be at the other end.
    pub fn owner(&self) -> u32 {
        self.place.owner
    }

    /// Removes what a killed mount of this user has left behind.
    pub fn remove_leftover(&self) {
        let path = self.connectable();
        let is_ours = self.owner() == uid()
            && fs::symlink_metadata(&path).is_ok_and(|it| it.file_type().is_socket());
        if is_ours && let Err(e) = fs::remove_file(&path) {
            log::debug!("{}: {e}", self.path().display());
        }
    }
}

/// What was found, and what was passed over: one line each.
#[derive(Debug, Default)]
pub struct Found {
    pub sockets: Vec<Socket>,
    pub passed_over: Vec<String>,
}

/// The sockets of the mounts of user `owner`.
pub fn of_user(owner: u32) -> Found {
    let mut found = Found::default();
    for path in places_of(owner) {
        match Place::open(&path, owner) {
            Ok(place) => found.add(Arc::new(place)),
            Err(Flaw::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
            // A place that the environment names is not one to be surprised about.
            Err(_) if Some(&path) == named_by_environment().as_ref() => {}
            Err(flaw) => {
                found.passed_over.push(format!("{} is passed over: {flaw}", path.display()));
            }
        }
    }
    found
}

/// Every socket that this user may speak to; root may speak to those of all users.
pub fn of_everybody() -> Found {
    let mut users = vec![uid()];
    if uid() == 0 {
        users.extend(numbers_in("/run/user", ""));
        users.extend(numbers_in("/tmp", FALLBACK));
    }
    users.sort_unstable();
    users.dedup();
    let mut all = Found::default();
    for user in users {
        let found = of_user(user);
        all.sockets.extend(found.sockets);
        all.passed_over.extend(found.passed_over);
    }
    all
}

impl Found {
    fn add(&mut self, place: Arc<Place>) {
        let entries = fs::read_dir(place.itself()).into_iter().flatten().flatten();
        let is_socket = |entry: &fs::DirEntry| {
            Path::new(&entry.file_name()).extension() == Some(OsStr::new("sock"))
                && entry.file_type().is_ok_and(|kind| kind.is_socket())
        };
        let max = if place.owner == uid() { usize::MAX } else { FOREIGN_MAX };
        let names = entries.filter(is_socket).map(|entry| entry.file_name()).take(max);
        let mut names: Vec<OsString> = names.collect();
        names.sort();
        let sockets = names.into_iter().map(|name| Socket { place: place.clone(), name });
        self.sockets.extend(sockets);
    }
}

/// The user and the process that listen at the other end. The process is 0 where it cannot be named here.
pub fn peer_of(stream: &UnixStream) -> io::Result<(u32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and `len` outlive the call, and `len` is the size of `peer`.
    let asked = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if asked == 0 { Ok((peer.uid, peer.pid as u32)) } else { Err(io::Error::last_os_error()) }
}

const FALLBACK: &str = "ratchetfs-";

/// The places of a user's sockets, best first; never empty.
fn places_of(user: u32) -> Vec<PathBuf> {
    let system = match user {
        0 => PathBuf::from("/run/ratchetfs"),
        user => PathBuf::from(format!("/run/user/{user}/ratchetfs")),
    };
    let mut places = vec![system, PathBuf::from(format!("/tmp/{FALLBACK}{user}"))];
    // Earlier versions have asked the environment first, root's too.
    if user == uid() {
        places.push(PathBuf::from(format!("/run/user/{user}/ratchetfs")));
        places.extend(named_by_environment());
    }
    let mut distinct: Vec<PathBuf> = Vec::new();
    for place in places {
        if !distinct.contains(&place) {
            distinct.push(place);
        }
    }
    distinct
}

fn named_by_environment() -> Option<PathBuf> {
    let named = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    named.is_absolute().then(|| named.join("ratchetfs"))
}

/// The numbers in the names of a directory's entries, behind `before`.
fn numbers_in(dir: &str, before: &str) -> Vec<u32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let number =
        |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix(before)?.parse::<u32>().ok();
    entries.filter_map(number).collect()
}
