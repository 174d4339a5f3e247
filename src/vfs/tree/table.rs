//! The tree as the kernel knows it: inodes by number and by name, and how often each was looked up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::inode::{Inode, InodeState, ROOT_INO, new_state};
use crate::lock::{Mutex, rank};
use crate::namespace::attributes::Attributes;
use crate::namespace::numbers::number_of;
use crate::store::Key;
use crate::vfs::error::{Result, VfsError};

/// Places that the table of inodes keeps however few there are.
const TABLE_MIN: usize = 4096;

struct Node {
    inode: Arc<Inode>,
    parent: u64,
    name: Box<[u8]>,
    /// The kernel's references.
    lookups: u64,
    /// False once the name belongs to another inode, or to none.
    named: bool,
    /// Other numbers by which the kernel knows it.
    aliases: u32,
}

/// Another number by which the kernel knows an inode, for which it has pages and handles of its own.
struct Alias {
    ino: u64,
    /// The kernel's references.
    lookups: u64,
}

/// All inodes. A node goes when the kernel forgets it, unless it is [`InodeState::is_local`] or in use.
pub struct InodeTable {
    nodes: Mutex<Nodes, rank::Table>,
    root: Key,
}

struct Nodes {
    by_ino: HashMap<u64, Node>,
    /// Few, and not for long.
    aliases: HashMap<u64, Alias>,
    /// The most there have been since it was last asked.
    most: usize,
    /// By parent: the entries that are known, not all that exist.
    children: HashMap<u64, Children>,
}

/// The entries of a directory that are known; there is at least one.
///
/// Invariant: a name is that of the inode with the name's own number ([`number_of`]), unless it is among the
/// `displaced`.
#[derive(Default)]
struct Children {
    numbers: BTreeSet<u64>,
    /// Those that have another number: they were renamed, or their number was taken.
    displaced: BTreeMap<Box<[u8]>, u64>,
}

impl InodeTable {
    pub fn new(root: Key, attributes: Attributes) -> InodeTable {
        let inode = Inode::new(ROOT_INO, new_state(attributes, 0, None));
        inode.state().marker = true;
        let name = Box::from([]);
        let node = Node { inode, parent: ROOT_INO, name, lookups: 1, named: true, aliases: 0 };
        let by_ino = HashMap::from([(ROOT_INO, node)]);
        let aliases = HashMap::new();
        let nodes = Nodes { by_ino, aliases, most: 1, children: HashMap::new() };
        InodeTable { nodes: Mutex::new(nodes), root }
    }

    /// The inode of that number, or the one that is opened in its place.
    pub fn get(&self, ino: u64) -> Result<Arc<Inode>> {
        self.nodes.lock().standing(ino).ok_or_else(|| VfsError::plain(libc::ESTALE))
    }

    /// Where an inode is, or was before it lost its name.
    pub fn last_place(&self, ino: u64) -> Option<(u64, Vec<u8>)> {
        let nodes = self.nodes.lock();
        nodes.by_ino.get(&nodes.own(ino)).map(|node| (node.parent, node.name.to_vec()))
    }

    /// From now on `ino`, which has lost its name, stands for another inode, for as long as there is that one.
    pub fn replace(&self, ino: u64, by: &Arc<Inode>) {
        let nodes = self.nodes.lock();
        if let Some(node) = nodes.by_ino.get(&nodes.own(ino)) {
            node.inode.state().used_mut().replaced_by = Some(by.clone());
        }
    }

    /// Whether `ino` is the number of another inode than this one.
    pub fn is_another(&self, ino: u64, inode: &Inode) -> bool {
        self.nodes.lock().own(ino) != inode.ino
    }

    /// The kernel is told of the inode by the number that is returned, and holds one more reference to that. `None`
    /// where this inode has gone since it was found.
    pub fn hold(&self, inode: &Arc<Inode>) -> Option<u64> {
        let mut nodes = self.nodes.lock();
        let Nodes { by_ino, aliases, .. } = &mut *nodes;
        let node = by_ino.get_mut(&inode.ino).filter(|node| Arc::ptr_eq(&node.inode, inode))?;
        let alias = inode.state().used().alias;
        if let Some((number, alias)) =
            alias.and_then(|alias| Some((alias, aliases.get_mut(&alias)?)))
        {
            alias.lookups += 1;
            return Some(number);
        }
        node.lookups += 1;
        Some(inode.ino)
    }

    /// From now on the kernel is told of the inode by another number, until [`InodeTable::end_alias`].
    pub fn begin_alias(&self, inode: &Inode) {
        let mut nodes = self.nodes.lock();
        let mut number = inode.ino.wrapping_add(1);
        while nodes.is_taken(number) {
            number = number.wrapping_add(1);
        }
        let Some(node) = nodes.by_ino.get_mut(&inode.ino) else { return };
        node.aliases += 1;
        nodes.aliases.insert(number, Alias { ino: inode.ino, lookups: 0 });
        inode.state().used_mut().alias = Some(number);
    }

    /// The kernel is told of the inode by its own number again. The other one is good until it is forgotten.
    pub fn end_alias(&self, inode: &Inode) {
        let mut nodes = self.nodes.lock();
        let number = inode.state().used_mut().alias.take();
        if let Some(number) = number {
            nodes.drop_alias_if_unused(number);
        }
    }

    pub fn child(&self, parent: u64, name: &[u8]) -> Option<Arc<Inode>> {
        self.nodes.lock().child(parent, name).map(|node| node.inode.clone())
    }

    /// The known children of a directory.
    pub fn children(&self, parent: u64) -> Vec<Arc<Inode>> {
        let nodes = self.nodes.lock();
        let Some(children) = nodes.children.get(&parent) else { return Vec::new() };
        let node = |ino| nodes.by_ino.get(ino);
        children.numbers.iter().filter_map(node).map(|node| node.inode.clone()).collect()
    }

    /// The child of that name, made with `state` if it is not known.
    pub fn child_or_insert(
        &self,
        parent: u64,
        name: &[u8],
        state: impl FnOnce() -> InodeState,
    ) -> Arc<Inode> {
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.child(parent, name) {
            return node.inode.clone();
        }
        nodes.insert(parent, name, state())
    }

    /// A new inode under that name; the inode that had the name loses it.
    pub fn insert(&self, parent: u64, name: &[u8], state: InodeState) -> Arc<Inode> {
        let mut nodes = self.nodes.lock();
        nodes.unname(parent, name);
        nodes.insert(parent, name, state)
    }

    /// The same, and the kernel holds a reference to it: it is told of the inode. In one step, or a scan of the
    /// directory meanwhile may be told of it too, let go of it, and take it along.
    pub fn insert_held(&self, parent: u64, name: &[u8], state: InodeState) -> Arc<Inode> {
        let mut nodes = self.nodes.lock();
        nodes.unname(parent, name);
        let inode = nodes.insert(parent, name, state);
        if let Some(node) = nodes.by_ino.get_mut(&inode.ino) {
            node.lookups += 1;
        }
        inode
    }

    /// The kernel drops `count` references.
    pub fn forget(&self, ino: u64, count: u64) {
        let mut nodes = self.nodes.lock();
        if let Some(alias) = nodes.aliases.get_mut(&ino) {
            alias.lookups = alias.lookups.saturating_sub(count);
            return nodes.drop_alias_if_unused(ino);
        }
        if let Some(node) = nodes.by_ino.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        nodes.drop_if_unused(ino);
    }

    /// An inode may have become unused by other means than forget.
    pub fn settle(&self, ino: u64) {
        self.nodes.lock().drop_if_unused(ino);
    }

    /// Takes the name from the inode that has it.
    pub fn unname(&self, parent: u64, name: &[u8]) {
        self.nodes.lock().unname(parent, name);
    }

    /// Gives an inode another name; the inode that had that name loses it.
    pub fn rename(&self, ino: u64, parent: u64, name: &[u8]) {
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.by_ino.get_mut(&ino) else { return };
        let old_name = std::mem::replace(&mut node.name, name.into());
        let old_parent = std::mem::replace(&mut node.parent, parent);
        if std::mem::replace(&mut node.named, false) {
            nodes.detach(old_parent, &old_name, ino);
        }
        nodes.unname(parent, name);
        nodes.attach(parent, name, ino);
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

    /// Whether `ino` is this directory, or has its place below it.
    pub fn is_at_or_below(&self, ino: u64, dir: u64) -> bool {
        self.nodes.lock().is_at_or_below(ino, dir)
    }

    /// All inodes with a draft or unsaved attributes, at `ino` and below.
    pub fn local_below(&self, ino: u64) -> Vec<Arc<Inode>> {
        let nodes = self.nodes.lock();
        let local = |node: &&Node| node.inode.state().is_local();
        let there = nodes.by_ino.values().filter(local);
        let below = there.filter(|node| nodes.is_at_or_below(node.inode.ino, ino));
        below.map(|node| node.inode.clone()).collect()
    }

    /// Inodes in memory.
    pub fn count(&self) -> usize {
        self.nodes.lock().by_ino.len()
    }

    /// The numbers of the inodes in memory.
    pub fn numbers(&self) -> Vec<u64> {
        self.nodes.lock().by_ino.keys().copied().collect()
    }

    /// The length of these, where they are files that are still there.
    pub fn bytes_of(&self, inos: &[u64]) -> u64 {
        let nodes = self.nodes.lock();
        inos.iter()
            .filter_map(|ino| nodes.by_ino.get(ino))
            .map(|node| node.inode.state().len())
            .sum()
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
        nodes.child(parent, name).map_or_else(|| number_of(parent, name), |node| node.inode.ino)
    }
}

impl Nodes {
    fn insert(&mut self, parent: u64, name: &[u8], state: InodeState) -> Arc<Inode> {
        // A number in use gives way to the next one.
        let mut ino = number_of(parent, name);
        while self.is_taken(ino) {
            ino = ino.wrapping_add(1);
        }
        let inode = Inode::new(ino, state);
        let node = Node {
            inode: inode.clone(),
            parent,
            name: name.into(),
            lookups: 0,
            named: false,
            aliases: 0,
        };
        self.by_ino.insert(ino, node);
        self.most = self.most.max(self.by_ino.len());
        self.attach(parent, name, ino);
        inode
    }

    fn is_taken(&self, number: u64) -> bool {
        number <= ROOT_INO
            || self.by_ino.contains_key(&number)
            || self.aliases.contains_key(&number)
    }

    /// The inode's own number.
    fn own(&self, number: u64) -> u64 {
        self.aliases.get(&number).map_or(number, |alias| alias.ino)
    }

    fn drop_alias_if_unused(&mut self, number: u64) {
        let Some(Alias { ino, lookups: 0 }) = self.aliases.get(&number) else { return };
        let ino = *ino;
        let Some(node) = self.by_ino.get_mut(&ino) else { return };
        if node.inode.state().used().alias == Some(number) {
            return;
        }
        node.aliases -= 1;
        self.aliases.remove(&number);
        self.drop_if_unused(ino);
    }

    fn standing(&self, ino: u64) -> Option<Arc<Inode>> {
        let mut inode = &self.by_ino.get(&self.own(ino))?.inode;
        loop {
            let next = inode.state().used().replaced_by.clone();
            let node = next.as_ref().and_then(|next| self.by_ino.get(&next.ino));
            match node.zip(next).filter(|(node, next)| Arc::ptr_eq(&node.inode, next)) {
                Some((node, _)) => inode = &node.inode,
                None => return Some(inode.clone()),
            }
        }
    }

    fn child(&self, parent: u64, name: &[u8]) -> Option<&Node> {
        let displaced = self.children.get(&parent)?.displaced.get(name);
        let ino = displaced.copied().unwrap_or_else(|| number_of(parent, name));
        let node = self.by_ino.get(&ino)?;
        (node.named && node.parent == parent && *node.name == *name).then_some(node)
    }

    fn is_at_or_below(&self, ino: u64, dir: u64) -> bool {
        let mut at = ino;
        loop {
            if at == dir {
                return true;
            }
            match self.by_ino.get(&at) {
                Some(node) if at != ROOT_INO => at = node.parent,
                _ => return false,
            }
        }
    }

    fn unname(&mut self, parent: u64, name: &[u8]) {
        if let Some(ino) = self.child(parent, name).map(|node| node.inode.ino) {
            self.detach(parent, name, ino);
            if let Some(node) = self.by_ino.get_mut(&ino) {
                node.named = false;
            }
            self.drop_if_unused(ino);
        }
    }

    /// Names a node, of which parent and name are set already. No other node has the name.
    fn attach(&mut self, parent: u64, name: &[u8], ino: u64) {
        let children = self.children.entry(parent).or_default();
        children.numbers.insert(ino);
        if ino != number_of(parent, name) {
            children.displaced.insert(name.into(), ino);
        }
        if let Some(node) = self.by_ino.get_mut(&ino) {
            node.named = true;
        }
    }

    fn detach(&mut self, parent: u64, name: &[u8], ino: u64) {
        let Some(children) = self.children.get_mut(&parent) else { return };
        children.numbers.remove(&ino);
        children.displaced.remove(name);
        if children.numbers.is_empty() {
            self.children.remove(&parent);
        }
    }

    fn drop_if_unused(&mut self, ino: u64) {
        let Some(node) = self.by_ino.get(&ino) else { return };
        let in_use = {
            let state = node.inode.state();
            node.lookups > 0
                || node.aliases > 0
                || state.used().open.all > 0
                || (node.named && state.is_local())
                || self.children.contains_key(&ino)
        };
        if in_use || ino == ROOT_INO {
            return;
        }
        let Some(Node { parent, name, named, .. }) = self.by_ino.remove(&ino) else { return };
        // The table of a million does not stay when a thousand are left.
        if self.by_ino.capacity() > 4 * self.by_ino.len() + TABLE_MIN {
            self.by_ino.shrink_to(2 * self.by_ino.len());
        }
        if named {
            self.detach(parent, &name, ino);
            // The parent may have been kept for this child alone.
            self.drop_if_unused(parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::namespace::attributes::Kind;

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
        let dir = new_state(attributes(Kind::Directory), 0, None);
        let dir = table.insert_held(ROOT_INO, b"a", dir);
        let file = table.insert_held(dir.ino, b"f", new_state(attributes(Kind::File), 0, None));
        assert_eq!(table.hold(&file), Some(file.ino));
        table.forget(dir.ino, 1);
        assert!(table.get(dir.ino).is_ok(), "a child keeps its directory");
        table.forget(file.ino, 1);
        assert!(table.get(file.ino).is_ok(), "one reference is left");
        table.forget(file.ino, 1);
        assert!(table.get(file.ino).is_err());
        assert_eq!(table.hold(&file), None, "found before it went");
        assert!(table.get(dir.ino).is_err());
        assert_eq!(table.count(), 1);
    }

    /// A scan of the directory may come between the making of an entry and the answer to its maker.
    #[test]
    fn a_new_entry_is_there_for_its_maker_though_another_let_go() {
        let table = table();
        let made = table.insert_held(ROOT_INO, b"f", new_state(attributes(Kind::Fifo), 0, None));
        let listed = table.hold(&made).unwrap();
        table.forget(listed, 1);
        table.settle(made.ino);
        assert!(table.get(made.ino).is_ok());
        table.forget(made.ino, 1);
        assert!(table.get(made.ino).is_err());
    }

    #[test]
    fn replaced_name_keeps_the_old_inode_for_its_references() {
        let table = table();
        let old = table.insert_held(ROOT_INO, b"f", new_state(attributes(Kind::File), 0, None));
        let new = table.insert(ROOT_INO, b"f", new_state(attributes(Kind::File), 0, None));
        assert_ne!(old.ino, new.ino);
        assert!(table.place(old.ino).is_none());
        assert_eq!(table.child(ROOT_INO, b"f").unwrap().ino, new.ino);
        table.forget(old.ino, 1);
        assert!(table.get(old.ino).is_err());
        assert_eq!(table.child(ROOT_INO, b"f").unwrap().ino, new.ino);
    }

    #[test]
    fn a_name_is_found_whatever_the_number_of_its_inode() {
        let table = table();
        let file = || new_state(attributes(Kind::File), 0, None);
        let ino_of = |name: &[u8]| table.child(ROOT_INO, name).map(|inode| inode.ino);
        let first = table.insert_held(ROOT_INO, b"a", file());
        table.rename(first.ino, ROOT_INO, b"b");
        assert_eq!((ino_of(b"a"), ino_of(b"b")), (None, Some(first.ino)));
        // The number of the name "a" is in use.
        let second = table.insert_held(ROOT_INO, b"a", file());
        assert_ne!(second.ino, first.ino);
        assert_eq!((ino_of(b"a"), ino_of(b"b")), (Some(second.ino), Some(first.ino)));
        assert_eq!(table.ino_of(ROOT_INO, b"b"), first.ino);
        // Over the other, and home again.
        table.rename(second.ino, ROOT_INO, b"b");
        assert_eq!((ino_of(b"a"), ino_of(b"b")), (None, Some(second.ino)));
        assert!(table.place(first.ino).is_none());
        table.forget(first.ino, 1);
        table.rename(second.ino, ROOT_INO, b"a");
        assert_eq!((ino_of(b"a"), ino_of(b"b")), (Some(second.ino), None));
        assert_eq!(table.children(ROOT_INO).len(), 1);
        table.unname(ROOT_INO, b"a");
        assert_eq!((ino_of(b"a"), ino_of(b"b")), (None, None));
        table.forget(second.ino, 1);
        assert_eq!((table.count(), table.children(ROOT_INO).len()), (1, 0));
    }

    #[test]
    fn readdir_shows_the_number_that_lookup_will_give() {
        let table = table();
        let shown = table.ino_of(ROOT_INO, b"f");
        let inode = table.insert(ROOT_INO, b"f", new_state(attributes(Kind::File), 0, None));
        assert_eq!(inode.ino, shown);
    }
}
