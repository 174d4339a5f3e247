//! Where log lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use log::LevelFilter;

/// A log that has grown beyond this, in bytes, is put aside at the next mount (one older one is kept):
/// months of ordinary running, and never a full disk.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// Opens the log for appending.
pub fn open(path: &Path) -> Result<File, String> {
    let told = |e: io::Error| {
        format!("log file {}: {e}; name one that you may write to with --log-file", path.display())
    };
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, PathBuf::from(aside)).map_err(told)?;
    }
    OpenOptions::new().append(true).create(true).open(path).map_err(told)
}

/// From here on log lines go to `file`, or to standard error.
pub fn start(level: LevelFilter, file: Option<File>) {
    let target = match file {
        Some(file) => env_logger::Target::Pipe(Box::new(file)),
        None => env_logger::Target::Stderr,
    };
    let pid = std::process::id();
    let started = env_logger::Builder::new()
        // The HTTP libraries' own debug lines show request headers, and with them signatures.
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module("ratchetfs", level)
        // fuser warns of each request of a kind that is left to its default, which is on purpose.
        .filter_module("fuser", level.min(LevelFilter::Error))
        .format(move |line, record| {
            let time = line.timestamp_millis();
            writeln!(
                line,
                "{time} {pid} {:<5} {}: {}",
                record.level(),
                record.target(),
                record.args()
            )
        })
        .target(target)
        .try_init();
    if let Err(e) = started {
        log::debug!("{e}");
    }
}
