//! Ranges of a cache file compared with their checksums, on several cores where there is much to do: a
//! file that is opened for the first time after a mount is checked whole before the kernel may read it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crc_fast::CrcAlgorithm;

use super::disk::Stored;
use crate::range::ByteRange;

/// Read at a time. One buffer of this size serves all ranges and stays in the processor's cache: a fresh
/// mebibyte for each range cost five times the checksum, in page faults.
const READ_BYTES: usize = 256 << 10;

/// With less than this for each, one worker is done before a second has begun.
const WORKER_BYTES_MIN: u64 = 8 << 20;

/// More cores than this only wait for memory.
const WORKERS_MAX: u64 = 4;

/// Whether the bytes of each range (its start, and what was recorded of it) have their checksum, in the
/// order of `ranges`.
pub(super) fn check(file: &File, ranges: &[(u64, Stored)]) -> Vec<io::Result<bool>> {
    if ranges.is_empty() {
        return Vec::new();
    }
    let bytes: u64 = ranges.iter().map(|(start, stored)| stored.end - start).sum();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers = (bytes / WORKER_BYTES_MIN).clamp(1, cores.min(WORKERS_MAX)) as usize;
    let share = ranges.len().div_ceil(workers).max(1);
    std::thread::scope(|scope| {
        let mut shares = ranges.chunks(share);
        let own = shares.next().unwrap_or_default();
        let others: Vec<_> = shares
            .map(|share| {
                let worker = std::thread::Builder::new().name("cache-check".into());
                // Where no thread can be had, its share is checked here, below.
                (share, worker.spawn_scoped(scope, move || check_each(file, share)).ok())
            })
            .collect();
        let mut outcomes = check_each(file, own);
        for (share, worker) in others {
            let done = worker.and_then(|worker| worker.join().ok());
            outcomes.extend(done.unwrap_or_else(|| check_each(file, share)));
        }
        outcomes
    })
}

fn check_each(file: &File, ranges: &[(u64, Stored)]) -> Vec<io::Result<bool>> {
    let mut buffer = vec![0; READ_BYTES];
    ranges
        .iter()
        .map(|(start, stored)| {
            let range = ByteRange::new(*start, stored.end);
            Ok(checksum_of(file, range, &mut buffer)? == stored.crc)
        })
        .collect()
}

fn checksum_of(file: &File, range: ByteRange, buffer: &mut [u8]) -> io::Result<u32> {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut at = range.start();
    while at < range.end() {
        let count = buffer.len().min((range.end() - at) as usize);
        file.read_exact_at(&mut buffer[..count], at)?;
        digest.update(&buffer[..count]);
        at += count as u64;
    }
    // A 32-bit CRC fills the lower half of the u64.
    Ok(digest.finalize() as u32)
}
