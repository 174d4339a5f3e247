//! Which readers see what is written, and when: on one mount, as on a local disk.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::close;
use support::mount::{Bench, Mount, WeedBench, noise, sh, wait_until};

const MIB: usize = 1 << 20;

/// More than any file here is long.
const MAP_BYTES: usize = 8 * MIB;

/// A file that is open to be read, by read(2) or by a mapping.
struct Reader {
    what: &'static str,
    file: File,
    map: Option<*const u8>,
}

impl Reader {
    fn open(path: &Path, what: &'static str, flags: i32) -> Reader {
        let file = File::options().read(true).custom_flags(flags).open(path).unwrap();
        Reader { what, file, map: None }
    }

    fn mapped(path: &Path, what: &'static str) -> Reader {
        let mut reader = Reader::open(path, what, 0);
        let fd = reader.file.as_raw_fd();
        // SAFETY: a new mapping, of a descriptor that is open.
        let map = unsafe {
            let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), MAP_BYTES, read, shared, fd, 0)
        };
        assert_ne!(map, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        reader.map = Some(map.cast());
        reader
    }

    /// All that it sees of a file that should be `len` bytes long.
    fn sees(&self, len: usize) -> Vec<u8> {
        if let Some(map) = self.map {
            // SAFETY: what is mapped is longer, and the file is as long as this.
            return unsafe { std::slice::from_raw_parts(map, len) }.to_vec();
        }
        // An aligned buffer, for those that go past the page cache.
        let mut buffer = vec![0; MAP_BYTES + 4096];
        let start = buffer.as_ptr().align_offset(4096);
        let mut end = start;
        loop {
            let to = start + MAP_BYTES;
            let at = (end - start) as u64;
            let count = self.file.read_at(&mut buffer[end..to], at).unwrap();
            if count == 0 {
                return buffer[start..end].to_vec();
            }
            end += count;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(map) = self.map {
            // SAFETY: mapped by this reader, with that length.
            unsafe { libc::munmap(map.cast_mut().cast(), MAP_BYTES) };
        }
    }
}

/// A file on a mount and the same on the local disk, and the readers that have it open on the mount.
struct Twins {
    path: PathBuf,
    local: PathBuf,
    readers: Vec<Reader>,
}

impl Twins {
    /// Does the same to both, and looks whether all see it.
    fn each(&self, what: &str, mut work: impl FnMut(&Path)) {
        work(&self.path);
        work(&self.local);
        self.agree(what);
    }

    fn agree(&self, what: &str) {
        let wanted = fs::read(&self.local).unwrap();
        let len = fs::metadata(&self.path).unwrap().len();
        assert_eq!(len, wanted.len() as u64, "{what}: stat");
        for reader in &self.readers {
            let seen = reader.sees(wanted.len());
            let differs = seen.iter().zip(&wanted).position(|(seen, wanted)| seen != wanted);
            assert!(
                seen == wanted,
                "{what}: {} sees {} bytes of {}, the first other at {differs:?}",
                reader.what,
                seen.len(),
                wanted.len()
            );
        }
        assert!(fs::read(&self.path).unwrap() == wanted, "{what}: opened now");
    }
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    close(file).unwrap();
}

/// All that is done to logs, databases and the like, looked at by all readers that have the file open.
fn change_in_all_ways(twins: &Twins) {
    twins.agree("at first");
    twins.each("appended to", |path| append(path, "a line\n"));
    twins.each("appended to by a shell", |path| {
        sh(path.parent().unwrap(), &format!("echo another >> {}", path.display()));
    });
    let both = |options: &mut OpenOptions| {
        [&twins.path, &twins.local].map(|path| options.open(path).unwrap())
    };
    let logs = both(OpenOptions::new().append(true));
    for number in 0..3 {
        logs.iter().for_each(|mut log| writeln!(log, "line {number}").unwrap());
        twins.agree("appended to by one that keeps it open");
    }
    twins.each("appended to by another meanwhile", |path| append(path, "between\n"));
    let patches = both(OpenOptions::new().read(true).write(true));
    for at in [0, 4090, 100_000, 5 * MIB as u64 + 1] {
        patches.iter().for_each(|file| file.write_all_at(b"patched", at).unwrap());
        twins.agree("patched");
    }
    patches.iter().for_each(|file| file.sync_all().unwrap());
    twins.agree("synced");
    patches.iter().for_each(|file| file.set_len(150_000).unwrap());
    twins.agree("cut");
    patches.iter().for_each(|file| file.set_len(6 * MIB as u64 + 77).unwrap());
    twins.agree("grown");
    patches.into_iter().for_each(|file| close(file).unwrap());
    twins.agree("closed by one of two");
    logs.iter().for_each(|mut log| log.write_all(b"the last\n").unwrap());
    logs.into_iter().for_each(|log| close(log).unwrap());
    twins.agree("closed");
    twins.each("cut by its name", |path| {
        let path = path.display();
        sh(Path::new("/"), &format!("truncate -s 70001 {path}"));
    });
    for seed in 1..4 {
        let content = noise(2 * MIB + 7 * seed as usize, seed);
        twins.each("written anew", |path| {
            let file = OpenOptions::new().write(true).truncate(true).open(path).unwrap();
            for (number, piece) in content.chunks(300_000).enumerate() {
                file.write_all_at(piece, number as u64 * 300_000).unwrap();
            }
            close(file).unwrap();
        });
        twins.each("and added to", |path| append(path, "more\n"));
    }
    twins.each("emptied", |path| drop(File::create(path).unwrap()));
    twins.each("filled again", |path| fs::write(path, noise(MIB, 9)).unwrap());
}

fn twins(mount: &Mount, content: &[u8]) -> Twins {
    let twins = Twins { path: mount.at("f"), local: mount.local("twin"), readers: Vec::new() };
    fs::write(&twins.path, content).unwrap();
    fs::write(&twins.local, content).unwrap();
    twins
}

/// Of a file that is not in the cache, through the kernel's pages and past them.
fn all_see_what_is_written(mount: &Mount) {
    let mut twins = twins(mount, &noise(300_000, 7));
    let path = &twins.path;
    twins.readers = vec![
        Reader::open(path, "read(2)", 0),
        Reader::open(path, "read(2) past the pages", libc::O_DIRECT),
        Reader::mapped(path, "a mapping"),
        // Opened to write too, and never written to.
        Reader {
            what: "read(2) of one that may write",
            file: File::options().read(true).write(true).open(path).unwrap(),
            map: None,
        },
    ];
    change_in_all_ways(&twins);
    twins.readers.pop();
    change_in_all_ways(&twins);
}

/// Has all of the file on the disk, and nothing in the kernel's pages.
fn bring_to_the_disk(mount: &Mount, path: &Path) {
    mount.drained();
    let len = fs::metadata(path).unwrap().len();
    wait_until("on the disk", || {
        Reader::open(path, "past the pages", libc::O_DIRECT).sees(0);
        sh(path.parent().unwrap(), "getfattr --only-values -n user.ratchetfs.cached-ranges f")
            == format!("0-{len}")
    });
}

/// Opens readers until the kernel serves them by itself: it is not given the file while a handle that has just
/// been closed is still to be released.
fn served_by_the_kernel<T>(mount: &Mount, open: impl Fn() -> T, read: impl Fn(&T)) -> T {
    (0..10)
        .find_map(|_| {
            let readers = open();
            without_the_mount(mount, || read(&readers)).then_some(readers)
        })
        .expect("the kernel reads by itself")
}

/// Does what the kernel can do by itself; `false` where the mount had to go on for it.
fn without_the_mount(mount: &Mount, work: impl FnOnce()) -> bool {
    let process = mount.status().unwrap().process.pid as libc::pid_t;
    // SAFETY: signals to a child that is waited for at the end of the test only.
    let signal = move |signal| unsafe { libc::kill(process, signal) };
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let late = wait.recv_timeout(Duration::from_secs(4)).is_err();
        signal(libc::SIGCONT);
        late
    });
    signal(libc::SIGSTOP);
    work();
    done.send(()).ok();
    !watch.join().unwrap()
}

/// Of a file that the kernel reads from the cache file itself.
fn all_see_what_is_written_though_the_kernel_reads_by_itself(mount: &Mount) {
    let mut twins = twins(mount, &noise(300_000, 8));
    bring_to_the_disk(mount, &twins.path);
    let path = &twins.path;
    let open = || {
        vec![
            Reader::open(path, "read(2) of the cache file", 0),
            Reader::mapped(path, "a mapping of the cache file"),
        ]
    };
    twins.readers = served_by_the_kernel(mount, open, |readers| {
        readers.iter().for_each(|reader| drop(reader.sees(300_000)));
    });
    twins.readers.push(Reader::open(path, "read(2) past the pages", libc::O_DIRECT));
    change_in_all_ways(&twins);
    twins.readers.pop();
    change_in_all_ways(&twins);
}

#[test]
fn all_open_handles_see_what_is_written() {
    let bench = Bench::start(&[]);
    all_see_what_is_written(&bench.mount);
}

#[test]
fn the_kernels_own_readers_see_what_is_written() {
    let mut bench = Bench::start(&[]);
    all_see_what_is_written_though_the_kernel_reads_by_itself(&bench.mount);
    // What was cached of the version before has not been touched.
    let content = fs::read(bench.at("f")).unwrap();
    bench.remount();
    assert!(fs::read(bench.at("f")).unwrap() == content);
    assert_eq!(bench.status().unwrap().cache.damaged_ranges, 0);
}

/// A program writes to a mapping while another has the file open that the kernel reads from the cache.
#[test]
fn a_mapping_is_written_beside_the_kernels_own_readers() {
    let mut bench = Bench::start(&[]);
    let path = bench.at("f");
    let mut content = noise(300_000, 4);
    fs::write(&path, &content).unwrap();
    bring_to_the_disk(&bench.mount, &path);
    let open = || Reader::open(&path, "read(2) of the cache file", 0);
    let reader = served_by_the_kernel(&bench.mount, open, |reader| drop(reader.sees(300_000)));
    let ino = reader.file.metadata().unwrap().ino();
    for (round, kept_open) in [true, false].into_iter().enumerate() {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(
            (file.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino()),
            (ino, ino)
        );
        // SAFETY: a new mapping, of a descriptor that is open.
        let map = unsafe {
            let both = libc::PROT_READ | libc::PROT_WRITE;
            let fd = file.as_raw_fd();
            libc::mmap(std::ptr::null_mut(), 300_000, both, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(map, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let file = Some(file).filter(|_| kept_open);
        let at = 123_456 + 10 * round;
        content[at..at + 6].copy_from_slice(b"mapped");
        // SAFETY: the mapping is as long as the content, and is used here alone.
        unsafe {
            map.cast::<u8>().add(at).copy_from(b"mapped".as_ptr(), 6);
            assert_eq!(libc::msync(map, 300_000, libc::MS_SYNC), 0);
        }
        assert!(reader.sees(300_000) == content && fs::read(&path).unwrap() == content);
        content[7] = round as u8;
        // SAFETY: as above; unmapped once.
        unsafe {
            map.cast::<u8>().add(7).write(round as u8);
            assert_eq!(libc::munmap(map, 300_000), 0);
        }
        drop(file);
        wait_until("seen", || reader.sees(300_000) == content);
        assert!(fs::read(&path).unwrap() == content, "{round}");
    }
    drop(reader);
    let differs = |when: &str| {
        let seen = fs::read(&path).unwrap();
        let at = seen.iter().zip(&content).position(|(seen, wanted)| seen != wanted);
        assert!(seen == content, "{when}: {} bytes, other at {at:?}", seen.len());
    };
    differs("afterwards");
    bench.remount();
    differs("after a remount");
}

/// What is cut off, zeroed and grown under the number that the kernel's own readers have, while others have pages of the
/// file under another.
#[test]
fn what_is_cut_or_zeroed_is_seen_under_every_number() {
    const LEN: usize = 300_000;
    let bench = Bench::start(&[]);
    let mut twins = twins(&bench.mount, &noise(LEN, 5));
    let path = twins.path.clone();
    bring_to_the_disk(&bench.mount, &path);
    let open = || Reader::open(&path, "read(2) of the cache file", 0);
    let own = served_by_the_kernel(&bench.mount, open, |reader| drop(reader.sees(LEN)));
    let writers =
        [&path, &twins.local].map(|path| OpenOptions::new().write(true).open(path).unwrap());
    let both = File::options().read(true).write(true).open(&path).unwrap();
    twins.readers = vec![own, Reader::mapped(&path, "a mapping under another number")];
    twins.readers.push(Reader { what: "read(2) of one that may write", file: both, map: None });
    let each = |what: &str, change: &dyn Fn(&File)| {
        twins.agree("before");
        writers.iter().for_each(change);
        let wanted = fs::read(&twins.local).unwrap();
        // Before stat(2), at which the kernel drops its pages of a file that has changed.
        for reader in &twins.readers {
            assert!(reader.sees(wanted.len()) == wanted, "{what}: {}", reader.what);
        }
        twins.agree(what);
        writers.iter().for_each(|file| file.write_all_at(&noise(LEN, 6), 0).unwrap());
    };
    let zeroed = |mode| move |file: &File| fallocate(file, mode, 5000, 100_000);
    each("punched", &zeroed(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE));
    each("zeroed", &zeroed(libc::FALLOC_FL_ZERO_RANGE));
    for len in [0, 4097, 200_000] {
        each("cut and grown", &|file| {
            file.set_len(len).unwrap();
            file.set_len(LEN as u64).unwrap();
        });
    }
    writers.iter().for_each(|file| fallocate(file, 0, LEN as i64, 5000));
    twins.agree("grown");
}

/// A page that was changed by a mapping, and is behind the end when the kernel writes it back.
#[test]
fn a_mapping_brings_nothing_back_that_was_cut_off() {
    const LEN: usize = 300_000;
    let bench = Bench::start(&[]);
    let mut twins = twins(&bench.mount, &noise(LEN, 5));
    let path = twins.path.clone();
    bring_to_the_disk(&bench.mount, &path);
    let open = || Reader::open(&path, "read(2) of the cache file", 0);
    twins.readers = vec![served_by_the_kernel(&bench.mount, open, |reader| drop(reader.sees(LEN)))];
    let writers =
        [&path, &twins.local].map(|path| OpenOptions::new().write(true).open(path).unwrap());
    let both = File::options().read(true).write(true).open(&path).unwrap();
    // SAFETY: a new mapping, of a descriptor that is open.
    let map = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), LEN, access, libc::MAP_SHARED, both.as_raw_fd(), 0)
    };
    assert_ne!(map, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    // SAFETY: the mapping is as long as the file.
    unsafe { map.cast::<u8>().add(200_000).write(77) };
    for len in [100_000, LEN as u64] {
        writers.iter().for_each(|file| file.set_len(len).unwrap());
        both.sync_all().unwrap();
        twins.agree("cut, and grown");
    }
    // SAFETY: as above; unmapped once.
    unsafe {
        assert_eq!(map.cast::<u8>().add(200_000).read(), 0);
        assert_eq!(libc::munmap(map, LEN), 0);
    }
    twins.agree("unmapped");
}

fn fallocate(file: &File, mode: i32, offset: i64, len: i64) {
    // SAFETY: a descriptor that is open, and numbers.
    let made = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
}

/// What stat(2) says at once is what it says later, though the store got the change late.
#[test]
fn the_time_of_a_change_stays_what_it_was() {
    let mut bench = Bench::start(&["--metadata-ttl", "0s"]);
    let ctime = |name: &str| {
        let found = fs::metadata(bench.at(name)).unwrap();
        (found.ctime(), found.ctime_nsec())
    };
    let mnt = bench.mount_point();
    sh(&mnt, "mkdir a b && echo a > a/f && ls -l a b");
    let mut file = File::create(bench.at("slow")).unwrap();
    file.write_all(b"content").unwrap();
    let written = ctime("slow");
    // The store's time of it is this much later.
    std::thread::sleep(Duration::from_millis(3100));
    close(file).unwrap();
    assert_eq!(ctime("slow"), written);
    sh(&mnt, "chmod 600 a/f && mv a/f b/g");
    let moved: Vec<_> = ["a", "b", "b/g"].into_iter().map(ctime).collect();
    for _ in 0..2 {
        sh(&mnt, "ls -l . a b");
        assert_eq!(ctime("slow"), written);
        assert_eq!(moved, ["a", "b", "b/g"].map(ctime));
        std::thread::sleep(Duration::from_millis(1100));
    }
    bench.remount();
    let from_the_store = fs::metadata(bench.at("slow")).unwrap();
    assert_eq!(from_the_store.ctime_nsec(), 0, "the store's, in whole seconds");
}

#[test]
fn under_write_back_too_all_see_what_is_written() {
    let bench = Bench::start(&["--write-back"]);
    all_see_what_is_written(&bench.mount);
    all_see_what_is_written_though_the_kernel_reads_by_itself(&bench.mount);
}

#[test]
fn on_seaweedfs_all_see_what_is_written() {
    let mut bench = WeedBench::start(&[]);
    all_see_what_is_written(&bench);
    all_see_what_is_written_though_the_kernel_reads_by_itself(&bench);
    bench.unmount();
}

/// What `tail -F` says of a log, told apart from what it says of its own doings.
struct Tail {
    process: std::process::Child,
    output: PathBuf,
}

impl Tail {
    fn of(mount: &Mount, name: &str) -> Tail {
        let output = mount.local("tail");
        let process = std::process::Command::new("tail")
            .args(["-F", "-s", "0.05", "-n", "+1"])
            .arg(mount.at(name))
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(mount.local("tail.log")).unwrap())
            .spawn()
            .unwrap();
        Tail { process, output }
    }

    fn waits_for(&self, text: &str) {
        wait_until(text, || fs::read_to_string(&self.output).unwrap() == text);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn a_log_is_followed(bench: &Bench, on_the_disk: bool) {
    let mnt = bench.mount_point();
    fs::write(bench.at("f"), "begun\n").unwrap();
    if on_the_disk {
        bring_to_the_disk(&bench.mount, &bench.at("f"));
    }
    let tail = Tail::of(&bench.mount, "f");
    tail.waits_for("begun\n");
    sh(&mnt, "echo one >> f");
    tail.waits_for("begun\none\n");
    let mut log = OpenOptions::new().append(true).open(bench.at("f")).unwrap();
    log.write_all(b"two\n").unwrap();
    tail.waits_for("begun\none\ntwo\n");
    sh(&mnt, "echo three >> f");
    tail.waits_for("begun\none\ntwo\nthree\n");
    close(log).unwrap();
    // It sees that there is less, and begins anew.
    sh(&mnt, "echo 1 > f");
    tail.waits_for("begun\none\ntwo\nthree\n1\n");
    sh(&mnt, "echo 2 >> f");
    tail.waits_for("begun\none\ntwo\nthree\n1\n2\n");
    // Rotated: the new file is another one, and the old one is read to its end.
    sh(&mnt, "mv f f.1 && echo a > f && echo b >> f");
    tail.waits_for("begun\none\ntwo\nthree\n1\n2\na\nb\n");
}

#[test]
fn tail_follows_a_log() {
    a_log_is_followed(&Bench::start(&[]), false);
    a_log_is_followed(&Bench::start(&[]), true);
    a_log_is_followed(&Bench::start(&["--write-back"]), false);
}

/// A page that was read when the file ended in it is zero behind that end: nothing of it is shown before the page is gone.
#[test]
fn a_file_is_not_longer_before_its_new_bytes_are_seen() {
    let mut bench = Bench::unmounted(&[]);
    bench.obey_faults();
    bench.mount();
    fs::write(bench.at("f"), "begun\n").unwrap();
    let reader = Reader::open(&bench.at("f"), "read(2)", 0);
    assert_eq!(reader.sees(6), b"begun\n");
    bench.put_fault("hang show f");
    let (seen, is_late) = std::thread::scope(|scope| {
        let appended = scope.spawn(|| append(&bench.at("f"), "more\n"));
        let look = |_| {
            std::thread::sleep(Duration::from_millis(10));
            (fs::metadata(bench.at("f")).unwrap().len(), reader.sees(6))
        };
        let seen: Vec<_> = (0..50).map(look).collect();
        let is_late = !appended.is_finished();
        bench.put_fault("");
        (seen, is_late)
    });
    assert!(is_late, "the write has not come to that point");
    assert!(seen.iter().all(|seen| *seen == (6, b"begun\n".to_vec())), "{seen:?}");
    assert_eq!(fs::metadata(bench.at("f")).unwrap().len(), 11);
    assert_eq!(reader.sees(11), b"begun\nmore\n");
}

/// A reader of a file again and again while others patch it and it is on its way to the store.
#[test]
fn a_file_is_read_while_it_is_published() {
    for options in [&["--write-back"][..], &[]] {
        let bench = Bench::start(options);
        let mut content = noise(20 * MIB, 3);
        fs::write(bench.at("f"), &content).unwrap();
        let kept = File::open(bench.at("f")).unwrap();
        for round in 0..30 {
            for patch in 0..3 {
                let at = (round * 7_919_123 + patch * 3_333_333) % (20 * MIB - 3333);
                let bytes = noise(3333, (round * 3 + patch) as u64 + 1);
                let file = OpenOptions::new().write(true).open(bench.at("f")).unwrap();
                file.write_all_at(&bytes, at as u64).unwrap();
                close(file).unwrap();
                content[at..at + 3333].copy_from_slice(&bytes);
            }
            assert!(fs::read(bench.at("f")).unwrap() == content, "round {round}");
            let mut seen = vec![0; content.len()];
            kept.read_exact_at(&mut seen, 0).unwrap();
            assert!(seen == content, "round {round}, by one that was open");
        }
    }
}

/// Readers that never stop while a file is replaced by rename(2): each sees one version, whole, or another.
fn atomic_replacement_is_atomic(mount: &Mount) {
    let (done, versions) = (AtomicBool::new(false), AtomicU64::new(0));
    let content = |number: u64| format!("{number}\n").repeat(2000 + number as usize % 500 * 3);
    let replace = |number: u64| {
        fs::write(mount.at("new"), content(number)).unwrap();
        fs::rename(mount.at("new"), mount.at("f")).unwrap();
    };
    replace(0);
    let read = |way: usize| {
        let (mut reads, mut latest) = (0, 0);
        while !done.load(Ordering::Relaxed) {
            let file = File::open(mount.at("f")).expect("open");
            if way == 2 {
                fs::metadata(mount.at("f")).expect("stat");
            }
            // As programs do that ask for the length first.
            let len = file.metadata().expect("fstat").len() as usize;
            let mut seen = vec![0; if way == 1 { 1 << 20 } else { len }];
            let mut end = 0;
            while end < seen.len() {
                match file.read_at(&mut seen[end..], end as u64).expect("read") {
                    0 => break,
                    count => end += count,
                }
            }
            let seen = std::str::from_utf8(&seen[..end]).unwrap();
            let number = seen.lines().next().expect("not empty").parse().unwrap();
            assert!(seen == content(number), "{number} is {end} bytes long, and stat said {len}");
            assert!(number >= latest, "{number} after {latest}");
            latest = number;
            reads += 1;
        }
        reads
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|way| scope.spawn(move || read(way % 3))).collect();
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < Duration::from_secs(8)
            && !readers.iter().any(|reader| reader.is_finished())
        {
            number += 1;
            replace(number);
        }
        versions.store(number, Ordering::Relaxed);
        done.store(true, Ordering::Relaxed);
        let reads: Vec<i32> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        println!("{number} versions, {reads:?} reads");
        assert!(number > 20 && reads.iter().all(|reads| *reads > 20));
    });
}

#[test]
fn a_file_that_is_replaced_again_and_again_is_always_whole() {
    atomic_replacement_is_atomic(&Bench::start(&[]).mount);
    atomic_replacement_is_atomic(&Bench::start(&["--metadata-ttl", "0s"]).mount);
    atomic_replacement_is_atomic(&Bench::start(&["--write-back"]).mount);
}

#[test]
fn on_seaweedfs_a_file_that_is_replaced_is_always_whole() {
    let mut bench = WeedBench::start(&[]);
    atomic_replacement_is_atomic(&bench);
    bench.unmount();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn the_five_thousandth_open_file_costs_what_the_fifth_does() {
    const FILES: usize = 5000;
    raise_descriptor_limit(FILES as u64 + 200);
    let bench = Bench::start(&["--write-back"]);
    let timed = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    let ends = |what: &str, times: &[Duration]| {
        let (first, last) = (median(times[..500].to_vec()), median(times[FILES - 500..].to_vec()));
        println!("{what}: {first:?} at first, {last:?} at last");
        assert!(last < 3 * first + Duration::from_micros(100), "{what}: {first:?}, then {last:?}");
    };
    let (mut open, mut made) = (Vec::new(), Vec::new());
    for number in 0..FILES {
        let path = bench.at(&format!("f{number}"));
        made.push(timed(&mut || open.push(File::create(&path).unwrap())));
    }
    ends("a new file", &made);
    let closed: Vec<Duration> = open
        .drain(..)
        .map(|file| timed(&mut || close(file.try_clone().unwrap()).unwrap()))
        .collect();
    ends("a close", &closed);
    bench.drained();
    let mut opened = Vec::new();
    for number in 0..FILES {
        let path = bench.at(&format!("f{number}"));
        opened.push(timed(&mut || open.push(File::open(&path).unwrap())));
    }
    ends("an open", &opened);
    open.clear();
    let same: Vec<Duration> =
        (0..FILES).map(|_| timed(&mut || open.push(File::open(bench.at("f0")).unwrap()))).collect();
    ends("one and the same file", &same);
}

fn raise_descriptor_limit(descriptors: u64) {
    let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
    // SAFETY: the structure lives for the length of the call.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(raised, 0, "{}", std::io::Error::last_os_error());
}

/// close(2) says that the store has refused, whatever else the process has of the file.
#[test]
fn a_close_tells_the_error_though_there_are_duplicates() {
    let bench = Bench::start(&[]);
    let refused = |name: &str, hold: &dyn Fn(&File) -> Option<File>| {
        let path = bench.at(name);
        let mut file = File::create(&path).unwrap();
        let held = hold(&file);
        file.write_all(b"content").unwrap();
        bench.store.faults.set(vec![Rule::new(Fault::denied()).on(Operation::PutObject)]);
        assert_eq!(close(file), Err(libc::EACCES), "{name}");
        drop(held);
        bench.store.faults.clear();
    };
    let path_of =
        |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let open =
        |file: &File, flags| File::options().read(true).custom_flags(flags).open(path_of(file));
    refused("alone", &|_| None);
    refused("with-a-path", &|file| Some(open(file, libc::O_PATH).unwrap()));
    refused("with-a-reader", &|file| Some(open(file, 0).unwrap()));
    refused("with-a-duplicate", &|file| Some(file.try_clone().unwrap()));
    // A duplicate that is closed each time, as a file system does that stands on this one.
    let mut file = File::create(bench.at("stacked")).unwrap();
    for (round, denied) in [false, true].into_iter().enumerate() {
        file.write_all(b"more").unwrap();
        let faults = Rule::new(Fault::denied()).on(Operation::PutObject);
        bench.store.faults.set(if denied { vec![faults] } else { Vec::new() });
        let closed = close(file.try_clone().unwrap());
        assert_eq!(closed, if denied { Err(libc::EACCES) } else { Ok(()) }, "{round}");
    }
    bench.store.faults.clear();
}

/// Redirections and inherited descriptors do not send a file several times.
#[test]
fn a_shell_and_its_children_send_a_file_once() {
    let bench = Bench::start(&[]);
    sh(&bench.mount_point(), "ls");
    for script in [
        "echo a > f",
        ": > f",
        "{ echo a; /bin/echo b; echo c; } > f 2>&1",
        "( echo a; /bin/echo b; /bin/echo c ) > f",
        "/bin/echo a > f 2>&1",
        "sh -c '/bin/echo a; /bin/echo b' > f",
        "/bin/echo a | tee f",
    ] {
        let before = bench.requests(Operation::PutObject);
        sh(&bench.mount_point(), script);
        let puts = bench.requests(Operation::PutObject) - before;
        assert_eq!(puts, 1, "{script}");
    }
}
