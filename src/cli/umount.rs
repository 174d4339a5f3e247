//! `ratchetfs umount`: drain with progress, then unmount; or take a dead mount away.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::args::UmountArgs;
use super::failure::Failure;
use super::output::{complain, plain};
use super::targets;
use crate::control::ControlError;
use crate::control::client::Client;
use crate::control::connection::Connection;
use crate::control::messages::{Request, Response};
use crate::control::mount_table::{self, Mounted};
use crate::private::uid;

/// How long the mount's process may take to end once it is unmounted: its journal is written, its
/// connections are closed.
const ENDING_MAX: Duration = Duration::from_secs(60);

/// --now: a mount that is well tells within the first what becomes of it, and its process ends within the second. Ten
/// seconds together.
const HEARD_WITHIN: Duration = Duration::from_secs(4);
const KILLED_AFTER: Duration = Duration::from_secs(5);

/// A mount that has not answered for this long is named while it is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(args: &UmountArgs) -> Result<(), Failure> {
    let path = mount_table::resolve(&args.mount_point)
        .map_err(|e| targets::unresolved(&args.mount_point, &e))?;
    let Some(mut client) = Client::of_mount(&path) else { return end_dead(&path) };
    if args.now {
        return end_now(client, &path);
    }
    match await_answer(&mut client) {
        Ok(()) => end_live(client, &path),
        // Between a kill and the end of the process its socket can be connected to.
        Err(Answer::HungUp) => end_dead(&path),
        Err(Answer::Failed(failure)) => Err(failure),
    }
}

/// Why a mount does not answer.
enum Answer {
    HungUp,
    Failed(Failure),
}

/// Waits for a mount that is busy; not for one that is stopped.
fn await_answer(client: &mut Client) -> Result<(), Answer> {
    let silent = match client.status_within(PATIENCE) {
        Ok(_) => return Ok(()),
        Err(error) if error.is_hang_up() => return Err(Answer::HungUp),
        Err(error @ ControlError::Silent { .. }) => error,
        Err(error) => return Err(Answer::Failed(error.into())),
    };
    if let Some(pid) = client.process()
        && is_stopped(pid)
    {
        return Err(Answer::Failed(Failure::Failed(format!(
            "process {pid} of this mount is stopped; let it go on: kill -CONT {pid}"
        ))));
    }
    complain(&format!("{silent}; waiting"));
    // The answer to the first question is still to come.
    match client.await_status() {
        Ok(_) => Ok(()),
        Err(error) if error.is_hang_up() => Err(Answer::HungUp),
        Err(error) => Err(Answer::Failed(error.into())),
    }
}

/// By a signal, or a debugger.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, behind)| behind.chars().next());
    matches!(state, Some('T' | 't'))
}

fn end_live(mut client: Client, path: &Path) -> Result<(), Failure> {
    let process = client.process().map(|pid| Ok::<_, io::Error>((pid, Process::open(pid)?)));
    let process = process.transpose()?;
    drain(&mut client, path)?;
    match client.ask_patiently(&Request::Shutdown { now: false }) {
        Ok(Response::Done) => {}
        // It may end before it has answered: that is what was asked for.
        Err(error) if error.is_hang_up() => {}
        Ok(other) => return Err(crate::control::client::unexpected(&other).into()),
        Err(error) => return Err(error.into()),
    }
    // One of another container cannot be waited for.
    if let Some((pid, process)) = process
        && !process.await_end(ENDING_MAX)?
    {
        let shown = path.display();
        return Err(Failure::Failed(format!(
            "{shown} is unmounted here, but its process {pid} serves another mount namespace (a container), \
             or uploads; see its log, or end it: ratchetfs umount --now {shown}"
        )));
    }
    Ok(())
}

/// Ends a mount that may be in use, and hang: by asking it, or by ending its process. Waits for nothing else.
fn end_now(mut client: Client, path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    let process = client.process().map(|pid| Ok::<_, io::Error>((pid, Process::open(pid)?)));
    let Some((pid, process)) = process.transpose()? else {
        client.ask(&Request::Shutdown { now: true })?;
        return Ok(());
    };
    let mounted = mount_table::at(path)?.filter(Mounted::is_ours);
    let connection = mounted.as_ref().and_then(|mounted| Connection::of(mounted).ok());
    match client.ask_within(&Request::Shutdown { now: true }, HEARD_WITHIN) {
        Ok(Response::Told(line)) => complain(&plain(&line)),
        Err(error @ ControlError::Refused(_)) => return Err(error.into()),
        // One that hangs, or that has ended already.
        Err(error) => log::debug!("{error}"),
        Ok(_) => {}
    }
    if !process.await_end(KILLED_AFTER)? {
        complain(&format!(
            "process {pid} of {shown} did not end: killed; what it has not uploaded waits for the next mount"
        ));
        // A process that waits for its own mount is freed by nothing else.
        connection.map_or(Ok(()), |connection| connection.abort())?;
        process.kill()?;
        process.await_end(KILLED_AFTER)?;
    }
    if mount_table::at(path)?.is_some_and(|left| mounted.is_some_and(|it| it.device == left.device))
    {
        mount_table::detach(path)?;
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
    let is_ours = mounted.owner.is_none_or(|owner| owner == uid()) || uid() == 0;
    if !is_ours || !mounted.is_dead() {
        return Err(Failure::Failed(targets::why_unreachable(&mounted)));
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
        // SAFETY: the call succeeded, so `fd` is open and has no other owner.
        Ok(Process { pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    fn kill(&self) -> io::Result<()> {
        let (fd, signal) = (self.pidfd.as_raw_fd(), libc::SIGKILL);
        // SAFETY: takes an open descriptor and plain values; without siginfo it is what kill(2) sends.
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<u8>(), 0)
        };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
        process.kill().unwrap();
        assert!(process.await_end(ENDING_MAX).unwrap());
        child.wait().unwrap();
    }
}
