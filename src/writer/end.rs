//! The end of a draft that nobody wants, and of one that is left to be gone on with.

use std::sync::Arc;

use super::error::WriteError;
use super::state::{Draft, EndedStaging};
use crate::journal::{Event, Record};

impl Draft {
    /// Ends a draft that nobody wants: its records, its staging file, its upload. Once this has returned
    /// no crash brings it back; an upload that cannot be aborted now is dead, listed, and expires.
    pub async fn discard(self: &Arc<Self>) -> Result<(), WriteError> {
        let _gate = self.gate.write().await;
        let (staging, is_recorded, was_sealed) = {
            let mut core = self.core.lock();
            let was_sealed = core.life.sealed().is_some() || core.life.is_unnamed();
            let is_recorded = core.life.is_recorded();
            core.life.apply(Event::Discarded);
            core.content.parts.clear();
            (core.staging.take(), is_recorded, was_sealed)
        };
        if is_recorded {
            self.give_up_upload().await?;
            self.writers.journal.append(Record::DraftEnded { draft: self.id })?;
        }
        self.writers
            .remove_staging(staging.map(|staging| EndedStaging { staging, was_sealed }))
            .await;
        Ok(())
    }

    /// Parts from the draft's upload, where there is one, here or in the journal, and aborts it. The
    /// draft's own records end with that.
    pub(in crate::writer) async fn give_up_upload(&self) -> Result<(), WriteError> {
        let upload = self.core.lock().upload.take();
        if let Some(orphan) = self.writers.uploads.disown(self.id)?
            && let Err(error) = self.writers.uploads.abort(orphan).await
        {
            log::warn!("{}: a dead upload stays behind for now: {error}", self.key());
        }
        if let Some(upload) = upload {
            upload.given_up().await;
        }
        Ok(())
    }
}

impl Drop for Draft {
    /// A draft that was not published leaves what the store and the disk have of it to be gone on with.
    fn drop(&mut self) {
        let seal = self.core.get_mut().life.sealed_mut();
        if let Some(paid) = seal.and_then(|seal| seal.paid.take())
            && self.writers.journal.read(|state| state.drafts.contains_key(&self.id))
        {
            // The journal still holds it.
            paid.forget();
        }
        self.count_stored(0);
        self.count_sending(0);
        self.writers.unregister(self.id);
        self.writers.uploads.release(self.id);
    }
}
