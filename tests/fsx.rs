//! Random operations on one file through a real mount, against a vector of bytes that is the truth.
//!
//! Every round has a fixed seed, named by the failure. `FSX_OPERATIONS` makes it longer than in CI,
//! `FSX_SEED` begins with another seed.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use support::mount::{Bench, noise};

const MIB: usize = 1 << 20;
const FILE_BYTES_MAX: usize = 24 * MIB;
/// A page, and what O_DIRECT is aligned to here.
const PAGE: usize = 4096;

/// How a handle was opened.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Open {
    ReadWrite,
    WriteOnly,
    ReadOnly,
    Append,
    Direct,
}

struct Handle {
    file: File,
    open: Open,
}

/// The file, the truth about it, and the handles that are open on it.
struct Fsx {
    path: PathBuf,
    truth: Vec<u8>,
    handles: Vec<Handle>,
    random: fastrand::Rng,
    noise: Vec<u8>,
    done: Vec<String>,
    seed: u64,
}

impl Fsx {
    fn new(path: PathBuf, seed: u64) -> Fsx {
        let random = fastrand::Rng::with_seed(seed);
        File::create(&path).unwrap();
        let mut fsx = Fsx {
            path,
            truth: Vec::new(),
            handles: Vec::new(),
            random,
            noise: noise(4 * MIB, seed),
            done: Vec::new(),
            seed,
        };
        fsx.open(Open::ReadWrite);
        fsx
    }

    fn open(&mut self, open: Open) {
        let mut options = OpenOptions::new();
        match open {
            Open::ReadWrite => options.read(true).write(true),
            Open::WriteOnly => options.write(true),
            Open::ReadOnly => options.read(true),
            Open::Append => options.append(true),
            Open::Direct => options.read(true).write(true).custom_flags(libc::O_DIRECT),
        };
        let file = options.open(&self.path).unwrap_or_else(|error| self.fail(&format!("{error}")));
        self.handles.push(Handle { file, open });
    }

    fn fail(&self, what: &str) -> ! {
        let last = self.done.len().saturating_sub(60);
        panic!(
            "seed {}, operation {}: {what}\nlast operations:\n{}",
            self.seed,
            self.done.len(),
            self.done[last..].join("\n")
        );
    }

    fn check<T>(&self, outcome: std::io::Result<T>) -> T {
        outcome.unwrap_or_else(|error| self.fail(&error.to_string()))
    }

    fn compare(&self, what: &str, at: usize, got: &[u8]) {
        let expected = &self.truth[at..at + got.len()];
        if got == expected {
            return;
        }
        let first = got.iter().zip(expected).position(|(a, b)| a != b).unwrap();
        let wrong = got.iter().zip(expected).filter(|(a, b)| a != b).count();
        let is = got[first];
        let should = expected[first];
        self.fail(&format!("{what}: byte {} is {is}, not {should}; {wrong} are wrong", at + first));
    }

    /// A length that is small as often as it is large.
    fn some_len(&mut self) -> usize {
        let most = [64, PAGE, 64 << 10, MIB, 3 * MIB][self.random.usize(..5)];
        self.random.usize(1..=most)
    }

    /// A place in the file or, now and then, behind its end.
    fn some_place(&mut self, len: usize) -> usize {
        let most = FILE_BYTES_MAX - len;
        match self.random.u8(..10) {
            0 => self.random.usize(..=most),
            1 => self.truth.len().min(most),
            // Around the seams of parts.
            2 => (5 * MIB * self.random.usize(..4)).saturating_sub(len / 2).min(most),
            _ => self.random.usize(..=self.truth.len()).min(most),
        }
    }

    fn some_handle(&mut self, meant: impl Fn(Open) -> bool) -> Option<usize> {
        let fit: Vec<usize> =
            (0..self.handles.len()).filter(|index| meant(self.handles[*index].open)).collect();
        (!fit.is_empty()).then(|| fit[self.random.usize(..fit.len())])
    }

    fn some_bytes(&mut self, len: usize) -> Vec<u8> {
        let from = self.random.usize(..=self.noise.len() - len);
        self.noise[from..from + len].to_vec()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if self.truth.len() < at + bytes.len() {
            self.truth.resize(at + bytes.len(), 0);
        }
        self.truth[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn write(&mut self) {
        let len = self.some_len();
        let at = self.some_place(len);
        let Some(index) =
            self.some_handle(|open| matches!(open, Open::ReadWrite | Open::WriteOnly))
        else {
            return;
        };
        let bytes = self.some_bytes(len);
        self.done.push(format!("write {at}+{len} by {:?}", self.handles[index].open));
        self.check(self.handles[index].file.write_all_at(&bytes, at as u64));
        self.put(at, &bytes);
    }

    fn append(&mut self) {
        use std::io::Write;
        let len = self.some_len();
        let at = self.truth.len();
        if at + len > FILE_BYTES_MAX {
            return;
        }
        let Some(index) = self.some_handle(|open| open == Open::Append) else { return };
        let bytes = self.some_bytes(len);
        self.done.push(format!("append {at}+{len}"));
        let mut file = &self.handles[index].file;
        self.check(file.write_all(&bytes));
        self.put(at, &bytes);
    }

    fn write_direct(&mut self) {
        let len = self.some_len().next_multiple_of(PAGE);
        let at = self.some_place(len) / PAGE * PAGE;
        let Some(index) = self.some_handle(|open| open == Open::Direct) else { return };
        let source = self.some_bytes(len);
        // Memory that begins at a page, as O_DIRECT demands it of local file systems.
        let mut aligned = vec![0; len + PAGE];
        let from = aligned.as_ptr().align_offset(PAGE);
        aligned[from..from + len].copy_from_slice(&source);
        self.done.push(format!("write {at}+{len} by O_DIRECT"));
        let written = self.handles[index].file.write_all_at(&aligned[from..from + len], at as u64);
        self.check(written);
        self.put(at, &source);
    }

    fn read(&mut self) {
        if self.truth.is_empty() {
            return;
        }
        let len = self.some_len().min(self.truth.len());
        let at = self.random.usize(..=self.truth.len() - len);
        let Some(index) = self.some_handle(|open| matches!(open, Open::ReadWrite | Open::ReadOnly))
        else {
            return;
        };
        let open = self.handles[index].open;
        self.done.push(format!("read {at}+{len} by {open:?}"));
        let mut bytes = vec![0; len];
        self.check(self.handles[index].file.read_exact_at(&mut bytes, at as u64));
        self.compare("read", at, &bytes);
    }

    fn read_past_the_end(&mut self) {
        let Some(index) = self.some_handle(|open| open == Open::ReadWrite) else { return };
        let end = self.truth.len();
        self.done.push(format!("read at the end, {end}"));
        let mut bytes = [0; 100];
        let from = end.saturating_sub(50);
        let got = self.check(self.handles[index].file.read_at(&mut bytes, from as u64));
        if got != end - from {
            self.fail(&format!("{got} bytes before the end, not {}", end - from));
        }
    }

    fn truncate(&mut self) {
        let len = match self.random.u8(..6) {
            0 => 0,
            1 => self.random.usize(..FILE_BYTES_MAX),
            2 => self.truth.len() / MIB * MIB,
            _ => self.random.usize(..=self.truth.len()),
        };
        let Some(index) = self.some_handle(|open| open != Open::ReadOnly) else { return };
        self.done.push(format!("truncate {} to {len}", self.truth.len()));
        self.check(self.handles[index].file.set_len(len as u64));
        self.truth.resize(len, 0);
    }

    fn map(&mut self, writes: bool) {
        if self.truth.is_empty() {
            return;
        }
        let Some(index) = self.some_handle(|open| open == Open::ReadWrite) else { return };
        let len = self.some_len().min(self.truth.len());
        let at = self.random.usize(..=self.truth.len() - len);
        let first = at / PAGE * PAGE;
        let mapped = at + len - first;
        let word = if writes { "write" } else { "read" };
        self.done.push(format!("{word} {at}+{len} by mmap"));
        let bytes = self.some_bytes(len);
        // SAFETY: a mapping of this test's own file inside its length, unmapped below; no other
        // touches the memory.
        let read = unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.handles[index].file.as_raw_fd(),
                first as libc::off_t,
            );
            if map == libc::MAP_FAILED {
                self.fail(&format!("mmap: {}", std::io::Error::last_os_error()));
            }
            let memory = std::slice::from_raw_parts_mut(map.cast::<u8>(), mapped);
            let read = memory[at - first..].to_vec();
            if writes {
                memory[at - first..].copy_from_slice(&bytes);
                if libc::msync(map, mapped, libc::MS_SYNC) != 0 {
                    self.fail(&format!("msync: {}", std::io::Error::last_os_error()));
                }
            }
            libc::munmap(map, mapped);
            read
        };
        self.compare("mmap", at, &read);
        if writes {
            self.put(at, &bytes);
        }
    }

    fn fsync(&mut self) {
        let Some(index) = self.some_handle(|open| open != Open::ReadOnly) else { return };
        self.done.push("fsync".into());
        self.check(self.handles[index].file.sync_all());
    }

    fn another_handle(&mut self) {
        if self.handles.len() >= 5 {
            let index = self.random.usize(..self.handles.len());
            self.done.push(format!("close {:?}", self.handles[index].open));
            self.handles.remove(index);
        }
        // A reader that stays beside writers keeps the version that it opened: opened for one
        // comparison only, below.
        let open =
            [Open::ReadWrite, Open::WriteOnly, Open::Append, Open::Direct][self.random.usize(..4)];
        self.done.push(format!("open {open:?}"));
        self.open(open);
    }

    fn reopen(&mut self) {
        self.done.push("close all".into());
        self.handles.clear();
        self.compare_whole();
        self.open(Open::ReadWrite);
    }

    fn compare_whole(&mut self) {
        self.done.push("compare all".into());
        let read = self.check(std::fs::read(&self.path));
        if read.len() != self.truth.len() {
            self.fail(&format!("{} bytes long, not {}", read.len(), self.truth.len()));
        }
        self.compare("the whole file", 0, &read);
    }

    fn stat(&mut self) {
        let len = self.check(std::fs::metadata(&self.path)).len();
        if len != self.truth.len() as u64 {
            self.fail(&format!("stat says {len} bytes, not {}", self.truth.len()));
        }
    }

    fn step(&mut self) {
        match self.random.u8(..100) {
            0..=29 => self.write(),
            30..=36 => self.append(),
            37..=42 => self.write_direct(),
            43..=67 => self.read(),
            68..=69 => self.read_past_the_end(),
            70..=76 => self.truncate(),
            77..=81 => self.map(true),
            82..=85 => self.map(false),
            86..=88 => self.fsync(),
            89..=93 => self.another_handle(),
            94..=97 => self.stat(),
            _ => self.reopen(),
        }
    }
}

/// How many operations, by the number that CI can afford.
fn operations(in_ci: usize) -> usize {
    std::env::var("FSX_OPERATIONS").ok().map_or(in_ci, |count| count.parse().unwrap())
}

fn first_seed(seed: u64) -> u64 {
    std::env::var("FSX_SEED").ok().map_or(seed, |seed| seed.parse().unwrap())
}

fn run(options: &[&str], seed: u64) {
    let mut bench = Bench::start(options);
    let mut fsx = Fsx::new(bench.at("file"), first_seed(seed));
    for _ in 0..operations(300) {
        fsx.step();
    }
    fsx.reopen();
    fsx.handles.clear();
    bench.remount();
    fsx.compare_whole();
}

#[test]
fn random_operations_are_never_wrong() {
    run(&["--part-size", "5MiB"], 1);
}

#[test]
fn random_operations_are_never_wrong_where_memory_is_short() {
    run(&["--part-size", "5MiB", "--memory", "32MiB"], 2);
}

#[test]
fn random_operations_are_never_wrong_with_write_back() {
    run(&["--part-size", "5MiB", "--memory", "32MiB", "--write-back"], 3);
}

#[test]
fn random_operations_are_never_wrong_without_a_cache_on_disk() {
    run(&["--part-size", "5MiB", "--cache-size", "0"], 4);
}

/// After each synced state the mount is killed; what `uploads resume` brings back has every byte.
#[test]
fn synced_bytes_outlive_the_mount() {
    for seed in 10..13 {
        let mut bench = Bench::start(&["--part-size", "5MiB", "--write-back"]);
        let mut fsx = Fsx::new(bench.at("file"), first_seed(seed));
        for _ in 0..operations(300) / 10 {
            match fsx.random.u8(..5) {
                0 => fsx.append(),
                1 => fsx.truncate(),
                2 => fsx.map(true),
                _ => fsx.write(),
            }
        }
        fsx.done.push("fsync, kill".into());
        fsx.check(fsx.handles[0].file.sync_all());
        bench.kill();
        // What was open is dead, and would keep the mount point busy.
        fsx.handles.clear();
        bench.mount();
        // Not closed, and not asked for: what was synced is in the file.
        fsx.compare_whole();
        bench.remount();
        fsx.compare_whole();
    }
}
