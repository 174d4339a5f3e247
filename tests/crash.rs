//! Random operations on a few files through real mounts, killed at any step, against what may be there
//! after it.
//!
//! Every file has a list of contents that a crash may leave: what was durable last, and each version
//! since. What is found must be one of them, whole. A seed names the run; `CRASH_SEEDS` makes more of
//! them, `CRASH_SEED` begins with another one.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Rule};
use ratchetfs::internals::Record;
use support::mount::{Bench, noise};

const MIB: usize = 1 << 20;
const FILE_BYTES_MAX: usize = 13 * MIB;
const NAMES: [&str; 3] = ["a", "b", "c"];
const CRASHES: usize = 4;

/// A content, or none: no such file.
type Version = Option<Arc<Vec<u8>>>;

#[derive(Default)]
struct Name {
    /// What a program sees.
    now: Version,
    /// What a crash may leave; the oldest is what was durable last.
    possible: Vec<Version>,
    file: Option<File>,
    /// The writes that made what is there, to tell where bytes come from.
    written: Vec<Written>,
}

/// One write: its number among the operations, where to, and from where in the noise.
#[derive(Clone, Copy)]
struct Written {
    operation: usize,
    at: usize,
    from: usize,
    len: usize,
}

const BLOCK: usize = 4096;

/// A version cut down to a length, where it is longer.
fn cut(version: &Version, len: usize) -> Option<Version> {
    let content = version.as_ref().filter(|content| content.len() > len)?;
    Some(Some(Arc::new(content[..len].to_vec())))
}

/// How `found` differs from a version: its length, and from where to where, by blocks.
fn against(found: &Version, version: &Version) -> String {
    match (found, version) {
        (Some(found), Some(version)) => against_nearest(found, version),
        _ => format!("{:?}", version.as_ref().map(|content| content.len())),
    }
}

fn against_nearest(found: &[u8], version: &[u8]) -> String {
    let differ = differing(found, version);
    let zeros = differ.iter().filter(|at| found[**at..].iter().take(BLOCK).all(|byte| *byte == 0));
    format!(
        "{} long, {} differ between {:?} and {:?}, {} of them zeros",
        version.len(),
        differ.len(),
        differ.first(),
        differ.last(),
        zeros.count()
    )
}

/// The blocks in which two contents differ, as far as both reach.
fn differing(found: &[u8], version: &[u8]) -> Vec<usize> {
    let differ = found.chunks(BLOCK).zip(version.chunks(BLOCK)).map(|(a, b)| a != b);
    differ.enumerate().filter_map(|(at, differs)| differs.then_some(at * BLOCK)).collect()
}

/// Neighbouring blocks as stretches: from, to.
fn stretches(blocks: &[usize]) -> Vec<(usize, usize)> {
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    for at in blocks {
        match stretches.last_mut() {
            Some((_, end)) if *end == *at => *end += BLOCK,
            _ => stretches.push((*at, *at + BLOCK)),
        }
    }
    stretches
}

struct Run {
    bench: Bench,
    random: fastrand::Rng,
    noise: Vec<u8>,
    names: BTreeMap<&'static str, Name>,
    done: Vec<String>,
    kills: usize,
    seed: u64,
}

impl Run {
    fn new(options: &[&str], seed: u64) -> Run {
        let mut names = BTreeMap::new();
        for name in NAMES {
            names.insert(name, Name { possible: vec![None], ..Name::default() });
        }
        let bench = Bench::start(options);
        let random = fastrand::Rng::with_seed(seed);
        Run { bench, random, noise: noise(4 * MIB, seed), names, done: Vec::new(), kills: 0, seed }
    }

    /// Fails, with all that explains it: the operations, each process's log, and the journals as the kills
    /// left them, which stay in a folder, with the contents and the staging files.
    fn fail(&self, what: &str) -> ! {
        let kept = std::env::temp_dir().join(format!("ratchetfs-crash-{}", self.seed));
        let _ = std::fs::remove_dir_all(&kept);
        support::mount::sh(
            self.bench.dir.path(),
            &format!("mkdir -p {0}; cp -r kill-* cache mount.log {0}/", kept.display()),
        );
        for (name, entry) in &self.names {
            for (number, version) in entry.possible.iter().enumerate() {
                if let Some(content) = version {
                    std::fs::write(kept.join(format!("{name}.{number}")), &content[..]).unwrap();
                }
            }
            if let Ok(found) = std::fs::read(self.bench.at(name)) {
                std::fs::write(kept.join(format!("{name}.found")), found).unwrap();
            }
        }
        panic!(
            "seed {}: {what}\noperations:\n{}\njournals, as they were found after each kill:\n{}\n\
             kept in {}",
            self.seed,
            self.done
                .iter()
                .enumerate()
                .map(|(n, done)| format!("{n}: {done}\n"))
                .collect::<String>(),
            self.journals(),
            kept.display()
        );
    }

    /// The records about drafts of each journal that a kill has left.
    fn journals(&self) -> String {
        let mut text = String::new();
        for kill in 0.. {
            let path = self.bench.local(&format!("kill-{kill}")).join("journal");
            if !path.exists() {
                return text;
            }
            text.push_str(&format!("kill {kill}:\n"));
            let read = ratchetfs::internals::read_journal(&path, |record: Record| {
                let cache = matches!(
                    record,
                    Record::ObjectBegun { .. }
                        | Record::ObjectEnded { .. }
                        | Record::RangeResident { .. }
                );
                if !cache {
                    text.push_str(&format!("  {record:?}\n"));
                }
            });
            text.push_str(&format!("  {:?}\n", read.map(|(_, report)| report)));
        }
        text
    }

    /// Where `found` is nothing that may be: against the version that is nearest, what is there instead, and
    /// which operations wrote there.
    fn explained(&self, name: &str, found: &[u8]) -> String {
        let entry = &self.names[name];
        let contents = entry.possible.iter().flatten();
        let nearest = contents.min_by_key(|content| {
            (content.len().abs_diff(found.len()), differing(found, content).len())
        });
        let Some(nearest) = nearest else { return "no content is possible".into() };
        let mut text = format!("nearest is {}\n", against_nearest(found, nearest));
        for (from, to) in stretches(&differing(found, nearest)) {
            let there = &found[from..to.min(found.len())];
            let source = match self.source_of(entry, from, there) {
                Some(operation) => format!("what operation {operation} wrote"),
                None if there.iter().all(|byte| *byte == 0) => "zeros".into(),
                None => "neither zeros nor of one write".into(),
            };
            let wrote = entry.written.iter().filter(|w| w.at < to && from < w.at + w.len);
            let wrote: Vec<usize> = wrote.map(|w| w.operation).collect();
            text.push_str(&format!("{from}..{to}: {source}; written by operations {wrote:?}\n"));
        }
        text
    }

    /// The operation that wrote the middle of these bytes.
    fn source_of(&self, entry: &Name, from: usize, bytes: &[u8]) -> Option<usize> {
        let middle = bytes.len() / 2;
        let probe = &bytes[middle..(middle + 64).min(bytes.len())];
        let at = from + middle;
        let wrote = entry.written.iter().rev().find(|w| {
            w.at <= at
                && at + probe.len() <= w.at + w.len
                && self.noise[w.from + at - w.at..][..probe.len()] == *probe
        });
        wrote.map(|w| w.operation)
    }

    fn name(&mut self, name: &str) -> &mut Name {
        self.names.get_mut(name).unwrap()
    }

    fn some_name(&mut self) -> &'static str {
        NAMES[self.random.usize(..NAMES.len())]
    }

    /// Opens what is there, or makes it.
    fn open(&mut self, name: &'static str) -> io::Result<()> {
        let path = self.bench.at(name);
        let cut = self.random.u8(..4) == 0;
        self.done.push(format!("open {name}{}", if cut { ", cut" } else { "" }));
        let entry = self.name(name);
        if cut || entry.now.is_none() {
            entry.possible.push(Some(Arc::default()));
        }
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(cut).open(path)?;
        entry.file = Some(file);
        if cut || entry.now.is_none() {
            entry.now = Some(Arc::default());
            entry.written.clear();
        }
        Ok(())
    }

    fn write(&mut self, name: &'static str) -> io::Result<()> {
        let most = [100, 64 << 10, MIB, 3 * MIB][self.random.usize(..4)];
        let len = self.random.usize(1..=most);
        let from = self.random.usize(..=self.noise.len() - len);
        let bytes = self.noise[from..from + len].to_vec();
        let mut content = self.names[name].now.as_deref().cloned().unwrap_or_default();
        let at = match self.random.u8(..4) {
            0 => self.random.usize(..=content.len()),
            1 => self.random.usize(..FILE_BYTES_MAX),
            _ => content.len(),
        };
        let at = at.min(FILE_BYTES_MAX - len);
        let operation = self.done.len();
        self.done.push(format!("write {name} {at}+{len}"));
        self.name(name).written.push(Written { operation, at, from, len });
        if content.len() < at + len {
            content.resize(at + len, 0);
        }
        // The kernel hands a long write over in pieces, and a kill can be between them.
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(128 << 10);
            content[at + done..at + done + piece].copy_from_slice(&bytes[done..done + piece]);
            let mut seen = content.clone();
            let before = self.names[name].now.as_ref().map_or(0, |now| now.len());
            seen.truncate(before.max(at + done + piece));
            let entry = self.name(name);
            entry.possible.push(Some(Arc::new(seen)));
            let file = entry.file.as_ref().unwrap();
            file.write_all_at(&bytes[done..done + piece], (at + done) as u64)?;
            done += piece;
            entry.now = entry.possible.last().unwrap().clone();
        }
        Ok(())
    }

    fn truncate(&mut self, name: &'static str) -> io::Result<()> {
        let mut content = self.names[name].now.as_deref().cloned().unwrap_or_default();
        let len = self.random.usize(..=(content.len() + 1000).min(FILE_BYTES_MAX));
        self.done.push(format!("truncate {name} {} to {len}", content.len()));
        content.resize(len, 0);
        let entry = self.name(name);
        // A cut is durable at once, also of what was synced before: as on a local disk, it can be so
        // without the writes between.
        let cut: Vec<Version> =
            entry.possible.iter().filter_map(|version| cut(version, len)).collect();
        entry.possible.extend(cut);
        entry.now = Some(Arc::new(content));
        entry.possible.push(entry.now.clone());
        entry.file.as_ref().unwrap().set_len(len as u64)
    }

    /// fsync or close: what is there now is the oldest that a crash may leave.
    fn settle(&mut self, name: &'static str, close: bool) -> io::Result<()> {
        self.done.push(format!("{} {name}", if close { "close" } else { "fsync" }));
        let entry = self.name(name);
        if close {
            let fd = entry.file.take().unwrap().into_raw_fd();
            // SAFETY: the descriptor was this file's alone, and is closed once.
            if unsafe { libc::close(fd) } != 0 {
                return Err(io::Error::last_os_error());
            }
        } else {
            entry.file.as_ref().unwrap().sync_all()?;
        }
        entry.possible = vec![entry.now.clone()];
        Ok(())
    }

    fn rename(&mut self, from: &'static str) -> io::Result<()> {
        let to = self.some_name();
        if to == from || self.names[to].file.is_some() {
            return Ok(());
        }
        self.done.push(format!("rename {from} {to}"));
        let open = self.names[from].file.is_some();
        let moved = self.names[from].possible.clone();
        let replaced = self.names[to].possible.clone();
        self.name(to).possible.extend(moved.clone());
        self.name(from).possible.push(None);
        std::fs::rename(self.bench.at(from), self.bench.at(to))?;
        let entry = self.name(from);
        entry.possible = vec![None];
        let (now, file) = (entry.now.take(), entry.file.take());
        let written = std::mem::take(&mut entry.written);
        let target = self.name(to);
        (target.now, target.file, target.possible) = (now, file, moved);
        target.written = written;
        if open && target.possible.contains(&None) {
            // Nothing durable was moved, so that nothing was replaced yet.
            target.possible.extend(replaced);
        }
        Ok(())
    }

    fn unlink(&mut self, name: &'static str) -> io::Result<()> {
        self.done.push(format!("unlink {name}"));
        let path = self.bench.at(name);
        let entry = self.name(name);
        entry.possible.push(None);
        std::fs::remove_file(path)?;
        *entry = Name { possible: vec![None], ..Name::default() };
        Ok(())
    }

    fn read(&mut self, name: &'static str) -> io::Result<()> {
        self.done.push(format!("read {name}"));
        let now = self.names[name].now.clone().unwrap();
        let from = self.random.usize(..=now.len());
        let len = self.random.usize(..=now.len() - from);
        let mut bytes = vec![0; len];
        self.names[name].file.as_ref().unwrap().read_exact_at(&mut bytes, from as u64)?;
        if bytes != now[from..from + len] {
            self.fail("wrong bytes before any crash");
        }
        Ok(())
    }

    fn step(&mut self) -> io::Result<()> {
        let name = self.some_name();
        let entry = &self.names[name];
        match (self.random.u8(..100), entry.file.is_some(), entry.now.is_some()) {
            (0..=24, false, true) => self.rename(name),
            (25..=34, false, true) => self.unlink(name),
            (_, false, _) => self.open(name),
            (0..=44, true, _) => self.write(name),
            (45..=54, true, _) => self.truncate(name),
            (55..=64, true, _) => self.settle(name, false),
            (65..=69, true, _) => self.read(name),
            (70..=73, true, _) => self.rename(name),
            (74..=75, true, _) => self.unlink(name),
            _ => self.settle(name, true),
        }
    }

    /// Operations until a kill, at some moment of some operation.
    fn until_the_kill(&mut self) {
        let latency = Duration::from_millis(self.random.u64(0..8));
        self.bench.store.faults.set(vec![Rule::new(Fault::Latency(latency))]);
        for _ in 0..self.random.usize(3..40) {
            if let Err(error) = self.step() {
                self.fail(&error.to_string());
            }
        }
        let killed = self.bench.kill_after(Duration::from_micros(self.random.u64(..30_000)));
        self.done.push("about to be killed".into());
        while let Ok(()) = self.step() {
            if killed.is_finished() {
                break;
            }
        }
        killed.join().unwrap();
        self.bench.kill();
        self.done.push(format!("kill {}", self.kills));
        support::mount::sh(
            self.bench.dir.path(),
            &format!(
                "mkdir kill-{0}; cp -r cache/*/journal cache/*/staging kill-{0}/ || true",
                self.kills
            ),
        );
        self.kills += 1;
        self.bench.store.faults.clear();
        for entry in self.names.values_mut() {
            entry.file = None;
        }
    }

    /// Mounts again; what is found is one of what may be there, and is what the bucket has.
    fn recover(&mut self) {
        self.bench.mount();
        let mount_point = self.bench.mount_point().display().to_string();
        let listed = self.bench.run(&["uploads", "list", &mount_point]);
        self.done.push(String::from_utf8_lossy(&listed.stdout).trim().to_owned());
        let resumed = self.bench.run(&["uploads", "resume", &mount_point]);
        if !resumed.status.success() {
            self.fail(&format!("{resumed:?}"));
        }
        self.done.push(String::from_utf8_lossy(&resumed.stdout).trim().to_owned());
        let begun = Instant::now();
        while self.bench.status().is_none_or(|status| status.pending_files > 0) {
            if begun.elapsed() > Duration::from_secs(30) {
                self.fail(&format!("never drained: {}", self.bench.log()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for name in NAMES {
            let found = match std::fs::read(self.bench.at(name)) {
                Ok(found) => Some(Arc::new(found)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => self.fail(&format!("{name}: {error}")),
            };
            if !self.names[name].possible.contains(&found) {
                let possible: Vec<_> =
                    self.names[name].possible.iter().map(|one| against(&found, one)).collect();
                let len = found.as_ref().map(|content| content.len());
                let explained = self.explained(name, found.as_deref().map_or(&[], |found| found));
                self.fail(&format!(
                    "{name} is {len:?} long, not one of {possible:#?}\n{explained}"
                ));
            }
            if found != self.object(name) {
                self.fail(&format!("{name} is not in the bucket as it is in the mount"));
            }
            let entry = self.name(name);
            (entry.now, entry.possible) = (found.clone(), vec![found]);
        }
    }

    fn object(&self, key: &str) -> Version {
        let answer = self.asked(&format!("/{}/{key}", support::BUCKET));
        (answer.status == 200).then(|| Arc::new(answer.body))
    }

    fn asked(&self, target: &str) -> support::raw::Answer {
        let raw = support::raw::Client::new(&self.bench.store.endpoint());
        self.bench.runtime.block_on(raw.get(target, &[]))
    }

    /// Nothing is left that belongs to no file: in the store, the journal, the staging folder.
    fn nothing_is_left(&mut self) {
        let mount_point = self.bench.mount_point().display().to_string();
        let aborted = self.bench.run(&["uploads", "abort", &mount_point]);
        assert!(aborted.status.success(), "{aborted:?}");
        let listed = self.bench.run(&["uploads", "list", &mount_point]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        if listed != "no interrupted uploads\n" {
            self.fail(&listed);
        }
        self.bench.unmount();
        // What was begun in the very moment of a kill goes when it has been without a part for long enough.
        self.bench.option("--resume-expiry");
        self.bench.option("1ms");
        self.bench.mount();
        let begun = Instant::now();
        loop {
            let uploads = self.asked(&format!("/{}?uploads", support::BUCKET)).text();
            if !uploads.contains("<Upload>") {
                break;
            }
            if begun.elapsed() > Duration::from_secs(10) {
                self.fail(&uploads);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.bench.unmount();
        let keys = self.asked(&format!("/{}", support::BUCKET)).text();
        let files = self.names.values().filter(|entry| entry.now.is_some()).count();
        if keys.matches("<Key>").count() != files {
            self.fail(&format!("{files} files: {keys}"));
        }
    }
}

fn run(options: &[&str], seeds: std::ops::Range<u64>) {
    let count = std::env::var("CRASH_SEEDS").map(|count| count.parse().unwrap());
    let first = std::env::var("CRASH_SEED").map_or(seeds.start, |seed| seed.parse().unwrap());
    for seed in first..first + count.unwrap_or(seeds.end - seeds.start) {
        let mut run = Run::new(options, seed);
        for _ in 0..CRASHES {
            run.until_the_kill();
            run.recover();
        }
        run.nothing_is_left();
    }
}

#[test]
fn a_crash_at_any_step_leaves_a_version_of_each_file() {
    run(&["--part-size", "5MiB"], 1..4);
}

#[test]
fn with_write_back_a_crash_leaves_a_version_of_each_file() {
    run(&["--part-size", "5MiB", "--write-back"], 101..104);
}
