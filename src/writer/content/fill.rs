//! Bytes in: writes, truncation, and parts that are full.

use std::sync::Arc;

use super::stage::Then;
use crate::budget::Grant;
use crate::journal::{Event, Record};
use crate::range::ByteRange;
use crate::writer::error::WriteError;
use crate::writer::parked::WriteBytes;
use crate::writer::state::{Core, Draft, Held, Memory, Open, Part, Source};

/// Why a write cannot go on at once.
enum Stall {
    /// Memory for a buffer of this many bytes.
    Memory(u64),
    /// This part's memory must be in the staging file first.
    Disk(u32),
    /// Too many parts of this draft are on their way, or this one's memory is being written to the staging file.
    UntilChanged,
}

/// The first buffers of a file, in bytes: a small file should not cost a part's memory, and growing
/// costs one copy of at most the second of these.
const SMALL_BUFFERS: [u64; 2] = [64 << 10, 1 << 20];

impl Draft {
    /// Copies `bytes` to `offset` as far as that goes without waiting, and tells how many it took.
    pub fn write_now(self: &Arc<Self>, offset: u64, bytes: &[u8]) -> Result<usize, WriteError> {
        let Some(_gate) = self.gate.try_read().ok().filter(|_| self.is_verified()) else {
            return Ok(0);
        };
        self.take(offset, bytes, &mut None).map(|(taken, _)| taken)
    }

    /// Writes all of `bytes` at `offset`, waiting for memory where there is none.
    pub async fn write(
        self: &Arc<Self>,
        offset: u64,
        bytes: &(impl WriteBytes + ?Sized),
    ) -> Result<(), WriteError> {
        self.verified().await?;
        let (mut done, len) = (0, bytes.len());
        let mut wanted = None;
        while done < len {
            let changed = self.changed.notified();
            // In the same breath as the pass that uses it: given back and asked for again, it would go to the
            // next in line, and with two in line nobody would ever get on.
            let granted = match wanted {
                Some(wanted) => Some(self.writers.memory(wanted).await?),
                None => None,
            };
            let passed = self.gate.try_read().map(|_gate| self.pass(offset, bytes, done, granted));
            let Ok(passed) = passed else {
                // It is being published, which may need memory itself: nothing is held meanwhile.
                drop(self.gate.read().await);
                continue;
            };
            let (taken, stall) = passed?;
            done += taken;
            wanted = match stall {
                Some(Stall::Memory(wanted)) => Some(wanted),
                Some(Stall::Disk(index)) => {
                    let _gate = self.gate.read().await;
                    self.stage(vec![index], Then::Stay).await?;
                    None
                }
                Some(Stall::UntilChanged) => {
                    changed.await;
                    None
                }
                None => None,
            };
        }
        Ok(())
    }

    /// One pass over what is left of a write, with memory that was waited for. Holds the gate's read side.
    fn pass(
        self: &Arc<Self>,
        offset: u64,
        bytes: &(impl WriteBytes + ?Sized),
        done: usize,
        mut granted: Option<Grant>,
    ) -> Result<(usize, Option<Stall>), WriteError> {
        self.take(offset + done as u64, &bytes.from(done)?, &mut granted)
    }

    /// The first failure is told by every later call; but what the store refuses is no concern of a
    /// writer whose bytes are safe on the disk.
    pub(in crate::writer) fn fail_if_failed(&self, core: &mut Core) -> Result<(), WriteError> {
        if self.writers.settings.write_back && matches!(core.error, Some(WriteError::Store(_))) {
            core.error = None;
        }
        core.error.clone().map_or(Ok(()), Err)
    }

    /// One pass over `bytes`: as many as go in without waiting. Holds the gate's read side.
    fn take(
        self: &Arc<Self>,
        offset: u64,
        bytes: &[u8],
        granted: &mut Option<Grant>,
    ) -> Result<(usize, Option<Stall>), WriteError> {
        let mut core = self.core.lock();
        self.fail_if_failed(&mut core)?;
        let end = offset.saturating_add(bytes.len() as u64);
        if end > core.content.plan.len_max() {
            return Err(WriteError::TooLarge(core.content.plan.len_max()));
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let index = core.content.plan.index_of(at);
            let range = core.content.plan.range_of(index);
            let take = (bytes.len() - done).min((range.end() - at) as usize);
            match self.put(&mut core, index, at, &bytes[done..done + take], granted)? {
                Ok(taken) => done += taken,
                Err(stall) => return Ok((done, Some(stall))),
            }
            self.seal_if_full(&mut core, index);
        }
        Ok((done, None))
    }

    /// Copies bytes into one part. `Ok(Err(_))` where that has to wait.
    fn put(
        &self,
        core: &mut Core,
        index: u32,
        at: u64,
        bytes: &[u8],
        granted: &mut Option<Grant>,
    ) -> Result<Result<usize, Stall>, WriteError> {
        let range = core.content.plan.range_of(index);
        let known = core.content.parts.get(&index).map(|part| &part.memory);
        let begins = !matches!(known, Some(Memory::Open(_)));
        // Under write-back it is the disk that sets the pace, not the store.
        if begins && !self.writers.settings.write_back && !self.may_send_another(core) {
            return Ok(Err(Stall::UntilChanged));
        }
        if core.content.parts.get(&index).is_some_and(|part| part.stored.is_some()) {
            // Sequential no longer: what was sent may be needed again.
            self.keep_readable();
        }
        let sequential = core.content.parts.len() > 1 || core.content.len >= range.len();
        let mut part =
            core.content.parts.remove(&index).unwrap_or_else(|| Box::new(Part::new(range)));
        let outcome = self.put_into(&mut part, index, at, bytes, sequential, granted);
        if matches!(outcome, Ok(Ok(_))) {
            core.content.writes += 1;
            part.touch(core.content.writes);
        }
        if !part.is_untouched() {
            core.content.parts.insert(index, part);
        }
        if let Ok(Ok(taken)) = outcome {
            core.content.len = core.content.len.max(at + taken as u64);
            core.life.apply(Event::Changed);
        }
        outcome
    }

    fn put_into(
        &self,
        part: &mut Part,
        index: u32,
        at: u64,
        bytes: &[u8],
        sequential: bool,
        granted: &mut Option<Grant>,
    ) -> Result<Result<usize, Stall>, WriteError> {
        let end = at + bytes.len() as u64;
        let window = window_of(part, at, end, sequential, self.window_bytes_max());
        let needed = end.min(window.end());
        let fits =
            matches!(&part.memory, Memory::Open(open) if open.start <= at && needed <= open.end());
        if !fits {
            if part.unstaged().iter().any(|range| !window.contains(&range)) {
                return Ok(Err(Stall::Disk(index)));
            }
            let Some(held) = self.buffer(window.len(), granted)? else {
                return Ok(Err(Stall::Memory(window.len())));
            };
            reopen(part, held, window);
        }
        let Memory::Open(open) = &mut part.memory else {
            return Ok(Err(Stall::UntilChanged));
        };
        let take = bytes.len().min((open.end() - at) as usize);
        if !open.put(at, &bytes[..take]) {
            return Ok(Err(Stall::UntilChanged));
        }
        part.staged.remove(at..at + take as u64);
        Ok(Ok(take))
    }

    /// A buffer of `capacity` bytes and its permit, out of what was granted or is free; `None` where memory
    /// is short.
    fn buffer(
        &self,
        capacity: u64,
        granted: &mut Option<Grant>,
    ) -> Result<Option<Held>, WriteError> {
        let grant = match granted.as_mut() {
            // All there is counts as enough, as it does for the budget.
            Some(grant) if grant.bytes() >= capacity.min(self.writers.budget.total()) => {
                Some(grant.split(capacity))
            }
            _ => self.writers.budget.try_reserve(capacity),
        };
        Ok(grant.map(|grant| Held::new(capacity, grant)).transpose()?)
    }

    /// Sends a part that has been written from end to end.
    fn seal_if_full(self: &Arc<Self>, core: &mut Core, index: u32) {
        let Some(part) = core.content.parts.get_mut(&index) else { return };
        let full = matches!(&part.memory, Memory::Open(open) if open.ranges.contains(part.range));
        let sealed = full && part.seal(part.range.len());
        // One that stays behind is sent when another has arrived, or by the publish.
        let complete = sealed || self.is_whole_on_disk(core, index);
        if complete && self.may_send_another(core) {
            self.send(core, index);
        }
    }

    fn is_whole_on_disk(&self, core: &Core, index: u32) -> bool {
        let sending = core.sending.contains_key(&index);
        core.content.parts.get(&index).is_some_and(|part| self.waits_on_disk(part, sending))
    }

    /// Sets the file's length: what lies behind is gone, what is new reads as zeros.
    pub async fn truncate(self: &Arc<Self>, len: u64) -> Result<(), WriteError> {
        self.verified().await?;
        loop {
            {
                let _gate = self.gate.read().await;
                let mut core = self.core.lock();
                self.fail_if_failed(&mut core)?;
                if len > core.content.plan.len_max() {
                    return Err(WriteError::TooLarge(core.content.plan.len_max()));
                }
                let before = core.content.len;
                if core.cut(len) {
                    if len < before && core.life.is_recorded() {
                        let range = ByteRange::new(len, u64::MAX);
                        let cut = Record::StagedDropped { draft: self.id, range };
                        self.writers.journal.append(cut)?;
                    }
                    return Ok(());
                }
            }
            // The cut goes through a part that only the store has.
            self.publish_as_is().await?;
        }
    }
}

impl Core {
    /// Changes the length; `false` where the cut would go through a part that only the store has.
    pub(in crate::writer) fn cut(&mut self, len: u64) -> bool {
        let writes = self.content.writes;
        if !self.content.cut(len) {
            return false;
        }
        if let Some(unsettled) = &mut self.unsettled {
            // What was cut off must not come back out of the object.
            unsettled.base_len = unsettled.base_len.min(len);
        }
        if self.content.writes != writes {
            self.life.apply(Event::Changed);
        }
        true
    }
}

/// Makes the part writable in a new buffer over `window`, with what memory held copied over; what does not fit into
/// the window is staged.
fn reopen(part: &mut Part, held: Held, window: ByteRange) {
    let mut open = Open::new(held, window.start());
    if !matches!(part.memory, Memory::None) {
        for (range, source) in part.sources(window, 0) {
            if source == Source::Memory {
                let is_ours = open.put(range.start(), part.memory_bytes(range));
                debug_assert!(is_ours);
            }
        }
    }
    part.memory = Memory::Open(open);
}

/// Which bytes of a part a new buffer should cover, so that `at..end` fits.
fn window_of(part: &Part, at: u64, end: u64, sequential: bool, bytes_max: u64) -> ByteRange {
    let small = part.range.start() == 0
        && !sequential
        && matches!(part.memory, Memory::None | Memory::Open(_))
        && part.stored.is_none();
    if small && let Some(capacity) = SMALL_BUFFERS.into_iter().find(|bytes| end <= *bytes) {
        return ByteRange::new(0, capacity.min(part.range.end()));
    }
    if part.range.len() <= bytes_max {
        return part.range;
    }
    // The part is written through the staging file, window by window.
    let into_part = (at - part.range.start()) / bytes_max * bytes_max;
    ByteRange::at(part.range.start() + into_part, bytes_max).intersect(&part.range)
}
