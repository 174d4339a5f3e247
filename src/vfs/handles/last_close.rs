//! Which close(2) is the last one?
//!
//! The kernel sends FLUSH for every close of a descriptor, also for copies. Each close that finds something written
//! publishes it, since a program that is told "done" must be able to rely on it, whatever else it holds of the file.
//! Two may leave it to a later one, or a file would be sent several times:
//!
//! - a child that inherited the descriptor and closes it when it ends, while the process that opened the file still
//!   has it open for writing;
//! - a shell that redirects: it opens, duplicates and closes before a byte is written.
//!
//! Where that cannot be seen (another pid namespace, no /proc, very many descriptors) a close publishes, which is
//! correct and only costs requests.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::handle::FileHandle;
use super::open_files::OpenFiles;
use crate::blocking;
use crate::clock;
use crate::vfs::tree::ROOT_INO;
use crate::writer::Draft;

/// How long a look at a process's descriptors may take.
const LOOK: Duration = Duration::from_millis(100);

/// So many descriptors of a process are looked at, the lowest first: a shell redirects low ones, and a program that closes
/// thousands of files must not pay for thousands of looks at each.
const DESCRIPTORS_MAX: usize = 256;

impl OpenFiles {
    /// Whether this close may leave the file to a later one. `closer` and the opener are process numbers, 0 where
    /// they are not known.
    pub async fn is_left_to_a_later_close(
        &self,
        handle: &FileHandle,
        draft: &Draft,
        closer: u32,
    ) -> bool {
        // Two handles of one file cannot be told apart by path.
        if handle.inode.state().used().open.writers > 1 {
            return false;
        }
        let opener = handle.opener;
        let path = self.visible_path(handle.inode.ino);
        if opener != closer && self.holds_in_time(opener, &path).await {
            return true;
        }
        draft.is_empty() && self.holds_in_time(closer, &path).await
    }

    /// A process in execve(2) closes what is not to be inherited while no process may look at its
    /// descriptors: the look would wait for the close, and the close waits for us. So the look is given up soon.
    async fn holds_in_time(&self, pid: u32, path: &[u8]) -> bool {
        if pid == 0 {
            return false;
        }
        let path = path.to_vec();
        let look = blocking::run_on(&self.runtime, move || holds_for_writing(pid, &path));
        matches!(clock::timeout(LOOK, look).await, Ok(Ok(true)))
    }

    /// The file's path as /proc shows it.
    fn visible_path(&self, ino: u64) -> Vec<u8> {
        let root = self.tree.directory_key(ROOT_INO);
        let key = self.tree.file_key(ino);
        let below = key.as_bytes().strip_prefix(root.as_bytes()).unwrap_or(key.as_bytes());
        let mut path = self.settings.mount_point.as_os_str().as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(below);
        path
    }
}

/// Whether the process has a descriptor of this path that can write. Follows no link: that would ask this very file
/// system, which is waiting for the answer.
#[allow(clippy::disallowed_methods, reason = "only /proc")]
fn holds_for_writing(pid: u32, path: &[u8]) -> bool {
    let process = format!("/proc/{pid}");
    let Ok(descriptors) = std::fs::read_dir(Path::new(&process).join("fd")) else { return false };
    descriptors.take(DESCRIPTORS_MAX).flatten().any(|descriptor| {
        let is_it = std::fs::read_link(descriptor.path())
            .is_ok_and(|target| target.as_os_str().as_bytes() == path);
        let info = Path::new(&process).join("fdinfo").join(descriptor.file_name());
        is_it && std::fs::read_to_string(info).is_ok_and(|info| can_write(&info))
    })
}

/// Whether a descriptor can write, by its flags in `/proc/PID/fdinfo`. One that is opened by O_PATH cannot.
fn can_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags
        .is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn only_descriptors_that_can_write_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("file");
        std::fs::write(&path, "").unwrap();
        let holds = || holds_for_writing(std::process::id(), path.as_os_str().as_bytes());
        let open = |flags| std::fs::File::options().read(true).custom_flags(flags).open(&path);
        let _others = (open(0).unwrap(), open(libc::O_PATH).unwrap());
        assert!(!holds());
        let writer = std::fs::File::options().append(true).open(&path).unwrap();
        assert!(holds());
        drop(writer);
        assert!(!holds());
        assert!(!can_write("pos:\t0\n") && !can_write("flags:\tx\n"));
    }
}
