//! One multipart upload, and how each of its parts comes to be in it: by the cheapest way.
//!
//! Consistency, Retries, Cancellation, Crash: see [`super`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::UploadError;
use super::fingerprint::{PartBytes, fingerprint_of_copy};
use super::interrupted::Interrupted;
use super::outcome::{Proof, completed_as, is_repeated};
use super::reuse::{Borrowed, KnownObjects, Source, is_another_version};
use super::session::{Seal, Session};
use crate::checked::Sum;
use crate::journal::{Completing, Fingerprint};
use crate::progress::{can_end, kept};
use crate::range::ByteRange;
use crate::store::{
    ETag, ErrorKind, Key, PartBody, Precondition, SharedStore, StoreError, StoredPart, UploadId,
    WriteOptions,
};

/// Known objects that are tried for one part.
const TRIES: usize = 3;

/// What is known of the bytes of a part.
#[derive(Clone, Copy)]
struct Content {
    /// Of the bytes, or of where they are copied from.
    fingerprint: Fingerprint,
    crc: Option<u32>,
}

/// One multipart upload.
pub struct Upload {
    pub(super) store: SharedStore,
    pub(super) session: Session,
    pub(super) interrupted: Arc<Interrupted>,
    pub(super) known: Arc<KnownObjects>,
    pub(super) borrowed: Borrowed,
    pub(super) parts_resumed: AtomicU32,
}

impl Upload {
    /// Parts that did not have to be sent again.
    pub fn parts_resumed(&self) -> u32 {
        self.parts_resumed.load(Ordering::Relaxed)
    }

    /// What the upload was begun with: metadata cannot change later.
    pub fn options(&self) -> &WriteOptions {
        &self.session.options
    }

    /// Whether the store holds exactly this part.
    pub fn holds(&self, part: &StoredPart) -> bool {
        self.session.holds(part)
    }

    /// How often the upload was begun again because the store had forgotten it.
    pub fn restarts(&self) -> u64 {
        self.session.current().1
    }

    /// Makes `bytes` part `number`, by the cheapest way: it is there already; a known object, or an interrupted upload,
    /// has the same bytes; or it is sent.
    pub async fn store_part(
        &self,
        number: u32,
        bytes: PartBytes,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        let (fingerprint, body) = bytes.fingerprinted().await?;
        let Sum { crc, len } = body.sum();
        let content = Content { fingerprint, crc: Some(crc) };
        if let Some(part) = kept(self.part_without_sending(number, &content, seal)).await? {
            is_intact(&body)?;
            self.parts_resumed.fetch_add(1, Ordering::Relaxed);
            return Ok(StoredPart { crc: Some(crc), ..part });
        }
        let (upload_id, epoch) = self.session.current();
        let sent = self.store.upload_part(&self.session.key, &upload_id, number, body);
        // One that is given up is aborted with its upload, or sent again.
        let sent = can_end(sent).await;
        let etag = kept(self.session.restart_if_forgotten(sent, epoch)).await?;
        let part = StoredPart { number, etag, len, crc: Some(crc) };
        self.session.acknowledge(part, fingerprint, seal, epoch)
    }

    async fn part_without_sending(
        &self,
        number: u32,
        content: &Content,
        seal: Seal,
    ) -> Result<Option<StoredPart>, UploadError> {
        if let Some(part) = self.session.part_like(number, &content.fingerprint) {
            return Ok(Some(part));
        }
        if !self.store.capabilities().copies_parts {
            return Ok(None);
        }
        match self.copy_known_object(number, content, seal).await? {
            Some(part) => Ok(Some(part)),
            None => self.copy_interrupted(number, content, seal).await,
        }
    }

    /// Copies the part from an object that was completed before.
    async fn copy_known_object(
        &self,
        number: u32,
        content: &Content,
        seal: Seal,
    ) -> Result<Option<StoredPart>, UploadError> {
        for _ in 0..TRIES {
            let source = match self.borrowed.known_object(&content.fingerprint).await {
                Ok(Some(source)) => source,
                Ok(None) => return Ok(None),
                Err(error) => {
                    log::info!("part {number} of {} is sent, not copied: {error}", self.key());
                    return Ok(None);
                }
            };
            match self.copy(number, &source, *content, seal).await {
                Err(UploadError::Store(error)) if is_another_version(error.kind) => {
                    self.borrowed.forget_replaced(&source).await;
                }
                Err(UploadError::Store(error)) => {
                    log::info!("part {number} of {} is sent, not copied: {error}", self.key());
                    return Ok(None);
                }
                copied => return copied.map(Some),
            }
        }
        Ok(None)
    }

    /// Copies the part from an interrupted upload of another key.
    async fn copy_interrupted(
        &self,
        number: u32,
        content: &Content,
        seal: Seal,
    ) -> Result<Option<StoredPart>, UploadError> {
        let Some((source, _lease)) = self.borrowed.copy_source(&content.fingerprint).await? else {
            return Ok(None);
        };
        match self.copy(number, &source, *content, seal).await {
            Err(UploadError::Store(error))
                if is_another_version(error.kind) || error.kind == ErrorKind::Unsupported =>
            {
                log::info!("part {number} of {} is sent, not copied: {error}", self.key());
                Ok(None)
            }
            copied => copied.map(Some),
        }
    }

    /// Makes a range of an object of the bucket part `number`, copied inside the store.
    pub async fn copy_part(
        &self,
        number: u32,
        source: &Key,
        etag: &ETag,
        range: ByteRange,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        self.copy_once(number, Source { key: source.clone(), etag: etag.clone(), range }, seal)
            .await
    }

    /// Makes `len` zeros part `number` by a copy inside the store, from an object of `from_len` zeros.
    pub async fn copy_zeros(
        &self,
        number: u32,
        len: u64,
        from_len: u64,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        kept(async {
            let (zeros, _lease) = self.borrowed.zeros(len, from_len).await?;
            self.copy_once(number, zeros, seal).await
        })
        .await
    }

    /// Copies a range, unless the part is that copy already.
    async fn copy_once(
        &self,
        number: u32,
        source: Source,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        let fingerprint = fingerprint_of_copy(&source.etag, source.range);
        match self.session.part_like(number, &fingerprint) {
            Some(part) => Ok(part),
            None => self.copy(number, &source, Content { fingerprint, crc: None }, seal).await,
        }
    }

    async fn copy(
        &self,
        number: u32,
        Source { key, etag, range }: &Source,
        Content { fingerprint, crc }: Content,
        seal: Seal,
    ) -> Result<StoredPart, UploadError> {
        let (upload_id, epoch) = self.session.current();
        let copied =
            self.store.upload_part_copy(self.key(), &upload_id, number, key, etag, *range).await;
        let etag = self.session.restart_if_forgotten(copied, epoch).await?;
        let part = StoredPart { number, etag, len: range.len(), crc };
        self.session.acknowledge(part, fingerprint, seal, epoch)
    }

    fn key(&self) -> &Key {
        &self.session.key
    }

    /// What the completion of these parts makes of the file.
    pub fn completing(&self, parts: &[StoredPart], seal: Seal) -> Completing {
        self.session.completing(parts, seal)
    }

    /// Turns the parts into the object. Before, the journal says what is about to be, so that the object is
    /// known for ours whatever happens. The draft's owner journals what it goes on with, then
    /// [`Upload::end`]s this.
    pub async fn complete(
        &self,
        parts: &[StoredPart],
        seal: Seal,
        precondition: &Precondition,
    ) -> Result<ETag, UploadError> {
        let (upload_id, epoch) = self.session.current();
        let completing = self.session.journal_completing(parts, seal)?;
        let done = self.store.complete_upload(self.key(), &upload_id, parts, precondition).await;
        if let Err(error) = &done
            && is_refuted(error)
        {
            return Err(self.refuted(error.clone(), &completing, &upload_id, epoch).await?);
        }
        let before = match &done {
            Err(error) if is_repeated(error) => {
                let proof = Proof::under(precondition);
                completed_as(&*self.store, self.key(), &completing, proof).await?
            }
            _ => None,
        };
        let etag = match before {
            Some(etag) => {
                log::info!("{}: an earlier completion had taken effect", self.key());
                etag
            }
            None => self.session.restart_if_forgotten(done, epoch).await?,
        };
        self.known.remember(self.key(), &etag, self.session.content_of(parts));
        Ok(etag)
    }

    /// The store has another object, or would make one: begins the upload again. The journal hears of that first, so that
    /// the object is not taken for the file by its mark.
    async fn refuted(
        &self,
        error: StoreError,
        completing: &Completing,
        upload_id: &UploadId,
        epoch: u64,
    ) -> Result<UploadError, UploadError> {
        self.session.begin_again(epoch).await?;
        let found = completed_as(&*self.store, self.key(), completing, Proof::Mark).await;
        let stands = found.unwrap_or_else(|error| {
            log::warn!("{}: {error}", self.key());
            None
        });
        if let Err(abort) = self.store.abort_upload(self.key(), upload_id).await {
            log::warn!("an upload of {} stays behind in the store: {abort}", self.key());
        }
        Ok(UploadError::Refuted { error: Box::new(error), stands })
    }

    /// The upload is the object: what served to make it is given back, and interrupted uploads that have nothing else
    /// are ended.
    pub async fn end(&self) {
        self.give_up().await;
        self.interrupted.abort_contained_in(&self.session.fingerprints()).await;
    }

    /// The upload is over, or another's: nothing more of it is wanted by this one.
    pub async fn give_up(&self) {
        self.session.end();
        self.borrowed.give_back().await;
    }
}

/// What is in the store has the fingerprint that these bytes had a moment ago. That is what was written only if they have
/// their sum too.
fn is_intact(body: &PartBody) -> Result<(), StoreError> {
    match body {
        PartBody::Whole(summed) if !summed.is_intact() => Err(StoreError::damaged("UploadPart")),
        // What is streamed is compared where it is read.
        _ => Ok(()),
    }
}

/// Whether the store says that it has other bytes than were sent, however often it is asked.
fn is_refuted(error: &StoreError) -> bool {
    error.kind == ErrorKind::Damaged || error.code.as_deref() == Some("BadDigest")
}
