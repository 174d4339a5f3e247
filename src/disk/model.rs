//! A disk in memory that knows what is written from what is synced, for tests and simulations.
//!
//! All paths below its folder are its own, for as long as it lives. [`Model::cut_power`] leaves what was synced; of the rest,
//! each write, or a part of it, may have come to the disk or not, whatever was written before or after it, and of what was
//! done to names a beginning. [`Model::fail_after`] makes every change fail from one of them on: the step at which a test
//! takes the power away. Files that were open before are dead after it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::TryLockError;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::values::{Metadata, OpenOptions};
use crate::lock::{Mutex, rank};

static MODELS: Mutex<Vec<(PathBuf, Weak<Model>)>, rank::DiskModel> = Mutex::new(Vec::new());
static ANY: AtomicBool = AtomicBool::new(false);

/// The model that has this path.
pub(super) fn of(path: &Path) -> Option<Arc<Model>> {
    if !ANY.load(Ordering::Acquire) {
        return None;
    }
    let models = MODELS.lock();
    let owner = models.iter().rfind(|(folder, _)| path.starts_with(folder));
    owner.and_then(|(_, model)| model.upgrade())
}

/// One disk.
#[derive(Debug)]
pub struct Model {
    state: Mutex<State, rank::DiskModel>,
}

#[derive(Debug)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    nodes: BTreeMap<u64, Node>,
    /// The names that are on the disk, and what has been done to them since, step by step.
    synced_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<Renaming>,
    next_inode: u64,
    /// How often the power was cut.
    cuts: u64,
    changes_left: u64,
}

/// What happens to names at once: each is another file's from then on, or none's.
type Renaming = Vec<(PathBuf, Option<u64>)>;

/// A file or a directory.
#[derive(Debug, Default)]
struct Node {
    is_directory: bool,
    bytes: Vec<u8>,
    /// What is on the disk of it, and what has been done since.
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    changes: u64,
    /// Users of its lock; one that has it for itself counts for all.
    locked: usize,
}

const EXCLUSIVE: usize = usize::MAX;

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Zeros(u64, u64),
    Len(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, written) => {
                let end = *at as usize + written.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at as usize..end].copy_from_slice(written);
            }
            Change::Zeros(at, len) => {
                let end = bytes.len().min((at + len) as usize);
                let start = end.min(*at as usize);
                bytes[start..end].fill(0);
            }
            Change::Len(len) => bytes.resize(*len as usize, 0),
        }
    }

    /// What may have come to the disk of it when the power went.
    fn torn(self, random: &mut fastrand::Rng) -> Option<Change> {
        match (random.u8(..3), self) {
            (0, _) => None,
            (1, Change::Write(at, mut bytes)) => {
                bytes.truncate(random.usize(..=bytes.len()));
                Some(Change::Write(at, bytes))
            }
            (_, whole) => Some(whole),
        }
    }
}

fn refused(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl State {
    fn node(&mut self, inode: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&inode).ok_or_else(|| refused(libc::EIO))
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| refused(libc::ENOENT))
    }

    /// Before each change.
    fn step(&mut self) -> io::Result<()> {
        self.changes_left = self.changes_left.checked_sub(1).ok_or_else(|| refused(libc::EIO))?;
        Ok(())
    }

    fn make(&mut self, path: &Path, is_directory: bool) -> io::Result<u64> {
        let folder = self.inode(path.parent().unwrap_or(path))?;
        if !self.node(folder)?.is_directory {
            return Err(refused(libc::ENOTDIR));
        }
        let inode = self.next_inode;
        self.name(vec![(path.to_owned(), Some(inode))])?;
        self.next_inode += 1;
        self.nodes.insert(inode, Node { is_directory, ..Node::default() });
        Ok(inode)
    }

    fn name(&mut self, renaming: Renaming) -> io::Result<()> {
        self.step()?;
        apply(&renaming, &mut self.names);
        self.unsynced_names.push(renaming);
        Ok(())
    }

    fn change(&mut self, inode: u64, change: Change) -> io::Result<()> {
        self.step()?;
        let node = self.node(inode)?;
        change.apply(&mut node.bytes);
        node.unsynced.push(change);
        node.changes += 1;
        Ok(())
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        self.step()?;
        let node = self.node(inode)?;
        node.synced.clone_from(&node.bytes);
        node.unsynced.clear();
        if !node.is_directory {
            return Ok(());
        }
        let folder = self.names.iter().find(|(_, named)| **named == inode);
        let Some(folder) = folder.map(|(path, _)| path.clone()) else { return Ok(()) };
        let here = |renaming: &Renaming| {
            renaming.iter().any(|(path, _)| path.parent() == Some(folder.as_path()))
        };
        let (synced, rest) = std::mem::take(&mut self.unsynced_names).into_iter().partition(here);
        self.unsynced_names = rest;
        let synced: Vec<Renaming> = synced;
        synced.iter().for_each(|renaming| apply(renaming, &mut self.synced_names));
        Ok(())
    }
}

fn apply(renaming: &Renaming, names: &mut BTreeMap<PathBuf, u64>) {
    for (path, inode) in renaming {
        match inode {
            Some(inode) => names.insert(path.clone(), *inode),
            None => names.remove(path),
        };
    }
}

#[cfg_attr(not(test), allow(dead_code, reason = "for tests and simulations"))]
impl Model {
    /// An empty disk at `folder`, which need not exist.
    pub fn new(folder: &Path) -> Arc<Model> {
        let names = BTreeMap::from([(folder.to_owned(), 1)]);
        let root = Node { is_directory: true, ..Node::default() };
        let state = State {
            synced_names: names.clone(),
            names,
            nodes: BTreeMap::from([(1, root)]),
            unsynced_names: Vec::new(),
            next_inode: 2,
            cuts: 0,
            changes_left: u64::MAX,
        };
        let model = Arc::new(Model { state: Mutex::new(state) });
        let mut models = MODELS.lock();
        models.retain(|(_, model)| model.strong_count() > 0);
        models.push((folder.to_owned(), Arc::downgrade(&model)));
        ANY.store(true, Ordering::Release);
        model
    }

    /// After so many more changes (writes, syncs, names) each fails.
    pub fn fail_after(&self, changes: u64) {
        self.state.lock().changes_left = changes;
    }

    /// The machine is switched off, and on again.
    pub fn cut_power(&self, random: &mut fastrand::Rng) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let kept = random.usize(..=state.unsynced_names.len());
        for renaming in state.unsynced_names.drain(..).take(kept) {
            apply(&renaming, &mut state.synced_names);
        }
        // What is in a directory that is gone is gone.
        let root = state.names.first_key_value().map(|(root, _)| root.clone());
        let all = state.synced_names.clone();
        state.synced_names.retain(|path, _| {
            let mut folders = path.ancestors().take_while(|above| root.as_deref() != Some(above));
            folders.all(|above| all.contains_key(above))
        });
        state.names.clone_from(&state.synced_names);
        for node in state.nodes.values_mut() {
            let torn = std::mem::take(&mut node.unsynced).into_iter();
            torn.filter_map(|change| change.torn(random)).for_each(|c| c.apply(&mut node.synced));
            node.bytes.clone_from(&node.synced);
            node.locked = 0;
        }
        (state.cuts, state.changes_left) = (state.cuts + 1, u64::MAX);
    }
}

/// The calls of [`super`], of paths below the folder.
impl Model {
    pub fn open(self: &Arc<Self>, path: &Path, options: &OpenOptions) -> io::Result<File> {
        const NOT_HERE: i32 = libc::O_DIRECT | (libc::O_TMPFILE & !libc::O_DIRECTORY);
        if options.flags & NOT_HERE != 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut state = self.state.lock();
        let inode = match state.inode(path) {
            Ok(_) if options.create_new => return Err(refused(libc::EEXIST)),
            Err(_) if options.create || options.create_new => state.make(path, false)?,
            found => found?,
        };
        if state.node(inode)?.is_directory && options.write {
            return Err(refused(libc::EISDIR));
        }
        if options.truncate {
            state.change(inode, Change::Len(0))?;
        }
        let cuts = state.cuts;
        Ok(File { model: self.clone(), inode, cuts, at: AtomicU64::new(0), lock: Held::default() })
    }

    pub fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let mut state = self.state.lock();
        let inode = state.inode(path)?;
        state.metadata(inode)
    }

    pub fn names_in(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state.lock();
        state.inode(folder)?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect())
    }

    pub fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.inode(path) {
            Ok(_) => Err(refused(libc::EEXIST)),
            Err(_) => state.make(path, true).map(drop),
        }
    }

    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let missing: Vec<&Path> =
            path.ancestors().take_while(|above| state.inode(above).is_err()).collect();
        missing.into_iter().rev().try_for_each(|path| state.make(path, true).map(drop))
    }

    /// Of files: nothing of the mount's moves a directory.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.inode(from)?;
        if state.node(inode)?.is_directory {
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.name(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))])
    }

    pub fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.inode(from)?;
        if state.names.contains_key(to) {
            return Err(refused(libc::EEXIST));
        }
        state.name(vec![(to.to_owned(), Some(inode))])
    }

    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.inode(path)?;
        state.name(vec![(path.to_owned(), None)])
    }

    pub fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.inode(path)?;
        let below = state.names.keys().filter(|name| name.starts_with(path));
        let gone = below.map(|name| (name.clone(), None)).collect();
        state.name(gone)
    }
}

impl State {
    fn metadata(&mut self, inode: u64) -> io::Result<Metadata> {
        let nlink = self.names.values().filter(|named| **named == inode).count() as u64;
        let node = self.node(inode)?;
        let mode = if node.is_directory { libc::S_IFDIR | 0o700 } else { libc::S_IFREG | 0o600 };
        let (len, ctime) = (node.bytes.len() as u64, (node.changes as i64, 0));
        Ok(Metadata { mode, len, dev: 0, ino: inode, nlink, ctime })
    }
}

/// A file that is open. The methods are those of [`super::File`].
#[derive(Debug)]
pub struct File {
    model: Arc<Model>,
    inode: u64,
    cuts: u64,
    at: AtomicU64,
    lock: Held,
}

/// Whether this descriptor has the file's lock.
#[derive(Debug, Default)]
struct Held(AtomicBool);

impl File {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.model.state.lock();
        if state.cuts != self.cuts {
            return Err(refused(libc::EIO));
        }
        work(&mut state)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|state| {
            let bytes = &state.node(self.inode)?.bytes;
            let rest = bytes.get(at as usize..).unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    pub fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        match self.read_at(into, at)? {
            count if count == into.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.with(|state| state.change(self.inode, Change::Write(at, bytes.to_owned())))
    }

    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| state.change(self.inode, Change::Len(len)))
    }

    pub fn allocate(&self, _at: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    pub fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.with(|state| state.change(self.inode, Change::Zeros(at, len)))
    }

    pub fn sync_data(&self) -> io::Result<()> {
        self.with(|state| state.sync(self.inode))
    }

    pub fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        self.with(|state| state.metadata(self.inode))
    }

    pub fn try_clone(&self) -> io::Result<File> {
        let (model, at) = (self.model.clone(), AtomicU64::new(self.at.load(Ordering::Relaxed)));
        Ok(File { model, inode: self.inode, cuts: self.cuts, at, lock: Held::default() })
    }

    pub fn try_lock(&self) -> Result<(), TryLockError> {
        self.lock(|users| (*users == 0).then_some(EXCLUSIVE))
    }

    pub fn try_lock_shared(&self) -> Result<(), TryLockError> {
        self.lock(|users| users.checked_add(1))
    }

    fn lock(&self, more: impl FnOnce(&usize) -> Option<usize>) -> Result<(), TryLockError> {
        let locked = self.with(|state| {
            let node = state.node(self.inode)?;
            Ok(more(&node.locked).map(|users| node.locked = users).is_some())
        });
        match locked {
            Ok(true) => {
                self.lock.0.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(false) => Err(TryLockError::WouldBlock),
            Err(error) => Err(TryLockError::Error(error)),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.lock.0.load(Ordering::Relaxed) {
            // A file of before the power went has no lock any more.
            _ = self.with(|state| {
                let node = state.node(self.inode)?;
                node.locked = if node.locked == EXCLUSIVE { 0 } else { node.locked - 1 };
                Ok(())
            });
        }
    }
}

impl Read for &File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(into, self.at.load(Ordering::Relaxed))?;
        self.at.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(at) = to else { return Err(io::ErrorKind::Unsupported.into()) };
        self.at.store(at, Ordering::Relaxed);
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;

    #[test]
    fn what_is_synced_survives_the_power_and_nothing_else_surely() {
        let folder = Path::new("/model-of-a-disk");
        let (synced, moved, bare) =
            (folder.join("synced"), folder.join("moved"), folder.join("bare"));
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let disk = Model::new(folder);
            let mut create = OpenOptions::new();
            create.read(true).write(true).create(true);
            let file = create.open(&synced).unwrap();
            file.write_all_at(b"kept", 0).unwrap();
            file.sync_data().unwrap();
            disk::sync_dir(folder).unwrap();
            file.write_all_at(b"more", 4).unwrap();
            disk::rename(&synced, &moved).unwrap();
            create.open(&bare).unwrap();
            disk.cut_power(&mut fastrand::Rng::with_seed(seed));
            assert!(file.metadata().is_err(), "of before the power went");
            let is_moved = disk::exists(&moved);
            assert_ne!(is_moved, disk::exists(&synced), "one name, the old or the new one");
            assert!(is_moved || !disk::exists(&bare), "in this order");
            let file = disk::File::open(if is_moved { &moved } else { &synced }).unwrap();
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes.starts_with(b"kept") && b"keptmore".starts_with(&bytes));
            seen.insert((is_moved, disk::exists(&bare), bytes.len()));
        }
        assert!(seen.len() > 10, "{seen:?}");
        assert!(!disk::exists(folder), "gone with its model");
    }

    #[test]
    fn a_lock_is_held_until_its_file_is_closed_or_the_power_goes() {
        let folder = Path::new("/model-of-locks");
        let disk = Model::new(folder);
        let open = || disk::open_dir(folder).unwrap();
        let (first, second) = (open(), open());
        first.try_lock().unwrap();
        assert!(second.try_lock_shared().is_err());
        drop(first);
        second.try_lock_shared().unwrap();
        open().try_lock_shared().unwrap();
        assert!(open().try_lock().is_err(), "one has it still");
        disk.cut_power(&mut fastrand::Rng::with_seed(1));
        open().try_lock().unwrap();
    }
}
