//! `ratchetfs umount`: drain with progress, then unmount; or take a dead mount away.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::UmountArgs;
use super::{Failure, complain, mount_table};
use crate::control::client::Client;
use crate::control::messages::{Request, Response};

/// How long the mount's process may take to end once it is unmounted: its journal is written, its
/// connections are closed.
const ENDING_MAX: Duration = Duration::from_secs(60);

pub fn run(args: &UmountArgs) -> Result<(), Failure> {
    let path = mount_table::resolve(&args.mount_point)
        .map_err(|e| mount_table::unresolved(&args.mount_point, &e))?;
    match Client::of_mount(&path) {
        Some(client) if Client::is_alive_at(&path) => end_live(client, &path, args.now),
        _ => end_dead(&path),
    }
}

fn end_live(mut client: Client, path: &Path, now: bool) -> Result<(), Failure> {
    let status = client.status()?;
    let process = Process::open(status.pid)?;
    if !now {
        drain(&mut client, path)?;
    }
    match client.ask_patiently(&Request::Shutdown { now }) {
        Ok(Response::Done) => {}
        // It may end before it has answered: that is what was asked for.
        Err(error) if error.is_hang_up() => {}
        Ok(other) => return Err(crate::control::client::unexpected(&other).into()),
        Err(error) => return Err(error.into()),
    }
    if !process.await_end(ENDING_MAX)? {
        return Err(Failure::Failed(format!(
            "{} is unmounted, but its process {} has not ended; see its log",
            path.display(),
            status.pid
        )));
    }
    Ok(())
}

fn drain(client: &mut Client, path: &Path) -> Result<(), Failure> {
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
    )
    .map_err(|e| e.to_string())?;
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::new(0).with_style(style).with_message("uploading");
    let outcome = client.drain(|progress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        bar.set_message(format!("uploading, {} files left", progress.files_left));
    });
    bar.finish_and_clear();
    outcome.map_err(|e| {
        let shown = path.display();
        Failure::from(e).add(&format!(
            " (still mounted; ratchetfs umount --now {shown} leaves the rest to the next mount)"
        ))
    })
}

/// No process answers for `path`: whatever of ours is left there goes.
fn end_dead(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let Some(mounted) = mount_table::at(path)? else {
        return Err(Failure::Failed(format!(
            "nothing is mounted at {shown}; see ratchetfs status"
        )));
    };
    if !mounted.is_ours() {
        return Err(Failure::Failed(format!(
            "{shown} is a {} mount, not one of ratchetfs; use umount",
            mounted.kind
        )));
    }
    if !mounted.is_dead() {
        return Err(Failure::Failed(format!(
            "the mount at {shown} cannot be asked (another user's?); run as that user, or: \
             fusermount3 -u {shown}"
        )));
    }
    mount_table::detach(path).map_err(|e| format!("{shown}: {e}"))?;
    complain(&format!(
        "took away the dead mount at {shown}; interrupted uploads wait in its cache"
    ));
    Ok(())
}

/// Another process, held by a descriptor: its number may be given to another one, this may not.
struct Process {
    pidfd: OwnedFd,
}

impl Process {
    fn open(pid: u32) -> io::Result<Process> {
        // SAFETY: pidfd_open takes two plain numbers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so `fd` is open and nobody else owns it.
        Ok(Process { pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    /// Whether it ended in time.
    fn await_end(&self, time: Duration) -> io::Result<bool> {
        let mut poll =
            libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid entry, and the count says one.
        match unsafe { libc::poll(&mut poll, 1, time.as_millis() as i32) } {
            -1 => Err(io::Error::last_os_error()),
            ready => Ok(ready == 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen_and_its_life_too() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(!process.await_end(Duration::ZERO).unwrap());
        child.kill().unwrap();
        assert!(process.await_end(ENDING_MAX).unwrap());
        child.wait().unwrap();
    }
}
