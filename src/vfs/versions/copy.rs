//! Objects that come to be without a draft: copies inside the store, markers of directories.

use super::contents::Versions;
use crate::namespace::attributes::{Attributes, directory_type_with};
use crate::progress::any_other;
use crate::store::{
    CopyRequest, ETag, ErrorKind, Key, Precondition, Storage, StoreError, Summed, Tags,
    WriteOptions,
};
use crate::vfs::error::{Result, VfsError};
use crate::writer::{Base, COPY_BYTES_MAX, Draft};

/// What a copy inside the store carries.
pub struct CopyWith {
    replace: Option<WriteOptions>,
    storage: Storage,
    precondition: Precondition,
}

impl CopyWith {
    /// What its source carries. `storage` is how that is kept, as far as it is known: it does not go along by itself.
    pub fn the_same(storage: Storage) -> CopyWith {
        CopyWith { replace: None, storage, precondition: Precondition::None }
    }

    /// The storage class that the copy gets by its source's.
    pub fn class(&self) -> Option<&String> {
        let carried = self.replace.as_ref().and_then(|options| options.carried.as_ref());
        carried.map_or(&self.storage, |carried| &carried.storage).class.as_ref()
    }

    pub fn these(options: WriteOptions) -> CopyWith {
        CopyWith {
            replace: Some(options),
            storage: Storage::default(),
            precondition: Precondition::None,
        }
    }

    /// Only where nothing has the new name. (A copy by parts replaces what is there.) One that keeps what its source carries
    /// would not be known for ours if its answer is lost.
    pub fn if_new(self) -> CopyWith {
        debug_assert!(self.replace.is_some(), "it has no mark");
        CopyWith { precondition: Precondition::Absent, ..self }
    }
}

impl Versions {
    /// A server-side copy, of any size.
    pub async fn copy_object(
        &self,
        from: &Key,
        etag: &ETag,
        len: u64,
        to: &Key,
        with: CopyWith,
    ) -> Result<ETag> {
        let CopyWith { replace, storage, precondition } = with;
        if len <= COPY_BYTES_MAX {
            let request = CopyRequest {
                source: from.clone(),
                source_etag: Some(etag.clone()),
                target: to.clone(),
                // One under a condition is refused when it is repeated, as is one onto itself, and is known by this.
                replace: replace.map(WriteOptions::marked),
                keeps_tags: true,
                storage,
                precondition,
            };
            return Ok(self.store.copy(&request).await?);
        }
        self.copy_by_parts(from, etag, len, to, replace).await
    }

    /// Whether a marker that could not be written is one of the things that write-back does later: it is then
    /// journaled as the attributes of its directory.
    pub fn is_for_later(&self, made: &Result<()>) -> bool {
        self.settings.write_back && made.as_ref().is_err_and(|error| error.unanswered)
    }

    /// Writes a directory's marker with these attributes.
    pub async fn put_marker(
        &self,
        key: &Key,
        attributes: &Attributes,
        precondition: Precondition,
    ) -> Result<()> {
        let mut options = attributes.to_write_options()?.marked();
        if !self.store.capabilities().marker_metadata {
            options.content_type = Some(directory_type_with(&options.metadata));
        }
        let put = |precondition: Precondition| {
            let options = &options;
            async move { self.store.put(key, Summed::of(""), options, &precondition).await }
        };
        let made = match put(precondition.clone()).await {
            Err(error) if self.is_in_the_way_of(key, &precondition, &error).await => {
                put(Precondition::None).await
            }
            made => made,
        };
        made.map(|_| ()).map_err(|error| self.exists_or_fault(error))
    }

    /// Whether the marker of a directory that is not there yet was refused for a folder alone: of a store that keeps those for
    /// the versions of what was in them.
    async fn is_in_the_way_of(
        &self,
        key: &Key,
        precondition: &Precondition,
        error: &StoreError,
    ) -> bool {
        let is_refused = *precondition == Precondition::Absent
            && error.kind == ErrorKind::PreconditionFailed
            && self.store.capabilities().keeps_folders;
        is_refused && self.store.head(key).await.is_ok_and(|head| head.is_folder_alone())
    }

    /// A copy of more than one request can do: an upload of copied parts.
    pub async fn copy_by_parts(
        &self,
        from: &Key,
        etag: &ETag,
        len: u64,
        to: &Key,
        replace: Option<WriteOptions>,
    ) -> Result<ETag> {
        let options = match replace {
            Some(options) => options,
            None => self.all_that_is_carried(from).await?,
        };
        let base = Base {
            key: from.clone(),
            etag: etag.clone(),
            len,
            object: self.cache.object(from, etag, len),
        };
        let draft = Draft::new(&self.writers, to.clone(), Some(base), options);
        draft.mark_dirty();
        let published = any_other(draft.publish()).await?;
        published
            .map(|published| published.etag)
            .ok_or_else(|| VfsError::new(libc::EIO, "a copy had nothing to copy"))
    }

    /// What an object that is not copied by the store as a whole is to be written with.
    async fn all_that_is_carried(&self, key: &Key) -> Result<WriteOptions> {
        let head = self.store.head(key).await?;
        let mut options = head.write_options();
        if let Some(carried) = options.carried.as_mut().filter(|carried| carried.tags != Tags::None)
        {
            carried.tags = self.store.tags(key).await?;
        }
        Ok(options)
    }

    /// Under what condition a name is made, so that of two machines one is first.
    pub fn if_new(&self) -> Precondition {
        match self.store.capabilities().conditional_writes {
            true => Precondition::Absent,
            false => Precondition::None,
        }
    }

    /// What a refused creation means: another machine was first.
    pub fn exists_or_fault(&self, error: StoreError) -> VfsError {
        match error.kind {
            ErrorKind::PreconditionFailed => VfsError::plain(libc::EEXIST),
            _ => self.faults.pass(error),
        }
    }
}
/// Whether an error says that the object is not there (any more).
pub fn is_gone(error: &StoreError) -> bool {
    error.kind == ErrorKind::NotFound
}
