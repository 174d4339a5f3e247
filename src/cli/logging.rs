//! Where log lines go.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use log::LevelFilter;

use super::output::plain;
use crate::private;

/// A log that has grown beyond this, in bytes, is put aside at the next mount (one older one is kept):
/// months of ordinary running, and never a full disk.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Opens the log for appending: a new one is for this user's eyes only, an old one keeps its readers.
pub fn open(path: &Path) -> Result<File, String> {
    let told = |e: io::Error| {
        format!("log file {}: {e}; name one that you may write to with --log-file", path.display())
    };
    let foreign = |owner| told(io::Error::other(format!("it belongs to user {owner}")));
    let is_foreign = |it: &Metadata| it.uid() != 0 && it.uid() != private::uid();
    let existing = std::fs::symlink_metadata(path).ok();
    // Before it is opened: a pipe would be waited at, a link could lead anywhere.
    if let Some(existing) = existing.as_ref().filter(|it| is_foreign(it)) {
        return Err(foreign(existing.uid()));
    }
    if existing.as_ref().is_some_and(|it| it.is_file() && it.len() > LOG_BYTES_MAX) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, PathBuf::from(aside)).map_err(told)?;
    }
    let mut options = private::file_options();
    // A link that this user or root has made is meant.
    if existing.is_some_and(|it| it.is_symlink()) {
        options.custom_flags(0);
    }
    let file = options.append(true).create(true).open(path).map_err(told)?;
    match file.metadata().map_err(told)? {
        opened if is_foreign(&opened) => Err(foreign(opened.uid())),
        _ => Ok(file),
    }
}

/// As [`open`], of a log that lies in the cache directory: what an older version left open to others is closed.
pub fn open_own(path: &Path) -> Result<File, String> {
    let file = open(path)?;
    private::tighten(&file).map_err(|e| format!("log file {}: {e}", path.display()))?;
    Ok(file)
}

/// From here on log lines go to `file`, or to standard error.
pub fn start(level: LevelFilter, file: Option<File>) {
    let target = match file {
        Some(file) => env_logger::Target::Pipe(Box::new(file)),
        None => env_logger::Target::Stderr,
    };
    let pid = std::process::id();
    let started = env_logger::Builder::new()
        // Libraries quote what they handle: request headers with signatures, what credential helpers print, values
        // of configuration files. What matters of it is an error that is returned, and told in our words.
        .filter_level(LevelFilter::Off)
        .filter_module("ratchetfs", level)
        // fuser warns of each request of a kind that is left to its default, which is on purpose.
        .filter_module("fuser", level.min(LevelFilter::Error))
        .format(move |line, record| {
            if record.target().starts_with("fuser") && is_ordinary(&record.args().to_string()) {
                return Ok(());
            }
            let time = line.timestamp_millis();
            writeln!(
                line,
                "{time} {pid} {:<5} {}: {}",
                record.level(),
                record.target(),
                // Keys and messages of stores may hold anything; a line stays a line.
                plain(&record.args().to_string())
            )
        })
        .target(target)
        .try_init();
    if let Err(e) = started {
        log::debug!("{e}");
    }
}

/// What fuser takes for an error, and is none: the kernel waits for the answer no more, since the request was
/// interrupted or the mount has been taken away.
fn is_ordinary(told: &str) -> bool {
    let is_of_an_answer = ["Failed to send FUSE reply", "Failed to close backing fd"]
        .iter()
        .any(|what| told.starts_with(what));
    let is_too_late = [libc::ENOENT, libc::ENODEV, libc::ENOTCONN]
        .iter()
        .any(|errno| told.contains(&io::Error::from_raw_os_error(*errno).to_string()));
    is_of_an_answer && is_too_late
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_too_late_is_no_error() {
        let told =
            |errno| format!("Failed to send FUSE reply: {}", io::Error::from_raw_os_error(errno));
        assert!(is_ordinary(&told(libc::ENOENT)) && is_ordinary(&told(libc::ENODEV)));
        assert!(!is_ordinary(&told(libc::EINVAL)));
        assert!(!is_ordinary("No such file or directory (os error 2)"));
    }
}
