//! The attributes of directories: those of their markers, which only a HEAD tells, or the directory's own first page
//! where that says that there is no marker, or one of a version that is remembered.

use std::sync::Arc;
use std::time::Duration;

use super::files::Prefetch;
use crate::clock;
use crate::namespace::attributes::Attributes;
use crate::namespace::clock::is_fresh;
use crate::namespace::segment::Marker;
use crate::store::{Key, ObjectHead, Result, present};

/// A marker may be written anew in the second of its writing, and has the same ETag: after this it is settled.
const SETTLED: Duration = Duration::from_secs(2);

impl Prefetch {
    /// The attributes of the directory with this prefix, where they are known without a request.
    pub fn known_directory(&self, prefix: &Key) -> Option<Attributes> {
        self.remembered_directory(prefix).or_else(|| self.options.fast.then(|| self.implicit()))
    }

    /// The attributes of the directory with this prefix.
    pub async fn directory_attributes(
        self: &Arc<Self>,
        parent: u64,
        prefix: &Key,
        marker: Marker,
    ) -> Result<Attributes> {
        let remembered = self.remembered_directory(prefix);
        if self.options.fast {
            return Ok(remembered.unwrap_or_else(|| self.implicit()));
        }
        if self.passes(prefix) {
            // A caller that is about to look into it needs its page, which tells this too.
            if remembered.is_none()
                && !self.listings.has_page(prefix)
                && let Err(error) = self.page(prefix).await
            {
                log::debug!("the first page of {prefix}: {error}");
            }
        } else {
            self.look_ahead(parent, prefix, remembered.is_some());
        }
        match remembered {
            Some(attributes) => Ok(attributes),
            None => self.ask_directory(prefix, marker).await,
        }
    }

    /// The directory has these attributes, as this mount wrote them or a HEAD just said.
    pub fn note_directory(&self, prefix: &Key, attributes: Attributes, marker: Marker) {
        self.attributes.put_directory(prefix, &attributes);
        let now = self.listings.clock().now();
        self.directories.lock().put(prefix.clone(), (now, attributes, marker));
    }

    /// The attributes of a directory as its marker's head tells them; where there is none, those of all directories
    /// without one.
    pub fn told_by_marker(&self, head: Option<&ObjectHead>) -> Attributes {
        match head {
            Some(head) => Attributes::from_head(head, true, &self.options.defaults),
            None => self.implicit(),
        }
    }

    /// The marker of the directory with this prefix, which a listing of its parent does not tell, as it was seen last.
    pub fn marker_of(&self, prefix: &Key) -> Marker {
        self.directories.lock().peek(prefix).map_or(Marker::Unknown, |(_, _, marker)| *marker)
    }

    pub fn forget_directory(&self, prefix: &Key) {
        self.attributes.forget(prefix);
        self.directories.lock().pop(prefix);
    }

    /// Nothing is known any more of the attributes of the directory with this prefix, nor of those below it.
    pub fn forget_below(&self, prefix: &Key) {
        self.attributes.forget(prefix);
        let mut directories = self.directories.lock();
        let is_below = |key: &Key| key.as_bytes().starts_with(prefix.as_bytes());
        let below = directories.iter().map(|(key, _)| key).filter(|key| is_below(key));
        for key in below.cloned().collect::<Vec<Key>>() {
            directories.pop(&key);
        }
    }

    /// Of a directory without a marker.
    pub fn implicit(&self) -> Attributes {
        Attributes::implicit_directory(self.options.implicit_mtime, &self.options.defaults)
    }

    pub(super) fn remembered_directory(&self, prefix: &Key) -> Option<Attributes> {
        let now = self.listings.clock().now();
        let mut directories = self.directories.lock();
        let (at, attributes, _) = directories.get(prefix)?;
        is_fresh(*at, now, self.listings.freshness().believed_for()).then(|| attributes.clone())
    }

    async fn marker_head(&self, key: &Key) -> Result<Option<ObjectHead>> {
        present(self.waited_for(key, self.head(key).1).await)
    }

    pub(super) async fn ask_directory(
        self: &Arc<Self>,
        prefix: &Key,
        marker: Marker,
    ) -> Result<Attributes> {
        let begun = self.listings.begin();
        if let Some((attributes, marker)) = self.told_by_page(prefix, marker) {
            self.note_directory(prefix, attributes.clone(), marker);
            return Ok(attributes);
        }
        let mut head = match marker {
            Marker::None => None,
            Marker::Unknown | Marker::Slash => self.marker_head(prefix).await?,
            Marker::Folder | Marker::Plain => match marker.key(prefix) {
                Some(key) => self.marker_head(&key).await?,
                None => None,
            },
        };
        let mut found = if marker == Marker::Unknown { Marker::Slash } else { marker };
        if head.is_none()
            && marker == Marker::Unknown
            && self.listings.folder_markers_seen()
            && let Some(key) = Marker::Folder.key(prefix)
        {
            head = self.marker_head(&key).await?;
            found = Marker::Folder;
        }
        head = head.filter(|head| !head.is_folder_alone());
        if head.is_none() {
            found = Marker::None;
        }
        let attributes = self.told_by_marker(head.as_ref());
        if self.listings.is_of_before_a_move(begun) {
            return Ok(attributes);
        }
        if let Some(head) = head.filter(|_| found == Marker::Slash)
            && clock::age(head.last_modified) > SETTLED
        {
            self.attributes.put(prefix, &head.etag, Some(head.last_modified), &attributes);
        }
        self.note_directory(prefix, attributes.clone(), found);
        Ok(attributes)
    }

    /// The attributes of a directory whose first page, which has its marker, is known: without a marker, or with one
    /// of a version that is remembered.
    fn told_by_page(&self, prefix: &Key, marker: Marker) -> Option<(Attributes, Marker)> {
        if matches!(marker, Marker::Folder | Marker::Plain) {
            return None;
        }
        match self.listings.own_marker(prefix)? {
            Some(object) => Some((self.attributes.get(&object)?, Marker::Slash)),
            None if self.listings.folder_markers_seen() => None,
            None => Some((self.implicit(), Marker::None)),
        }
    }
}
