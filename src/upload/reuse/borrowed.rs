//! What one upload copies from, held until the upload ends.

use std::sync::Arc;

use super::copy_source::CopySources;
use super::holes::Holes;
use super::known_object::KnownObjects;
use super::lease::Lease;
use super::source::{Source, is_another_version};
use crate::journal::Fingerprint;
use crate::lock::{Mutex, rank};
use crate::store::{ETag, Key, SharedStore, StoreError};
use crate::upload::error::UploadError;

/// What all uploads of a mount copy from.
pub(in crate::upload) struct Lenders {
    pub known: Arc<KnownObjects>,
    pub sources: Arc<CopySources>,
    pub holes: Arc<Holes>,
}

pub(in crate::upload) struct Borrowed {
    store: SharedStore,
    lenders: Arc<Lenders>,
    sources: Mutex<Vec<Lease<CopySources>>, rank::CopySources>,
    zeros: Mutex<Option<Lease<Holes>>, rank::Zeros>,
    /// The known object that was looked at last: one HEAD for all parts that come from it.
    seen: tokio::sync::Mutex<Option<(Key, ETag)>>,
}

impl Borrowed {
    pub fn new(store: SharedStore, lenders: Arc<Lenders>) -> Borrowed {
        Borrowed {
            store,
            lenders,
            sources: Mutex::default(),
            zeros: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
        }
    }

    /// Where a known object has the bytes with this fingerprint; it was there when it was looked at.
    pub async fn known_object(
        &self,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Source>, StoreError> {
        while let Some((source, len)) = self.lenders.known.find(fingerprint).await {
            match self.is_there(&source, len).await {
                Ok(true) => return Ok(Some(source)),
                Ok(false) => self.lenders.known.forget_replaced(&source).await,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn is_there(&self, source: &Source, len: u64) -> Result<bool, StoreError> {
        let mut seen = self.seen.lock().await;
        if seen.as_ref().is_some_and(|(key, etag)| *key == source.key && *etag == source.etag) {
            return Ok(true);
        }
        match self.store.head(&source.key).await {
            Ok(head) if head.etag == source.etag && head.len == len => {
                *seen = Some((source.key.clone(), source.etag.clone()));
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if is_another_version(error.kind) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The known object was not what is remembered when it was to be copied.
    pub async fn forget_replaced(&self, source: &Source) {
        *self.seen.lock().await = None;
        self.lenders.known.forget_replaced(source).await;
    }

    /// Where a copy source has the bytes with this fingerprint, with a lease of it.
    pub async fn copy_source(
        &self,
        fingerprint: &Fingerprint,
    ) -> Result<Option<(Source, Lease<CopySources>)>, UploadError> {
        let lease = match self.lenders.sources.find(fingerprint).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return Ok(None),
            // A copy source that cannot be made costs sending the part, never the file.
            Err(UploadError::Store(error)) => {
                log::info!("the parts of an interrupted upload cannot be copied: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        {
            let mut held = self.sources.lock();
            if !held.iter().any(|held| held.draft == lease.draft) {
                held.push(lease.clone());
            }
        }
        Ok(lease.place_of(fingerprint).map(|source| (source, lease)))
    }

    /// Where there are `len` zeros, in an object of `from_len` of them if one is to be made, with a lease of it.
    pub async fn zeros(
        &self,
        len: u64,
        from_len: u64,
    ) -> Result<(Source, Lease<Holes>), UploadError> {
        let held = self.zeros.lock().clone();
        if let Some(lease) = held.filter(|object| object.len >= len) {
            return Ok((lease.first(len), lease));
        }
        let lease = self.lenders.holes.zero_object(from_len.max(len)).await?;
        let before = self.zeros.lock().replace(lease.clone());
        if let Some(before) = before {
            before.give_back().await;
        }
        Ok((lease.first(len), lease))
    }

    /// The upload needs nothing more. A part that is still being copied gives back its own lease.
    pub async fn give_back(&self) {
        let sources = std::mem::take(&mut *self.sources.lock());
        for lease in sources {
            lease.give_back().await;
        }
        let zeros = self.zeros.lock().take();
        if let Some(lease) = zeros {
            lease.give_back().await;
        }
    }
}
