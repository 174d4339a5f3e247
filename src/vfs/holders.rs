//! Which close(2) is the last one?
//!
//! The kernel sends FLUSH for every close of a descriptor, also for copies: a shell that redirects
//! opens, duplicates and closes before a byte is written, and a child that inherited a descriptor
//! closes it when it ends. Publishing at each of these would send a file several times. So a close
//! waits for a later one if a process that is known to hold the file, the closer or the opener, still
//! has it open. Where that cannot be seen (another pid namespace, no /proc) every close publishes,
//! which is correct and only costs requests.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use std::time::Duration;

use super::Vfs;
use super::handle::FileHandle;

/// How long a look at a process's descriptors may take.
const LOOK: Duration = Duration::from_millis(100);

impl Vfs {
    /// Whether a process that had this handle still has the file open for writing.
    pub(super) async fn is_held_elsewhere(&self, handle: &FileHandle, closer: u32) -> bool {
        // Two handles of one file cannot be told apart by path.
        if self.handles.of(handle.inode.ino).len() > 1 {
            return false;
        }
        let path = self.visible_path(handle.inode.ino);
        let opener = Some(handle.opener).filter(|opener| *opener != closer);
        for pid in opener.into_iter().chain([closer]) {
            if pid != 0 && self.holds_in_time(pid, &path).await {
                return true;
            }
        }
        false
    }

    /// A process in execve(2) closes what is not to be inherited while nobody may look at its
    /// descriptors: the look would wait for the close, and the close waits for us. So nobody waits long.
    async fn holds_in_time(&self, pid: u32, path: &[u8]) -> bool {
        let path = path.to_vec();
        let look = self.runtime.spawn_blocking(move || holds_for_writing(pid, &path));
        matches!(tokio::time::timeout(LOOK, look).await, Ok(Ok(true)))
    }

    /// The file's path as /proc shows it.
    fn visible_path(&self, ino: u64) -> Vec<u8> {
        let root = self.inodes.directory_key(super::ROOT_INO);
        let key = self.inodes.file_key(ino);
        let below = key.as_bytes().strip_prefix(root.as_bytes()).unwrap_or(key.as_bytes());
        let mut path = self.settings.mount_point.as_os_str().as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(below);
        path
    }
}

/// Whether the process has a descriptor of this path. Follows no link: that would ask this very file
/// system, which is waiting for the answer.
fn holds_for_writing(pid: u32, path: &[u8]) -> bool {
    let folder = format!("/proc/{pid}/fd");
    let Ok(descriptors) = std::fs::read_dir(Path::new(&folder)) else { return false };
    descriptors.flatten().any(|descriptor| {
        std::fs::read_link(descriptor.path())
            .is_ok_and(|target| target.as_os_str().as_bytes() == path)
    })
}
