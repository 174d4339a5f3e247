//! Going to the background: fork before any thread exists, and let the first process wait for one line
//! from the second through a pipe. What the caller sees (exit status, error line) is the mount's own.
//!
//! Cancellation: a caller that is killed while it waits leaves a mount that was never reported; it is
//! asked to end. One that waits for its store sees that the pipe has no reader, and ends at once. Crash: a second process that dies without a word closes the pipe, and is reported.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use super::output::complain;
use crate::mount::Outcome;

/// The end of what means success; before it stands a line worth knowing, or nothing. No error ends so.
const READY: u8 = b'\n';

/// The end of a line that is told before the outcome is known. No line has it.
const MEANWHILE: u8 = 0x1e;

/// Which of the two processes this is.
pub enum Side {
    /// What the other one reported.
    Foreground(Outcome),
    Background(Report),
}

/// What the background says to the process that waits for it.
pub struct Report {
    pipe: File,
}

impl Report {
    /// Tells it a line while it waits.
    pub fn tell(&self, line: &str) {
        let line = [line.as_bytes(), &[MEANWHILE]].concat();
        if let Err(e) = (&self.pipe).write_all(&line) {
            // Seen by what watches the pipe, and by `send`.
            log::debug!("the command that started this mount has gone ({e})");
        }
    }

    /// The pipe, to see whether that process has gone ([`until_left`]).
    pub fn watched(&self) -> io::Result<File> {
        self.pipe.try_clone()
    }

    /// Tells the waiting process how it went.
    pub fn send(mut self, outcome: &Outcome) {
        let line = match outcome {
            Ok(note) => format!("{}{}", note.as_deref().unwrap_or_default(), char::from(READY)),
            Err(line) => line.trim_end().to_owned(),
        };
        if let Err(e) = self.pipe.write_all(line.as_bytes()) {
            log::warn!("the command that started this mount has gone ({e}): ending it");
            // SAFETY: raising a signal in this process, where it asks for an orderly unmount.
            unsafe { libc::raise(libc::SIGTERM) };
        }
    }
}

/// Ends when the process that reads from the pipe has gone. Needs a runtime.
pub async fn until_left(pipe: File) -> io::Result<()> {
    // That is no block for lines that fit into the pipe: the other user of the end does not notice.
    let pipe = Sender::from_owned_fd(pipe.into())?;
    pipe.ready(Interest::ERROR).await.map(drop)
}

/// Forks. Must be called while this process has a single thread. `stderr` receives what a panic or the
/// C library still writes there.
pub fn fork(stderr: &File) -> io::Result<Side> {
    let (reading, writing) = pipe()?;
    // SAFETY: by contract no other thread exists, so the child may go on as if nothing had happened.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reading);
            leave_terminal(stderr)?;
            Ok(Side::Background(Report { pipe: writing.into() }))
        }
        _ => {
            drop(writing);
            Ok(Side::Foreground(await_report(reading.into())))
        }
    }
}

fn await_report(mut pipe: File) -> Outcome {
    let (mut line, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match pipe.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&bytes[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("cannot hear from the mount's process: {e}")),
        }
        while let Some(end) = line.iter().position(|byte| *byte == MEANWHILE) {
            let told: Vec<u8> = line.drain(..=end).collect();
            complain(&String::from_utf8_lossy(&told[..end]));
        }
    }
    match line.split_last() {
        Some((&READY, note)) => {
            let note = String::from_utf8_lossy(note).into_owned();
            Ok(Some(note).filter(|note| !note.is_empty()))
        }
        None => Err("the mount's process died without a word; see its log".to_owned()),
        Some(_) => Err(String::from_utf8_lossy(&line).into_owned()),
    }
}

/// Close-on-exec, so that a credential helper does not hold it open.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors that pipe2 writes.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: pipe2 succeeded, so both are open and have no other owner.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A session of its own, no terminal, no directory that it would keep busy.
fn leave_terminal(stderr: &File) -> io::Result<()> {
    // SAFETY: setsid has no preconditions; a forked child is no group leader, so it cannot fail.
    unsafe { libc::setsid() };
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for (from, to) in [(&null, 0), (&null, 1), (stderr, 2)] {
        // SAFETY: both are open descriptors of this process; 0 to 2 have no owner.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
