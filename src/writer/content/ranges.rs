//! Whole ranges at once: zeros, holes, and a range of another object that only the store has to copy.
//!
//! Consistency: as a write of the same bytes. Cancellation: what was done of a range stays done.
//! Crash: a draft that builds on another key's object is never sealed, since the journal names the base by the
//! draft's own key: it is published instead.

use std::sync::Arc;

use crate::buffer;
use crate::journal::{Event, Record};
use crate::range::ByteRange;
use crate::writer::error::WriteError;
use crate::writer::state::{Base, Core, Draft, Source};

/// Zeros are written in pieces of so many bytes.
const ZERO_BYTES: u64 = 1 << 20;

/// Where lseek(2) is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

impl Draft {
    /// Grows the file to `len` bytes by a hole; one that is longer stays as it is.
    pub async fn extend(self: &Arc<Self>, len: u64) -> Result<(), WriteError> {
        self.verified().await?;
        let _gate = self.gate.read().await;
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        if len > core.content.plan.len_max() {
            return Err(WriteError::TooLarge(core.content.plan.len_max()));
        }
        if len > core.content.len {
            core.cut(len);
        }
        Ok(())
    }

    /// Makes what the file has of `range` read as zeros. A range that reaches the end becomes a hole, any other
    /// is written.
    pub async fn zero(self: &Arc<Self>, range: ByteRange) -> Result<(), WriteError> {
        self.verified().await?;
        if self.drop_tail(range).await? {
            return Ok(());
        }
        let zeros = buffer::zeros(ZERO_BYTES)?;
        let mut at = range.start();
        while let Some(data) = self.next_data(ByteRange::new(at, range.end().max(at))) {
            let piece = ByteRange::at(data.start(), data.len().min(ZERO_BYTES));
            self.write(piece.start(), &zeros[..piece.len() as usize]).await?;
            at = piece.end();
        }
        Ok(())
    }

    /// `true` where the range reaches the file's end, and is a hole now.
    async fn drop_tail(self: &Arc<Self>, range: ByteRange) -> Result<bool, WriteError> {
        let _gate = self.gate.read().await;
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        let len = core.content.len;
        if range.start() >= len {
            return Ok(true);
        }
        // A cut through a part that only the store has would need a publish; zeros are written over it.
        if range.end() < len || !core.cut(range.start()) {
            return Ok(false);
        }
        core.cut(len);
        if core.life.is_recorded() {
            let range = ByteRange::new(range.start(), u64::MAX);
            self.writers.journal.append(Record::StagedDropped { draft: self.id, range })?;
        }
        Ok(true)
    }

    /// The first stretch of `within` that is not known to be zeros.
    fn next_data(&self, within: ByteRange) -> Option<ByteRange> {
        let core = self.core.lock();
        let within = within.intersect(&ByteRange::new(0, core.content.len));
        let mut sources = core.content.sources(within).into_iter();
        sources.find(|(_, source)| *source != Source::Zero).map(|(range, _)| range)
    }

    /// lseek(2) from `offset`: the next byte that is data, or a hole (the end of the file is one). `None` where
    /// there is none, and behind the end.
    pub fn seek(&self, offset: u64, what: Seek) -> Option<u64> {
        let core = self.core.lock();
        if offset >= core.content.len {
            return None;
        }
        let sources = core.content.sources(ByteRange::new(offset, core.content.len));
        let found = sources.into_iter().find(|(_, source)| match what {
            Seek::Data => *source != Source::Zero,
            Seek::Hole => *source == Source::Zero,
        });
        let end = (what == Seek::Hole).then_some(core.content.len);
        found.map(|(range, _)| range.start()).or(end)
    }

    /// Appends `range` of `source` at the same place of this file, without a byte of it moving: the store copies it
    /// when the draft is published. `false` where the draft has other content already, and nothing was done.
    pub async fn append_from(&self, source: &Base, range: ByteRange) -> Result<bool, WriteError> {
        let _gate = self.gate.read().await;
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        if !core.can_build_on(source, range) {
            return Ok(false);
        }
        core.content.base = Some(source.clone());
        core.content.base_len = range.end();
        core.content.len = range.end();
        core.content.writes += 1;
        core.life.apply(Event::Changed);
        Ok(true)
    }

    /// Undoes [`Draft::append_from`]: the file is empty again.
    pub async fn forget_appended(&self) {
        let _gate = self.gate.read().await;
        let mut core = self.core.lock();
        if core.builds_on_another() && core.content.parts.is_empty() {
            core.content.base = None;
            core.content.base_len = 0;
            core.content.len = 0;
            core.content.writes += 1;
        }
    }

    /// Whether it shows bytes of another key's object: only a publish makes that durable.
    pub fn builds_on_another(&self) -> bool {
        self.core.lock().builds_on_another()
    }
}

impl Core {
    pub(in crate::writer) fn builds_on_another(&self) -> bool {
        let base = self.content.base.as_ref();
        self.content.base_len > 0 && base.is_some_and(|base| base.key != self.key)
    }

    /// The base, where the file is that object, all of it and nothing else, under another key.
    pub(in crate::writer) fn copy_of(&self) -> Option<&Base> {
        let content = &self.content;
        let base = content.base.as_ref().filter(|_| self.builds_on_another())?;
        let is_whole = content.base_len == base.len && content.len == base.len;
        (is_whole && content.parts.is_empty() && self.upload.is_none()).then_some(base)
    }

    fn can_build_on(&self, source: &Base, range: ByteRange) -> bool {
        let content = &self.content;
        let is_empty =
            content.parts.is_empty() && self.upload.is_none() && self.unsettled.is_none();
        let goes_on = match &content.base {
            Some(base) if content.base_len > 0 => {
                base.key == source.key && base.etag == source.etag
            }
            _ => true,
        };
        is_empty
            && goes_on
            && !self.life.is_unnamed()
            && source.key != self.key
            && content.len == range.start()
            && content.base_len == range.start()
            && range.end() <= source.len.min(content.plan.len_max())
    }
}
