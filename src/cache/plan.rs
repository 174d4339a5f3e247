//! What has to be fetched so that a range is resident, and the transfers that do it: each gap once, however many ask for it.

use std::sync::Arc;

use super::core::{Core, Source, no_memory};
use super::fetch::{self, Urgency};
use super::ledger::Doubt;
use super::segment::{Interest, Segment};
use super::sums::Promise;
use crate::budget::Permit;
use crate::range::ByteRange;
use crate::store::Result;

/// Gaps between wanted ranges up to this length are fetched with them: at 25 ms a request and 60 MB/s,
/// 64 KiB cost a twentieth of what another request costs.
const MERGE_BYTES: u64 = 64 << 10;

/// Where the bytes of a range are or will come from.
pub(super) struct Plan {
    /// The range is taken care of up to here.
    pub(super) reached: u64,
    pub(super) sources: Vec<Source>,
    /// Keeps the transfers among the sources going.
    pub(super) interests: Vec<Interest>,
}

impl Core {
    /// What has to be fetched so that all of `range` is resident. Gaps that almost touch are one, unless
    /// what lies between them is on its way.
    fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps: Vec<ByteRange> = Vec::new();
        let mut in_flight_since_gap = false;
        for source in self.sources(range) {
            match source {
                Source::Memory(segment, _) => {
                    in_flight_since_gap |= segment.filled() != segment.covered();
                }
                Source::Disk(_) => {}
                Source::Missing(gap) => {
                    match gaps.last_mut() {
                        Some(last)
                            if !in_flight_since_gap && gap.start() - last.end() <= MERGE_BYTES =>
                        {
                            *last = ByteRange::new(last.start(), gap.end());
                        }
                        _ => gaps.push(gap),
                    }
                    in_flight_since_gap = false;
                }
            }
        }
        gaps
    }

    /// Starts transfers of at most `fetch_bytes` each for what is missing of `range`. The plan reaches
    /// less far than the range's end where memory ran out. With `may_overdraw` it does not run out,
    /// which is how a reader gets on when the budget gives nothing.
    pub(super) fn fetch_missing(
        self: &Arc<Self>,
        range: ByteRange,
        fetch_bytes: u64,
        urgency: Urgency,
        may_overdraw: bool,
    ) -> Result<Plan> {
        let _planning = self.planning.lock();
        let fetch_bytes = fetch_bytes.max(1);
        let comparable = self.comparable(range);
        let (promises, doubts) = {
            let ledger = self.ledger.lock();
            (ledger.promises(), ledger.doubts_in(comparable))
        };
        let mut plan = Plan { reached: range.end(), sources: Vec::new(), interests: Vec::new() };
        let mut appenders = Vec::new();
        'gaps: for gap in self.gaps(comparable) {
            self.drop_small_segments(gap);
            let mut at = gap.start();
            while at < gap.end() {
                let next = self.end_of_get(at, fetch_bytes, &promises, &doubts);
                let piece = ByteRange::new(at, next.min(gap.end()));
                let Some((permit, keep)) = self.room(piece.len(), may_overdraw) else {
                    plan.reached = at.clamp(range.start(), range.end());
                    break 'gaps;
                };
                let (segment, appender) = Segment::new(piece, permit, keep).map_err(no_memory)?;
                self.segments.lock().insert(piece.start(), Arc::downgrade(&segment));
                appenders.push(appender);
                at = piece.end();
            }
        }
        // Before a transfer starts: one that no reader wants ends at once, and one that fails at once must
        // still be known to the reader that started it, or it would ask again and again.
        plan.sources = self.sources(range);
        plan.interests = plan.sources.iter().filter_map(Source::interest).collect();
        for appender in appenders {
            self.shared.runtime.spawn(fetch::run(self.clone(), appender, urgency));
        }
        Ok(plan)
    }

    /// What is fetched for `range`: beside it all of each stretch in it that the disk tier had and lost, and of what was
    /// not what it must be, as far as one GET brings it.
    fn comparable(&self, range: ByteRange) -> ByteRange {
        let lost = self.disk.as_ref().map(|disk| disk.lost_in(range)).unwrap_or_default();
        let lost = lost.iter().map(|stretch| ByteRange::at(stretch.at, stretch.len));
        let doubts = self.ledger.lock().doubts_in(range);
        let doubted = doubts.iter().filter(|doubt| !doubt.is_long).map(|doubt| doubt.promise.range);
        lost.chain(doubted).fold(range, |range, other| {
            ByteRange::new(range.start().min(other.start()), range.end().max(other.end()))
        })
    }

    /// Where a GET from `at` on ends, which is to bring so many bytes.
    fn end_of_get(&self, at: u64, fetch_bytes: u64, promises: &[Promise], doubts: &[Doubt]) -> u64 {
        // At multiples of the length: stores keep objects in pieces of a power of two, and a GET
        // that meets one more of them than it must costs them more.
        let end = (at / fetch_bytes + 1).saturating_mul(fetch_bytes);
        let is_cut = |range: &ByteRange| range.start() < end && end < range.end();
        let doubted = doubts.iter().filter(|doubt| !doubt.is_long).map(|doubt| doubt.promise.range);
        if let Some(doubted) = doubted.filter(is_cut).find(|range| range.start() >= at) {
            return doubted.end();
        }
        // What a GET brings all of is proven before any of it is shown. So none is cut that would fit.
        let fits = |range: &ByteRange| is_cut(range) && range.len() <= fetch_bytes;
        match promises.iter().map(|promise| promise.range).find(fits) {
            Some(cut) if cut.start() > at => cut.start(),
            Some(cut) => cut.end(),
            None => end,
        }
    }

    /// A permit for a segment, and whether the segment may be kept once it has no reader.
    fn room(&self, bytes: u64, may_overdraw: bool) -> Option<(Permit, bool)> {
        if let Some(grant) = self.shared.budget.try_reserve(bytes) {
            return Some((grant.keep(), true));
        }
        may_overdraw.then(|| (self.shared.budget.overdraw(bytes).keep(), false))
    }

    /// Makes way for a transfer that fetches these small remains again along with the gaps around them.
    fn drop_small_segments(&self, gap: ByteRange) {
        let mut segments = self.segments.lock();
        let starts: Vec<u64> = segments.range(gap.start()..gap.end()).map(|(s, _)| *s).collect();
        for start in starts {
            // What of it waits for the disk is not written beside what comes in its place.
            if let Some(small) = segments.remove(&start).and_then(|small| small.upgrade()) {
                small.spoil();
            }
        }
    }
}
