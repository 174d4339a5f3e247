//! How far an object is proven: what is cached of it and what is stored is read and compared with all sums that are known.
//!
//! Consistency: reads of the store are pinned to the ETag. What is found wrong on the disk is dropped. Retries: the
//! store's; of what does not agree, one more GET over a connection of its own. Cancellation: dropping it leaves what was
//! found. Memory: a mebibyte; nothing of what the store sends is kept.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::core::{Core, within};
use super::ledger::combined;
use super::object::CachedObject;
use super::proof::{Came, Proof};
use super::sums::{Algorithm, Mismatch, Promise, Sum};
use crate::blocking;
use crate::checked::Stretch;
use crate::range::{ByteRange, RangeSet};
use crate::store::{ETag, Key, ObjectHead, Result, Store, StoreError, unpooled};

/// Read from the disk at a time.
const STEP_BYTES: u64 = 1 << 20;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// What is cached; the store is asked for sums alone.
    Cached,
    /// What is cached; from the store, what that does not prove.
    AsNeeded,
    /// All, from the store.
    Full,
}

/// Where something wrong was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// On the local disk; it is dropped, and fetched again when it is read.
    Cache,
    /// What the store sends is not what it, or this machine, says of it.
    Store,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    pub place: Place,
    /// The bytes concerned: from here, to before there.
    pub start: u64,
    pub end: u64,
    /// The sum that they must have, and the one that they have; what cannot be read has none.
    pub expected: String,
    pub found: String,
}

/// What is known of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// In bytes: its length, what was found proven, what was read from the disk and from the store.
    pub len: u64,
    pub proven: u64,
    pub read_from_disk: u64,
    pub read_from_store: u64,
    /// What it was proven by.
    pub by: Vec<String>,
    /// Why not all is proven.
    pub unproven: Option<String>,
    pub damaged: Vec<Damage>,
}

impl Verdict {
    /// Of a file of which nothing can be said, and why.
    pub fn unknown(len: u64, why: impl Into<String>) -> Verdict {
        Verdict { len, unproven: Some(why.into()), ..Verdict::default() }
    }

    fn take_in(&mut self, proven: &RangeSet, by: &[Promise]) {
        self.proven = proven.iter().map(|range| range.len()).sum();
        let mut names: Vec<String> = by.iter().map(|promise| name_of(promise, self.len)).collect();
        names.sort_unstable();
        names.dedup();
        self.by = names;
    }

    fn note(&mut self, place: Place, mismatch: Mismatch) {
        let Mismatch { range, expected, came: found } = mismatch;
        let (start, end) = (range.start(), range.end());
        self.damaged.push(Damage { place, start, end, expected, found });
    }
}

fn name_of(promise: &Promise, len: u64) -> String {
    let of = if promise.range.len() == len { "the whole" } else { "parts" };
    format!("{} of {of}", promise.algorithm.name())
}

/// What comparing all of something has found.
struct Compared {
    proven: RangeSet,
    by: Vec<Promise>,
    wrong: Vec<(Promise, Mismatch)>,
}

impl Compared {
    fn nothing() -> Compared {
        Compared { proven: RangeSet::new(), by: Vec::new(), wrong: Vec::new() }
    }

    fn take(&mut self, came: Vec<Came>) {
        for Came { promise, sum, .. } in came.into_iter().filter(Came::is_all) {
            if sum != promise.sum {
                self.wrong.push((promise, Mismatch::of(&promise, sum)));
            } else if promise.proves {
                self.proven.insert(promise.range);
                self.by.push(promise);
            }
        }
    }
}

/// An object that no mount has: all of it is read from the store.
///
/// # Errors
/// The store's.
pub async fn of_stored(
    store: &dyn Store,
    key: &Key,
    head: &ObjectHead,
    deadline: Duration,
) -> Result<Verdict> {
    let mut verdict = Verdict { len: head.len, ..Verdict::default() };
    if head.len > 0 {
        let known = head.sum.map(|sum| Promise::of_object(sum, head.len));
        let mut known: Vec<Promise> = known.into_iter().collect();
        if known.is_empty() && store.capabilities().tells_part_sums {
            let parts = store.part_sums(key, &head.etag).await?;
            let promise = |it: &Stretch| Promise::crc32c(ByteRange::at(it.at, it.len), it.crc);
            known.extend(parts.iter().map(promise));
        }
        let (compared, _) =
            of_store(store, (key, &head.etag), head.len, &known, deadline, &mut verdict).await?;
        verdict.take_in(&compared.proven, &compared.by);
    }
    say_what_is_unproven(&mut verdict, "the store tells no checksum of it");
    Ok(verdict)
}

/// Reads all of the object from the store; once more where it does not agree. Damage is noted. The second of what is
/// returned: what was only known to have been so before, and is other now.
async fn of_store(
    store: &dyn Store,
    version: (&Key, &ETag),
    len: u64,
    known: &[Promise],
    deadline: Duration,
    verdict: &mut Verdict,
) -> Result<(Compared, Vec<(Promise, Mismatch)>)> {
    let mut compared = read_stored(store, version, len, known, deadline, verdict).await?;
    if compared.wrong.iter().any(|(promise, _)| promise.proves) {
        let again = read_stored(store, version, len, known, deadline, verdict);
        compared = unpooled(again).await?;
    }
    let (wrong, changed): (Vec<_>, Vec<_>) =
        std::mem::take(&mut compared.wrong).into_iter().partition(|(promise, _)| promise.proves);
    for (_, mismatch) in wrong {
        verdict.note(Place::Store, mismatch);
    }
    Ok((compared, changed))
}

async fn read_stored(
    store: &dyn Store,
    (key, etag): (&Key, &ETag),
    len: u64,
    known: &[Promise],
    deadline: Duration,
    verdict: &mut Verdict,
) -> Result<Compared> {
    let whole = ByteRange::new(0, len);
    let mut body = within(deadline, store.get(key, whole, etag)).await??;
    let mut promises = known.to_vec();
    let told = body.head.sum.map(|sum| Promise::of_object(sum, len));
    promises.extend(told.filter(|told| !known.contains(told)));
    promises.extend(body.md5.map(|md5| Promise::md5(whole, md5)));
    let mut proof = Proof::of(whole, &promises, |_, _| None);
    let mut compared = Compared::nothing();
    while let Some(chunk) = within(deadline, body.bytes.next()).await? {
        let chunk = chunk?;
        verdict.read_from_store += chunk.len() as u64;
        // Nothing is known of pieces: this has no error.
        compared.take(proof.update(&chunk).unwrap_or_default());
    }
    Ok(compared)
}

fn say_what_is_unproven(verdict: &mut Verdict, why: &str) {
    if verdict.proven < verdict.len && verdict.damaged.is_empty() {
        verdict.unproven = Some(why.to_owned());
    }
}

impl CachedObject {
    /// Reads and compares.
    ///
    /// # Errors
    /// The store's; what was found wrong on the disk is dropped all the same.
    pub async fn verify(self: &Arc<Self>, depth: Depth) -> Result<Verdict> {
        let core = self.core();
        let whole = ByteRange::new(0, core.len);
        let mut verdict = Verdict { len: core.len, ..Verdict::default() };
        if core.len == 0 {
            return Ok(verdict);
        }
        let sums = core.learn_all().await;
        let promises = core.trust().1;
        let cached = self.verify_cached(&promises, &mut verdict).await?;
        let mut proven = cached.proven;
        let mut by = cached.by;
        let is_needed = depth == Depth::AsNeeded && !proven.contains(whole);
        if depth == Depth::Full || is_needed {
            let on_disk = core.disk.as_ref().map(|disk| disk.stretches_within(whole));
            let known: Vec<Promise> = promises
                .iter()
                .copied()
                .chain(on_disk.iter().flatten().map(Promise::lost))
                .collect();
            let (key, etag) = core.version();
            let (store, deadline) = (&core.shared.store, core.shared.settings.deadline);
            let version = (&key, &etag);
            let (compared, changed) =
                of_store(store.as_ref(), version, core.len, &known, deadline, &mut verdict).await?;
            for (promise, mismatch) in changed {
                // The store's bytes are proven, the disk's are others.
                if compared.proven.contains(promise.range) {
                    verdict.note(Place::Cache, mismatch);
                    core.drop_wrong(&[promise.range]).await;
                }
            }
            (proven, by) = (compared.proven, compared.by);
        }
        verdict.take_in(&proven, &by);
        let why = match (depth, sums) {
            (Depth::Cached, _) if !promises.is_empty() => "not all of it is cached".to_owned(),
            (_, Err(error)) => format!("no checksum of it could be had: {error}"),
            _ => "the store tells no checksum of it".to_owned(),
        };
        say_what_is_unproven(&mut verdict, &why);
        Ok(verdict)
    }

    /// Compares what is on the disk with its checksums, and all promises that it has all bytes of.
    async fn verify_cached(
        self: &Arc<Self>,
        promises: &[Promise],
        verdict: &mut Verdict,
    ) -> Result<Compared> {
        let core = self.core();
        let mut compared = Compared::nothing();
        let Some(disk) = core.disk.clone() else { return Ok(compared) };
        let before = disk.stretches_within(ByteRange::new(0, core.len));
        for run in disk.resident(ByteRange::new(0, core.len)) {
            let inside: Vec<Promise> =
                promises.iter().filter(|promise| run.contains(&promise.range)).copied().collect();
            let object = self.clone();
            let work = move || object.compare_on_disk(run, &inside);
            let died = |error| super::core::no_memory(std::io::Error::other(error));
            let found = blocking::run_on(&core.shared.runtime, work).await.map_err(died)?;
            compared.by.extend(found.by);
            found.proven.iter().for_each(|range| compared.proven.insert(range));
            compared.wrong.extend(found.wrong);
        }
        verdict.read_from_disk = before.iter().map(|stretch| stretch.len).sum();
        let left = disk.stretches_within(ByteRange::new(0, core.len));
        for stretch in before.iter().filter(|stretch| !left.contains(stretch)) {
            let promise = Promise::lost(stretch);
            let found = "other bytes, or none".to_owned();
            let mismatch =
                Mismatch { range: promise.range, expected: promise.shown(), came: found };
            verdict.note(Place::Cache, mismatch);
        }
        for (promise, mismatch) in std::mem::take(&mut compared.wrong) {
            core.ledger.lock().forget(promise.range);
            core.drop_wrong(&[promise.range]).await;
            verdict.note(Place::Cache, mismatch);
        }
        Ok(compared)
    }

    /// Blocks. What turns out bad, or is gone, ends it; that was dropped.
    fn compare_on_disk(&self, run: ByteRange, promises: &[Promise]) -> Compared {
        let mut compared = Compared::nothing();
        let core = self.core();
        let (Some(tier), Some(disk)) = (&core.shared.disk, &core.disk) else { return compared };
        let mut buffer = vec![0; STEP_BYTES.min(run.len()) as usize];
        let mut proof = Proof::of(run, promises, |_, _| None);
        // Anew, whatever was found good before: files change.
        disk.residency.lock().doubt();
        for step in run.pieces(STEP_BYTES) {
            let Ok(file) = self.file() else { return compared };
            let into = &mut buffer[..step.len() as usize];
            if tier.read(disk, &file, step, into).is_none() {
                // The others are looked at, and nothing is said of what they are part of.
                proof = Proof::of(ByteRange::new(step.end(), run.end()), promises, |_, _| None);
                continue;
            }
            compared.take(proof.update(into).unwrap_or_default());
        }
        compared
    }

    /// `ALGORITHM:HEX` of the whole, where that is known or told.
    ///
    /// # Errors
    /// The store's.
    pub async fn checksum(&self) -> Result<Option<String>> {
        let core = self.core();
        core.learn_all().await?;
        let promises = core.trust().1;
        let whole = ByteRange::new(0, core.len);
        let told = promises.iter().find(|promise| promise.range == whole);
        let text =
            |algorithm: Algorithm, sum| format!("{}:{}", algorithm.name(), algorithm.hex(sum));
        if let Some(promise) = told {
            return Ok(Some(text(promise.algorithm, promise.sum)));
        }
        Ok(sum_of_parts(&promises, whole).map(|sum| text(Algorithm::Crc32c, sum)))
    }

    /// Whether all of it, some, or nothing is proven of what came of it since it is in use, or lies on the disk.
    pub fn proven(&self) -> &'static str {
        let core = self.core();
        core.recall_sums();
        let (ranges, promises) = core.trust();
        let mut proven = RangeSet::new();
        ranges.into_iter().for_each(|range| proven.insert(range));
        for promise in promises.iter() {
            if !proven.contains(promise.range) && core.is_proven_on_disk(promise) {
                proven.insert(promise.range);
            }
        }
        match (proven.contains(ByteRange::new(0, core.len)), proven.is_empty()) {
            (true, _) => "yes",
            (false, true) => "no",
            (false, false) => "partly",
        }
    }
}

impl Core {
    /// Asks for all sums that can be had without reading.
    async fn learn_all(&self) -> Result<(), StoreError> {
        self.learn_parts();
        let (key, etag) = self.version();
        let head = within(self.shared.settings.deadline, self.shared.store.head(&key)).await??;
        if head.etag == etag {
            self.learn_whole(&head);
            self.ask_for_parts(&key, &etag).await;
        }
        Ok(())
    }

    /// Whether what was recorded of the disk's ranges comes to what is promised.
    pub(super) fn is_proven_on_disk(&self, promise: &Promise) -> bool {
        let Some(disk) = &self.disk else { return false };
        combined(promise, &disk.sums_within(promise.range, promise.algorithm)) == Some(promise.sum)
    }
}

/// The CRC-32C of a range, if these leave nothing of it out. In order.
fn sum_of_parts(parts: &[Promise], range: ByteRange) -> Option<Sum> {
    let mut reached = range.start();
    let mut sum = None;
    for part in parts.iter().filter(|part| part.algorithm == Algorithm::Crc32c) {
        if part.range.start() != reached {
            return None;
        }
        reached = part.range.end();
        sum = Some(match sum {
            None => part.sum,
            Some(before) => part.algorithm.combine(before, part.sum, part.range.len())?,
        });
    }
    sum.filter(|_| reached == range.end())
}
