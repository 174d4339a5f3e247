//! What is mounted where, from /proc/self/mountinfo, and taking a dead mount of ours away. A dead
//! mount answers every stat with ENOTCONN, so paths are resolved here without touching their last step.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub mount_point: PathBuf,
    /// Such as `fuse.ratchetfs`.
    pub kind: String,
    pub source: String,
    pub device: Device,
    /// Whose mount it is, where the kernel says so: the user that it asked for.
    pub owner: Option<u32>,
}

/// A mount's device number. Displays as the kernel names it, `MAJOR:MINOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Device {
    fn parse(field: &[u8]) -> Option<Device> {
        let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
        Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl Mounted {
    pub fn is_ours(&self) -> bool {
        self.kind == "fuse.ratchetfs" || (self.kind == "fuse" && self.source == "ratchetfs")
    }

    /// Its process is gone: "Transport endpoint is not connected", or, while it is still going,
    /// "Software caused connection abort". A stat may be answered from the kernel's memory for a while,
    /// statfs never is.
    pub fn is_dead(&self) -> bool {
        let Ok(path) = CString::new(self.mount_point.as_os_str().as_bytes()) else { return false };
        let mut figures = std::mem::MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: `path` is NUL-terminated, `figures` has room for the answer, which is not looked at.
        if unsafe { libc::statfs(path.as_ptr(), figures.as_mut_ptr()) } == 0 {
            return false;
        }
        let refused = io::Error::last_os_error().raw_os_error();
        matches!(refused, Some(libc::ENOTCONN | libc::ECONNABORTED))
    }
}

/// What is mounted exactly at `path`: the topmost where several are stacked.
pub fn at(path: &Path) -> io::Result<Option<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).into_iter().rfind(|mounted| mounted.mount_point == path))
}

/// Every mount of this program, dead or alive, of all users.
pub fn ours() -> io::Result<Vec<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(parse(&table).into_iter().filter(Mounted::is_ours).collect())
}

fn parse(table: &[u8]) -> Vec<Mounted> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `ID PARENT MAJ:MIN ROOT MOUNT_POINT OPTIONS [TAGS…] - KIND SOURCE SUPER_OPTIONS`
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = Device::parse(fields.nth(2)?)?;
    let mount_point = unescape(fields.nth(1)?);
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(behind.next()?).into_owned();
    let source = unescape(behind.next()?).to_string_lossy().into_owned();
    let options = String::from_utf8_lossy(behind.next().unwrap_or_default());
    let owner = options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok());
    Some(Mounted { mount_point: mount_point.into(), kind, source, device, owner })
}

/// Blanks, tabs, newlines and backslashes stand there as `\NNN`, in octal.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, behind @ ..] = rest {
        let octal = (*first == b'\\')
            .then(|| behind.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &behind[3..] } else { behind };
    }
    OsString::from_vec(plain)
}

/// The absolute path without symbolic links; of a dead mount as well, and of one that hangs: a mount of ours is not
/// asked.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let Some(found) = in_the_table(path) {
        return Ok(found);
    }
    match path.canonicalize() {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(path)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(e),
            }
        }
        other => other,
    }
}

fn in_the_table(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let found = absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?);
    at(&found).ok()??.is_ours().then_some(found)
}

/// Takes a mount out of the tree, even where a program still has something of it open.
pub fn detach(mount_point: &Path) -> io::Result<()> {
    let c_path = CString::new(mount_point.as_os_str().as_bytes())?;
    // SAFETY: `c_path` is NUL-terminated and outlives the call.
    if unsafe { libc::umount2(c_path.as_ptr(), libc::MNT_DETACH) } == 0 {
        return Ok(());
    }
    let refused = io::Error::last_os_error();
    if refused.raw_os_error() != Some(libc::EPERM) {
        return Err(refused);
    }
    let ended = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(mount_point).output()?;
    if ended.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&ended.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_tags_and_escapes() {
        let table =
            b"36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 master:2 - fuse.ratchetfs s3://b rw,user_id=7,group_id=8\n\
            37 35 0:5 / /x rw - tmpfs none rw\n\nbroken\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mount_point, Path::new("/mnt/a b"));
        assert!(mounts[0].is_ours());
        assert_eq!(mounts[0].device, Device { major: 98, minor: 0 });
        assert_eq!((mounts[0].owner, mounts[1].owner), (Some(7), None));
        assert_eq!(mounts[1].kind, "tmpfs");
        assert!(!mounts[1].is_ours());
    }

    #[test]
    fn the_machine_has_a_proc() {
        assert_eq!(at(Path::new("/proc")).unwrap().unwrap().kind, "proc");
        assert_eq!(at(Path::new("/no/such/mount")).unwrap(), None);
    }
}
