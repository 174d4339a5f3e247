//! Many writers at once with little memory: every one gets on, and memory holds.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Rule};
use support::mount::{Bench, Mount, noise, sh};

const MIB: usize = 1 << 20;

/// What the process may take beside --memory.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// The most that the process had in memory at any time since it began.
fn peak_bytes(mount: &Mount) -> u64 {
    let pid = mount.status().unwrap().process.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// `writers` files of `len` bytes at once, in requests of 1 MiB, while what was there before is read.
fn all_finish(options: &[&str], memory: u64, writers: u64, len: usize) {
    let mut bench = Bench::start(options);
    let old = noise(24 * MIB, 1000);
    std::fs::write(bench.at("old"), &old).unwrap();
    bench.remount();
    std::thread::scope(|scope| {
        for number in 0..writers {
            let path = bench.at(&format!("f{number}"));
            scope.spawn(move || {
                let mut file = File::create(path).unwrap();
                for piece in noise(len, number).chunks(MIB) {
                    file.write_all(piece).unwrap();
                }
                file.sync_all().unwrap();
            });
        }
        for _ in 0..2 {
            scope.spawn(|| assert!(std::fs::read(bench.at("old")).unwrap() == old));
        }
    });
    let peak = peak_bytes(&bench);
    assert!(peak <= memory + OVERHEAD_BYTES, "{} MiB with --memory {memory}", peak >> 20);
    bench.remount();
    for number in 0..writers {
        let read = std::fs::read(bench.at(&format!("f{number}"))).unwrap();
        assert!(read == noise(len, number), "f{number}");
    }
    assert_eq!(sh(&bench.cache_dir(), "find . -path '*staging/*' | wc -l").trim(), "0");
}

#[test]
fn sixty_four_writers_finish_with_memory_for_four_parts() {
    all_finish(&["--memory", "24MiB"], 24 << 20, 64, 7 * MIB);
}

#[test]
fn writers_of_large_parts_finish_with_little_memory() {
    all_finish(&["--memory", "32MiB", "--part-size", "8MiB"], 32 << 20, 24, 17 * MIB);
}

/// Parts that are longer than memory go through the local disk, and leave it as they arrive.
#[test]
fn parts_longer_than_memory_are_sent_piece_by_piece() {
    let mut bench = Bench::start(&["--memory", "32MiB", "--part-size", "16MiB"]);
    let mut content = noise(200 * MIB + 12345, 5);
    let staged = |bench: &Bench| -> u64 {
        let said = sh(&bench.cache_dir(), "du -cm */staging | tail -1 | cut -f1");
        said.trim().parse().unwrap()
    };
    {
        let file = File::create(bench.at("f")).unwrap();
        for (index, piece) in content.chunks(MIB).enumerate() {
            file.write_all_at(piece, (index * MIB) as u64).unwrap();
        }
        support::mount::wait_until("all but the last stored", || {
            let status = bench.status().unwrap();
            status.transfers.iter().any(|transfer| transfer.parts_done == 12)
        });
        assert!(staged(&bench) < 40, "{} MiB staged", staged(&bench));
        file.sync_all().unwrap();
    }
    let peak = peak_bytes(&bench);
    assert!(peak <= (32 << 20) + OVERHEAD_BYTES, "{} MiB", peak >> 20);
    // A change in place, whose part is read from the base and the local disk.
    let before = bench.bytes_in();
    let file = File::options().write(true).open(bench.at("f")).unwrap();
    file.write_all_at(b"changed", 70 << 20).unwrap();
    content[70 << 20..][..7].copy_from_slice(b"changed");
    drop(file);
    assert!(bench.bytes_in() - before < 17 << 20);
    let peak = peak_bytes(&bench);
    assert!(peak <= (32 << 20) + OVERHEAD_BYTES, "{} MiB", peak >> 20);
    bench.remount();
    assert!(std::fs::read(bench.at("f")).unwrap() == content);
}

/// A small file system for the cache folder. Unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// Over `folder`, of `mib` MiB; `None` where this machine does not allow it.
    fn mount(folder: &std::path::Path, mib: usize) -> Option<SmallDisk> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| SmallDisk(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// More is written than the disk of the cache holds.
fn a_full_disk_loses_nothing(options: &[&str]) {
    let mut bench = Bench::unmounted(options);
    let Some(disk) = SmallDisk::mount(&bench.cache_dir(), 48) else {
        eprintln!("skipped: no tmpfs can be mounted here");
        return;
    };
    bench.mount();
    // Slower than the writer, so that the disk does fill.
    bench.store.faults.set(vec![Rule::new(Fault::Bandwidth(8 << 20))]);
    for number in 0..12 {
        std::fs::write(bench.at(&format!("f{number}")), noise(13 * MIB, number)).unwrap();
    }
    bench.store.faults.clear();
    for number in 0..12 {
        let read = std::fs::read(bench.at(&format!("f{number}"))).unwrap();
        assert!(read == noise(13 * MIB, number), "f{number}");
    }
    bench.drained();
    bench.remount();
    for number in 0..12 {
        let read = std::fs::read(bench.at(&format!("f{number}"))).unwrap();
        assert!(read == noise(13 * MIB, number), "f{number} after a remount");
    }
    bench.unmount();
    drop(disk);
}

#[test]
fn a_full_cache_disk_makes_a_write_back_close_wait() {
    a_full_disk_loses_nothing(&["--write-back", "--memory", "64MiB"]);
}

#[test]
fn a_full_cache_disk_leaves_memory_to_write_through() {
    a_full_disk_loses_nothing(&["--memory", "24MiB"]);
}

/// The disk of the cache is full to the last byte, the journal's too, and memory is short: a write that needs room is
/// told, at once; nothing that was said to be safe is lost; with room again, the mount goes on by itself.
#[test]
fn a_disk_without_a_byte_left_is_an_error_that_passes() {
    for options in [&["--memory", "24MiB"][..], &["--memory", "24MiB", "--write-back"][..]] {
        let mut bench = Bench::unmounted(options);
        let Some(disk) = SmallDisk::mount(&bench.cache_dir(), 32) else {
            eprintln!("skipped: no tmpfs can be mounted here");
            return;
        };
        bench.mount();
        std::fs::write(bench.at("gone"), noise(1000, 1)).unwrap();
        bench.drained();
        let filler = bench.cache_dir().join("filler");
        let mut filling = File::create(&filler).unwrap();
        while filling.write_all(&[1; 4096]).is_ok() {}
        // More records than fit into the journal's last page, so that this fails as well.
        let is_full = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOSPC);
        let mut safe = Vec::new();
        for number in 0..40 {
            match std::fs::write(bench.at(&format!("s{number}")), noise(3000, number)) {
                Ok(()) => safe.push(number),
                Err(error) => assert!(is_full(&error), "{error}"),
            }
        }
        // Everywhere at once, so that no part is ever whole.
        let random = File::create(bench.at("random")).unwrap();
        let mut places = (0..100).map(|n| n * 37 % 100 * (2 * MIB as u64));
        let failed = places.find_map(|at| random.write_all_at(&[2; 65536], at).err());
        assert!(failed.is_some_and(|error| is_full(&error)), "written without any room");
        drop(random);
        // What makes room elsewhere must not need any here.
        std::fs::remove_file(bench.at("gone")).unwrap();
        drop(filling);
        std::fs::remove_file(&filler).unwrap();
        let begun = std::time::Instant::now();
        while let Err(error) = std::fs::write(bench.at("large"), noise(30 * MIB, 50)) {
            assert!(is_full(&error) && begun.elapsed().as_secs() < 30, "{error}: {}", bench.log());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        std::fs::rename(bench.at(&format!("s{}", safe[0])), bench.at("renamed")).unwrap();
        bench.drained();
        bench.kill();
        bench.mount();
        assert!(std::fs::read(bench.at("renamed")).unwrap() == noise(3000, safe[0]));
        assert!(std::fs::read(bench.at("large")).unwrap() == noise(30 * MIB, 50));
        for number in &safe[1..] {
            let read = std::fs::read(bench.at(&format!("s{number}"))).unwrap();
            assert!(read == noise(3000, *number), "s{number}");
        }
        assert!(!bench.at("gone").exists());
        bench.unmount();
        drop(disk);
    }
}

/// How long a load may take: what does not end by then waits for good.
const ENDS_WITHIN: Duration = Duration::from_secs(200);

/// Files of one load: `count` of `len` bytes.
#[derive(Clone, Copy)]
struct Load {
    count: usize,
    len: usize,
}

const THOUSAND: Load = Load { count: 1000, len: 800_000 };
const TWO_HUNDRED: Load = Load { count: 200, len: 800_000 };
const OPEN_AT_ONCE: Load = Load { count: 2000, len: 100_000 };

/// What a store far away takes for an answer: so long all writers are there at once.
const ROUND_TRIP: Duration = Duration::from_millis(50);

impl Load {
    /// The content of one file: its own number, then what all have.
    fn content(&self, number: usize) -> Vec<u8> {
        let mut content = noise(self.len, 3);
        content[..8].copy_from_slice(&number.to_le_bytes());
        content
    }

    /// Writes and closes one file.
    fn write(&self, path: &Path, number: usize, common: &[u8], together: &Barrier) {
        let file = File::create(path);
        together.wait();
        let write = || {
            let mut file = file?;
            file.write_all(&number.to_le_bytes())?;
            file.write_all(&common[8..])?;
            let fd = file.into_raw_fd();
            // SAFETY: the descriptor was just taken out of the file, and belongs to nothing else.
            match unsafe { libc::close(fd) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        let written: std::io::Result<()> = write();
        written.unwrap_or_else(|error| panic!("f{number}: {error}"));
    }

    /// All write and close at once, others read beside them.
    fn by_threads(&self, mount: &mut Mount) {
        let (common, done) = (noise(self.len, 3), AtomicUsize::new(0));
        let (together, old) = (Barrier::new(self.count), mount.at("old"));
        std::thread::scope(|scope| {
            for number in 0..self.count {
                let path = mount.at(&format!("f{number}"));
                let (common, done, together) = (&common, &done, &together);
                let write = move || {
                    self.write(&path, number, common, together);
                    done.fetch_add(1, Ordering::SeqCst);
                };
                let thread = std::thread::Builder::new().stack_size(256 << 10);
                thread.spawn_scoped(scope, write).unwrap();
            }
            let readers: Vec<_> =
                (0..2).map(|_| scope.spawn(|| std::fs::read(&old).unwrap().len())).collect();
            self.ends(mount, || done.load(Ordering::SeqCst));
            for reader in readers {
                assert_eq!(reader.join().unwrap(), 24 * MIB);
            }
        });
    }

    /// All are open and written before the first is closed, by programs of a hundred each.
    fn by_programs(&self, mount: &mut Mount) {
        const EACH: usize = 100;
        std::fs::write(mount.local("common"), noise(self.len, 3)).unwrap();
        let script = "import sys\n\
            common, n = open('../common', 'rb').read(), int(sys.argv[1])\n\
            files = [(n + i, open(f'f{n + i}', 'wb', 0)) for i in range(100)]\n\
            for i, f in files: f.write(i.to_bytes(8, 'little') + common[8:])\n\
            print('open', flush=True)\n\
            sys.stdin.readline()\n\
            for i, f in files: f.close()\n";
        let program = |number: usize| {
            let mut command = Command::new("python3");
            command.args(["-c", script, &number.to_string()]).current_dir(mount.mount_point());
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut programs: Vec<_> = (0..self.count).step_by(EACH).map(program).collect();
        for program in &mut programs {
            let mut said = String::new();
            BufReader::new(program.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said, "open\n");
        }
        programs.iter_mut().for_each(|program| drop(program.stdin.take()));
        let mut ended = 0;
        self.ends(mount, || {
            programs.retain_mut(|program| match program.try_wait().unwrap() {
                Some(status) => {
                    assert!(status.success());
                    ended += EACH;
                    false
                }
                None => true,
            });
            ended
        });
    }

    /// Waits until all are `done`. Where that takes too long the mount is killed, so that its programs end too.
    fn ends(&self, mount: &mut Mount, mut done: impl FnMut() -> usize) {
        let begun = Instant::now();
        while done() < self.count {
            if begun.elapsed() > ENDS_WITHIN {
                let (closed, log) = (done(), mount.log());
                mount.kill();
                panic!("{closed} of {} files were closed: {log}", self.count);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} files of {} bytes in {:?}", self.count, self.len, begun.elapsed());
    }

    /// All are there, and a fifth of them is looked into.
    fn is_there(&self, mount: &Mount) {
        for number in 0..self.count {
            let path = mount.at(&format!("f{number}"));
            assert_eq!(std::fs::metadata(&path).unwrap().len(), self.len as u64, "f{number}");
            if number % 5 == 0 {
                assert!(std::fs::read(&path).unwrap() == self.content(number), "f{number}");
            }
        }
    }
}

/// A load on a mount with so many MiB ends, and takes no more than them and what is allowed beside.
fn a_load_ends(mount: &mut Mount, mib: u64, load: Load, run: fn(&Load, &mut Mount)) {
    mount.option(&format!("--memory={mib}MiB"));
    mount.mount();
    std::fs::write(mount.at("old"), noise(24 * MIB, 1000)).unwrap();
    mount.remount();
    run(&load, mount);
    let peak = peak_bytes(mount);
    eprintln!("{} MiB at most with --memory {mib}MiB", peak >> 20);
    assert!(peak <= (mib << 20) + OVERHEAD_BYTES, "{} MiB with --memory {mib}MiB", peak >> 20);
    mount.drained();
    mount.remount();
    load.is_there(mount);
    mount.unmount();
}

/// The embedded store behind a long line, in both modes.
fn a_load_ends_in_both_modes(mib: u64, load: Load, run: fn(&Load, &mut Mount)) {
    for options in [&[][..], &["--write-back"]] {
        let mut bench = Bench::unmounted(options);
        bench.store.faults.set(vec![Rule::new(Fault::Latency(ROUND_TRIP))]);
        a_load_ends(&mut bench, mib, load, run);
    }
}

#[test]
fn a_thousand_writers_finish_with_memory_for_few() {
    a_load_ends_in_both_modes(64, THOUSAND, Load::by_threads);
}

#[test]
fn two_hundred_writers_finish_with_32_mib() {
    a_load_ends_in_both_modes(32, TWO_HUNDRED, Load::by_threads);
}

#[test]
fn two_thousand_files_that_are_open_at_once_are_closed() {
    a_load_ends_in_both_modes(64, OPEN_AT_ONCE, Load::by_programs);
}

#[tokio::test]
async fn many_writers_finish_on_seaweedfs() {
    let weed = support::weed::Weed::shared().await;
    for (options, load) in [(&[][..], THOUSAND), (&["--write-back"], TWO_HUNDRED)] {
        let bucket = format!("s3://{}", weed.fresh_bucket().await);
        let mut mount = Mount::new(weed.endpoint(), &bucket, options);
        let ended = tokio::task::spawn_blocking(move || {
            a_load_ends(&mut mount, 64, load, Load::by_threads);
        });
        ended.await.unwrap();
    }
}

/// A mount that was killed with the disk of the cache full to the last byte: the next one starts, though there is no
/// room for anything, and makes room by sending what waits.
#[test]
fn a_full_disk_keeps_no_mount_from_sending_what_waits() {
    use ratchetfs::embedded::{Fault, Operation, Rule};

    let mut bench = Bench::unmounted(&["--write-back", "--memory", "64MiB"]);
    let Some(disk) = SmallDisk::mount(&bench.cache_dir(), 32) else {
        eprintln!("skipped: no tmpfs can be mounted here");
        return;
    };
    bench.mount();
    let refused = [Operation::PutObject, Operation::CreateMultipartUpload]
        .map(|operation| Rule::new(Fault::slow_down()).on(operation));
    bench.store.faults.set(refused.to_vec());
    let files = [("small", 3000), ("one", 300 << 10), ("parts", 12 * MIB)];
    for (seed, (name, len)) in files.into_iter().enumerate() {
        std::fs::write(bench.at(name), noise(len, seed as u64)).unwrap();
    }
    let mut filler = File::create(bench.cache_dir().join("filler")).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
    bench.kill();
    bench.store.faults.clear();
    bench.mount();
    bench.drained();
    for (seed, (name, len)) in files.into_iter().enumerate() {
        assert!(std::fs::read(bench.at(name)).unwrap() == noise(len, seed as u64), "{name}");
    }
    assert_eq!(sh(&bench.cache_dir(), "find . -path '*/staging/*' | wc -l").trim(), "0");
    bench.unmount();
    drop(disk);
}
