//! Where the control sockets lie: `DIR/HASH.sock`, HASH from the mount point, DIR the first of
//! `$XDG_RUNTIME_DIR/ratchetfs`, `/run/ratchetfs` (root), `/tmp/ratchetfs-UID`. The directory is its
//! owner's alone, so nobody else can ask, nor pose as a mount.
//!
//! Crash: a killed mount leaves its socket behind; connecting is refused then, and whoever finds it so
//! removes it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The socket of the mount at `mount_point` (absolute) inside `dir`.
pub fn path_in(dir: &Path, mount_point: &Path) -> PathBuf {
    let hash = blake3::hash(mount_point.as_os_str().as_bytes());
    let hex = hash.to_hex();
    // 64 bits tell a machine's mount points apart; a socket's whole path must stay below 108 bytes.
    dir.join(format!("{}.sock", &hex[..16]))
}

/// The directory for this user's mounts, made if need be.
pub fn own_dir() -> io::Result<PathBuf> {
    let dir = candidates().remove(0);
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir) {
        Ok(()) => {}
        Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display()))),
    }
    let metadata = fs::symlink_metadata(&dir)?;
    if !metadata.is_dir() || metadata.uid() != uid() {
        let text = format!("{} is not a directory of this user; remove it", dir.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(dir)
}

/// The process that listens at the other end.
pub fn server_of(stream: &UnixStream) -> Option<u32> {
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
    (asked == 0).then_some(peer.pid as u32)
}

/// Every socket that this user may speak to; root sees everybody's.
pub fn all() -> Vec<PathBuf> {
    let mut dirs = candidates();
    if uid() == 0 {
        let users = fs::read_dir("/run/user").into_iter().flatten().flatten();
        dirs.extend(users.map(|user| user.path().join("ratchetfs")));
        let tmp = fs::read_dir("/tmp").into_iter().flatten().flatten();
        dirs.extend(
            tmp.map(|entry| entry.path())
                .filter(|path| path.file_name().is_some_and(is_fallback_name)),
        );
    }
    dirs.sort();
    dirs.dedup();
    let mut sockets: Vec<PathBuf> = dirs
        .iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("sock")))
        .collect();
    sockets.sort();
    sockets
}

fn is_fallback_name(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"ratchetfs-")
}

/// Best first; never empty.
fn candidates() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.is_dir())
        .map(|path| path.join("ratchetfs"));
    let system = (uid() == 0 && Path::new("/run").is_dir()).then(|| "/run/ratchetfs".into());
    let fallback = PathBuf::from(format!("/tmp/ratchetfs-{}", uid()));
    runtime.into_iter().chain(system).chain([fallback]).collect()
}

fn uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}
