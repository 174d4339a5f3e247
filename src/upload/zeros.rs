//! Holes: parts of zeros are copied inside the store, from an object of zeros that costs 5 MiB to send and
//! is doubled up there by copies of copies.
//!
//! Consistency: the object is made under a key that no other machine uses (a mark of its own is its name), and copied
//! from by its ETag.
//! Retries: the store's; where it cannot be made or copied from, the caller sends zeros.
//! Cancellation and crash: its key is journaled as a helper before it is made, the uploads that make it
//! as drafts without parts, so that the next mount deletes and aborts what this one could not.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::lease::{Lease, Lending, Lent};
use super::{Seal, Upload, UploadError, Uploads};
use crate::buffer;
use crate::clock;
use crate::journal::{DraftId, Record};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::store::{ETag, Key, Mark, Precondition, StoredPart, WriteOptions};

/// Names that begin so are a mount's own passing objects, and nobody's entries.
pub const ASIDE_PREFIX: &[u8] = b".ratchetfs-aside-";

/// What is sent of the first object, in bytes: the shortest part that S3 takes.
const SEED_BYTES: u64 = 5 << 20;

/// Each object is made of at most so many copies of the one before, side by side.
const GROWTH: u64 = 8;

/// An object of zeros to copy from.
pub(super) struct ZeroObject {
    key: Key,
    etag: ETag,
    len: u64,
}

impl Lent for ZeroObject {
    fn table(uploads: &Uploads) -> &Lending<ZeroObject> {
        &uploads.zeros.lent
    }

    async fn end(&self, uploads: &Uploads) {
        uploads.delete_zeros(&self.key).await;
    }
}

/// The objects of zeros that are in use.
pub(super) struct Zeros {
    pub(super) lent: Lending<ZeroObject>,
    /// One is made at a time, for all who want one.
    making: tokio::sync::Mutex<()>,
    /// What their keys begin with.
    prefix: Key,
}

impl Zeros {
    pub(super) fn new(prefix: Key) -> Zeros {
        Zeros { lent: Lending::default(), making: tokio::sync::Mutex::default(), prefix }
    }
}

impl Uploads {
    /// An object of at least `len` zeros, made if there is none.
    pub(super) async fn zero_object(
        self: &Arc<Self>,
        len: u64,
    ) -> Result<Lease<ZeroObject>, UploadError> {
        let _turn = self.zeros.making.lock().await;
        let is_wanted = |object: &ZeroObject| object.len >= len;
        match Lending::lend_or(self, is_wanted, || None) {
            Some(lease) => Ok(lease),
            None => Ok(Lending::add(self, self.make_zeros(len).await?)),
        }
    }

    async fn make_zeros(&self, len: u64) -> Result<ZeroObject, UploadError> {
        let mut object = self.seed().await?;
        while object.len < len {
            let next = self.multiply(&object, len.min(object.len * GROWTH)).await;
            self.delete_zeros(&object.key).await;
            object = next?;
        }
        Ok(object)
    }

    async fn seed(&self) -> Result<ZeroObject, UploadError> {
        let key = self.zeros_key();
        self.journal.append(Record::HelperBegun { key: key.clone() })?;
        let bytes = buffer::zeros(SEED_BYTES)?;
        let options = WriteOptions::default().marked();
        match self.store.put(&key, bytes, &options, &Precondition::None).await {
            Ok(etag) => Ok(ZeroObject { key, etag, len: SEED_BYTES }),
            Err(error) => {
                self.delete_zeros(&key).await;
                Err(error.into())
            }
        }
    }

    /// An object of `len` zeros out of copies of a shorter one.
    async fn multiply(&self, from: &ZeroObject, len: u64) -> Result<ZeroObject, UploadError> {
        let key = self.zeros_key();
        self.journal.append(Record::HelperBegun { key: key.clone() })?;
        let draft = self.journal.next_draft_id();
        self.claim(draft);
        let made = self.multiply_as(draft, &key, from, len).await;
        let ended = match &made {
            Ok(_) => self.journal.append(Record::DraftEnded { draft }).map_err(Into::into),
            Err(_) => self.end_dead(draft).await,
        };
        self.release(draft);
        if made.is_err() {
            self.delete_zeros(&key).await;
        }
        let etag = made?;
        ended?;
        Ok(ZeroObject { key, etag, len })
    }

    async fn multiply_as(
        &self,
        draft: DraftId,
        key: &Key,
        from: &ZeroObject,
        len: u64,
    ) -> Result<ETag, UploadError> {
        self.journal.append(Record::DraftBegun {
            draft,
            key: key.clone(),
            plan: PartPlan::new(from.len, true),
            base: None,
            options: self.options,
            time: clock::wall(),
        })?;
        let (upload_id, mark) = self.begin(key, draft, &WriteOptions::default()).await?;
        let pieces = (0..len.div_ceil(from.len)).map(|index| {
            let piece = ByteRange::at(0, from.len.min(len - index * from.len));
            let (number, upload_id) = (index as u32 + 1, &upload_id);
            async move {
                let etag = self
                    .store
                    .upload_part_copy(key, upload_id, number, &from.key, &from.etag, piece)
                    .await?;
                Ok::<_, UploadError>(StoredPart { number, etag, len: piece.len() })
            }
        });
        let parts: Vec<StoredPart> =
            stream::iter(pieces).buffered(GROWTH as usize).try_collect().await?;
        let (any, mark) = (Precondition::None, mark.as_ref());
        Ok(self.complete_marked(key, &upload_id, &parts, &any, mark).await?)
    }

    /// Deletes an object of zeros; one that stays is deleted by the next mount.
    async fn delete_zeros(&self, key: &Key) {
        match self.store.delete(key).await {
            Ok(()) => {
                if let Err(error) = self.journal.append(Record::HelperEnded { key: key.clone() }) {
                    log::warn!("the journal cannot be written: {error}");
                }
            }
            Err(error) => log::warn!("{key} will be deleted by the next mount: {error}"),
        }
    }

    fn zeros_key(&self) -> Key {
        self.zeros.prefix.join(format!("{}-zeros", Mark::fresh()).as_bytes())
    }
}

impl Upload {
    /// Makes `len` zeros part `number` by a copy inside the store, from an object of `from_len` zeros.
    pub async fn copy_zeros(
        &self,
        number: u32,
        len: u64,
        from_len: u64,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        let held = self.zeros.lock().clone().filter(|object| object.len >= len);
        let object = match held {
            Some(object) => object,
            None => {
                let object = Arc::new(self.uploads.zero_object(from_len.max(len)).await?);
                let before = self.zeros.lock().replace(object.clone());
                if let Some(before) = before.and_then(Arc::into_inner) {
                    before.give_back().await;
                }
                object
            }
        };
        self.copy_part(number, &object.key, &object.etag, ByteRange::at(0, len), seal).await
    }
}
