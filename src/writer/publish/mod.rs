//! Publishing: the draft becomes an object, whole and at once.
//!
//! A file of one part is one PUT. Otherwise every part ends up in the upload: sent, found there from
//! before a crash, or, where it was not touched, copied from the base inside the store. A part that was
//! changed after only the store had it is published unchanged first and patched by a second round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::journal::{BaseVersion, Event, Record};
use crate::store::{CopyRequest, ETag, ErrorKind, Key, Precondition, Storage, StoreError};
use crate::upload::{Proof, Seal, UploadError};
use crate::writer::content::readback::stale_if_replaced;
use crate::writer::error::WriteError;
use crate::writer::state::{Base, Core, Draft, EndedStaging, Published};

pub(in crate::writer) mod execute;
mod outcome;
mod plan;

use outcome::Met;

/// The longest object that S3 copies by one request: 5 GiB.
pub const COPY_BYTES_MAX: u64 = 5 << 30;

impl Draft {
    /// Publishes everything. `None` where there is nothing to publish, and nothing was since this was last called.
    pub async fn publish(self: &Arc<Self>) -> Result<Option<Published>, WriteError> {
        while self.is_dirty() {
            self.publish_as_is().await?;
        }
        Ok(self.take_published())
    }

    /// Publishes the file as it stands; patches of parts that only the store has stay dirty.
    pub(in crate::writer) async fn publish_as_is(
        self: &Arc<Self>,
    ) -> Result<Published, WriteError> {
        self.verified().await?;
        let _gate = self.gate.write().await;
        self.sent_or_failed().await?;
        let outcome = {
            let _publishing = Publishing::begin(&self.publishing);
            self.publish_standing().await
        };
        if let Err(error) = &outcome
            && !error.is_passing()
        {
            self.core.lock().error.get_or_insert(error.clone());
        }
        outcome
    }

    async fn publish_standing(self: &Arc<Self>) -> Result<Published, WriteError> {
        if self.core.lock().life.is_unnamed() {
            return Err(WriteError::Lost);
        }
        if let Some(published) = self.learn_outcome().await?
            && !self.is_dirty()
        {
            return Ok(published);
        }
        let published = match self.settle_put().await? {
            Some(published) => published,
            None => self.send_standing().await?,
        };
        let upload = self.core.lock().upload.clone();
        let ended = self.become_clean(&published)?;
        self.writers.remove_staging(ended).await;
        if let Some(upload) = upload {
            upload.end().await;
        }
        // Whatever an earlier, interrupted run left for this key is of no use any more. The object stands,
        // whether that succeeds or not.
        if let Err(error) = self.writers.uploads.abort_dead_of(&published.key).await {
            log::warn!("{}: a dead upload stays behind for now: {error}", published.key);
        }
        Ok(published)
    }

    async fn send_standing(self: &Arc<Self>) -> Result<Published, WriteError> {
        self.seal_what_changed().await?;
        let (len, one_put) = {
            let core = self.core.lock();
            let one_part = core.content.plan.part_bytes().min(self.window_bytes_max());
            let small = core.content.len <= one_part && !core.content.holds_parts();
            (core.content.len, small || core.content.len == 0)
        };
        match self.put_copy().await? {
            Some(copied) => Ok(copied),
            None if one_put => self.put_whole(len).await,
            None => self.put_parts(len).await,
        }
    }

    /// What is published is what a crash brings back, if it brings back anything: parts in the store are
    /// about to be written over, and an object that is completed in the moment of the crash is known for
    /// ours by what it is.
    async fn seal_what_changed(self: &Arc<Self>) -> Result<(), WriteError> {
        let is_sealed = {
            let core = self.core.lock();
            core.seal_of(core.content.writes) == Seal::Same || core.builds_on_another()
        };
        if is_sealed {
            return Ok(());
        }
        match self.seal_standing().await {
            // The disk has no room for what the store has room for, or fails: it does without, unless it needed
            // the store's parts for what was sealed before.
            Err(error) if error.is_failing_disk() && !self.promises_parts() => {
                log::info!("{}: {error}: sent before it is safe here", self.key());
                Ok(())
            }
            other => other,
        }
    }

    async fn put_whole(self: &Arc<Self>, len: u64) -> Result<Published, WriteError> {
        let body = self.whole_content(len).await?;
        let (key, mut options, precondition) = {
            let core = self.core.lock();
            (core.key.clone(), core.options.clone(), core.precondition())
        };
        self.mark_put(&mut options)?;
        let put = async |precondition: Precondition| {
            let checked = self.checked(&key, precondition).await?;
            let put = self.writers.store.put(&key, body.clone(), &options, &checked).await;
            put.map_err(|error| refused(error, &checked))
        };
        let proof = Proof::under(&precondition);
        let etag = match put(precondition).await {
            Err(refusal @ (WriteError::Stale | WriteError::Exists)) => {
                match self.met(&key, &body, &options, proof).await? {
                    Met::This(etag) => etag,
                    Met::Own(etag) => put(Precondition::Matches(etag)).await?,
                    Met::Others => return Err(refusal),
                }
            }
            other => other?,
        };
        // One may have been begun for a file that has become small since.
        self.give_up_upload().await?;
        Ok(Published { key, etag, len, options })
    }

    /// A copy of another key's object, whole and unchanged, is one request. `None` where the file is something else,
    /// is too long for that, or the store cannot.
    async fn put_copy(&self) -> Result<Option<Published>, WriteError> {
        let (key, base, options, precondition) = {
            let core = self.core.lock();
            let Some(base) = core.copy_of().filter(|base| base.len <= COPY_BYTES_MAX) else {
                return Ok(None);
            };
            (core.key.clone(), base.clone(), core.options.clone(), core.precondition())
        };
        let precondition = match &precondition {
            // Stores that refuse a PUT over an object need not refuse a copy over it.
            Precondition::Absent => self.looked_at(&key, &precondition).await?,
            _ => precondition,
        };
        let request = CopyRequest {
            source: base.key.clone(),
            source_etag: Some(base.etag.clone()),
            target: key.clone(),
            replace: Some(options.clone().marked()),
            keeps_tags: false,
            storage: Storage::default(),
            precondition,
        };
        match self.writers.store.copy(&request).await {
            Ok(etag) => Ok(Some(Published { key, etag, len: base.len, options })),
            Err(error) if error.kind == ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(stale_if_replaced(error)),
        }
    }

    async fn put_parts(self: &Arc<Self>, len: u64) -> Result<Published, WriteError> {
        // An upload that is forgotten time and again is no accident any more.
        for _ in 0..3 {
            if let Some(published) = self.put_parts_once(len).await? {
                return Ok(published);
            }
            log::info!("{}: the store forgot the upload while it was finished", self.key());
            self.sent_or_failed().await?;
        }
        Err(WriteError::Lost)
    }

    /// `None` where the store forgot the upload on the way: its parts have to be sent once more.
    async fn put_parts_once(self: &Arc<Self>, len: u64) -> Result<Option<Published>, WriteError> {
        let upload = self.upload().await?;
        let restarts = upload.restarts();
        let copies = self.writers.store.capabilities().copies_parts;
        let plan = self.core.lock().content.plan_to_publish(len, copies);
        let mut parts = self.execute(&upload, plan).await?;
        if upload.restarts() != restarts {
            return Ok(None);
        }
        parts.sort_by_key(|part| part.number);
        let (key, precondition) = {
            let core = self.core.lock();
            (core.key.clone(), core.precondition())
        };
        let precondition = self.checked(&key, precondition).await?;
        let seal = self.seal_of_all();
        self.core.lock().unsettled = Some(upload.completing(&parts, seal));
        let completed = upload.complete(&parts, seal, &precondition).await;
        if is_settled(&completed) {
            self.core.lock().unsettled = None;
        }
        match completed {
            Ok(etag) => {
                let options = upload.options().clone();
                Ok(Some(Published { key, etag, len, options }))
            }
            Err(UploadError::Restarted) => {
                self.resend_after_restart();
                Ok(None)
            }
            Err(UploadError::Store(error)) => Err(refused(error, &precondition)),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the store cannot check a precondition itself, or not this one, look first: the window is short, not none.
    async fn checked(
        &self,
        key: &Key,
        precondition: Precondition,
    ) -> Result<Precondition, WriteError> {
        let is_weak = matches!(&precondition, Precondition::Matches(etag) if etag.is_weak());
        if self.writers.store.capabilities().conditional_writes && !is_weak {
            return Ok(precondition);
        }
        self.looked_at(key, &precondition).await
    }

    /// Checks a precondition by a HEAD; none is left to be sent.
    async fn looked_at(
        &self,
        key: &Key,
        precondition: &Precondition,
    ) -> Result<Precondition, WriteError> {
        match precondition {
            Precondition::None => {}
            Precondition::Matches(etag) => {
                let head = self.writers.store.head(key).await.map_err(stale_if_replaced)?;
                if head.etag != *etag {
                    return Err(WriteError::Stale);
                }
            }
            Precondition::Absent => match self.writers.store.head(key).await {
                Ok(_) => return Err(WriteError::Exists),
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(Precondition::None)
    }

    /// The object stands: it is the base of whatever is written next.
    fn become_clean(
        self: &Arc<Self>,
        published: &Published,
    ) -> Result<Option<EndedStaging>, WriteError> {
        let mut core = self.core.lock();
        let patches = core.content.keep_patches();
        self.stand_on(&mut core, published, published.len, patches)
    }

    /// Makes the object the base, of which the file shows `base_len` bytes; `patches`: there is more to
    /// publish. If there is not, the draft has ended.
    pub(in crate::writer) fn stand_on(
        &self,
        core: &mut Core,
        published: &Published,
        base_len: u64,
        patches: bool,
    ) -> Result<Option<EndedStaging>, WriteError> {
        core.upload = None;
        core.unsettled = None;
        core.puts.clear();
        core.exclusive = false;
        core.content.base = Some(Base {
            key: published.key.clone(),
            etag: published.etag.clone(),
            len: published.len,
            object: self.writers.cache.object(&published.key, &published.etag, published.len),
        });
        core.content.base_len = base_len;
        core.published = Some(published.clone());
        if patches {
            core.life.apply(Event::Rebased);
            self.journal_rebased(core)?;
            return Ok(None);
        }
        // The records go first: a staging file that none names is swept up, the reverse would be a file
        // that is lost.
        let (was_sealed, is_recorded) = (core.life.sealed().is_some(), core.life.is_recorded());
        core.life.apply(Event::Published);
        if is_recorded {
            self.writers.journal.append(Record::DraftEnded { draft: self.id })?;
        }
        Ok(core.staging.take().map(|staging| EndedStaging { staging, was_sealed }))
    }

    /// The draft goes on over the object that it has just become, with what is staged and what was promised
    /// by a sync or a close.
    fn journal_rebased(&self, core: &mut Core) -> Result<(), WriteError> {
        let Some(base) = core.content.base.as_ref().filter(|_| core.life.is_recorded()) else {
            return Ok(());
        };
        let base = BaseVersion { etag: base.etag.clone(), len: base.len };
        Ok(self.writers.journal.append(Record::DraftRebased { draft: self.id, base })?)
    }

    /// How the file as it stands stands to what was sealed.
    pub(in crate::writer) fn seal_of_all(&self) -> Seal {
        let core = self.core.lock();
        core.seal_of(core.content.writes)
    }

    /// Whether what was sealed needs parts that only the store has.
    fn promises_parts(&self) -> bool {
        self.writers.journal.read(|state| {
            state.drafts.get(&self.id).is_some_and(|draft| {
                let mut numbers = draft.parts.keys();
                draft.sealed().is_some() && numbers.any(|number| draft.parts.is_sealed(*number))
            })
        })
    }
}

/// Says that a draft is being published, for as long as that is so: also where the future is dropped, or panics.
struct Publishing<'a>(&'a AtomicBool);

impl Publishing<'_> {
    fn begin(flag: &AtomicBool) -> Publishing<'_> {
        flag.store(true, Ordering::Relaxed);
        Publishing(flag)
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Whether it is known if the completion took effect.
fn is_settled(completed: &Result<ETag, UploadError>) -> bool {
    match completed {
        Ok(_) | Err(UploadError::Restarted) => true,
        Err(UploadError::Store(error)) => {
            error.operation == "CompleteMultipartUpload" && error.kind.is_refusal()
        }
        Err(UploadError::Journal(_)) => false,
    }
}

/// The store refused to replace, or to create, the object.
fn refused(error: StoreError, precondition: &Precondition) -> WriteError {
    match (error.kind, precondition) {
        (ErrorKind::PreconditionFailed, Precondition::Absent) => WriteError::Exists,
        (ErrorKind::PreconditionFailed | ErrorKind::NotFound, _) => WriteError::Stale,
        _ => WriteError::Store(error),
    }
}
