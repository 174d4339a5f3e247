//! The command line: arguments, environment and file become settings ([`args`], [`layers`],
//! [`resolve`]); checks that speak before anything goes to the background ([`checks`]); and the
//! commands, one module each.
//!
//! Everything that goes wrong ends as one line on standard error that names the cure, and an exit
//! status that is not 0: 2 for a wrong command line, 1 for the rest.
//!
//! Commands look at the machine as it is (configuration, log, the way to the background, other processes), which no
//! simulation owns: their files and threads are std's.

#![allow(clippy::disallowed_methods, reason = "commands, not the mount")]

use std::ffi::OsString;
use std::process::ExitCode;

pub mod args;
mod background;
mod bucket_uploads;
mod cache;
mod checks;
mod doctor;
mod failure;
mod layers;
mod limit;
mod logging;
mod mount;
mod new_objects;
mod output;
mod resolve;
mod show;
mod status;
mod targets;
mod umount;
pub mod units;
mod uploads;
mod verify;
mod versions;

use crate::secret;
use args::Command;
use failure::Failure;
use output::{complain, print};

/// Runs the command line of this process. Call it before any thread exists: `mount` forks.
pub fn main() -> ExitCode {
    // Caches, logs and stores hold what is in the bucket: no other user is meant to read it.
    // SAFETY: umask has no preconditions and cannot fail; no other thread exists.
    unsafe { libc::umask(0o077) };
    secret::stay_in_this_process();
    output::tell_panics_as_lines();
    unset_what_is_empty();
    make_paths_absolute();
    let outcome = layers::read(std::env::args_os().collect()).and_then(|line| run(line.command));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Shown(text)) => match print(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(Failure::Usage(line)) => {
            complain(&line);
            ExitCode::from(2)
        }
        Err(Failure::Failed(line)) => {
            complain(&line);
            ExitCode::FAILURE
        }
        Err(Failure::Told) => ExitCode::FAILURE,
    }
}

/// `RATCHETFS_X=` is how a variable is taken back where it cannot be unset (unit files, containers); `AWS_X=` means none
/// to AWS's tools.
fn unset_what_is_empty() {
    let is_empty = |(name, value): &(OsString, OsString)| {
        let name = name.as_encoded_bytes();
        value.is_empty() && (name.starts_with(b"RATCHETFS_") || name.starts_with(b"AWS_"))
    };
    let empty: Vec<_> = std::env::vars_os().filter(is_empty).collect();
    for (name, _) in empty {
        // SAFETY: by this function's caller no other thread exists, so none reads the environment now.
        unsafe { std::env::remove_var(name) };
    }
}

/// Files that libraries read when this process has long gone to `/`.
const FILES_IN_ENVIRONMENT: [&str; 6] = [
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

fn make_paths_absolute() {
    for name in FILES_IN_ENVIRONMENT {
        let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) else { continue };
        let is_of_home = path.as_encoded_bytes().starts_with(b"~/");
        if !is_of_home && let Ok(absolute) = std::path::absolute(&path) {
            // SAFETY: by this function's caller no other thread exists, so none reads the environment now.
            unsafe { std::env::set_var(name, absolute) };
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Mount(args) => mount::run(*args),
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Uploads(args) => uploads::run(*args),
        Command::Cache(args) => cache::run(&args),
        Command::Verify(args) => verify::run(*args),
        Command::Versions(args) => versions::versions(*args),
        Command::Undelete(args) => versions::undelete(*args),
        Command::Limit(args) => limit::run(&args),
        Command::Doctor(args) => doctor::run(*args),
    }
}
