//! The kernel's side of a mount: mounting, serving, unmounting.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use fuser::{Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;

use crate::blocking;
use crate::control::connection::Connection;
use crate::control::mount_table::{self, Device, Mounted};
use crate::fuse::{Fuse, Pages};
use crate::lock::{Condvar, Mutex, rank};
use crate::settings::MountSettings;
use crate::vfs::Vfs;

/// Threads that read requests; answers that need waiting come from the runtime.
const THREADS_MAX: usize = 4;

/// How far the kernel reads ahead through its page cache, in KiB: one of our requests.
const READ_AHEAD_KIB: u32 = 1024;

/// A mount in the kernel. The process that serves a mount never looks at it, by stat(2) or otherwise: killed in the
/// middle of that it would wait for itself, and nothing could end it.
pub(super) struct Kernel {
    mount_point: PathBuf,
    /// `None` where the table of mounts does not show it.
    mounted: Option<Mounted>,
    connection: io::Result<Connection>,
    ended: Arc<(Mutex<bool, rank::SessionEnded>, Condvar)>,
}

impl Kernel {
    /// Mounts and starts serving. When this returns the kernel and we have shaken hands: the mount answers.
    pub fn mount(settings: &MountSettings, vfs: Arc<Vfs>, runtime: Handle) -> anyhow::Result<Self> {
        let mut config = Config::default();
        config.mount_options = mount_options(settings);
        config.acl = if settings.files.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(threads());
        let fuse = Fuse::new(vfs.clone(), runtime);
        let session = session(fuse, settings, config).map_err(|error| refused(&error, settings))?;
        vfs.tell_kernel_by(Arc::new(Pages::new(session.notifier())));
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let notify = ended.clone();
        let serve = move || {
            if let Err(error) = session.run() {
                log::error!("the kernel's requests cannot be read any more: {error}");
            }
            *notify.0.lock() = true;
            notify.1.notify_all();
        };
        blocking::thread("ratchetfs-fuse", serve).context("no thread for the kernel's requests")?;
        let mounted = mount_table::at(&settings.mount_point).ok().flatten();
        let mounted = mounted.filter(Mounted::is_ours);
        let connection = mounted.as_ref().ok_or_else(not_shown).and_then(Connection::of);
        Ok(Kernel { mount_point: settings.mount_point.clone(), mounted, connection, ended })
    }

    /// Sets what can only be set on a live mount.
    pub fn tune(&self) {
        let tuned = self.mounted.as_ref().ok_or_else(not_shown);
        if let Err(error) = tuned.and_then(|mounted| read_ahead(mounted.device)) {
            // Only root may; our own read-ahead does the same with shorter requests.
            log::debug!("the kernel's read-ahead stays as it is: {error}");
        }
    }

    /// Cuts off all programs that still use the mount: see [`Connection::abort`].
    pub fn abort(&self) -> io::Result<()> {
        match &self.connection {
            Ok(connection) => connection.abort(),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    /// Ends all waiting for the end of the mount.
    pub fn give_up(&self) {
        *self.ended.0.lock() = true;
        self.ended.1.notify_all();
    }

    /// Blocks until the mount is gone, taken away by this process or another.
    pub fn wait(&self) {
        let mut ended = self.ended.0.lock();
        while !*ended {
            self.ended.1.wait(&mut ended);
        }
    }

    /// Whether the mount is gone within `time`, taken away by this process or another.
    pub fn ends_within(&self, time: Duration) -> bool {
        let mut ended = self.ended.0.lock();
        !self.ended.1.wait_while_for(&mut ended, |ended| !*ended, time).timed_out()
    }

    /// Unmounts. `detach`: also while files are open; they keep working until they are closed.
    pub fn unmount(&self, detach: bool) -> io::Result<()> {
        if *self.ended.0.lock() {
            return Ok(());
        }
        match unmount(&self.mount_point, detach) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.unmount_by_helper(detach)
            }
            other => other,
        }
    }

    /// For users other than root: by the set-user-id helper that mounted.
    fn unmount_by_helper(&self, detach: bool) -> io::Result<()> {
        let mut command = Command::new("fusermount3");
        command.arg("-u");
        if detach {
            command.arg("-z");
        }
        let output = command.arg("--").arg(&self.mount_point).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Root mounts by itself, with the type that /etc/fstab and `mount -t` know; others by the set-user-id
/// helper, which does the same.
#[allow(clippy::disallowed_methods, reason = "the kernel's own device")]
fn session(fuse: Fuse, settings: &MountSettings, config: Config) -> io::Result<Session<Fuse>> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Session::new(fuse, &settings.mount_point, &config);
    }
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    mount_as_root(&device, settings)?;
    let acl = config.acl;
    Session::from_fd(fuse, device.into(), acl, config).inspect_err(|_| {
        // The handshake failed: a mount that is not served would only be in the way.
        if let Err(error) = unmount(&settings.mount_point, true) {
            log::warn!("{} stays mounted: {error}", settings.mount_point.display());
        }
    })
}

fn mount_as_root(device: &File, settings: &MountSettings) -> io::Result<()> {
    // SAFETY: these have no preconditions and cannot fail.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let mut data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if settings.files.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = libc::MS_NODEV | libc::MS_NOSUID | libc::MS_NOATIME;
    if settings.files.read_only {
        flags |= libc::MS_RDONLY;
    }
    let source = CString::new(source(settings))?;
    let target = CString::new(settings.mount_point.as_os_str().as_bytes())?;
    let data = CString::new(data)?;
    // SAFETY: all strings are NUL-terminated and outlive the call.
    let mounted = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            c"fuse.ratchetfs".as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    if mounted == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unmount(mount_point: &Path, detach: bool) -> io::Result<()> {
    let path = CString::new(mount_point.as_os_str().as_bytes())?;
    let flags = if detach { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// What /proc/mounts shows as the mount's source.
fn source(settings: &MountSettings) -> String {
    let source = format!("s3://{}/{}", settings.bucket, settings.prefix);
    // A comma would end the helper's option.
    source.trim_end_matches('/').replace(',', "_")
}

fn mount_options(settings: &MountSettings) -> Vec<MountOption> {
    let mut options = vec![
        MountOption::FSName(source(settings)),
        MountOption::Subtype("ratchetfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    if settings.files.read_only {
        options.push(MountOption::RO);
    }
    options
}

fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    cores.clamp(2, THREADS_MAX)
}

fn refused(error: &io::Error, settings: &MountSettings) -> anyhow::Error {
    let place = settings.mount_point.display();
    let cure = match error.raw_os_error() {
        Some(libc::ENOENT) => "load the fuse module (modprobe fuse) and install fuse3",
        Some(libc::EPERM | libc::EACCES) if settings.files.allow_other => {
            "--allow-other needs root, or user_allow_other in /etc/fuse.conf"
        }
        Some(libc::EPERM | libc::EACCES) => "you must own the mount point, or be root",
        _ => "see `ratchetfs doctor`",
    };
    anyhow!("{place} cannot be mounted: {error}: {cure}")
}

fn not_shown() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the table of mounts did not show it")
}

/// Raises how far the kernel reads ahead; fuser can only lower it.
#[allow(clippy::disallowed_methods, reason = "a setting of the kernel's")]
fn read_ahead(device: Device) -> io::Result<()> {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    std::fs::write(path, READ_AHEAD_KIB.to_string())
}
