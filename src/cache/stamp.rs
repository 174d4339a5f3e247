//! Which cache files need no check after a mount: those that are as they were when all of them was found good.
//!
//! A file is recorded as good with its *stamp*: the kernel's boot id, device, inode, length and ctime. The kernel
//! sets ctime with each change of a file, and no program can set it; so a file with the same stamp holds the same
//! bytes, as long as it is the same kernel that keeps both (another one may have lost what had not come to the disk).
//!
//! Consistency: only ranges count that were checked since the file had the stamp, and the file must have it still
//! when they all are. By then it is on the disk: a disk that goes away under a running kernel may come back with
//! the ctime and without the bytes. Crash: a lost record costs another check; one that is there stays true.
//!
//! What escapes: a change without a new ctime, that is one below the file system (a disk that rots, within one
//! boot), and a program that goes on writing into the cache by one call or mapping that began before the check.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::clock;
use crate::disk::{self, File};
use crate::journal::FileStamp;
use crate::range::RangeSet;
use crate::without::Heuristic;

/// ctime is read off a clock that moves in steps of up to 10 ms: a file that has changed within one may change
/// again without getting another ctime. Five of them, to be sure.
pub(super) const SETTLED_AFTER: Duration = Duration::from_millis(50);

/// Checking less takes about a millisecond, which is not worth a record and a sync.
pub(super) const STAMPED_BYTES_MIN: u64 = 4 << 20;

/// File systems whose ctime this kernel keeps, by their magic numbers: ext2 to 4, XFS, Btrfs, tmpfs, overlayfs,
/// F2FS, ZFS, bcachefs. With the others (NFS, SMB, FUSE) a server does, which may lose bytes without us.
const LOCAL_FILE_SYSTEMS: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];

/// Takes stamps of files in one folder.
pub(super) struct Stamps {
    /// None: they would tell nothing.
    pub(super) boot: Option<[u8; 16]>,
}

/// The ranges that were checked while the file had one stamp.
pub(super) struct Pass {
    pub(super) stamp: FileStamp,
    pub(super) checked: RangeSet,
}

impl Stamps {
    pub(super) fn of_folder(folder: &Path) -> Stamps {
        let may_tell = Heuristic::Stamps.is_on() && is_local(folder);
        Stamps { boot: may_tell.then(boot_id).flatten() }
    }

    /// The file's stamp; none where it proves nothing.
    fn take(&self, file: &File) -> Option<(FileStamp, Duration)> {
        let boot = self.boot?;
        let seen = file.metadata().ok()?;
        let changed = seen.ctime();
        let (seconds, nanos) = (u64::try_from(changed.0).ok()?, u32::try_from(changed.1).ok()?);
        let time = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?;
        // None where it is in the future: the clock was set back, and may show the same time again.
        let age = clock::wall().duration_since(time).ok()?;
        let stamp =
            FileStamp { boot, device: seen.dev(), inode: seen.ino(), len: seen.len(), changed };
        Some((stamp, age))
    }

    /// The file's stamp.
    pub(super) fn now(&self, file: &File) -> Option<FileStamp> {
        self.take(file).map(|(stamp, _)| stamp)
    }

    /// The file's stamp, where the next change of the file is sure to give it another one.
    pub(super) fn settled(&self, file: &File) -> Option<FileStamp> {
        self.take(file).filter(|(_, age)| *age >= SETTLED_AFTER).map(|(stamp, _)| stamp)
    }
}

/// Of this run of the kernel.
fn boot_id() -> Option<[u8; 16]> {
    let text = disk::kernel_says("/proc/sys/kernel/random/boot_id").ok()?;
    parse_boot_id(text.trim())
}

fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.split('-').collect();
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

fn is_local(folder: &Path) -> bool {
    let Ok(folder) = File::open(folder) else { return false };
    let Some(descriptor) = folder.descriptor() else { return false };
    let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open for the length of the call; the pointer is to a structure of the call's own
    // type, which it fills; zeros are a valid value of it.
    let found = unsafe {
        if libc::fstatfs(std::os::fd::AsRawFd::as_raw_fd(&descriptor), found.as_mut_ptr()) != 0 {
            return false;
        }
        found.assume_init()
    };
    LOCAL_FILE_SYSTEMS.contains(&(found.f_type as u64 & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_boot_id_is_sixteen_bytes_or_none() {
        let bytes = parse_boot_id("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((bytes[0], bytes[1], bytes[15]), (0x00, 0x11, 0xff));
        for wrong in ["", "00112233", "+0112233-4455-6677-8899-aabbccddeeff", "none"] {
            assert_eq!(parse_boot_id(wrong), None, "{wrong}");
        }
        assert!(boot_id().is_some());
    }

    #[test]
    fn any_change_of_a_file_changes_its_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let stamps = Stamps { boot: Some([7; 16]) };
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let opened = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let file = File::from(opened.try_clone().unwrap());
        assert_eq!(stamps.settled(&file), None, "it may change within the same tick");
        let settled = || loop {
            if let Some(stamp) = stamps.settled(&file) {
                break stamp;
            }
            std::thread::yield_now();
        };
        let mut before = settled();
        assert_eq!(before, settled(), "looking changes nothing");
        let mtime = opened.metadata().unwrap().modified().unwrap();
        for (what, change) in [
            ("a byte", Box::new(|| opened.write_all_at(b"C", 0).unwrap()) as Box<dyn Fn()>),
            ("mtime set back", Box::new(|| opened.set_modified(mtime).unwrap())),
            (
                "a mode",
                Box::new(|| opened.set_permissions(PermissionsExt::from_mode(0o600)).unwrap()),
            ),
            ("a length", Box::new(|| opened.set_len(3).unwrap())),
            ("a link", Box::new(|| std::fs::hard_link(&path, dir.path().join("other")).unwrap())),
        ] {
            change();
            let after = settled();
            assert_ne!(before, after, "{what}");
            before = after;
        }
        let other_boot = Stamps { boot: Some([8; 16]) };
        assert_ne!(other_boot.settled(&file), Some(before));
        assert_eq!(Stamps { boot: None }.settled(&file), None);
    }
}
