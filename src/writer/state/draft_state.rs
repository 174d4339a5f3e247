//! All that is known of a draft at one moment: what it is called, how far it has come, where its bytes are.
//!
//! Pure: no disk, no store, no journal.

use tokio::sync::OwnedSemaphorePermit;

use super::content::Content;
use super::objects::{Base, Published};
use super::transfer::Transfer;
use crate::journal::{Event, Life};
use crate::range::ByteRange;
use crate::store::{Key, Precondition, WriteOptions};
use crate::upload::Seal;
use crate::writer::error::WriteError;

/// A draft is its content, its transfer, and how far its life has come.
pub(in crate::writer) struct DraftState {
    pub key: Key,
    pub options: WriteOptions,
    /// Created with O_EXCL and not published yet.
    pub exclusive: bool,
    pub life: Life<LastSeal>,
    pub content: Content,
    pub transfer: Transfer,
    /// The first failure, which every later call tells.
    pub error: Option<WriteError>,
    /// The object that it has become, until that is asked for.
    pub published: Option<Published>,
}

/// What a draft knows of its seal in the journal.
pub(in crate::writer) struct LastSeal {
    /// The draft's count of writes when it was recorded.
    pub at: u64,
    /// Write-back: its writer has closed it, and was told so.
    pub told: bool,
    /// Pays for the content that the seal has, and the journal's state with it.
    pub paid: Option<OwnedSemaphorePermit>,
}

impl DraftState {
    /// Of a draft of which nothing is on its way to the store.
    pub fn new(
        key: Key,
        options: WriteOptions,
        life: Life<LastSeal>,
        content: Content,
    ) -> DraftState {
        DraftState {
            key,
            options,
            exclusive: false,
            life,
            content,
            transfer: Transfer::default(),
            error: None,
            published: None,
        }
    }

    /// Write-back: safe on the disk as it is, and waiting for its upload.
    pub fn is_closed(&self) -> bool {
        self.life.sealed().is_some_and(|seal| seal.told && seal.at == self.content.writes)
    }

    /// Write-back: its writer is told that it is safe. Without a write since then that goes for all of it.
    pub fn was_told(&mut self) {
        let writes = self.content.writes;
        if let Some(seal) = self.life.sealed_mut().filter(|seal| seal.at == writes) {
            seal.told = true;
        }
    }

    /// How content of this generation stands to what was sealed.
    pub fn seal_of(&self, generation: u64) -> Seal {
        match self.life.sealed() {
            Some(seal) if generation > seal.at => Seal::Older,
            _ => Seal::Same,
        }
    }

    /// How the file as it stands stands to what was sealed.
    pub fn seal_of_all(&self) -> Seal {
        self.seal_of(self.content.writes)
    }

    /// The first failure is told by every later call; but what the store refuses is no concern of a
    /// writer whose bytes are safe on the disk.
    pub fn fail_if_failed(&mut self, write_back: bool) -> Result<(), WriteError> {
        if write_back && matches!(self.error, Some(WriteError::Store(_))) {
            self.error = None;
        }
        self.error.clone().map_or(Ok(()), Err)
    }

    /// A write has failed. That memory has changed is the draft's own failure, told from now on.
    pub fn fail(&mut self, error: WriteError) -> WriteError {
        if matches!(error, WriteError::Damaged(_)) {
            log::error!("{}: {error}", self.key);
            self.error.get_or_insert(error.clone());
        }
        error
    }

    /// Changes the length; `false` where the cut would go through a part that only the store has.
    pub fn cut(&mut self, len: u64) -> bool {
        let writes = self.content.writes;
        if !self.content.cut(len) {
            return false;
        }
        if let Some(unsettled) = &mut self.transfer.unsettled {
            // What was cut off must not come back out of the object.
            unsettled.base_len = unsettled.base_len.min(len);
        }
        if self.content.writes != writes {
            self.life.apply(Event::Changed);
        }
        true
    }

    /// Whether it shows bytes of its own key's object.
    pub fn modifies_its_object(&self) -> bool {
        let base = self.content.base.as_ref();
        self.content.base_len > 0 && base.is_some_and(|base| base.key == self.key)
    }

    /// Whether it shows bytes of another key's object.
    pub fn builds_on_another(&self) -> bool {
        let base = self.content.base.as_ref();
        self.content.base_len > 0 && base.is_some_and(|base| base.key != self.key)
    }

    /// The base, where the file is that object, all of it and nothing else, under another key.
    pub fn copy_of(&self) -> Option<&Base> {
        let content = &self.content;
        let base = content.base.as_ref().filter(|_| self.builds_on_another())?;
        let is_whole = content.base_len == base.len && content.len == base.len;
        (is_whole && content.parts.is_empty() && self.transfer.upload.is_none()).then_some(base)
    }

    /// Whether `range` of `source` can be appended as something that the store alone copies.
    pub fn can_build_on(&self, source: &Base, range: ByteRange) -> bool {
        let (content, transfer) = (&self.content, &self.transfer);
        let is_empty =
            content.parts.is_empty() && transfer.upload.is_none() && transfer.unsettled.is_none();
        let goes_on = match &content.base {
            Some(base) if content.base_len > 0 => {
                base.key == source.key && base.etag == source.etag
            }
            _ => true,
        };
        is_empty
            && goes_on
            && !self.life.is_unlinked()
            && source.key != self.key
            && content.len == range.start()
            && content.base_len == range.start()
            && range.end() <= source.len.min(content.plan.len_max())
    }

    /// What must be true of the key for the object to be replaced: only a draft that builds on its base
    /// minds what others wrote.
    pub fn precondition(&self) -> Precondition {
        match &self.content.base {
            None if self.exclusive => Precondition::Absent,
            Some(_) if self.exclusive && self.builds_on_another() => Precondition::Absent,
            Some(base) if self.content.base_len > 0 && base.key == self.key => {
                Precondition::Matches(base.etag.clone())
            }
            _ => Precondition::None,
        }
    }
}
