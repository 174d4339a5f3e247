//! Locks with a rank. A thread may take a lock only of a higher rank than all that it holds; in debug builds, and so in
//! tests, one that does otherwise panics at once, where two such threads would hang some day. Release builds know
//! nothing of ranks.
//!
//! All locks of this program but those that are held across an await are of these types (clippy.toml forbids the originals).

#![expect(clippy::disallowed_types, reason = "they are wrapped here")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use parking_lot::WaitTimeoutResult;

use crate::clock::Instant;

/// What a lock protects: the place of its kind in the order.
pub trait Rank {
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    const PLACE: rank::Order;
}

/// The ranks, in the order in which locks are taken: what stands above is taken first. Two of one rank are never held
/// together.
pub mod rank {
    macro_rules! ranks {
        ($($(#[$meta:meta])+ $name:ident,)+) => {
            /// All of them.
            #[derive(Clone, Copy, Debug)]
            #[cfg_attr(not(all(debug_assertions, feature = "embedded")), allow(dead_code))]
            pub enum Order {
                $($(#[$meta])+ $name,)+
            }
            $(
                $(#[$meta])+
                #[cfg_attr(not(feature = "embedded"), allow(dead_code))]
                pub enum $name {}

                $(#[$meta])+
                impl super::Rank for $name {
                    const PLACE: Order = Order::$name;
                }
            )+
        };
    }

    ranks! {
        /// What a store in memory holds, for tests: callers of a store hold no lock.
        #[cfg(test)]
        TestStore,
        /// The parts of a mount that `control` speaks for.
        Assembled,
        /// Where the control socket is.
        SocketPlace,
        /// The pipe to the process that waits for a mount.
        Voice,
        /// Whether the kernel's session has ended.
        SessionEnded,
        /// Files that the kernel passes through.
        Backing,

        /// An answer to readdir that is being filled.
        Filled,
        /// What the journal is told of changed attributes, one inode after the other.
        AttributeRecords,
        /// Which parts of the tree are being moved, and which are being changed below.
        Subtrees,
        /// The table of inodes.
        Table,
        /// What is known of one inode.
        Inode,
        /// Open files.
        Files,
        /// Open directories.
        Directories,
        /// Programs that read in small pieces.
        SmallReaders,
        /// Closed files that wait for the store.
        WriteBackQueue,
        /// Inodes whose attributes are to be saved.
        Unsaved,
        /// Failures to be told by `status`.
        Report,
        /// Where a reader is, and what it has asked for.
        Reader,

        /// One change of what is recorded of a draft at a time.
        DraftRecords,
        /// What a draft is.
        Draft,
        /// Writes that wait outside of memory.
        Parked,

        /// The parts that interrupted uploads have, by fingerprint.
        Fingerprints,
        /// The copy sources that an upload uses.
        CopySources,
        /// The object of zeros that an upload uses.
        Zeros,
        /// The temporary objects that are lent, each with its users.
        Lent,
        /// The interrupted uploads.
        Interrupted,
        /// A multipart upload that goes on.
        Upload,
        /// The keys of temporary objects that interrupted uploads have become.
        TemporaryKeys,
        /// Known objects that are about to move.
        KnownObjects,
        /// Requests for uploads whose answer was not seen.
        UnconfirmedCreates,
        /// Deletions that wait.
        Deletions,

        /// Keys that are not shown.
        HiddenKeys,
        /// Directories that are listed again.
        Relisted,
        /// Walks through the tree.
        Walks,
        /// Descents into the tree.
        Descents,
        /// Attributes of directories that were fetched ahead.
        DirectoriesPrefetched,
        /// What was fetched ahead and not asked for yet.
        Confirmed,
        /// Requests of which others wait for the answer.
        SingleFlight,
        /// When a walk was seen last.
        WalkTouched,
        /// Listings.
        Listings,
        /// Held while another file of names is begun.
        NamesBegun,
        /// Names that were heard, for `--offline`.
        Names,

        /// Objects that are in use, by version.
        CachedObjects,
        /// Held for reading while bytes are handed over to the disk.
        HandingOver,
        /// One plan at a time of what is fetched of an object.
        Planning,
        /// What is promised of an object, and what came of it.
        Ledger,
        /// Objects of which readers were given something wrong.
        Misled,
        /// The segments of an object that are in memory.
        Segments,
        /// Which version of an object it is.
        Version,
        /// Until when the disk is not asked.
        DiskLeftAlone,
        /// What is in memory, by age.
        MemoryTier,
        /// The open cache file of an object.
        CacheFile,
        /// One change of what is recorded of an object at a time.
        ObjectRecords,
        /// Versions on the disk.
        DiskObjects,
        /// What of an object is on the disk.
        Residency,
        /// Work for the disk.
        WriteBehind,
        /// Files that are to be read back.
        Readback,
        /// What the readers of the cache share.
        Streams,
        /// The readers that wait for a segment.
        Waiters,

        /// Held while a staging file is synced.
        StagingSync,
        /// Held for reading while a staging file is used, which may be replaced by a shorter one.
        StagingReplaced,
        /// The staging file of a draft.
        StagingFile,
        /// What of it is in use.
        Stretches,

        /// Held while a journal is written.
        LogWriter,
        /// What the journal's records add up to.
        JournalState,
        /// Attributes once seen.
        AttributeCache,
        /// What has ended and is not on the disk.
        JournalEnded,
        /// What waits to be written to a journal, and how far it has come.
        LogTail,

        /// Drafts that are open. Asked for memory by a thread that is short of it, whatever locks that holds.
        Drafts,
        /// The components that give memory back.
        Reclaimers,
        /// How much memory is in use.
        Budget,

        /// The checksums that HEADs have told.
        ToldSums,
        /// The versions that are read in the place of those that the keys have now.
        PinnedVersions,
        /// The versions that keys had at a time.
        ChosenVersions,
        /// How the store does.
        Breaker,
        /// How long it wants to be left alone.
        Calm,
        /// How long the store takes.
        Pace,
        /// Whose turn it is under a limit.
        Line,
        /// How long the store takes to the first byte.
        FirstByte,
        /// Folders that became empty.
        Emptied,
        /// Keys that are being changed.
        Turns,
        /// The store's clock.
        StoreClock,
        /// The answer that is being read.
        Reading,
        /// Whether credentials are being renewed.
        CredentialRenewal,
        /// What a source of credentials said.
        CredentialNotes,
        /// Requests counted.
        Meter,
        /// The store's last error.
        LastError,

        /// Attributes that many objects share.
        SharedAttributes,

        /// Objects of the embedded store.
        EmbeddedIndex,
        /// Files of the embedded store.
        EmbeddedBlobs,
        /// Checksums of the embedded store.
        EmbeddedKnown,
        /// Faults that are to happen.
        Faults,
        /// A connection that is slowed.
        Shaped,

        /// Tasks that died.
        Deaths,
        /// What work waits for.
        WaitsFor,
        /// Whose turn it is.
        Holder,
        /// A buffer that will be used again.
        Spares,
        /// What a model of a disk holds.
        #[cfg(debug_assertions)]
        DiskModel,
        /// What a test looks at.
        #[cfg(test)]
        Test,
    }
}

pub struct Mutex<T, R> {
    rank: PhantomData<fn() -> R>,
    inner: parking_lot::Mutex<T>,
}

pub struct MutexGuard<'a, T> {
    // Dropped in this order.
    inner: parking_lot::MutexGuard<'a, T>,
    _held: Held,
}

impl<T, R: Rank> Mutex<T, R> {
    pub const fn new(value: T) -> Self {
        Mutex { rank: PhantomData, inner: parking_lot::Mutex::new(value) }
    }

    /// # Panics
    /// In debug builds, where this thread holds a lock of this rank or a higher one.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = Held::before::<R>();
        MutexGuard { inner: self.inner.lock(), _held: held }
    }

    /// Whatever this thread holds: it does not wait.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock()?;
        Some(MutexGuard { inner, _held: Held::after::<R>() })
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: Default, R: Rank> Default for Mutex<T, R> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: fmt::Debug, R> fmt::Debug for Mutex<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

pub struct RwLock<T, R> {
    rank: PhantomData<fn() -> R>,
    inner: parking_lot::RwLock<T>,
}

pub struct ReadGuard<'a, T> {
    inner: parking_lot::RwLockReadGuard<'a, T>,
    _held: Held,
}

pub struct WriteGuard<'a, T> {
    inner: parking_lot::RwLockWriteGuard<'a, T>,
    _held: Held,
}

impl<T, R: Rank> RwLock<T, R> {
    pub const fn new(value: T) -> Self {
        RwLock { rank: PhantomData, inner: parking_lot::RwLock::new(value) }
    }

    /// # Panics
    /// As [`Mutex::lock`]: a second reader, too, waits for a writer that waits for the first.
    pub fn read(&self) -> ReadGuard<'_, T> {
        let held = Held::before::<R>();
        ReadGuard { inner: self.inner.read(), _held: held }
    }

    /// # Panics
    /// As [`Mutex::lock`].
    pub fn write(&self) -> WriteGuard<'_, T> {
        let held = Held::before::<R>();
        WriteGuard { inner: self.inner.write(), _held: held }
    }
}

impl<T: Default, R: Rank> Default for RwLock<T, R> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T: fmt::Debug, R> fmt::Debug for RwLock<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// To wait with a [`MutexGuard`].
#[derive(Debug, Default)]
pub struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub const fn new() -> Condvar {
        Condvar(parking_lot::Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.wait(&mut guard.inner);
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) -> WaitTimeoutResult {
        self.0.wait_for(&mut guard.inner, time)
    }

    pub fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        self.0.wait_until(&mut guard.inner, deadline.into_std())
    }

    /// While `condition` holds, and no longer than `time`.
    pub fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: impl FnMut(&mut T) -> bool,
        time: Duration,
    ) -> WaitTimeoutResult {
        self.0.wait_while_for(&mut guard.inner, condition, time)
    }
}

/// Locks that those alone wait for that write or sync such a file themselves: they may be held meanwhile.
#[cfg(debug_assertions)]
const OF_WRITERS: [rank::Order; 6] = {
    use rank::Order::*;
    [AttributeRecords, DraftRecords, ObjectRecords, NamesBegun, StagingSync, StagingReplaced]
};

/// Says that a log, as the journal is one, is written now, or any file synced, for as long as its disk takes.
///
/// # Panics
/// In debug builds, where this thread holds a lock that others take to look: a request of the kernel would wait for the
/// disk too.
#[track_caller]
#[inline(always)]
pub fn waits_for_the_disk() {
    #[cfg(debug_assertions)]
    held::none_but(&OF_WRITERS);
}

#[cfg(not(debug_assertions))]
use free::Held;
#[cfg(debug_assertions)]
use held::Held;

#[cfg(debug_assertions)]
mod held {
    use std::cell::Cell;

    use super::{Rank, rank};

    thread_local! {
        /// One bit for each rank that this thread holds.
        static RANKS: Cell<u128> = const { Cell::new(0) };
    }

    /// That this thread holds a lock.
    pub struct Held(u128);

    impl Held {
        /// Of a lock that is about to be waited for.
        pub fn before<R: Rank>() -> Held {
            let (place, held) = (R::PLACE as u8, RANKS.get());
            assert!(
                held < 1 << place,
                "a lock of rank {place} ({:?}) is taken by a thread that holds one of rank {}",
                R::PLACE,
                held.ilog2(),
            );
            Held::after::<R>()
        }

        /// Of a lock that this thread has.
        pub fn after<R: Rank>() -> Held {
            let (bit, held) = (1 << R::PLACE as u8, RANKS.get());
            RANKS.set(held | bit);
            // Where another of this rank is held, that one speaks for it.
            Held(bit & !held)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            RANKS.set(RANKS.get() & !self.0);
        }
    }

    /// # Panics
    /// Where this thread holds a lock of any other rank.
    #[track_caller]
    pub fn none_but(allowed: &[rank::Order]) {
        let allowed = allowed.iter().fold(0_u128, |bits, rank| bits | 1 << *rank as u8);
        let held = RANKS.get() & !allowed;
        assert!(
            held == 0,
            "a thread that holds a lock of rank {} waits for the disk",
            held.ilog2()
        );
    }
}

#[cfg(not(debug_assertions))]
mod free {
    pub struct Held;

    impl Held {
        #[inline(always)]
        pub fn before<R>() -> Held {
            Held
        }

        #[inline(always)]
        pub fn after<R>() -> Held {
            Held
        }
    }
}

#[cfg(test)]
mod tests;
