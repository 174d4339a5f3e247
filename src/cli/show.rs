//! Statuses, uploads and caches as text for people, or as JSON for programs.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::failure::Failure;
use super::output::{is_obeyed, plain};
use super::units::show_bytes;
use crate::control::messages::{
    CacheState, MountStatus, StoreState, Transfer, TransferKind, Upload, UploadState,
};
use crate::store::{Rate, Rates};

/// Pretty JSON and a newline.
pub fn json(document: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|e| e.to_string())?;
    // Between strings there are line breaks and nothing else of the kind; in them JSON itself escapes only a part.
    let mut shown = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if is_obeyed(c) && c != '\n' {
            let mut units = [0; 2];
            // Writing into a String cannot fail.
            c.encode_utf16(&mut units).iter().for_each(|unit| _ = write!(shown, "\\u{unit:04x}"));
        } else {
            shown.push(c);
        }
    }
    Ok(shown + "\n")
}

/// A mount, in a dozen lines.
pub fn status(status: &MountStatus) -> String {
    /// More lines are not read one by one.
    const TRANSFERS_MAX: usize = 50;

    let mut text = String::new();
    // Writing into a String cannot fail.
    let mut line = |label: &str, what: String| _ = writeln!(text, "  {label:<10} {}", plain(&what));
    line("endpoint", status.place.endpoint.clone());
    line("process", format!("{}, up {}", status.process.pid, age(status.process.uptime_seconds)));
    line("cache", cache(&status.cache));
    line("journal", {
        let journal = &status.journal;
        let torn = match journal.dropped_bytes {
            0 => String::new(),
            bytes => format!(", {} of a damaged tail left out", show_bytes(bytes)),
        };
        format!(
            "{}, {} records replayed{torn}",
            show_bytes(journal.bytes),
            journal.replayed_records
        )
    });
    let store = &status.store;
    line(
        "store",
        format!(
            "{}{} requests, {} retried, {} asked twice, {} failed; {} sent, {} received",
            unreachable(store),
            store.requests,
            store.retries,
            store.hedges,
            store.errors,
            show_bytes(store.bytes_sent),
            show_bytes(store.bytes_received),
        ),
    );
    let limits = store.limits;
    for (what, limit) in [
        ("sent", limits.upload.map(bytes_rate)),
        ("received", limits.download.map(bytes_rate)),
        ("asked", limits.requests.map(requests_rate)),
    ] {
        if let Some(limit) = limit {
            line("limit", format!("{what}: {limit}"));
        }
    }
    if status.pending_files > 0 {
        line(
            "pending",
            format!("{} files, {}", status.pending_files, show_bytes(status.pending_bytes)),
        );
    }
    if status.pending_deletions > 0 {
        line("pending", format!("{} deletions", status.pending_deletions));
    }
    for transfer in status.transfers.iter().take(TRANSFERS_MAX) {
        line(direction(transfer.kind), one_transfer(transfer));
    }
    if let more @ 1.. = status.transfers.len().saturating_sub(TRANSFERS_MAX) {
        line("", format!("and {more} more: `ratchetfs uploads list` shows them"));
    }
    if status.hidden_names > 0 {
        line("hidden", format!("{} keys that cannot be file names", status.hidden_names));
    }
    for error in &status.recent_errors {
        line("error", format!("{} ago: {}", age(error.seconds_ago), error.what));
    }
    let read_only = if status.mode.read_only { ", read-only" } else { "" };
    let write_back = if status.mode.write_back { ", write-back" } else { "" };
    let offline = if status.mode.offline { ", offline" } else { "" };
    let version_at = status.mode.version_at.as_deref();
    let version_at = version_at.map(|at| format!(", as it was at {at}")).unwrap_or_default();
    let head = format!(
        "{} on s3://{}/{}{read_only}{write_back}{offline}{version_at}",
        status.place.mount_point, status.place.bucket, status.place.prefix
    );
    format!("{}\n{text}", plain(&head))
}

fn unreachable(store: &StoreState) -> String {
    if !store.offline {
        return String::new();
    }
    let lasts = store.offline_seconds.map(|seconds| format!(" for {}", age(seconds)));
    let stale = if store.stale { ", names, attributes and cached bytes may be STALE" } else { "" };
    format!("UNREACHABLE{}{stale}; ", lasts.unwrap_or_default())
}

/// A line a limit.
pub fn limits(rates: &Rates) -> String {
    let none = || "none".to_owned();
    format!(
        "upload    {}\ndownload  {}\nrequests  {}\n",
        rates.upload.map_or_else(none, bytes_rate),
        rates.download.map_or_else(none, bytes_rate),
        rates.requests.map_or_else(none, requests_rate),
    )
}

fn bytes_rate(rate: Rate) -> String {
    format!("{}/s, {} at once", show_bytes(rate.per_second), show_bytes(rate.burst))
}

fn requests_rate(rate: Rate) -> String {
    format!("{} a second, {} at once", rate.per_second, rate.burst)
}

fn direction(kind: TransferKind) -> &'static str {
    match kind {
        TransferKind::Upload => "upload",
        TransferKind::Download => "download",
    }
}

fn one_transfer(transfer: &Transfer) -> String {
    let total = match transfer.bytes_total {
        Some(bytes) => format!(" of {}", show_bytes(bytes)),
        None => String::new(),
    };
    let resumed = match transfer.parts_resumed {
        0 => String::new(),
        parts => format!(", {parts} parts not sent again"),
    };
    format!(
        "{}: {}{total}, {} parts done, {} in flight{resumed}",
        transfer.key,
        show_bytes(transfer.bytes_done),
        transfer.parts_done,
        transfer.parts_in_flight
    )
}

/// A cache, in one line.
pub fn cache(cache: &CacheState) -> String {
    let damaged = match cache.damaged_ranges {
        0 => String::new(),
        ranges => format!(", {ranges} damaged ranges dropped"),
    };
    format!(
        "{}: {} of {} on disk in {} objects, {} staged, {} of {} in memory{damaged}",
        cache.dir,
        show_bytes(cache.disk_bytes),
        show_bytes(cache.disk_bytes_max),
        cache.objects,
        show_bytes(cache.staged_bytes),
        show_bytes(cache.memory_bytes),
        show_bytes(cache.memory_bytes_max),
    )
}

/// One line an upload.
pub fn uploads(uploads: &[Upload]) -> String {
    if uploads.is_empty() {
        return "no interrupted uploads\n".to_owned();
    }
    let mut text = String::new();
    for upload in uploads {
        let total = match upload.bytes_total {
            Some(bytes) => format!(" of {}", show_bytes(bytes)),
            None => String::new(),
        };
        let cause = upload.cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
        let line = format!(
            "{}  s3://{}/{}  {} stored{total}, {} parts, {} staged, {} old, {}{cause}",
            upload.id,
            upload.bucket,
            upload.key,
            show_bytes(upload.bytes_stored),
            upload.parts_stored,
            show_bytes(upload.bytes_staged),
            age(upload.age_seconds),
            state(upload.state),
        );
        text.push_str(&plain(&line));
        text.push('\n');
    }
    text
}

fn state(state: UploadState) -> &'static str {
    match state {
        UploadState::Writing => "being written",
        UploadState::Pending => "on its way",
        UploadState::Interrupted => "interrupted: copy the file again to resume",
        UploadState::Failed => "failed",
    }
}

fn age(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::messages::Place;

    #[test]
    fn an_upload_shows_its_cause_and_what_the_store_has() {
        let upload = Upload {
            id: "7".into(),
            bucket: "b".into(),
            key: "dir/key".into(),
            state: UploadState::Failed,
            bytes_stored: 16 << 20,
            bytes_staged: 0,
            bytes_total: Some(64 << 20),
            parts_stored: 2,
            age_seconds: 61,
            cause: Some("403 AccessDenied".into()),
        };
        let line = uploads(&[upload]);
        for told in ["s3://b/dir/key", "16.00 MiB stored of 64.00 MiB", "1m 1s", "failed: 403"] {
            assert!(line.contains(told), "{told}: {line}");
        }
    }

    #[test]
    fn what_terminals_obey_is_shown_and_not_sent() {
        let evil = "a\x1b[2Jb\r\u{9b}31mc\u{202e}d\ne";
        let mount = MountStatus {
            place: Place { mount_point: evil.into(), endpoint: evil.into(), ..Place::default() },
            recent_errors: vec![crate::control::messages::RecentError {
                seconds_ago: 1,
                what: evil.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let upload = Upload {
            id: "7".into(),
            bucket: "b".into(),
            key: evil.into(),
            state: UploadState::Failed,
            bytes_stored: 0,
            bytes_staged: 0,
            bytes_total: None,
            parts_stored: 0,
            age_seconds: 0,
            cause: Some(evil.into()),
        };
        for text in [status(&mount), uploads(&[upload]), json(&mount).unwrap()] {
            let lines: Vec<&str> = text.lines().collect();
            assert!(!lines.iter().any(|line| line.contains(is_obeyed)), "{text:?}");
        }
        assert_eq!(
            status(&mount).lines().count(),
            status(&MountStatus::default()).lines().count() + 1
        );
        let back: MountStatus = serde_json::from_str(&json(&mount).unwrap()).unwrap();
        assert_eq!(back, mount);
    }

    #[test]
    fn a_status_shows_an_outage() {
        let place = Place { mount_point: "/m".into(), bucket: "b".into(), ..Place::default() };
        let mut mount = MountStatus { place, ..Default::default() };
        assert!(!status(&mount).contains("UNREACHABLE"));
        mount.store.offline = true;
        mount.store.offline_seconds = Some(65);
        let text = status(&mount);
        assert!(text.contains("UNREACHABLE for 1m 5s; ") && !text.contains("STALE"), "{text}");
        mount.store.stale = true;
        assert!(status(&mount).contains("STALE"));
    }

    #[test]
    fn a_status_shows_the_limits_that_there_are() {
        let mut mount = MountStatus::default();
        assert!(!status(&mount).contains("limit"));
        mount.store.limits.upload = Some(Rate::new(10 << 20, Some(64 << 20)));
        let text = status(&mount);
        assert!(text.contains("limit      sent: 10.00 MiB/s, 64.00 MiB at once"), "{text}");
        assert!(limits(&mount.store.limits).contains("requests  none"));
    }
}
