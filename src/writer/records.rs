//! What a draft tells the journal.
//!
//! Consistency: records of one draft are decided on, written, and taken into its state one after the other, since
//! each is a [`Recording`]. Locks: the journal's file is written under that turn, never under the draft's state, which
//! stat(2), reads and writes look at.

use std::io;

use super::error::WriteError;
use super::state::{Draft, DraftState};
use crate::clock;
use crate::journal::{BaseVersion, Event, Record};
use crate::lock::MutexGuard;
use crate::range::ByteRange;

/// The turn to record something of a draft. As long as it lives, the journal's records of the draft and what the
/// draft takes for recorded stay as they are but for what is done here; its content may change.
pub(in crate::writer) struct Recording<'a> {
    draft: &'a Draft,
    _turn: MutexGuard<'a, ()>,
}

impl<'a> Recording<'a> {
    pub fn of(draft: &'a Draft) -> Recording<'a> {
        Recording { draft, _turn: draft.recording.lock() }
    }

    /// The draft's state, to decide and to take in. Let go of before anything is appended.
    pub fn state(&self) -> MutexGuard<'a, DraftState> {
        self.draft.state.lock()
    }

    /// # Errors
    /// Those of writing; nothing was recorded then.
    pub fn append(&self, records: &[Record]) -> io::Result<()> {
        if cfg!(debug_assertions) {
            // The lock's rank panics where this thread holds it: nothing waits under it.
            drop(self.state());
        }
        self.draft.writers.journal.append_all(records)
    }

    /// As [`Self::append`], where a lost record costs a repeated transfer, no more.
    pub fn append_or_log(&self, records: &[Record]) {
        if let Err(error) = self.append(records) {
            log::error!("the journal cannot be written: {error}");
        }
    }

    /// Makes the journal know this draft, before anything of it is sent or staged.
    ///
    /// # Errors
    /// Those of writing; `Lost` for a draft that has ended, of which nothing may be.
    pub fn begin(&self) -> Result<(), WriteError> {
        let begun = {
            let state = self.state();
            if state.life.is_recorded() {
                return Ok(());
            }
            if !state.life.is_changed() {
                return Err(WriteError::Lost);
            }
            self.begun(&state)
        };
        self.append(&[begun])?;
        self.state().life.apply(Event::Begun);
        Ok(())
    }

    fn begun(&self, state: &DraftState) -> Record {
        let base = state.content.base.as_ref();
        Record::DraftBegun {
            draft: self.draft.id,
            key: state.key.clone(),
            plan: state.content.plan,
            base: base.map(|base| BaseVersion { etag: base.etag.clone(), len: base.len }),
            options: self.draft.writers.uploads.options_digest(),
            time: clock::wall(),
        }
    }
}

/// What the staging file has of `range` is not meant any more: to be recorded, if the draft is.
pub(in crate::writer) fn staged_dropped(
    draft: &Draft,
    state: &DraftState,
    range: ByteRange,
) -> Option<Record> {
    state.life.is_recorded().then_some(Record::StagedDropped { draft: draft.id, range })
}
