//! Holes: parts of zeros are copied inside the store, from an object of zeros that costs 5 MiB to send and
//! is doubled up there by copies of copies.
//!
//! Consistency: the object is made under a key that no other machine uses (a mark of its own is its name), and copied
//! from by its ETag.
//! Retries: the store's; where it cannot be made or copied from, the caller sends zeros.
//! Cancellation and crash: its key is journaled as a temporary object before it is made, the uploads that make it
//! as drafts without parts, so that the next mount deletes and aborts what this one could not.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::lease::{Lease, Lender, Lent};
use super::source::Source;
use crate::buffer;
use crate::clock;
use crate::journal::{DraftId, Record};
use crate::part::PartPlan;
use crate::range::ByteRange;
use crate::store::{ETag, Key, Mark, Precondition, Store, StoredPart, WriteOptions};
use crate::upload::create::Creates;
use crate::upload::error::UploadError;
use crate::upload::interrupted::Interrupted;
use crate::upload::outcome::complete_marked;

/// Names that begin so are a mount's own temporary objects, which no directory shows. (The name is that of all versions:
/// a crash of an older one may have left some.)
pub const TEMPORARY_PREFIX: &[u8] = b".ratchetfs-aside-";

/// What is sent of the first object, in bytes: the shortest part that S3 takes.
const SEED_BYTES: u64 = 5 << 20;

/// Each object is made of at most so many copies of the one before, side by side.
const GROWTH: u64 = 8;

/// An object of zeros to copy from.
pub(in crate::upload) struct ZeroObject {
    key: Key,
    etag: ETag,
    /// In bytes.
    pub(super) len: u64,
}

impl ZeroObject {
    /// The first `len` bytes.
    pub(super) fn first(&self, len: u64) -> Source {
        let range = ByteRange::at(0, len.min(self.len));
        Source { key: self.key.clone(), etag: self.etag.clone(), range }
    }
}

/// The objects of zeros that are in use.
pub(in crate::upload) struct Holes {
    interrupted: Arc<Interrupted>,
    creates: Arc<Creates>,
    lent: Lent<ZeroObject>,
    /// One is made at a time, for all that want one.
    making: tokio::sync::Mutex<()>,
    /// What the keys of temporary objects begin with.
    prefix: Key,
    /// A digest of the mount's fixed upload options.
    options: u64,
}

impl Lender for Holes {
    type Object = ZeroObject;

    fn lent(&self) -> &Lent<ZeroObject> {
        &self.lent
    }

    async fn end(&self, object: &ZeroObject) {
        self.delete(&object.key).await;
    }
}

impl Holes {
    pub fn new(
        interrupted: Arc<Interrupted>,
        creates: Arc<Creates>,
        prefix: Key,
        options: u64,
    ) -> Arc<Holes> {
        Arc::new(Holes {
            interrupted,
            creates,
            lent: Lent::default(),
            making: tokio::sync::Mutex::default(),
            prefix,
            options,
        })
    }

    /// An object of at least `len` zeros, made if there is none.
    pub async fn zero_object(self: &Arc<Self>, len: u64) -> Result<Lease<Holes>, UploadError> {
        let _turn = self.making.lock().await;
        let is_wanted = |object: &ZeroObject| object.len >= len;
        if let Some(lease) = Lease::of(self, is_wanted, || None) {
            return Ok(lease);
        }
        Ok(Lease::new(self, self.make(len).await?))
    }

    async fn make(&self, len: u64) -> Result<ZeroObject, UploadError> {
        let mut object = self.seed().await?;
        while object.len < len {
            let next = self.multiply(&object, len.min(object.len * GROWTH)).await;
            self.delete(&object.key).await;
            object = next?;
        }
        Ok(object)
    }

    async fn seed(&self) -> Result<ZeroObject, UploadError> {
        let key = self.begin_temporary()?;
        let bytes = buffer::zeros(SEED_BYTES)?;
        let options = WriteOptions::default().marked();
        match self.interrupted.store.put(&key, bytes.into(), &options, &Precondition::None).await {
            Ok(etag) => Ok(ZeroObject { key, etag, len: SEED_BYTES }),
            Err(error) => {
                self.delete(&key).await;
                Err(error.into())
            }
        }
    }

    /// An object of `len` zeros out of copies of a shorter one.
    async fn multiply(&self, from: &ZeroObject, len: u64) -> Result<ZeroObject, UploadError> {
        let key = self.begin_temporary()?;
        let journal = &self.interrupted.journal;
        let draft = journal.next_draft_id();
        let made = self.multiply_as(draft, &key, from, len).await;
        let ended = match &made {
            Ok(_) => journal.append(Record::DraftEnded { draft }).map_err(Into::into),
            Err(_) => self.interrupted.end(draft).await,
        };
        self.interrupted.release(draft);
        if made.is_err() {
            self.delete(&key).await;
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
        self.interrupted.journal.append(Record::DraftBegun {
            draft,
            key: key.clone(),
            plan: PartPlan::new(from.len, true),
            base: None,
            options: self.options,
            time: clock::wall(),
        })?;
        let (upload_id, mark) = self.creates.begin(key, draft, &WriteOptions::default()).await?;
        let store = &*self.interrupted.store;
        let pieces = (0..len.div_ceil(from.len)).map(|index| {
            let piece = ByteRange::at(0, from.len.min(len - index * from.len));
            let (number, upload_id) = (index as u32 + 1, &upload_id);
            async move {
                let etag = store
                    .upload_part_copy(key, upload_id, number, &from.key, &from.etag, piece)
                    .await?;
                Ok::<_, UploadError>(StoredPart { number, etag, len: piece.len(), crc: None })
            }
        });
        let parts: Vec<StoredPart> =
            stream::iter(pieces).buffered(GROWTH as usize).try_collect().await?;
        let (any, mark) = (Precondition::None, mark.as_ref());
        Ok(complete_marked(store, key, &upload_id, &parts, &any, mark).await?)
    }

    /// A key of its own for an object that is to be deleted.
    fn begin_temporary(&self) -> Result<Key, UploadError> {
        let key = self.prefix.join(format!("{}-zeros", Mark::fresh()).as_bytes());
        self.interrupted.journal.append(Record::TemporaryBegun { key: key.clone() })?;
        Ok(key)
    }

    /// Deletes an object of zeros; one that stays is deleted by the next mount.
    async fn delete(&self, key: &Key) {
        match self.interrupted.store.delete(key, None).await {
            Ok(()) => {
                let ended = Record::TemporaryEnded { key: key.clone() };
                if let Err(error) = self.interrupted.journal.append(ended) {
                    log::warn!("the journal cannot be written: {error}");
                }
            }
            Err(error) => log::warn!("{key} will be deleted by the next mount: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Identity, Journal};
    use crate::store::memory::MemoryStore;
    use crate::store::turns::Turns;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn zeros_whose_last_users_leave_at_once_are_deleted_once() {
        let dir = tempfile::tempdir().unwrap();
        let identity =
            Identity { endpoint: "e".into(), bucket: "b".into(), prefix: Key::default() };
        let journal = Journal::open(dir.path(), &identity).unwrap().0;
        let store = MemoryStore::new();
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let interrupted = Interrupted::new(Turns::over(shared.clone()), journal.clone());
        let creates = Creates::new(shared, journal.clone());
        let holes = Holes::new(interrupted, creates, Key::from("temporary/"), 0);
        for _ in 0..20 {
            let mut leases = Vec::new();
            for _ in 0..8 {
                leases.push(holes.zero_object(1).await.unwrap());
            }
            let key = journal.read(|state| state.temporary_objects.first().cloned()).unwrap();
            assert_eq!(holes.lent.look(|_| ()).len(), 1, "one for all");
            let before = store.total();
            let all = Arc::new(tokio::sync::Barrier::new(leases.len()));
            let leaving: Vec<_> = leases
                .into_iter()
                .enumerate()
                .map(|(number, lease)| {
                    let all = all.clone();
                    tokio::spawn(async move {
                        all.wait().await;
                        if number % 2 == 0 { lease.give_back().await } else { drop(lease) }
                    })
                })
                .collect();
            for leaving in leaving {
                leaving.await.unwrap();
            }
            let ended = async {
                while !journal.read(|state| state.temporary_objects.is_empty()) {
                    tokio::task::yield_now().await;
                }
            };
            let ended = crate::clock::timeout(std::time::Duration::from_secs(20), ended).await;
            assert!(ended.is_ok(), "all users have left, and none has ended it");
            assert_eq!(store.total(), before + 1, "deleted once");
            assert!(store.head(&key).await.is_err());
        }
    }
}
