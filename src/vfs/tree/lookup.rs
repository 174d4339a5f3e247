//! Finding an inode by its name, and keeping what is known of it fresh.

use std::sync::Arc;
use std::time::Duration;

use super::inode::{Inode, InodeState, ROOT_INO, new_state};
use super::places::Tree;
use crate::clock::Instant;
use crate::namespace::attributes::{Kind, Told};
use crate::namespace::{Found, Listed, Marker, ResolveError, Within, name};
use crate::store::{Key, VersionId};
use crate::vfs::error::{Result, VfsError};
use crate::vfs::request::FileAttributes;

/// A change made here has its time by our clock, and the store's Last-Modified, of whole seconds, is that of
/// the request that followed: within this it is the same change.
const CTIME_SLACK: Duration = Duration::from_secs(2);

impl Tree {
    /// lookup: the kernel holds a reference to what is returned. `None`: there is no such name.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<FileAttributes>> {
        name::check_name(name)?;
        loop {
            let Some(inode) = self.find_child(parent, name).await? else { return Ok(None) };
            // It may have lost its name since it was found, and be gone with that.
            if let Some(node) = self.inodes.hold(&inode) {
                return Ok(Some(FileAttributes { node, ..self.attributes_of(&inode) }));
            }
        }
    }

    /// stat(2).
    pub async fn getattr(&self, ino: u64) -> Result<FileAttributes> {
        let inode = self.get(ino)?;
        self.revalidate(&inode).await?;
        Ok(self.attributes_of(&inode))
    }

    /// The inode of that name, no staler than the TTL allows; or than an outage that is worked through.
    pub async fn find_child(&self, parent: u64, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let _looks = self.look(parent).await;
        let mut found = self.find_fresh_child(parent, name).await;
        if self.may_be_stale(&found) {
            // The outage has begun meanwhile.
            found = self.find_fresh_child(parent, name).await;
        }
        match found {
            Err(error) if error.unanswered && self.settings.write_back => {
                self.remembered_child(parent, name).ok_or(error)
            }
            found => found,
        }
    }

    /// Whether what the store did not answer may be told as it was known before.
    pub fn may_be_stale<T>(&self, answer: &Result<T>) -> bool {
        let is_unanswered = answer.as_ref().is_err_and(|error| error.unanswered);
        is_unanswered && self.catalog.freshness().is_suspended()
    }

    /// Whether what is known of an inode is believed: it is no older than the TTL, or than an outage in which that does
    /// not count. Then the catalog is asked for a directory, which knows whether it ever was more than a name.
    fn is_believed(&self, state: &InodeState) -> bool {
        let is_known =
            || state.attributes.kind != Kind::Directory && self.catalog.is_known(&state.attributes);
        state.valid_until > Instant::now()
            || (self.catalog.freshness().is_suspended() && is_known())
    }

    /// Since when an inode is beyond its TTL, where that is told in an outage nevertheless. `None`: it is not.
    pub fn stale_since(&self, inode: &Inode) -> Option<Instant> {
        if !self.catalog.freshness().is_stale() {
            return None;
        }
        let (is_own, mut until, kind) = {
            let state = inode.state();
            let is_own = state.is_local() || state.unlinked;
            (is_own, state.valid_until, state.attributes.kind)
        };
        if kind == Kind::Directory {
            let listed = self.catalog.listed_at(&self.directory_key(inode.ino));
            let listed_until = listed.map(|at| self.settings.believed_until(at));
            // What the root itself is does not come from the store.
            let own = (inode.ino != ROOT_INO).then_some(until);
            until = own.into_iter().chain(listed_until).min()?;
        }
        (!is_own && until <= Instant::now()).then_some(until)
    }

    /// What may be believed of a name in an outage under write-back, so that work goes on: a directory is still
    /// there, and a name that was not there is free. What a file holds is not believed. As ever, of two programs that
    /// make a file the last wins.
    fn remembered_child(&self, parent: u64, name: &[u8]) -> Option<Option<Arc<Inode>>> {
        let known = self.inodes.child(parent, name);
        if let Some(inode) = known.filter(|inode| inode.kind() == Kind::Directory) {
            return Some(Some(inode));
        }
        let dir = self.directory_key(parent);
        self.catalog.was_absent(&dir, name).then_some(None)
    }

    async fn find_fresh_child(&self, parent: u64, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        if let Some(inode) = self.inodes.child(parent, name) {
            let state = inode.state();
            if state.is_local() || self.is_believed(&state) {
                drop(state);
                return Ok(Some(inode));
            }
        }
        let dir = self.directory_key(parent);
        if self.catalog.looks_elsewhere(parent) {
            self.looks_into(parent, &dir);
        }
        let found = self.catalog.find(Within { dir: &dir, number: parent }, name).await;
        let found = found.map_err(|error| self.resolve_error(error))?;
        if matches!(found, Found::Absent)
            && let Some((of, version)) = VersionId::of_name(name)
            && let Some(inode) = self.find_version(parent, &dir, name, (of, version)).await?
        {
            return Ok(Some(inode));
        }
        Ok(self.have_found(parent, name, found))
    }

    /// The inode of `NAME@VERSION`, which no listing shows. `None` where there is no such version.
    async fn find_version(
        &self,
        parent: u64,
        dir: &Key,
        name: &[u8],
        (of, version): (&[u8], VersionId),
    ) -> Result<Option<Arc<Inode>>> {
        let Ok(key) = name::file_key(dir, of) else { return Ok(None) };
        let at = Instant::now();
        let found = self.catalog.find_version(&key, &version).await;
        let found = found.map_err(|error| self.faults.pass(error))?;
        let Some((object, attributes)) = found.filter(|found| found.1.kind == Kind::File) else {
            return Ok(None);
        };
        let mut fresh = new_state(attributes, object.len, Some(&object.etag));
        fresh.ctime = object.last_modified;
        fresh.valid_until = self.settings.believed_until(at);
        if let Some(known) = self.inodes.child(parent, name) {
            let mut state = known.state();
            let is_same = |of: &(Key, VersionId)| of.0 == key && of.1 == version;
            if state.used().version_of.as_deref().is_some_and(is_same) {
                state.valid_until = fresh.valid_until;
                drop(state);
                return Ok(Some(known));
            }
            drop(state);
            self.vanish(parent, name);
        }
        fresh.used_mut().version_of = Some(Box::new((key, version)));
        Ok(Some(self.inodes.child_or_insert(parent, name, || fresh)))
    }

    /// A program asks for entries of this directory.
    pub fn looks_into(&self, ino: u64, prefix: &Key) {
        if ino != ROOT_INO
            && let Some((parent, _)) = self.inodes.place(ino)
        {
            self.catalog.looks_into(parent, prefix);
        }
    }

    /// The inode of an entry that a listing asked for at `at` has shown, where its attributes are known without a
    /// request.
    pub fn known_in_listing(
        &self,
        parent: u64,
        name: &[u8],
        listed: &Listed,
        at: Instant,
    ) -> Option<Arc<Inode>> {
        let dir = self.directory_key(parent);
        let found = self.catalog.known_entry(&dir, name, listed, at)?;
        self.have_found(parent, name, found)
    }

    /// The same, guessed from the listing and valid for no time.
    pub fn guessed_from_listing(&self, parent: u64, name: &[u8], listed: &Listed) -> Arc<Inode> {
        let attributes = self.catalog.guess(listed);
        let guessed = match listed {
            Listed::File(object) => new_state(attributes, object.len, Some(&object.etag)),
            Listed::Directory(_) => new_state(attributes, 0, None),
        };
        self.inodes.child_or_insert(parent, name, || guessed)
    }

    /// Whether a program asks for the entries of the directory one after the other, and is at this one.
    pub fn is_walked(&self, parent: u64, name: &[u8], listed: &Listed) -> bool {
        self.catalog.is_walked(&self.directory_key(parent), name, listed)
    }

    /// The inode of an entry that a listing asked for at `at` has shown, as a lookup would find it. `None` where
    /// a lookup has more to say: the entry is gone, or the store does not answer.
    pub async fn walked(
        &self,
        parent: u64,
        name: &[u8],
        listed: &Listed,
        at: Instant,
    ) -> Option<Arc<Inode>> {
        let dir = self.directory_key(parent);
        let within = Within { dir: &dir, number: parent };
        let found = self.catalog.entry(within, name, listed, at).await.ok()?;
        self.have_found(parent, name, found)
    }

    /// The inode of what a name was found to be; `None` where there is nothing.
    fn have_found(&self, parent: u64, name: &[u8], found: Found) -> Option<Arc<Inode>> {
        let (fresh, at) = match found {
            Found::Absent => {
                self.vanish(parent, name);
                return None;
            }
            Found::File { object, attributes, at } => {
                let mut fresh = new_state(attributes, object.len, Some(&object.etag));
                fresh.ctime = object.last_modified;
                (fresh, at)
            }
            Found::Directory { marker, attributes, at } => {
                let mut fresh = new_state(attributes, 0, None);
                fresh.marker = !matches!(marker, Marker::None | Marker::Unknown);
                (fresh, at)
            }
        };
        Some(self.update_child(parent, name, at, fresh))
    }

    /// Brings the inode of that name up to date with the store; another kind of thing is a new inode.
    fn update_child(
        &self,
        parent: u64,
        name: &[u8],
        at: Instant,
        mut fresh: InodeState,
    ) -> Arc<Inode> {
        fresh.valid_until = self.settings.believed_until(at);
        if let Some(inode) = self.inodes.child(parent, name) {
            let mut state = inode.state();
            if state.is_local() {
                drop(state);
                return inode;
            }
            if state.used().version_of.is_some() {
                // An object has taken the name.
                drop(state);
                self.inodes.unname(parent, name);
                return self.inodes.child_or_insert(parent, name, || fresh);
            }
            let is_other = state.etag != fresh.etag;
            if is_other && fresh.valid_until < state.valid_until {
                // An answer that was overtaken by a change made here.
                drop(state);
                return inode;
            }
            let is_open = state.used().open.all > 0;
            if state.attributes.kind == fresh.attributes.kind && !(is_other && is_open) {
                keep_target(&mut fresh, &state);
                keep_times_of_directory(&mut fresh, &state);
                let until =
                    state.used().stored.map_or(state.ctime, |stored| stored.max(state.ctime));
                let known_here = state.etag == fresh.etag && fresh.ctime <= until + CTIME_SLACK;
                if !known_here {
                    state.ctime = state.ctime.max(fresh.ctime);
                }
                state.attributes = fresh.attributes;
                state.len = fresh.len;
                state.etag = fresh.etag;
                // A listing does not tell whether a directory has a marker.
                state.marker |= fresh.marker;
                state.valid_until = fresh.valid_until;
                drop(state);
                return inode;
            }
            if is_open {
                // Its handles keep their version.
                state.unlinked = true;
                state.used_mut().displaced = true;
            }
            drop(state);
            self.inodes.unname(parent, name);
        }
        self.inodes.child_or_insert(parent, name, || fresh)
    }

    /// The name is gone from the store: an inode that is still held stays, without the name.
    fn vanish(&self, parent: u64, name: &[u8]) {
        if let Some(inode) = self.inodes.child(parent, name)
            && !inode.state().is_local()
        {
            self.inodes.unname(parent, name);
        }
    }

    /// Asks the store again if what is known of an inode has grown old. ESTALE where it is gone.
    pub async fn revalidate(&self, inode: &Arc<Inode>) -> Result<()> {
        {
            let state = inode.state();
            let is_fresh = self.is_believed(&state) || state.used().version_of.is_some();
            if inode.ino == ROOT_INO || is_fresh || state.is_local() || state.unlinked {
                return Ok(());
            }
        }
        let Some((parent, name)) = self.inodes.place(inode.ino) else { return Ok(()) };
        if inode.kind() == Kind::Directory {
            return self.revalidate_directory(inode, parent, &name).await;
        }
        let asked = self.ask_file(inode, parent, name).await;
        if self.may_be_stale(&asked) && self.is_believed(&inode.state()) {
            return Ok(());
        }
        asked
    }

    /// As [`Tree::revalidate`], for a change of what the object says of itself: what was only guessed from a
    /// listing is asked for, or the guess would be written; and so is what another client may have changed without
    /// its showing.
    pub async fn revalidate_for_change(&self, inode: &Arc<Inode>) -> Result<()> {
        self.revalidate(inode).await?;
        let (is_guessed, etag, is_own) = {
            let state = inode.state();
            let is_own = state.is_local() || state.unlinked || state.unsaved;
            (state.attributes.told == Told::Listing, state.etag(), is_own)
        };
        let Some((parent, name)) = self.inodes.place(inode.ino) else { return Ok(()) };
        let ttl = self.settings.metadata_ttl;
        let may_have_changed = |etag| {
            let key = self.file_key(inode.ino);
            !is_own && self.catalog.may_have_changed(&key, &etag, ttl)
        };
        if is_guessed || etag.is_some_and(may_have_changed) {
            return self.ask_file(inode, parent, name).await;
        }
        Ok(())
    }

    async fn ask_file(&self, inode: &Arc<Inode>, parent: u64, name: Vec<u8>) -> Result<()> {
        let _looks = self.look(inode.ino).await;
        let key = self.file_key(inode.ino);
        // Then the answer is about another file.
        let has_moved =
            || self.inodes.place(inode.ino).is_none() || self.file_key(inode.ino) != key;
        let found = self.catalog.ask_file(&self.directory_key(parent), &name).await;
        let found = found.map_err(|error| self.resolve_error(error))?;
        if matches!(found, Found::Absent) && has_moved() {
            return Ok(());
        }
        match self.have_found(parent, &name, found) {
            Some(found) if found.ino == inode.ino || has_moved() => Ok(()),
            Some(_) => Err(VfsError::plain(libc::ESTALE)),
            None => Err(VfsError::plain(libc::ENOENT)),
        }
    }

    async fn revalidate_directory(
        &self,
        inode: &Arc<Inode>,
        parent: u64,
        name: &[u8],
    ) -> Result<()> {
        match self.find_child(parent, name).await? {
            Some(found) if found.ino == inode.ino => Ok(()),
            // The kernel holds it, so it goes on: programs have it as their working directory.
            _ => Ok(()),
        }
    }

    pub fn resolve_error(&self, error: ResolveError) -> VfsError {
        match error {
            ResolveError::Name(error) => error.into(),
            ResolveError::Store(error) => self.faults.pass(error),
        }
    }
}

/// A symlink's target was read from the same version: it need not be read again.
fn keep_target(fresh: &mut InodeState, known: &InodeState) {
    if let Some(target) = &known.attributes.extra().target
        && fresh.etag == known.etag
    {
        fresh.attributes.change_extra(|extra| extra.target = Some(target.clone()));
    }
}

/// Entries that were made or removed here have touched a directory's time, and its marker does not say so.
fn keep_times_of_directory(fresh: &mut InodeState, known: &InodeState) {
    if known.touched {
        let mtime = &mut fresh.attributes.mtime;
        *mtime = (*mtime).max(known.attributes.mtime);
    }
}
