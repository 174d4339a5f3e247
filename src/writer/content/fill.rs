//! Bytes into memory: which buffer a write goes to, and what it has to wait for.

use std::io;
use std::sync::Arc;

use crate::budget::{Budget, Grant};
use crate::range::ByteRange;
use crate::writer::error::WriteError;
use crate::writer::state::{Content, Held, Memory, NotPut, Open, Part, Source};

/// Why a write cannot go on at once.
pub(in crate::writer) enum Stall {
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

/// Where the buffers of a write come from.
pub(in crate::writer) struct Buffers<'a> {
    pub budget: &'a Arc<Budget>,
    /// What was waited for.
    pub granted: Option<Grant>,
    /// The longest buffer, in bytes.
    pub window_max: u64,
}

impl Buffers<'_> {
    /// A buffer of `capacity` bytes and its permit, out of what was granted or is free; `None` where memory
    /// is short.
    fn buffer(&mut self, capacity: u64) -> io::Result<Option<Held>> {
        let grant = match self.granted.as_mut() {
            // All there is counts as enough, as it does for the budget.
            Some(grant) if grant.bytes() >= capacity.min(self.budget.total()) => {
                Some(grant.split(capacity))
            }
            _ => self.budget.try_reserve(capacity),
        };
        grant.map(|grant| Held::new(capacity, grant)).transpose()
    }
}

impl Content {
    /// Copies bytes to `at`, all of them into the part `index`, and tells how many it took. `Ok(Err(_))` where that has
    /// to wait.
    ///
    /// # Errors
    /// `Damaged` where a piece of what memory has is to be written over and the rest of it is not what was written.
    pub fn put(
        &mut self,
        index: u32,
        at: u64,
        bytes: &[u8],
        buffers: &mut Buffers,
    ) -> Result<Result<usize, Stall>, WriteError> {
        let range = self.plan.range_of(index);
        let sequential = self.parts.len() > 1 || self.len >= range.len();
        let mut part = self.parts.remove(&index).unwrap_or_else(|| Box::new(Part::new(range)));
        // Sequential no longer: what was sent may be needed again.
        self.is_readable |= part.stored.is_some();
        let outcome = put_into(&mut part, index, at, bytes, sequential, buffers);
        if let Ok(Ok(taken)) = &outcome {
            self.writes += 1;
            part.touch(self.writes);
            self.len = self.len.max(at + *taken as u64);
        }
        if !part.is_untouched() {
            self.parts.insert(index, part);
        }
        outcome
    }

    /// Freezes a part that has been written from end to end in memory. Whether it is complete, there or on the disk.
    pub fn seal_if_full(&mut self, index: u32, window_max: u64, sending: bool) -> bool {
        let Some(part) = self.parts.get_mut(&index) else { return false };
        let full = matches!(&part.memory, Memory::Open(open) if open.ranges.contains(part.range));
        (full && part.seal(part.range.len())) || part.waits_on_disk(window_max, sending)
    }
}

fn put_into(
    part: &mut Part,
    index: u32,
    at: u64,
    bytes: &[u8],
    sequential: bool,
    buffers: &mut Buffers,
) -> Result<Result<usize, Stall>, WriteError> {
    let end = at + bytes.len() as u64;
    let window = window_of(part, at, end, sequential, buffers.window_max);
    let needed = end.min(window.end());
    let fits =
        matches!(&part.memory, Memory::Open(open) if open.start <= at && needed <= open.end());
    if !fits {
        if part.unstaged().iter().any(|range| !window.contains(&range)) {
            return Ok(Err(Stall::Disk(index)));
        }
        let Some(held) = buffers.buffer(window.len())? else {
            return Ok(Err(Stall::Memory(window.len())));
        };
        reopen(part, held, window);
    }
    let Memory::Open(open) = &mut part.memory else {
        return Ok(Err(Stall::UntilChanged));
    };
    let take = bytes.len().min((open.end() - at) as usize);
    match open.put(at, &bytes[..take]) {
        Ok(()) => {}
        Err(NotPut::Shared) => return Ok(Err(Stall::UntilChanged)),
        Err(NotPut::Changed(changed)) => return Err(WriteError::Damaged(changed.at)),
    }
    part.staged.remove(at..at + take as u64);
    Ok(Ok(take))
}

/// Makes the part writable in a new buffer over `window`, with what memory held copied over; what does not fit into
/// the window is staged.
fn reopen(part: &mut Part, held: Held, window: ByteRange) {
    let mut open = Open::new(held, window.start());
    if !matches!(part.memory, Memory::None) {
        for (range, source) in part.sources(window, 0) {
            if source == Source::Memory {
                open.take_over(range, &part.memory);
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
