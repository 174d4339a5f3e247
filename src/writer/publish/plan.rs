//! What has to be done to publish a file: pure decisions about its parts.

use crate::part::PART_BYTES_MAX;
use crate::range::ByteRange;
use crate::store::StoredPart;
use crate::writer::state::{Content, Memory};

/// The longest range that one copy request takes, in bytes. S3 allows 5 GiB; shorter ones run side by
/// side, and one that fails costs less.
const PART_COPY_BYTES_MAX: u64 = 512 << 20;

/// The shortest copy that may stand before other parts, in bytes.
const PART_BYTES_MIN: u64 = 5 << 20;

/// Holes of fewer bytes in all are sent: making an object of zeros sends 5 MiB and takes several requests.
const ZERO_BYTES_SENT: u64 = 16 << 20;

/// Holes are copied by about so many requests, side by side.
const ZERO_COPIES: u64 = 32;

/// An object of zeros is not longer than this, unless a part is: the store may really hold it.
const ZERO_BYTES_MAX: u64 = 1 << 30;

/// What has to be done for one stretch of the file.
pub(in crate::writer) enum Step {
    /// A part that is complete in the store.
    Stored(StoredPart),
    /// Content of a part that is here, in part at least.
    Send { index: u32, range: ByteRange },
    /// Untouched parts, copied from the base.
    Copy { index: u32, range: ByteRange },
    /// A hole, copied from an object of so many zeros, or sent.
    Zeros { index: u32, range: ByteRange, from_len: Option<u64> },
}

impl Step {
    /// Whether the bytes go over the wire.
    pub(in crate::writer) fn sends(&self) -> bool {
        match self {
            Step::Send { .. } | Step::Zeros { from_len: None, .. } => true,
            Step::Stored(_) | Step::Copy { .. } | Step::Zeros { .. } => false,
        }
    }
}

/// What a step needs, as the order in which steps are begun.
pub(super) fn needs_of(content: &Content, step: &Step) -> u8 {
    match step {
        Step::Stored(_) => 0,
        Step::Send { index, .. } => {
            let part = content.parts.get(index);
            let held = part.is_some_and(|part| !matches!(part.memory, Memory::None));
            if held { 1 } else { 3 }
        }
        Step::Copy { .. } | Step::Zeros { .. } => 2,
    }
}

/// The whole file as steps, one for each part, but for copies, which span several.
pub(super) fn plan(content: &Content, len: u64, copies: bool) -> Vec<Step> {
    let zeros = if copies { zeros_object(content, len) } else { None };
    let mut steps = Vec::new();
    let mut at = 0;
    while at < len {
        let index = content.plan.index_of(at);
        let range = content.plan.range_of(index).intersect(&ByteRange::new(0, len));
        let (step, end) = step_of(content, index, range, len, copies, zeros);
        steps.push(step);
        at = end;
    }
    steps
}

fn step_of(
    content: &Content,
    index: u32,
    range: ByteRange,
    len: u64,
    copies: bool,
    zeros: Option<u64>,
) -> (Step, u64) {
    match content.parts.get(&index) {
        Some(part) => match &part.stored {
            // A patch of bytes that only the store has is the next round's.
            Some(stored)
                if stored.len == range.len()
                    && (!part.patched || !part.written().contains(range)) =>
            {
                (Step::Stored(stored.clone()), range.end())
            }
            _ => (Step::Send { index, range }, range.end()),
        },
        None if copies && range.end() <= content.base_len => {
            let range =
                run_of(content, index, range, len, PART_COPY_BYTES_MAX, |content, range| {
                    range.end() <= content.base_len
                });
            (Step::Copy { index, range }, range.end())
        }
        None if range.start() >= content.base_len => {
            let range = run_of(content, index, range, len, zeros.unwrap_or(0), |_, _| true);
            (Step::Zeros { index, range, from_len: zeros }, range.end())
        }
        None => (Step::Send { index, range }, range.end()),
    }
}

/// How long an object of zeros is wanted to copy the holes from: so long that few copies do, and that
/// each part comes out of it; `None` where sending them is no more than making it.
fn zeros_object(content: &Content, len: u64) -> Option<u64> {
    let (mut total, mut longest) = (0, 0);
    let mut at = content.base_len;
    while at < len {
        let index = content.plan.index_of(at);
        let range = content.plan.range_of(index).intersect(&ByteRange::new(0, len));
        if !content.parts.contains_key(&index) && range.start() >= content.base_len {
            total += range.len();
            longest = longest.max(range.len());
        }
        at = range.end();
    }
    let wanted = (total / ZERO_COPIES).clamp(PART_BYTES_MIN, ZERO_BYTES_MAX).max(longest);
    (total >= ZERO_BYTES_SENT && wanted <= PART_BYTES_MAX).then_some(wanted)
}

/// How far a copy of at most `bytes_max` that begins with part `index` can reach.
fn run_of(
    content: &Content,
    index: u32,
    first: ByteRange,
    len: u64,
    bytes_max: u64,
    belongs: impl Fn(&Content, ByteRange) -> bool,
) -> ByteRange {
    let mut run = first;
    let mut next = index + 1;
    while !content.plan.is_equal() && run.end() < len {
        let range = content.plan.range_of(next).intersect(&ByteRange::new(0, len));
        let untouched = !content.parts.contains_key(&next) && belongs(content, range);
        if !untouched || range.end() - run.start() > bytes_max {
            break;
        }
        run = ByteRange::new(run.start(), range.end());
        next += 1;
    }
    debug_assert!(run.len() >= PART_BYTES_MIN || run.end() == len);
    run
}
