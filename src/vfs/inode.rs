//! The tree as the kernel knows it: inodes by number and by name, and how often each was looked up.
//!
//! Lock order: an inode's `turn` (async), then the table, then an inode's `state`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};

use super::error::{Result, VfsError};
use crate::namespace::attributes::{Attributes, Kind};
use crate::namespace::numbers::number_of;
use crate::store::{ETag, Key};
use crate::writer::Draft;

/// Places that the table of inodes keeps however few there are.
const TABLE_MIN: usize = 4096;

/// The root's number, fixed by FUSE.
pub const ROOT_INO: u64 = 1;

/// A file, directory or symlink that the kernel has a reference to, or that only exists here.
pub struct Inode {
    pub ino: u64,
    pub state: Mutex<InodeState>,
    /// Held by operations that must not overlap on one inode: open, publish, rename, unlink.
    pub turn: tokio::sync::Mutex<()>,
}

pub struct InodeState {
    pub attributes: Attributes,
    /// Set by a program, and kept for as long as the inode is; otherwise it is the mtime.
    pub atime: Option<SystemTime>,
    /// When content or attributes changed: by this mount's clock, or as the store's Last-Modified tells.
    pub ctime: SystemTime,
    /// Length in bytes, of the version `etag`; while there is a draft, the draft knows better.
    pub len: u64,
    /// `None`: the store has no object for it (a new file, or an implicit directory).
    pub etag: Option<ETag>,
    /// What the store says is believed until then.
    pub valid_until: Instant,
    /// The next version, while the file is open for writing or waits for its upload.
    pub draft: Option<Arc<Draft>>,
    /// Open handles, and how many of them may write.
    pub opens: u32,
    pub writers: u32,
    /// An object that this file replaced may still stand under its key: the file was moved over it, or
    /// emptied before a crash, and has not been uploaded since.
    pub shadows: bool,
    /// Its name is gone; it lives for its handles only.
    pub unlinked: bool,
    /// Attributes were changed that the object in the store does not have yet.
    pub unsaved: bool,
    /// A program has set the times of what is being written.
    pub times_set: bool,
    /// The version whose pages the kernel may keep.
    pub paged: Option<ETag>,
    /// How many handles are open that read the cache file itself.
    pub passthroughs: u32,
    /// A directory whose time is that of a change of its entries, which its marker does not say.
    pub touched: bool,
    /// A directory that has a marker object.
    pub marker: bool,
    /// Where the object is kept for its readers since its key went; few have it.
    pub aside: Option<Box<(Key, ETag)>>,
}

impl Inode {
    pub fn state(&self) -> MutexGuard<'_, InodeState> {
        self.state.lock()
    }

    pub fn kind(&self) -> Kind {
        self.state().attributes.kind
    }

    pub fn draft(&self) -> Option<Arc<Draft>> {
        self.state().draft.clone()
    }
}

impl InodeState {
    /// Whether this machine knows more of it than the store does.
    pub fn is_local(&self) -> bool {
        self.draft.is_some() || self.unsaved
    }
}

struct Node {
    inode: Arc<Inode>,
    parent: u64,
    /// The same bytes as the key among the parent's children.
    name: Arc<[u8]>,
    /// The kernel's references.
    lookups: u64,
    /// False once the name belongs to somebody else, or to nobody.
    named: bool,
}

/// All inodes. A node goes when the kernel forgets it, unless it is [`InodeState::is_local`] or in use.
pub struct InodeTable {
    nodes: Mutex<Nodes>,
    root: Key,
}

struct Nodes {
    by_ino: HashMap<u64, Node>,
    /// The most there have been since it was last asked.
    most: usize,
    /// By parent, then by name: the entries that are known, not all that exist.
    children: HashMap<u64, BTreeMap<Arc<[u8]>, u64>>,
}

impl InodeTable {
    pub fn new(root: Key, attributes: Attributes) -> InodeTable {
        let inode = Arc::new(Inode {
            ino: ROOT_INO,
            state: Mutex::new(new_state(attributes, 0, None)),
            turn: tokio::sync::Mutex::new(()),
        });
        inode.state().marker = true;
        let node = Node { inode, parent: ROOT_INO, name: Arc::from([]), lookups: 1, named: true };
        let by_ino = HashMap::from([(ROOT_INO, node)]);
        let nodes = Nodes { by_ino, most: 1, children: HashMap::new() };
        InodeTable { nodes: Mutex::new(nodes), root }
    }

    pub fn get(&self, ino: u64) -> Result<Arc<Inode>> {
        self.nodes
            .lock()
            .by_ino
            .get(&ino)
            .map(|node| node.inode.clone())
            .ok_or_else(|| VfsError::plain(libc::ESTALE))
    }

    pub fn child(&self, parent: u64, name: &[u8]) -> Option<Arc<Inode>> {
        let nodes = self.nodes.lock();
        let ino = nodes.children.get(&parent)?.get(name)?;
        nodes.by_ino.get(ino).map(|node| node.inode.clone())
    }

    /// The known children of a directory.
    pub fn children(&self, parent: u64) -> Vec<(Vec<u8>, Arc<Inode>)> {
        let nodes = self.nodes.lock();
        let Some(children) = nodes.children.get(&parent) else { return Vec::new() };
        children
            .iter()
            .filter_map(|(name, ino)| Some((name.to_vec(), nodes.by_ino.get(ino)?.inode.clone())))
            .collect()
    }

    /// The child of that name, made with `state` if it is not known.
    pub fn child_or_insert(
        &self,
        parent: u64,
        name: &[u8],
        state: impl FnOnce() -> InodeState,
    ) -> Arc<Inode> {
        let mut nodes = self.nodes.lock();
        if let Some(ino) = nodes.children.get(&parent).and_then(|children| children.get(name))
            && let Some(node) = nodes.by_ino.get(ino)
        {
            return node.inode.clone();
        }
        nodes.insert(parent, name, state())
    }

    /// A new inode under that name; whoever had the name loses it.
    pub fn insert(&self, parent: u64, name: &[u8], state: InodeState) -> Arc<Inode> {
        let mut nodes = self.nodes.lock();
        nodes.unname(parent, name);
        nodes.insert(parent, name, state)
    }

    /// The kernel is told of the inode: it holds one more reference.
    pub fn looked_up(&self, ino: u64) {
        if let Some(node) = self.nodes.lock().by_ino.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    /// The kernel drops `count` references.
    pub fn forget(&self, ino: u64, count: u64) {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.by_ino.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        nodes.drop_if_unused(ino);
    }

    /// An inode may have become unused by other means than forget.
    pub fn settle(&self, ino: u64) {
        self.nodes.lock().drop_if_unused(ino);
    }

    /// Takes the name from whoever has it.
    pub fn unname(&self, parent: u64, name: &[u8]) {
        self.nodes.lock().unname(parent, name);
    }

    /// Gives an inode another name; whoever had that name loses it.
    pub fn rename(&self, ino: u64, parent: u64, name: &[u8]) {
        let mut nodes = self.nodes.lock();
        let Some((old_parent, old_name)) =
            nodes.by_ino.get(&ino).map(|node| (node.parent, node.name.clone()))
        else {
            return;
        };
        nodes.detach(old_parent, &old_name);
        nodes.unname(parent, name);
        let name: Arc<[u8]> = name.into();
        if let Some(node) = nodes.by_ino.get_mut(&ino) {
            node.parent = parent;
            node.name = name.clone();
            node.named = true;
        }
        nodes.children.entry(parent).or_default().insert(name, ino);
    }

    /// Where an inode is: its parent and its name. `None` once the name is gone.
    pub fn place(&self, ino: u64) -> Option<(u64, Vec<u8>)> {
        let nodes = self.nodes.lock();
        let node = nodes.by_ino.get(&ino)?;
        node.named.then(|| (node.parent, node.name.to_vec()))
    }

    /// The key of a file, which is its path below the root.
    pub fn file_key(&self, ino: u64) -> Key {
        Key::new(self.path(ino))
    }

    /// The key prefix of a directory: ends in `/`, unless it is the bucket itself.
    pub fn directory_key(&self, ino: u64) -> Key {
        let mut path = self.path(ino);
        if ino != ROOT_INO {
            path.push(b'/');
        }
        Key::new(path)
    }

    fn path(&self, ino: u64) -> Vec<u8> {
        let nodes = self.nodes.lock();
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        while at != ROOT_INO {
            let Some(node) = nodes.by_ino.get(&at) else { break };
            names.push(&node.name);
            at = node.parent;
        }
        let mut path = self.root.as_bytes().to_vec();
        for (index, name) in names.iter().rev().enumerate() {
            if index > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }

    /// All inodes with a draft or unsaved attributes, below `ino` or anywhere.
    pub fn local_below(&self, ino: u64) -> Vec<Arc<Inode>> {
        let nodes = self.nodes.lock();
        let is_below = |mut at: u64| {
            loop {
                if at == ino {
                    return true;
                }
                match nodes.by_ino.get(&at) {
                    Some(node) if at != ROOT_INO => at = node.parent,
                    _ => return false,
                }
            }
        };
        nodes
            .by_ino
            .values()
            .filter(|node| node.inode.state().is_local() && is_below(node.inode.ino))
            .map(|node| node.inode.clone())
            .collect()
    }

    /// Inodes in memory.
    pub fn count(&self) -> usize {
        self.nodes.lock().by_ino.len()
    }

    /// The most inodes that there have been in memory since this was last asked.
    pub fn take_most(&self) -> usize {
        let mut nodes = self.nodes.lock();
        let now = nodes.by_ino.len();
        std::mem::replace(&mut nodes.most, now)
    }

    /// The number that readdir shows for an entry: that of its inode, or what a new one would get.
    pub fn ino_of(&self, parent: u64, name: &[u8]) -> u64 {
        let nodes = self.nodes.lock();
        match nodes.children.get(&parent).and_then(|children| children.get(name)) {
            Some(ino) => *ino,
            None => number_of(parent, name),
        }
    }
}

impl Nodes {
    fn insert(&mut self, parent: u64, name: &[u8], state: InodeState) -> Arc<Inode> {
        // A number in use gives way to the next one.
        let mut ino = number_of(parent, name);
        while self.by_ino.contains_key(&ino) || ino <= ROOT_INO {
            ino = ino.wrapping_add(1);
        }
        let inode =
            Arc::new(Inode { ino, state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) });
        let name: Arc<[u8]> = name.into();
        let node =
            Node { inode: inode.clone(), parent, name: name.clone(), lookups: 0, named: true };
        self.by_ino.insert(ino, node);
        self.most = self.most.max(self.by_ino.len());
        self.children.entry(parent).or_default().insert(name, ino);
        inode
    }

    fn unname(&mut self, parent: u64, name: &[u8]) {
        if let Some(ino) = self.detach(parent, name) {
            if let Some(node) = self.by_ino.get_mut(&ino) {
                node.named = false;
            }
            self.drop_if_unused(ino);
        }
    }

    fn detach(&mut self, parent: u64, name: &[u8]) -> Option<u64> {
        let children = self.children.get_mut(&parent)?;
        let ino = children.remove(name);
        if children.is_empty() {
            self.children.remove(&parent);
        }
        ino
    }

    fn drop_if_unused(&mut self, ino: u64) {
        let Some(node) = self.by_ino.get(&ino) else { return };
        let in_use = {
            let state = node.inode.state();
            node.lookups > 0
                || state.opens > 0
                || (node.named && state.is_local())
                || self.children.contains_key(&ino)
        };
        if in_use || ino == ROOT_INO {
            return;
        }
        let (parent, name, named) = (node.parent, node.name.clone(), node.named);
        self.by_ino.remove(&ino);
        // The table of a million does not stay when a thousand are left.
        if self.by_ino.capacity() > 4 * self.by_ino.len() + TABLE_MIN {
            self.by_ino.shrink_to(2 * self.by_ino.len());
        }
        if named {
            self.detach(parent, &name);
            // The parent may have been kept for this child alone.
            self.drop_if_unused(parent);
        }
    }
}

/// What a fresh inode looks like; not valid yet.
pub fn new_state(attributes: Attributes, len: u64, etag: Option<ETag>) -> InodeState {
    InodeState {
        atime: None,
        ctime: attributes.mtime,
        attributes,
        len,
        etag,
        valid_until: Instant::now(),
        draft: None,
        opens: 0,
        writers: 0,
        shadows: false,
        unlinked: false,
        unsaved: false,
        times_set: false,
        paged: None,
        passthroughs: 0,
        touched: false,
        marker: false,
        aside: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(kind: Kind) -> Attributes {
        Attributes::new(kind, 0o644, 0, 0, SystemTime::UNIX_EPOCH)
    }

    fn table() -> InodeTable {
        InodeTable::new(Key::from("pre/"), attributes(Kind::Directory))
    }

    #[test]
    fn keys_follow_a_renamed_directory() {
        let table = table();
        let dir = table.insert(ROOT_INO, b"a", new_state(attributes(Kind::Directory), 0, None));
        let file = table.insert(dir.ino, b"f", new_state(attributes(Kind::File), 0, None));
        assert_eq!(table.file_key(file.ino), Key::from("pre/a/f"));
        table.rename(dir.ino, ROOT_INO, b"b");
        assert_eq!(table.file_key(file.ino), Key::from("pre/b/f"));
        assert_eq!(table.directory_key(dir.ino), Key::from("pre/b/"));
        assert_eq!(table.directory_key(ROOT_INO), Key::from("pre/"));
    }

    #[test]
    fn forgotten_inodes_leave_nothing_behind() {
        let table = table();
        let dir = table.insert(ROOT_INO, b"a", new_state(attributes(Kind::Directory), 0, None));
        table.looked_up(dir.ino);
        let file = table.insert(dir.ino, b"f", new_state(attributes(Kind::File), 0, None));
        table.looked_up(file.ino);
        table.looked_up(file.ino);
        table.forget(dir.ino, 1);
        assert!(table.get(dir.ino).is_ok(), "a child keeps its directory");
        table.forget(file.ino, 1);
        assert!(table.get(file.ino).is_ok(), "one reference is left");
        table.forget(file.ino, 1);
        assert!(table.get(file.ino).is_err());
        assert!(table.get(dir.ino).is_err());
        assert_eq!(table.count(), 1);
    }

    #[test]
    fn replaced_name_keeps_the_old_inode_for_its_references() {
        let table = table();
        let old = table.insert(ROOT_INO, b"f", new_state(attributes(Kind::File), 0, None));
        table.looked_up(old.ino);
        let new = table.insert(ROOT_INO, b"f", new_state(attributes(Kind::File), 0, None));
        assert_ne!(old.ino, new.ino);
        assert!(table.place(old.ino).is_none());
        assert_eq!(table.child(ROOT_INO, b"f").unwrap().ino, new.ino);
        table.forget(old.ino, 1);
        assert!(table.get(old.ino).is_err());
        assert_eq!(table.child(ROOT_INO, b"f").unwrap().ino, new.ino);
    }

    #[test]
    fn readdir_shows_the_number_that_lookup_will_give() {
        let table = table();
        let shown = table.ino_of(ROOT_INO, b"f");
        let inode = table.insert(ROOT_INO, b"f", new_state(attributes(Kind::File), 0, None));
        assert_eq!(inode.ino, shown);
    }
}
