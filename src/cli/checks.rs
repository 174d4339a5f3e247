//! What would stop a mount on this machine, found before anything goes to the background. Each check
//! answers with one line that names the cure. `doctor` runs the same ones.
//!
//! Consistency: the world may change behind a check; what then fails is told by the mount itself.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::output::complain;
use crate::control::client::Client;
use crate::control::mount_table;
use crate::private::{self, Flaw};
use crate::settings::MountSettings;

/// A line that names the cure.
pub type Checked<T = ()> = Result<T, String>;

/// All checks, cheapest first. Settles the mount point's path; takes a dead mount of ours away.
pub fn before_mount(settings: &mut MountSettings) -> Checked {
    settings.mount_point = mount_point(&settings.mount_point)?;
    fuse_device()?;
    fusermount()?;
    if settings.files.allow_other {
        allow_other()?;
    }
    not_inside_itself(settings)?;
    settings.cache.dir = writable_dir(&settings.cache.dir, "cache directory", "--cache-dir")?;
    if !settings.files.offline
        && let Some(dir) = settings.store.embedded.take()
    {
        settings.store.embedded = Some(writable_dir(&dir, "store directory", "--embedded")?);
    }
    Ok(())
}

/// An existing, empty directory that nothing is mounted on. Returns its real path.
pub fn mount_point(given: &Path) -> Checked<PathBuf> {
    let shown = given.display();
    let path = match mount_table::resolve(given) {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(format!("mount point {shown} does not exist; create it: mkdir -p {shown}"));
        }
        Err(e) => {
            return Err(format!("mount point {shown}: {e}; choose a directory you may enter"));
        }
    };
    not_mounted(&path)?;
    if !path.is_dir() {
        return Err(format!("mount point {shown} is a file; choose an empty directory"));
    }
    let mut entries = fs::read_dir(&path)
        .map_err(|e| format!("mount point {shown}: {e}; choose a directory you own"))?;
    if entries.next().is_some() {
        return Err(format!(
            "mount point {shown} is not empty; empty it or choose another directory"
        ));
    }
    Ok(path)
}

/// Nothing is mounted at `path`; what a killed mount of ours left there is taken away.
fn not_mounted(path: &Path) -> Checked {
    let shown = path.display();
    // Dead mounts can lie on top of each other.
    loop {
        let mounted =
            mount_table::at(path).map_err(|e| format!("/proc/self/mountinfo: {e}; mount /proc"))?;
        let Some(mounted) = mounted else { return Ok(()) };
        if !mounted.is_ours() {
            return Err(format!(
                "{shown} is already a mount point ({}); unmount it or choose another directory",
                mounted.kind
            ));
        }
        if Client::is_alive_at(path) || !mounted.is_dead() {
            return Err(format!(
                "{shown} is already mounted; unmount it first: ratchetfs umount {shown}"
            ));
        }
        mount_table::detach(path).map_err(|e| {
            format!("{shown} holds a dead mount ({e}); run: fusermount3 -u -z {shown}")
        })?;
        complain(&format!("took away the dead mount at {shown}"));
    }
}

/// `/dev/fuse` is there and may be opened.
pub fn fuse_device() -> Checked {
    let device = Path::new("/dev/fuse");
    match fs::metadata(device) {
        Ok(metadata) if metadata.file_type().is_char_device() => {}
        Ok(_) => return Err("/dev/fuse is no device; remove it and run: modprobe fuse".to_owned()),
        Err(_) => {
            return Err(
                "there is no /dev/fuse; run modprobe fuse (in a container: --device /dev/fuse \
                        --cap-add SYS_ADMIN)"
                    .to_owned(),
            );
        }
    }
    may_be_opened(OpenOptions::new().read(true).write(true).open(device), is_root())
}

fn may_be_opened(opened: io::Result<fs::File>, root: bool) -> Checked {
    match opened {
        Err(e) if root => Err(format!(
            "/dev/fuse: {e}; in a container add --device /dev/fuse --cap-add SYS_ADMIN"
        )),
        // fusermount3 opens it for us, with no more rights than ours.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("/dev/fuse: {e}; run as root: chmod 666 /dev/fuse"))
        }
        _ => Ok(()),
    }
}

/// `fusermount3` is there, where it is needed: root mounts without it.
pub fn fusermount() -> Checked {
    if is_root() || fusermount_path().is_some() {
        return Ok(());
    }
    Err("fusermount3 is missing; install it: apt install fuse3 (or dnf, apk, pacman)".to_owned())
}

pub fn fusermount_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|file| file.is_file())
}

/// Only root may let others in, unless the administrator has said so.
fn allow_other() -> Checked {
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if is_root() || conf.lines().any(|line| line.trim() == "user_allow_other") {
        return Ok(());
    }
    Err("--allow-other needs the line user_allow_other in /etc/fuse.conf; add it as root"
        .to_owned())
}

/// A directory that can be written to, by this user alone, made if need be. Returns its real path.
pub fn writable_dir(dir: &Path, what: &str, flag: &str) -> Checked<PathBuf> {
    let shown = dir.display();
    let cure = format!("name one that you may write to with {flag}");
    let dir = private::directory(dir).map_err(|flaw| match flaw {
        Flaw::Io(e) => format!("{what} {shown}: {e}; {cure}"),
        flaw => format!("{what} {shown}: {flaw}, or name another one with {flag}"),
    })?;
    let probe = dir.join(format!(".ratchetfs-probe-{}", std::process::id()));
    let made = private::file_options().write(true).create_new(true).open(&probe);
    let written = made.and_then(|mut file| file.write_all(b"probe"));
    // On a full disk it is there all the same, and empty.
    let removed = fs::remove_file(&probe);
    if written.as_ref().is_err_and(is_full) {
        // The mount makes room by sending what waits here.
        return Ok(dir);
    }
    written.map_err(|e| format!("{what} {shown} cannot be written: {e}; {cure}"))?;
    removed.map_err(|e| format!("{what} {shown}: {e}; {cure}"))?;
    Ok(dir)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A cache or a store below the mount point would ask the mount for its own files, and wait for ever.
/// Looked at before either is made, so that a refusal leaves nothing behind.
fn not_inside_itself(settings: &MountSettings) -> Checked {
    let cache = real_path(&settings.cache.dir);
    let embedded = settings.store.embedded.as_deref().map(real_path);
    for dir in [Some(&cache), embedded.as_ref()].into_iter().flatten() {
        if dir.starts_with(&settings.mount_point) {
            return Err(format!(
                "{} lies inside the mount point; choose a directory outside of it",
                dir.display()
            ));
        }
    }
    if embedded.as_ref() == Some(&cache) {
        return Err("--embedded and --cache-dir name one directory; give each its own".to_owned());
    }
    Ok(())
}

/// The path without symbolic links, as far as it exists already.
fn real_path(path: &Path) -> PathBuf {
    let resolved = path.ancestors().find_map(|above| {
        let behind = path.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(behind))
    });
    resolved.unwrap_or_else(|| path.to_path_buf())
}

fn is_root() -> bool {
    private::uid() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        let told = |path: &Path| mount_point(path).unwrap_err();
        assert!(told(&dir.path().join("missing")).contains("mkdir -p"));
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(told(&file).contains("is a file"));
        assert!(told(dir.path()).contains("not empty"));
        assert!(told(Path::new("/proc")).contains("already a mount point"));
        fs::remove_file(&file).unwrap();
        assert_eq!(mount_point(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
    }

    #[test]
    fn a_device_that_is_for_root_alone_is_told_to_others() {
        let refused = |errno| Err(io::Error::from_raw_os_error(errno));
        assert!(may_be_opened(refused(libc::EACCES), false).unwrap_err().contains("chmod 666"));
        assert!(may_be_opened(refused(libc::EACCES), true).unwrap_err().contains("SYS_ADMIN"));
        assert!(may_be_opened(refused(libc::ENXIO), false).is_ok());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_with_its_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told =
            writable_dir(&file.path().join("x"), "cache directory", "--cache-dir").unwrap_err();
        assert!(told.contains("--cache-dir"), "{told}");
        let dir = tempfile::tempdir().unwrap();
        assert!(writable_dir(&dir.path().join("a/b"), "cache directory", "--cache-dir").is_ok());
    }
}
