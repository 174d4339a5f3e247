//! A file is its inode: what happens to its name, and to those above it, while it is written, read, waiting or
//! unlinked, changes where it is and nothing else.

// What fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;
use std::time::Duration;

use ratchetfs::embedded::{Fault, Operation, Rule};
use support::bucket::Bucket;
use support::close;
use support::mount::{Bench, Mount, WeedBench, noise, sh, wait_until};
use support::proxy::Put;

const MIB: usize = 1 << 20;
const DEFAULT: [&str; 2] = ["--part-size", "5MiB"];
const WRITE_BACK: [&str; 3] = ["--part-size", "5MiB", "--write-back"];

/// Its directory is renamed in the middle of a stream, and of a log that is appended to.
#[test]
fn writers_go_on_when_a_directory_above_is_renamed() {
    for options in [&DEFAULT[..], &WRITE_BACK[..]] {
        let mut bench = Bench::start(options);
        fs::create_dir_all(bench.at("d/e")).unwrap();
        fs::write(bench.at("d/log"), b"begun\n").unwrap();
        bench.drained();
        let at = |number| if number == 0 { "d".to_owned() } else { format!("d{number}") };
        let (content, mut line) = (noise(40 * MIB, 1), b"begun\n".to_vec());
        let mut stream = File::create(bench.at("d/e/n")).unwrap();
        let mut log = OpenOptions::new().append(true).open(bench.at("d/log")).unwrap();
        let mut quiet = File::create(bench.at("d/quiet")).unwrap();
        stream.write_all(&content[..9 * MIB]).unwrap();
        quiet.write_all(b"a little").unwrap();
        for number in 0..6 {
            let from = 9 * MIB + number * 5 * MIB;
            let (old, new) = (at(number), at(number + 1));
            fs::rename(bench.at(&old), bench.at(&new)).unwrap();
            stream.write_all(&content[from..from + 5 * MIB]).unwrap();
            let text = format!("line {number}\n");
            log.write_all(text.as_bytes()).unwrap();
            line.extend(text.as_bytes());
        }
        stream.write_all(&content[39 * MIB..]).unwrap();
        for file in [stream, log, quiet] {
            close(file).unwrap();
        }
        bench.drained();
        bench.assert_has("d6/e/n", &content);
        bench.assert_has("d6/log", &line);
        bench.assert_has("d6/quiet", b"a little");
        bench.remount();
        bench.assert_has("d6/e/n", &content);
        bench.assert_has("d6/log", &line);
        assert_eq!(fs::read_dir(bench.mount_point()).unwrap().count(), 1);
    }
}

/// A release takes the place of the one before: below it are its own names, modes and contents at once, at any depth,
/// though those of the other have just been listed under the same paths.
#[test]
fn trees_that_change_places_have_their_own_names() {
    let believed = ["--metadata-ttl", "infinite"];
    for options in [&[][..], &["--write-back"], &believed] {
        let bench = Bench::start(options);
        let root = bench.mount_point();
        let tree = |name: &str| {
            let listed = sh(&root, &format!("cd {name}; find . -mindepth 1 -printf '%p %m %s\\n'"));
            let read = sh(&root, &format!("cd {name}; find . -type f | sort | xargs cat"));
            (listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), read)
        };
        sh(
            &root,
            "mkdir -p now/bin/x next/bin/x; chmod 700 now/bin; echo one > now/bin/a; echo one > now/bin/x/a
             chmod 750 next/bin/x; echo second > next/bin/a; echo second > next/bin/b; echo third > next/bin/x/c",
        );
        bench.drained();
        let before = [tree("now"), tree("next")];
        fs::rename(root.join("now"), root.join("last")).unwrap();
        fs::rename(root.join("next"), root.join("now")).unwrap();
        assert_eq!([tree("last"), tree("now")], before, "{options:?}");
        for (name, is_there) in [("now/bin/b", true), ("now/bin/x/c", true), ("now/bin/x/a", false)]
        {
            assert_eq!(root.join(name).exists(), is_there, "{options:?} {name}");
        }
    }
}

/// Making files, renaming what they are in, and looking for all that waits take their locks in one order.
#[test]
fn renames_beside_creates_and_looks_do_not_hang() {
    let mut bench = Bench::unmounted(&WRITE_BACK);
    // The store throttles all that is closed, so that it waits here; what that does to the pace is not the question.
    bench.set_env("RATCHETFS_WITHOUT", "hold-back");
    bench.mount();
    fs::create_dir(bench.at("d0")).unwrap();
    bench.store.faults.set(vec![Rule::new(Fault::slow_down()).on(Operation::PutObject)]);
    let (root, made) = (bench.mount_point(), 600);
    let (done, is_done) = std::sync::mpsc::channel();
    let creators = (0..2).map(|creator| {
        let (root, done) = (root.clone(), done.clone());
        std::thread::spawn(move || {
            for number in 0..made {
                fs::write(root.join(format!("{creator}-{number}")), b"x").unwrap();
            }
            done.send(()).unwrap();
        })
    });
    let creators: Vec<_> = creators.collect();
    let (busy, renamed) = (root.clone(), done.clone());
    let renamer = std::thread::spawn(move || {
        for number in 0..60 {
            let at = |number: u32| busy.join(format!("d{number}"));
            fs::rename(at(number), at(number + 1)).unwrap();
        }
        renamed.send(()).unwrap();
    });
    for _ in 0..20 {
        bench.resume();
    }
    for _ in 0..3 {
        is_done.recv_timeout(Duration::from_secs(120)).expect("neither hangs nor fails");
    }
    creators.into_iter().chain([renamer]).for_each(|thread| thread.join().unwrap());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 2 * made + 1);
    bench.store.faults.clear();
    bench.drained();
}

/// What a file is in when something happens to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// New, and longer than a part: an upload has begun.
    Streamed,
    /// New, and all of it is here.
    Begun,
    Appended,
    /// Closed under write-back, and the store takes nothing of it.
    Waiting,
    /// An object that was changed, and closed.
    Changed,
    /// Its close has just begun.
    Published,
    /// A reader has the beginning of it.
    Read,
    /// A reader has it, and all of it is on the local disk.
    Cached,
    UnlinkedRead,
    UnlinkedWritten,
    /// A reader has the file that it has replaced.
    ReplacedRead,
}

/// What happens to the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Renamed,
    RenamedAway,
    ParentRenamed,
    GrandparentRenamed,
    RenamedOver,
    Replaced,
    Unlinked,
    ParentRemoved,
}

const STATES: [State; 11] = [
    State::Streamed,
    State::Begun,
    State::Appended,
    State::Waiting,
    State::Changed,
    State::Published,
    State::Read,
    State::Cached,
    State::UnlinkedRead,
    State::UnlinkedWritten,
    State::ReplacedRead,
];

const EVENTS: [Event; 8] = [
    Event::Renamed,
    Event::RenamedAway,
    Event::ParentRenamed,
    Event::GrandparentRenamed,
    Event::RenamedOver,
    Event::Replaced,
    Event::Unlinked,
    Event::ParentRemoved,
];

/// Longer than the kernel reads ahead.
const BASE_BYTES: usize = 300 << 10;

struct Case {
    number: u64,
    state: State,
    event: Event,
}

/// A file in its state.
#[derive(Default)]
struct Held {
    writer: Option<File>,
    /// What the reader is to see from beginning to end.
    reader: Option<(File, Vec<u8>)>,
    closing: Option<JoinHandle<Result<(), i32>>>,
    /// What the name has, where there is one.
    content: Option<Vec<u8>>,
}

impl Case {
    fn all(write_back: bool) -> Vec<Case> {
        let named = |state| !matches!(state, State::UnlinkedRead | State::UnlinkedWritten);
        let of_directories =
            [Event::ParentRenamed, Event::GrandparentRenamed, Event::ParentRemoved];
        let mut cases = Vec::new();
        for state in STATES {
            for event in EVENTS {
                let applies = (named(state) || of_directories.contains(&event))
                    && (write_back || state != State::Waiting);
                if applies {
                    cases.push(Case { number: cases.len() as u64, state, event });
                }
            }
        }
        cases
    }

    fn top(&self) -> String {
        format!("g{}-{:?}-{:?}", self.number, self.state, self.event)
    }

    fn file(&self) -> String {
        format!("{}/p/{}", self.top(), self.name())
    }

    fn name(&self) -> String {
        format!("{:?}", self.state)
    }

    /// The file that replaces it, or is replaced.
    fn other(&self) -> String {
        format!("{}/p/o", self.top())
    }

    fn has_base(&self) -> bool {
        !matches!(
            self.state,
            State::Streamed
                | State::Begun
                | State::Waiting
                | State::Published
                | State::UnlinkedWritten
        )
    }

    fn has_other(&self) -> bool {
        matches!(self.event, Event::RenamedOver | Event::Replaced)
    }

    fn base(&self) -> Vec<u8> {
        noise(BASE_BYTES, 100 + self.number)
    }

    fn other_content(&self) -> Vec<u8> {
        noise(1000, 500 + self.number)
    }

    /// What a writer adds before and after the event.
    fn added(&self, after: bool) -> Vec<u8> {
        let len = if self.state == State::Streamed { 6 * MIB } else { 2000 };
        noise(if after { 3000 } else { len }, 1000 + 2 * self.number + u64::from(after))
    }

    /// Objects as other programs make them.
    fn put_objects(&self, bucket: &Bucket) {
        if self.has_base() {
            bucket.put_as_part(&self.file(), self.base());
        }
        if self.has_other() {
            bucket.put_as_part(&self.other(), self.other_content());
        }
        if !self.has_base() && !self.has_other() {
            bucket.put(&format!("{}/p/", self.top()), "");
        }
    }

    fn prepare(&self, mount: &Mount) -> Held {
        let path = mount.at(&self.file());
        let mut held = Held::default();
        let begin = |sync: bool| {
            let mut file =
                File::options().append(true).create(true).open(&path).expect("opened to write");
            file.write_all(&self.added(false)).unwrap();
            if sync {
                file.sync_all().unwrap();
            }
            file
        };
        let read = |whole: bool| {
            let file = File::open(&path).unwrap();
            let mut first = vec![0; if whole { BASE_BYTES } else { 4096 }];
            file.read_exact_at(&mut first, 0).unwrap();
            assert!(first == self.base()[..first.len()]);
            (file, self.base())
        };
        let mut content = if self.has_base() { self.base() } else { Vec::new() };
        match self.state {
            State::Streamed | State::Begun | State::Appended => {
                held.writer = Some(begin(true));
                content.extend(self.added(false));
            }
            State::Waiting | State::Changed => {
                close(begin(false)).unwrap();
                content.extend(self.added(false));
            }
            State::Published => {
                let file = begin(false);
                held.closing = Some(std::thread::spawn(|| close(file)));
                content.extend(self.added(false));
            }
            State::Read => held.reader = Some(read(false)),
            State::Cached => {
                drop(read(true));
                held.reader = Some(read(false));
            }
            State::UnlinkedRead => {
                held.reader = Some(read(false));
                fs::remove_file(&path).unwrap();
                return held;
            }
            State::UnlinkedWritten => {
                held.writer = Some(begin(true));
                fs::remove_file(&path).unwrap();
                return held;
            }
            State::ReplacedRead => {
                held.reader = Some(read(false));
                content = noise(700, self.number);
                let new = mount.at(&format!("{}/new", self.top()));
                fs::write(&new, &content).unwrap();
                fs::rename(&new, &path).unwrap();
            }
        }
        held.content = Some(content);
        held
    }

    /// Returns where the file is then, if it still has a name.
    fn happen(&self, root: &std::path::Path) -> Option<String> {
        let (top, file, other) = (self.top(), self.file(), self.other());
        let rename = |from: &str, to: &str| {
            fs::rename(root.join(from), root.join(to))
                .unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
        };
        let parent = format!("{top}/p");
        match self.event {
            Event::Renamed => {
                let to = format!("{parent}/h");
                rename(&file, &to);
                Some(to)
            }
            Event::RenamedAway => {
                let to = format!("away-{top}");
                rename(&file, &to);
                Some(to)
            }
            Event::ParentRenamed => {
                rename(&parent, &format!("{top}/q"));
                Some(format!("{top}/q/{}", self.name()))
            }
            Event::GrandparentRenamed => {
                rename(&top, &format!("moved-{top}"));
                Some(format!("moved-{top}/p/{}", self.name()))
            }
            Event::RenamedOver => {
                rename(&file, &other);
                Some(other)
            }
            Event::Replaced => {
                rename(&other, &file);
                None
            }
            Event::Unlinked => {
                fs::remove_file(root.join(&file)).unwrap();
                None
            }
            Event::ParentRemoved => {
                let removed = fs::remove_dir(root.join(&parent));
                let unlinked = matches!(self.state, State::UnlinkedRead | State::UnlinkedWritten);
                match removed {
                    Ok(()) => assert!(unlinked, "{top}: a directory with a file was removed"),
                    Err(error) => {
                        assert!(!unlinked, "{top}: {error}");
                        assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY), "{top}");
                    }
                }
                Some(file)
            }
        }
    }

    /// The program that has it open goes on; returns what is in the file then.
    fn go_on(&self, held: &mut Held) {
        let top = self.top();
        if let Some(mut writer) = held.writer.take() {
            writer.write_all(&self.added(true)).unwrap_or_else(|error| panic!("{top}: {error}"));
            if let Some(content) = &mut held.content {
                content.extend(self.added(true));
            }
            close(writer).unwrap_or_else(|error| panic!("{top}: close: {error}"));
        }
        if let Some((reader, content)) = held.reader.take() {
            let mut found = vec![0; content.len()];
            reader
                .read_exact_at(&mut found, 0)
                .unwrap_or_else(|error| panic!("{top}: read: {error}"));
            assert!(found == content, "{top}: another content for its reader");
        }
    }
}

/// Just these files are there, in the mount and in the bucket.
fn assert_are(mount: &Mount, bucket: &Bucket, expected: &BTreeMap<String, Vec<u8>>) {
    let names: Vec<&String> = expected.keys().collect();
    let found = sh(&mount.mount_point(), "find . -type f -printf '%P\\n' | LC_ALL=C sort");
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found, names, "in the mount");
    assert_eq!(bucket.files().iter().collect::<Vec<_>>(), names, "in the bucket");
    assert_eq!(bucket.uploads(), 0);
    expected.iter().for_each(|(name, content)| bucket.assert_has(mount, name, content));
}

/// Puts a file in the state of each case, has everything happen at once, and goes on, after a kill or without one.
/// `hinder` makes the store refuse what is to wait, and slow for what is to be on its way, or no more.
fn whatever_happens(
    cases: &[Case],
    killed: bool,
    mount: &mut Mount,
    bucket: &Bucket,
    hinder: &dyn Fn(bool),
) {
    cases.iter().for_each(|case| case.put_objects(bucket));
    mount.mount();
    hinder(true);
    let mut held: Vec<Held> = cases.iter().map(|case| case.prepare(mount)).collect();
    let root = mount.mount_point();
    // Side by side, so that all have just happened.
    let places: Vec<Option<String>> = std::thread::scope(|scope| {
        let root = &root;
        let threads: Vec<_> =
            cases.iter().map(|case| scope.spawn(move || case.happen(root))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    if killed {
        mount.kill();
    } else {
        hinder(false);
        cases.iter().zip(&mut held).for_each(|(case, held)| case.go_on(held));
    }
    let mut expected = BTreeMap::new();
    for ((case, held), place) in cases.iter().zip(&mut held).zip(places) {
        if let Some(closing) = held.closing.take() {
            let closed = closing.join().unwrap();
            assert!(killed || closed.is_ok(), "{}: {closed:?}", case.top());
        }
        if let (Some(place), Some(content)) = (place, held.content.take()) {
            expected.insert(place, content);
        }
        if case.event == Event::Replaced {
            expected.insert(case.file(), case.other_content());
        }
    }
    drop(held);
    if killed {
        hinder(false);
        mount.mount();
        mount.resume();
    }
    mount.drained();
    // Attributes of a file that is stored already may be on their way, as an upload that copies it.
    mount.wait_for("all unlinked files and all uploads are gone", |_| {
        bucket.uploads() == 0 && bucket.files().iter().all(|key| expected.contains_key(key))
    });
    assert_are(mount, bucket, &expected);
    mount.assert_nothing_interrupted();
    mount.remount();
    assert_are(mount, bucket, &expected);
}

/// How much later a file is stored whose close is to be under way.
const SLOW: Duration = Duration::from_millis(300);

fn whatever_happens_here(options: &[&str], killed: bool) {
    let Bench { mut mount, bucket, store, runtime: _runtime } = Bench::unmounted(options);
    let cases = Case::all(options.contains(&"--write-back"));
    whatever_happens(&cases, killed, &mut mount, &bucket, &|hinders| {
        let on = |fault, state| Rule::new(fault).on(Operation::PutObject).key_contains(state);
        let rules = [on(Fault::slow_down(), "/Waiting"), on(Fault::Latency(SLOW), "/Published")];
        store.faults.set(if hinders { rules.to_vec() } else { Vec::new() });
    });
}

#[test]
fn whatever_happens_to_a_name_its_file_goes_on() {
    whatever_happens_here(&DEFAULT, false);
}

#[test]
fn whatever_happens_to_a_name_its_file_goes_on_under_write_back() {
    whatever_happens_here(&WRITE_BACK, false);
}

#[test]
fn killed_after_whatever_happens_to_a_name_its_file_is_there() {
    whatever_happens_here(&DEFAULT, true);
}

#[test]
fn killed_after_whatever_happens_under_write_back_it_is_there() {
    whatever_happens_here(&WRITE_BACK, true);
}

/// Copies, removals and what is interrupted by a kill are the store's as much as ours. Left out is what the store
/// cannot tell from another case.
fn whatever_happens_on_seaweedfs(options: &[&str], killed: bool) {
    let WeedBench { mut mount, bucket, proxy, runtime: _runtime } = WeedBench::unmounted(options);
    let mut cases = Case::all(options.contains(&"--write-back"));
    cases.retain(|case| {
        !matches!(case.state, State::Begun | State::Cached) && case.event != Event::RenamedAway
    });
    whatever_happens(&cases, killed, &mut mount, &bucket, &|hinders| {
        let rules = [("/Waiting", Put::Refused), ("/Published", Put::Late(SLOW))];
        proxy.set_puts(if hinders { &rules } else { &[] });
    });
}

#[test]
fn on_seaweedfs_whatever_happens_its_file_goes_on() {
    for options in [&DEFAULT[..], &WRITE_BACK[..]] {
        whatever_happens_on_seaweedfs(options, false);
    }
}

#[test]
fn on_seaweedfs_killed_after_whatever_happens_it_is_there() {
    for options in [&DEFAULT[..], &WRITE_BACK[..]] {
        whatever_happens_on_seaweedfs(options, true);
    }
}

/// The store refuses to delete a file that is being read: everything is as before.
#[test]
fn an_unlink_that_is_refused_changes_nothing() {
    let mut bench = Bench::unmounted(&DEFAULT);
    let case = Case { number: 1, state: State::Read, event: Event::Unlinked };
    case.put_objects(&bench.bucket);
    bench.mount();
    let mut held = case.prepare(&bench);
    bench.store.faults.set(vec![
        Rule::new(Fault::denied()).on(Operation::DeleteObject).key_contains(case.name()),
    ]);
    fs::remove_file(bench.at(&case.file())).unwrap_err();
    assert_eq!(bench.bucket.files(), [case.file()], "and nothing is left of trying");
    case.go_on(&mut held);
    bench.assert_has(&case.file(), &case.base());
    bench.store.faults.clear();
    fs::remove_file(bench.at(&case.file())).unwrap();
    assert!(bench.bucket.files().is_empty());
}

/// A rename whose copy is there, and whose source cannot be deleted, fails; both names are there.
#[test]
fn a_rename_that_cannot_delete_its_source_leaves_both_names() {
    let mut bench = Bench::unmounted(&DEFAULT);
    let case = Case { number: 1, state: State::Read, event: Event::RenamedOver };
    case.put_objects(&bench.bucket);
    bench.mount();
    let mut held = case.prepare(&bench);
    let replaced = File::open(bench.at(&case.other())).unwrap();
    bench.store.faults.set(vec![
        Rule::new(Fault::denied()).on(Operation::DeleteObject).key_contains(case.name()),
    ]);
    fs::rename(bench.at(&case.file()), bench.at(&case.other())).unwrap_err();
    case.go_on(&mut held);
    let mut found = vec![0; case.other_content().len()];
    replaced.read_exact_at(&mut found, 0).unwrap();
    assert!(found == case.other_content(), "a reader of what was replaced");
    drop(replaced);
    bench.store.faults.clear();
    let both = BTreeMap::from([(case.file(), case.base()), (case.other(), case.base())]);
    bench.wait_for("what served its readers is gone", |_| bench.bucket.files().len() == 2);
    assert_are(&bench, &bench.bucket, &both);
    // And once more, without the fault.
    fs::rename(bench.at(&case.file()), bench.at(&case.other())).unwrap();
    assert_are(&bench, &bench.bucket, &BTreeMap::from([(case.other(), case.base())]));
}

/// A directory whose copy is there, and whose sources cannot be deleted, is there by both names, for every program
/// that looks; the next mount ends what was begun.
#[test]
fn a_directory_that_cannot_leave_its_old_name_has_both() {
    let mut bench = Bench::start(&["--metadata-ttl", "1h"]);
    fs::create_dir(bench.at("old")).unwrap();
    fs::write(bench.at("old/f"), b"content").unwrap();
    let names = |bench: &Bench| {
        let names = fs::read_dir(bench.mount_point()).unwrap().map(|entry| entry.unwrap());
        names.map(|entry| entry.file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&bench), BTreeSet::from(["old".to_owned()]));
    bench.store.faults.set(vec![Rule::new(Fault::denied()).on(Operation::DeleteObjects)]);
    fs::rename(bench.at("old"), bench.at("new")).unwrap_err();
    // The kernel has looked the new name up before, and found nothing.
    wait_until("shown", || bench.at("new").exists());
    for name in ["old/f", "new/f"] {
        bench.assert_has(name, b"content");
    }
    assert_eq!(names(&bench), ["new", "old"].map(str::to_owned).into());
    bench.store.faults.clear();
    bench.remount();
    assert_eq!(names(&bench), BTreeSet::from(["new".to_owned()]));
    bench.assert_has("new/f", b"content");
}

/// Attributes that wait to be saved belong to the version that was written over since.
#[test]
fn killed_behind_a_publish_no_old_length_comes_back() {
    let mut bench = Bench::start(&DEFAULT);
    fs::write(bench.at("f"), b"short").unwrap();
    let before = bench.bucket.header("f", "etag");
    bench.store.faults.set(vec![
        Rule::new(Fault::LoseAnswer).on(Operation::PutObject).times(1),
        Rule::new(Fault::Stall).on(Operation::PutObject).skip(1),
        Rule::new(Fault::Stall).on(Operation::CopyObject),
    ]);
    let mut file = OpenOptions::new().append(true).open(bench.at("f")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    file.set_permissions(mode).unwrap();
    file.write_all(b" and longer").unwrap();
    let closing = std::thread::spawn(|| close(file));
    wait_until("published", || bench.bucket.header("f", "etag") != before);
    bench.kill();
    closing.join().unwrap().unwrap_err();
    bench.store.faults.clear();
    bench.mount();
    assert_eq!(fs::metadata(bench.at("f")).unwrap().len(), 16);
    bench.assert_has("f", b"short and longer");
}

/// A program that opens a file in the moment in which it is removed has it, or hears that it is gone.
#[test]
fn an_open_during_a_removal_reads_the_file_or_is_enoent() {
    let mut bench = Bench::unmounted(&WRITE_BACK);
    // So long that nothing of it has to be fetched for a change at its end.
    let content = noise(12 * MIB, 1);
    bench.bucket.put_as_part("d/f", content.clone());
    bench.mount();
    bench.store.faults.set(vec![
        Rule::new(Fault::slow_down()).on(Operation::CreateMultipartUpload),
        // The directory's marker, before its last file goes.
        Rule::new(Fault::Latency(Duration::from_secs(1))).on(Operation::PutObject),
    ]);
    let mut file = OpenOptions::new().append(true).open(bench.at("d/f")).unwrap();
    file.write_all(b"more").unwrap();
    close(file).unwrap();
    let path = bench.at("d/f");
    let removing = std::thread::spawn(move || fs::remove_file(path));
    wait_until("being removed", || bench.store.faults.fired()[1] > 0);
    let opened = File::open(bench.at("d/f"));
    removing.join().unwrap().unwrap();
    bench.store.faults.clear();
    bench.wait_for("gone from the bucket", |_| bench.bucket.object("d/f").is_none());
    match opened {
        Ok(mut file) => {
            let mut found = Vec::new();
            file.read_to_end(&mut found).unwrap();
            assert!(found == [&content[..], b"more"].concat());
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
    }
    bench.drained();
    bench.wait_for("gone", |_| bench.bucket.files().is_empty());
}
