//! What a mount is told: plain typed values, with their defaults, and nothing of how they were given
//! (flag, environment, file; that is [`crate::cli`]). [`crate::mount`] hands each component its share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use crate::store::OnOutage;
pub use crate::store::s3::{Addressing, ClientCertificate, NewObjects, Provider};
use crate::store::{Key, Rates};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The smallest part that S3 takes (but for the last of an upload), in bytes.
pub const PART_BYTES_MIN: u64 = 5 * MIB;
/// The largest part that S3 takes, in bytes.
pub const PART_BYTES_MAX: u64 = 5 * GIB;
/// Below this, in bytes, not even one small part and its read-ahead fit.
pub const MEMORY_BYTES_MIN: u64 = 16 * MIB;

/// Everything that one mount needs to know.
#[derive(Clone, Debug)]
pub struct MountSettings {
    pub bucket: String,
    /// Only keys that begin with it are seen. Empty, or ends in `/`.
    pub prefix: Key,
    /// Absolute, without symbolic links.
    pub mount_point: PathBuf,
    pub store: StoreOptions,
    pub cache: CacheOptions,
    pub transfer: TransferOptions,
    pub files: FileOptions,
    pub run: RunOptions,
}

/// Which server, and how to talk to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreOptions {
    /// Such as `https://oss-cn-hangzhou.aliyuncs.com`; AWS where `None`.
    pub endpoint_url: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    pub no_sign_request: bool,
    pub provider: Provider,
    pub addressing: Addressing,
    /// A PEM file of certificates to trust beside the system's.
    pub ca_bundle: Option<PathBuf>,
    pub client_certificate: Option<ClientCertificate>,
    pub requester_pays: bool,
    pub new_objects: NewObjects,
    /// Serve the bucket from this directory, by this process, instead of reaching for a server.
    pub embedded: Option<PathBuf>,
    /// Where the program was started: a mount in the background is at `/`. Credential helpers run there.
    pub start_dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CacheOptions {
    /// Holds a folder for each bucket.
    pub dir: PathBuf,
    /// The most that clean parts may fill on disk, in bytes; 0 keeps none.
    pub size: u64,
    /// The most memory that parts may fill, in bytes.
    pub memory: u64,
    pub metadata_ttl: Ttl,
}

/// How long something learnt of the store is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    For(Duration),
    Forever,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TransferOptions {
    /// Length of an upload's first parts, and of the largest single GET, in bytes.
    pub part_size: u64,
    /// Requests for parts in flight at once.
    pub concurrency: usize,
    /// How fast, until they are changed on the live mount.
    pub rates: Rates,
    /// How often one request is tried, the first time included; as often as the time allows where `None`.
    pub max_attempts: Option<u32>,
    /// How long one request may take, retries included, while nothing arrives; a minute at most where it asks for
    /// names and attributes only.
    /// [`FOR_EVER`](crate::clock::FOR_EVER) has no end, for those either.
    pub timeout: Duration,
    pub on_outage: OnOutage,
    /// How long an interrupted upload waits for its writer to come back before it is aborted.
    pub resume_expiry: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FileOptions {
    pub read_only: bool,
    pub write_back: bool,
    pub fast_attributes: bool,
    pub allow_other: bool,
    /// Owner of objects that do not tell theirs.
    pub uid: u32,
    pub gid: u32,
    /// Permission bits of objects that do not tell theirs.
    pub file_mode: u32,
    pub dir_mode: u32,
    /// New files get the content type that their names tell.
    pub content_type: bool,
    /// Serve what the cache directory holds, and ask nothing of the store. Implies `read_only`.
    pub offline: bool,
    /// Show the bucket as it was then. Implies `read_only`.
    pub version_at: Option<SystemTime>,
}

impl FileOptions {
    /// Whether what is shown stays as it is, so that nothing of it grows old; and tells nothing of how the bucket is now.
    pub fn stands_still(&self) -> bool {
        self.offline || self.version_at.is_some()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    pub foreground: bool,
    /// How long a store is waited for that does not answer yet; not at all where `None`.
    pub mount_timeout: Option<Duration>,
    pub log_level: log::LevelFilter,
    /// Standard error where `None`.
    pub log_file: Option<PathBuf>,
    pub metrics_listen: Option<SocketAddr>,
}

impl Default for TransferOptions {
    fn default() -> Self {
        TransferOptions {
            part_size: PART_BYTES_MIN,
            concurrency: 16,
            rates: Rates::default(),
            max_attempts: None,
            timeout: Duration::from_secs(300),
            on_outage: OnOutage::default(),
            resume_expiry: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Ttl::For(Duration::from_secs(1))
    }
}

impl CacheOptions {
    /// Where the cache lies unless told otherwise: `$XDG_CACHE_HOME/ratchetfs`, else
    /// `~/.cache/ratchetfs`, else (a service without a home) `/var/cache/ratchetfs`.
    pub fn default_dir() -> PathBuf {
        let absolute = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(|| PathBuf::from("/var/cache"))
            .join("ratchetfs")
    }

    /// 10 GiB, or a quarter of the disk where that is less. Of the whole disk, not of its free room:
    /// what the cache itself fills must not shrink it at the next mount.
    pub fn default_size(dir: &Path) -> u64 {
        let quarter = disk_bytes(dir).map_or(u64::MAX, |disk| disk.total / 4);
        quarter.min(10 * GIB)
    }

    /// A quarter of what this process may use (machine or cgroup, whichever is less), at most 2 GiB,
    /// at least 64 MiB.
    pub fn default_memory() -> u64 {
        let usable = machine_memory_bytes().min(cgroup_memory_bytes());
        (usable / 4).clamp(64 * MIB, 2 * GIB)
    }
}

/// The room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskBytes {
    pub total: u64,
    /// To a process without privileges.
    pub free: u64,
}

/// The room on the file system that `path`, or the nearest directory above it that exists, is on.
pub fn disk_bytes(path: &Path) -> Option<DiskBytes> {
    use std::os::unix::ffi::OsStrExt;
    let existing = path.ancestors().find(|ancestor| crate::disk::exists(ancestor))?;
    let c_path = std::ffi::CString::new(existing.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `c_path` is NUL-terminated and `stat` has room for what statvfs writes.
    let answer = unsafe { libc::statvfs(c_path.as_ptr(), stat.as_mut_ptr()) };
    if answer != 0 {
        return None;
    }
    // SAFETY: statvfs succeeded, so it has filled `stat`.
    let stat = unsafe { stat.assume_init() };
    Some(DiskBytes { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
}

/// `u64::MAX` where /proc does not tell.
fn machine_memory_bytes() -> u64 {
    crate::disk::kernel_says("/proc/meminfo")
        .ok()
        .and_then(|text| mem_total_bytes(&text))
        .unwrap_or(u64::MAX)
}

fn mem_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * KIB)
}

/// The tightest limit of this process's cgroup and those above it; `u64::MAX` without one.
fn cgroup_memory_bytes() -> u64 {
    let read = |path: &Path| crate::disk::kernel_says(path).ok();
    let of_process = |name: &str| read(&Path::new("/proc/self").join(name)).unwrap_or_default();
    cgroup_limit(&of_process("cgroup"), &of_process("mountinfo"), read)
}

/// Both versions of cgroups may be mounted, anywhere; a container may see a part of the tree only.
fn cgroup_limit(cgroup: &str, mountinfo: &str, read: impl Fn(&Path) -> Option<String>) -> u64 {
    let mut limits = Vec::new();
    for line in cgroup.lines() {
        // `ID:CONTROLLERS:PATH`; version 2 names no controllers.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(own)) = (fields.next(), fields.next()) else { continue };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let Some((root, place)) = cgroup_mount(mountinfo, is_v2) else { continue };
        let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
        let folder = place.join(below);
        let files: &[&str] =
            if is_v2 { &["memory.max", "memory.high"] } else { &["memory.limit_in_bytes"] };
        for above in folder.ancestors().take_while(|above| above.starts_with(place)) {
            let told = files.iter().filter_map(|file| read(&above.join(file)));
            // Without a limit version 2 says "max", version 1 a number beyond any machine.
            limits.extend(told.filter_map(|text| text.trim().parse::<u64>().ok()));
        }
        // What groups above this part of the tree allow.
        let figures = read(&folder.join("memory.stat")).unwrap_or_default();
        let whole = figures.lines().find_map(|it| it.strip_prefix("hierarchical_memory_limit "));
        limits.extend(whole.and_then(|limit| limit.trim().parse::<u64>().ok()));
    }
    limits.into_iter().min().unwrap_or(u64::MAX)
}

/// Which part of the tree is mounted, and where: of version 2, or of the memory controller of version 1.
fn cgroup_mount(mountinfo: &str, is_v2: bool) -> Option<(&Path, &Path)> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut kind = filesystem.split(' ');
        let fits = match (kind.next()?, is_v2) {
            ("cgroup2", true) => true,
            ("cgroup", false) => kind.nth(1)?.split(',').any(|option| option == "memory"),
            _ => false,
        };
        let mut fields = mount.split(' ').skip(3);
        let found = (Path::new(fields.next()?), Path::new(fields.next()?));
        fits.then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_memory_lies_within_its_bounds() {
        let memory = CacheOptions::default_memory();
        assert!((64 * MIB..=2 * GIB).contains(&memory), "{memory}");
    }

    /// The limit that is found where these files hold these numbers.
    fn limit(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> u64 {
        cgroup_limit(cgroup, mountinfo, |path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| format!("{text}\n"))
        })
    }

    #[test]
    fn the_limit_is_that_of_the_processs_own_group_and_those_above() {
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let nested = "0::/user.slice/app.scope\n";
        for (files, expected) in [
            (&[("/sys/fs/cgroup/user.slice/app.scope/memory.max", "200")][..], 200),
            (&[("/sys/fs/cgroup/user.slice/app.scope/memory.high", "100")], 100),
            (&[("/sys/fs/cgroup/user.slice/memory.max", "300")], 300),
            (&[("/sys/fs/cgroup/memory.max", "400")], 400),
            (&[("/sys/fs/cgroup/user.slice/app.scope/memory.max", "max")], u64::MAX),
            (&[("/sys/fs/cgroup/user.slice/other.scope/memory.max", "1")], u64::MAX),
        ] {
            assert_eq!(limit(nested, v2, files), expected, "{files:?}");
        }
        // Version 1: a container that sees its own part of the tree, and one that is limited from above.
        let v1 = "40 30 0:33 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                  41 30 0:34 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let own = "5:memory:/docker/x/job\n4:cpu,cpuacct:/other\n0::/\n";
        for (files, expected) in [
            (&[("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "200")][..], 200),
            (&[("/sys/fs/cgroup/memory/memory.limit_in_bytes", "300")], 300),
            (
                &[(
                    "/sys/fs/cgroup/memory/job/memory.stat",
                    "cache 1\nhierarchical_memory_limit 150",
                )],
                150,
            ),
            (&[("/sys/fs/cgroup/cpu/other/memory.limit_in_bytes", "1")], u64::MAX),
        ] {
            assert_eq!(limit(own, v1, files), expected, "{files:?}");
        }
        assert_eq!(limit("", "", &[]), u64::MAX);
        assert_eq!(limit("0::/../beside", v2, &[("/sys/fs/cgroup/memory.max", "7")]), 7);
    }

    #[test]
    fn meminfo_is_read_in_kib() {
        assert_eq!(mem_total_bytes("MemTotal:  1024 kB\nMemFree: 1 kB\n"), Some(MIB));
        assert_eq!(mem_total_bytes("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn room_is_told_for_a_directory_that_is_not_there_yet() {
        let disk = disk_bytes(Path::new("/no/such/directory")).unwrap();
        assert!(disk.total >= disk.free);
        assert!(CacheOptions::default_size(Path::new("/")) <= 10 * GIB);
    }
}
