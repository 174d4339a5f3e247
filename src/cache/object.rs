//! What readers hold of an object: [`CachedObject`], and how a read is put together from where its bytes are.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cache_file::OpenFile;
use super::check::VerifiedFile;
use super::core::{Core, Source, no_memory};
use super::fetch::Urgency;
use super::piece::{Gathering, Piece};
use super::plan::Plan;
use super::segment::{Interest, Lost, Segment};
use crate::blocking;
use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};
use crate::range::{ByteRange, RangeSet};
use crate::store::{ETag, ErrorKind, Result, StoreError};

/// Above this, verifying at open would be felt (a second or two where the disk gives 500 MB/s).
pub(super) const VERIFY_AT_OPEN_BYTES_MAX: u64 = 1 << 30;

/// Bytes of reads that are being put together, beside the budget, of all objects: without this limit a hundred streams
/// would hold a mebibyte each.
pub(super) const GATHERING_KIB: u32 = 8 << 10;

/// How often, and how many times, it is looked whether reads of a file that is given up have ended: 10 s.
const READS_END_LOOK: Duration = Duration::from_millis(1);
const READS_END_LOOKS: u32 = 10_000;

/// One version of an object, in use: what readers hold. While it lives, nothing of the version is
/// evicted from disk. Cheap to share; dropping the last one lets go.
pub struct CachedObject {
    core: Arc<Core>,
    /// As it was when this was made: what was given out since may be wrong.
    misled: u64,
    /// The cache file, opened at the first read from disk.
    file: Mutex<Option<Arc<OpenFile>>, rank::CacheFile>,
}

impl CachedObject {
    /// Counts as a user of the disk file from now on.
    pub(super) fn new(core: Arc<Core>) -> Self {
        if let (Some(tier), Some(disk)) = (&core.shared.disk, &core.disk) {
            tier.enter(disk);
        }
        core.recall_sums();
        let misled = core.misled.load(Ordering::SeqCst);
        CachedObject { core, misled, file: Mutex::new(None) }
    }

    /// Whether what was read by this has turned out wrong. Nothing more is read by it then, so that no program takes the
    /// whole for right.
    pub(super) fn is_misled(&self) -> bool {
        self.core.misled.load(Ordering::SeqCst) != self.misled
    }

    #[cfg(test)]
    pub fn key(&self) -> crate::store::Key {
        self.core.version().0
    }

    pub fn etag(&self) -> ETag {
        self.core.version().1
    }

    /// Length of the object in bytes.
    pub fn len(&self) -> u64 {
        self.core.len
    }

    /// How many handles stream at this moment (1 at least), and the most bytes that each may have read
    /// ahead; see [`super::share`].
    pub fn window_share(&self) -> (u64, u64) {
        let shares = &self.core.shared.shares;
        (shares.active().max(1), shares.share_bytes())
    }

    /// The largest GET, in bytes.
    pub fn fetch_bytes_max(&self) -> u64 {
        self.core.shared.settings.fetch_bytes_max
    }

    /// How many GETs run side by side.
    pub fn concurrency(&self) -> usize {
        self.core.shared.settings.concurrency
    }

    /// Whether the store that it comes from is on this machine or beside it.
    pub fn store_is_near(&self) -> bool {
        self.core.shared.settings.meter.first_byte().is_near()
    }

    pub(crate) fn join_shares(&self) -> Arc<super::share::Streaming> {
        self.core.shared.shares.join()
    }

    /// The bytes of `range` (cut at the object's end) where they can be had at once: from memory, or from
    /// disk where they are verified. Never fetches; a disk read may wait for the disk.
    pub fn read_now(&self, range: ByteRange) -> Option<Piece> {
        let range = self.clamp(range);
        if range.is_empty() {
            return Some(Piece::empty());
        }
        if self.is_misled() {
            return None;
        }
        let sources = self.core.sources(range);
        if let [Source::Memory(segment, _)] = &sources[..] {
            segment.touch();
            return Piece::view(segment, range);
        }
        let all_here = sources.iter().all(|source| match source {
            Source::Memory(segment, part) => segment.filled().contains(part),
            Source::Disk(part) => {
                self.core.disk.as_ref().is_some_and(|disk| disk.is_verified(*part))
            }
            Source::Missing(_) => false,
        });
        if !all_here {
            return None;
        }
        let mut gathering = Gathering::of(range).ok()?;
        for source in &sources {
            match source {
                Source::Memory(segment, part) => gathering.add_from_memory(segment, *part)?,
                Source::Disk(part) => {
                    let (tier, disk) = (self.core.shared.disk.as_ref()?, self.core.disk.as_ref()?);
                    gathering.add_from_disk(tier, disk, self.file().ok()?.as_ref(), *part)?;
                }
                Source::Missing(_) => return None,
            }
        }
        gathering.finish()
    }

    /// The bytes of `range` (cut at the object's end). Waits for these bytes only, not for the rest of
    /// the transfers that bring them; fetches exactly what is missing and not on its way already.
    ///
    /// Memory: where the budget gives nothing, the missing bytes are fetched all the same, a few reads at
    /// a time (see [`super::share::Overdrafts`]), so that no reader waits for memory that another one holds
    /// on to; callers keep `range` to a mebibyte or so, the kernel's largest read.
    ///
    /// # Errors
    /// What the store said; `Timeout` at the deadline. An error is not remembered: the next read asks
    /// again. `PreconditionFailed`, `NotFound` and `InvalidRange` mean that the version is gone.
    pub async fn read(&self, range: ByteRange, deadline: Instant) -> Result<Piece> {
        let range = self.clamp(range);
        if range.is_empty() {
            return Ok(Piece::empty());
        }
        clock::timeout_at(deadline, self.gather(range)).await.unwrap_or_else(|_| {
            Err(StoreError::new(ErrorKind::Timeout, "GetObject", "the bytes did not come in time"))
        })
    }

    async fn gather(&self, range: ByteRange) -> Result<Piece> {
        // What is on its way goes on until the next plan has its own interest in it.
        let mut _wanted = Vec::new();
        loop {
            if self.is_misled() {
                let message =
                    "some of what was read before was not what it must be; open the file again";
                return Err(StoreError::new(ErrorKind::Corrupt, "GetObject", message));
            }
            let fetch_bytes = self.fetch_bytes_max();
            let mut plan = self.core.fetch_missing(range, fetch_bytes, Urgency::Demand, false)?;
            // Held until the bytes are here. A read that holds a turn waits for the store alone, so turns come.
            let mut _turn = None;
            if plan.reached < range.end() {
                _turn = self.core.shared.overdrafts.turn(range.len()).await;
                plan = self.core.fetch_missing(range, fetch_bytes, Urgency::Demand, true)?;
            }
            let Plan { sources, interests, .. } = plan;
            _wanted = interests;
            if let Some(piece) = self.gather_from(range, sources).await?
                && !self.is_misled()
            {
                return Ok(piece);
            }
        }
    }

    /// `None` where a source went away meanwhile: plan again. Ends, because what goes away is either
    /// fetched anew by the caller itself or a bad range on disk, which does not come back.
    async fn gather_from(&self, range: ByteRange, sources: Vec<Source>) -> Result<Option<Piece>> {
        if let [Source::Memory(segment, _)] = &sources[..] {
            return Ok(if self.arrived(segment, range).await? {
                segment.touch();
                Piece::view(segment, range)
            } else {
                None
            });
        }
        for source in &sources {
            if let Source::Memory(segment, part) = source
                && !self.arrived(segment, *part).await?
            {
                return Ok(None);
            }
        }
        // Not before: what waits for the store would hold a buffer for nothing. From here on it is the local disk at most.
        let kib = range.len().div_ceil(1 << 10) as u32;
        let _room = self.core.shared.gathering.acquire_many(kib.min(GATHERING_KIB)).await;
        let mut gathering = Gathering::of(range).map_err(no_memory)?;
        for source in sources {
            match source {
                Source::Memory(segment, part) => {
                    if gathering.add_from_memory(&segment, part).is_none() {
                        return Ok(None);
                    }
                }
                Source::Disk(part) => match self.add_from_disk(gathering, part).await {
                    Some(more) => gathering = more,
                    None => return Ok(None),
                },
                Source::Missing(_) => return Ok(None),
            }
        }
        Ok(gathering.finish())
    }

    /// Waits for `part` of the segment. False where the transfer was dropped before it came.
    async fn arrived(&self, segment: &Segment, part: ByteRange) -> Result<bool> {
        let arrived = async {
            match segment.wait(part.end()).await {
                Ok(()) => Ok(true),
                Err(Lost::Dropped) => Ok(false),
                Err(Lost::Failed(error)) => Err(error),
            }
        };
        self.core.shared.settings.outage.unless_on("GetObject", arrived).await
    }

    /// Adds `part` off the disk, checked where that has not been done since the mount. `None` where it turned out bad
    /// or cannot be had now; a new plan does without it then.
    async fn add_from_disk(&self, mut gathering: Gathering, part: ByteRange) -> Option<Gathering> {
        let shared = self.core.shared.clone();
        let disk = self.core.disk.clone()?;
        let file = match self.file() {
            Ok(file) => file,
            // What was recorded of it is dropped already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => {
                // Too many open files, say: what is there may be good.
                self.core.leave_disk_alone();
                return None;
            }
        };
        let work = move || {
            gathering.add_from_disk(shared.disk.as_ref()?, &disk, &file, part)?;
            Some(gathering)
        };
        match blocking::run_on(&self.core.shared.runtime, work).await {
            Ok(gathering) => gathering,
            Err(error) => {
                log::error!("a read from the disk cache died: {error}");
                None
            }
        }
    }

    /// Starts fetching what is missing of `range` in GETs of at most `fetch_bytes`, and returns the
    /// interest in everything of the range that is in flight, and how far memory reached. Never waits;
    /// the transfers go on while the interests live.
    pub fn want(
        &self,
        range: ByteRange,
        fetch_bytes: u64,
        urgency: Urgency,
    ) -> (Vec<Interest>, u64) {
        match self.core.fetch_missing(self.clamp(range), fetch_bytes, urgency, false) {
            Ok(plan) => (plan.interests, plan.reached),
            // Reading ahead is a wish; the read that really needs the bytes gets the error.
            Err(_) => (Vec::new(), range.start()),
        }
    }

    /// The bytes of the object that need no fetching, in memory or on disk.
    pub fn cached_ranges(&self) -> Vec<ByteRange> {
        let mut set = RangeSet::new();
        for source in self.core.sources(ByteRange::new(0, self.core.len)) {
            match source {
                Source::Memory(segment, part) => set.insert(segment.filled().intersect(&part)),
                Source::Disk(part) => set.insert(part),
                Source::Missing(_) => {}
            }
        }
        set.iter().collect()
    }

    /// Whether every byte is on disk (not necessarily verified yet).
    pub fn resident_on_disk(&self) -> bool {
        self.core.disk.as_ref().is_some_and(|disk| disk.holds(ByteRange::new(0, self.core.len)))
    }

    /// Whether every byte is on disk and needs no check.
    #[cfg(test)]
    pub(super) fn is_verified_on_disk(&self) -> bool {
        self.core.disk.as_ref().is_some_and(|disk| disk.is_verified(disk.whole()))
    }

    /// Whether every byte is known to be good and that is not on record.
    #[cfg(test)]
    pub(super) fn is_good_and_not_on_record(&self) -> bool {
        self.core.disk.as_ref().is_some_and(|disk| disk.is_good_and_not_on_record())
    }

    /// The cache file, where it holds the whole object and every byte of it is verified (now, where that
    /// has not been done since the mount): what FUSE passthrough may be given. `None` where it does not,
    /// or where verifying would hold up an open for long; reads through [`Self::read`] verify as they go. Nor where
    /// something of it came that was not compared with what is promised of it: the disk has it all the same.
    pub async fn passthrough_file(&self) -> Option<VerifiedFile> {
        let verified = self.verified_file().await?;
        let is_open = self.is_misled() || self.core.ledger.lock().is_open();
        (!is_open).then_some(verified)
    }

    /// Whether readers of this version were given something wrong since it is in use: the kernel may have it.
    pub fn has_misled(&self) -> bool {
        self.core.misled.load(Ordering::SeqCst) > 0
    }

    async fn verified_file(&self) -> Option<VerifiedFile> {
        let disk = self.core.disk.clone()?;
        let tier = self.core.shared.disk.clone()?;
        if self.core.len == 0 || !disk.holds(disk.whole()) {
            return None;
        }
        let file = self.file().ok()?;
        if let Some(verified) = tier.verified(&disk, &file) {
            return Some(verified);
        }
        if disk.unverified_bytes(disk.whole()) > VERIFY_AT_OPEN_BYTES_MAX {
            return None;
        }
        let work = move || tier.verify(&disk, &file);
        match blocking::run_on(&self.core.shared.runtime, work).await {
            Ok(verified) => verified,
            Err(error) => {
                log::error!("verifying a cache file died: {error}");
                None
            }
        }
    }

    /// Gives up the cache file, which the kernel reads itself, because its content is about to change. When this
    /// returns, no read of this version will meet that. `file` is the caller's hold of what
    /// [`Self::passthrough_file`] gave.
    ///
    /// # Errors
    /// `TimedOut`: it is still being read here.
    pub async fn give_up_file(&self, file: VerifiedFile) -> io::Result<()> {
        if let (Some(tier), Some(disk)) = (&self.core.shared.disk, &self.core.disk) {
            tier.remove(disk);
        }
        drop(self.file.lock().take());
        // Reads that have begun hold it, on threads of their own, for as long as the disk takes.
        for _ in 0..READS_END_LOOKS {
            if file.is_held_here_alone() {
                return Ok(());
            }
            clock::sleep(READS_END_LOOK).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn clamp(&self, range: ByteRange) -> ByteRange {
        range.intersect(&ByteRange::new(0, self.core.len))
    }

    /// The cache file, opened where that has not been done yet, or where another file is the object's by now.
    pub(super) fn file(&self) -> io::Result<Arc<OpenFile>> {
        let (Some(tier), Some(disk)) = (&self.core.shared.disk, &self.core.disk) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        loop {
            if let Some(open) = self.file.lock().as_ref().filter(|open| disk.is_in(open.id())) {
                return Ok(open.clone());
            }
            // Not under the lock, which other reads want.
            let opened = tier.open_for_reading(disk).inspect_err(|error| {
                log::warn!("a cache file cannot be opened: {error}");
            })?;
            tier.recall(disk, &opened);
            let mut file = self.file.lock();
            // Another read may have opened it meanwhile: all use one, by which it is known when they have ended. Or it
            // was given up, and is not the object's any more.
            if file.as_ref().is_none_or(|open| !disk.is_in(open.id())) && disk.is_in(opened.id()) {
                let before = file.replace(Arc::new(opened));
                drop(file);
                drop(before);
            }
        }
    }
}

impl Drop for CachedObject {
    fn drop(&mut self) {
        if let (Some(tier), Some(disk)) = (&self.core.shared.disk, &self.core.disk)
            && tier.leave(disk)
            && let Some(queue) = &self.core.shared.write_behind
        {
            queue.push_removal(disk.clone());
        }
    }
}
