//! What is known of one directory: its pages, and this mount's facts about its names. Pure; the rules
//! that say which of them is right are [`super::listings`]'s.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::name::{self, FOLDER_SUFFIX};
use super::segment::{Listed, Marker, Segment};
use crate::clock::Instant;
use crate::store::{Key, ListedObject};

/// A fact's bytes beside its name and ETag, estimated.
const FACT_BYTES: usize = size_of::<Fact>() + 160;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    File(ListedObject),
    Directory(Marker),
    Absent,
    /// Not without asking the store.
    Unknown,
}

/// When an answer was asked for: the count of facts, and the time.
pub type Begun = (u64, Instant);

pub(super) struct Fact {
    pub(super) number: u64,
    pub(super) at: Instant,
    pub(super) known: Known,
    /// Holds until it is withdrawn.
    pub(super) local: bool,
}

#[derive(Default)]
pub(super) struct Directory {
    /// By the position before each (exclusive).
    ///
    /// Invariant: they do not overlap.
    pub(super) segments: BTreeMap<Vec<u8>, Segment>,
    /// By `name/`, the order in which a scan yields names.
    pub(super) facts: BTreeMap<Vec<u8>, Fact>,
    /// For each scan under way, the number that its oldest page began at.
    pub(super) scans: HashMap<u64, u64>,
    /// The highest number of a fact that was given up.
    pub(super) facts_lost: u64,
    /// How many facts are looked through next for some to give up: most of those here are local, and stay.
    pub(super) facts_max: usize,
}

impl Directory {
    pub(super) fn weight(&self) -> usize {
        let facts: usize = self.facts.iter().map(|(position, fact)| weight(position, fact)).sum();
        self.segments_weight() + facts
    }

    pub(super) fn segments_weight(&self) -> usize {
        self.segments.iter().map(|(from, segment)| from.len() + segment.weight()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.facts.is_empty() && self.scans.is_empty()
    }

    /// The number up to which no scan needs facts.
    pub(super) fn needed_from(&self) -> u64 {
        self.scans.values().copied().min().unwrap_or(u64::MAX)
    }

    /// Gives up the oldest segment. Returns the bytes freed.
    pub(super) fn drop_segment(&mut self) -> usize {
        let oldest = self.segments.iter().min_by_key(|(_, segment)| segment.at);
        let Some(from) = oldest.map(|(from, _)| from.clone()) else { return 0 };
        self.segments.remove(&from).map_or(0, |it| from.len() + it.weight())
    }

    /// Gives up the facts that no scan needs. Returns the bytes freed.
    pub(super) fn drop_facts(&mut self) -> usize {
        let needed_from = self.needed_from();
        let mut freed = 0;
        self.facts.retain(|position, fact| {
            let stays = fact.local || fact.number > needed_from;
            freed += if stays { 0 } else { weight(position, fact) };
            stays
        });
        freed
    }

    /// Gives up all that is known of its entries but local facts, and what scans need. Returns the bytes freed.
    pub(super) fn forget(&mut self) -> usize {
        let freed = self.segments_weight();
        self.segments.clear();
        freed + self.drop_facts()
    }

    /// Drops facts that are expired or that a page knows as well. `corrects`: those that correct an older page stay, as
    /// that may be believed though it is expired.
    pub(super) fn prune(
        &mut self,
        dir: &Key,
        fresh: impl Fn(Instant) -> bool + Copy,
        corrects: bool,
    ) {
        let needed_from = self.needed_from();
        let Directory { segments, facts, .. } = self;
        facts.retain(|position, fact| {
            if fact.local || fact.number > needed_from {
                return true;
            }
            let name = &position[..position.len() - 1];
            let is_older = |(_, begun)| begun < (fact.number, fact.at);
            if corrects && listed(segments, dir, name, |_| true).is_some_and(is_older) {
                return true;
            }
            let page = listed(segments, dir, name, fresh);
            fresh(fact.at) && page.is_none_or(|(_, begun)| begun < (fact.number, fact.at))
        });
    }

    pub(super) fn insert_segment(&mut self, from: &[u8], segment: Segment) {
        // What is left of an older page on either side of the new one stays known.
        if let Some((_, before)) =
            self.segments.range_mut::<[u8], _>((Unbounded, Excluded(from))).next_back()
            && before.to.as_deref().is_none_or(|to| to > from)
        {
            before.to = Some(from.to_vec());
        }
        let covered: Vec<Vec<u8>> = self
            .segments
            .range::<[u8], _>((Included(from), Unbounded))
            .map(|(start, _)| start)
            .take_while(|start| segment.to.as_ref().is_none_or(|to| *start < to))
            .cloned()
            .collect();
        for start in covered {
            let Some(old) = self.segments.remove(&start) else { continue };
            if let Some(to) = &segment.to
                && old.to.as_ref().is_none_or(|end| end > to)
            {
                self.segments.insert(to.clone(), old);
            }
        }
        self.segments.insert(from.to_vec(), segment);
    }

    /// The segment that covers what is right behind `position`.
    pub(super) fn segment_behind(&self, position: &[u8]) -> Option<&Segment> {
        let (_, segment) =
            self.segments.range::<[u8], _>((Unbounded, Included(position))).next_back()?;
        segment.to.as_deref().is_none_or(|to| to > position).then_some(segment)
    }

    pub(super) fn listed(
        &self,
        dir: &Key,
        name: &[u8],
        fresh: impl Fn(Instant) -> bool,
    ) -> Option<(Known, Begun)> {
        listed(&self.segments, dir, name, fresh)
    }
}

/// What fresh pages say of `name`, and the number of the oldest page that it took.
fn listed(
    segments: &BTreeMap<Vec<u8>, Segment>,
    dir: &Key,
    name: &[u8],
    fresh: impl Fn(Instant) -> bool,
) -> Option<(Known, Begun)> {
    let covering = |position: &[u8]| {
        let (_, segment) =
            segments.range::<[u8], _>((Unbounded, Excluded(position))).next_back()?;
        let within = segment.to.as_deref().is_none_or(|to| position <= to);
        (within && fresh(segment.at)).then_some(segment)
    };
    // A directory hides a file of its name, a file hides Hadoop's marker of a directory.
    let position = slashed(name);
    let directory = covering(&position)?;
    if let Some(Listed::Directory(marker)) = directory.get(dir, &position) {
        return Some((Known::Directory(marker), directory.begun()));
    }
    let file = covering(name)?;
    let begun = directory.begun().min(file.begun());
    if let Some(Listed::File(object)) = file.get(dir, name) {
        return Some((Known::File(object), begun));
    }
    let position = [name, FOLDER_SUFFIX].concat();
    let mut complete = directory.confirmed && file.confirmed;
    if name::folder_marker(&position).is_none() {
        return complete.then_some((Known::Absent, begun));
    }
    let folder = covering(&position)?;
    let begun = begun.min(folder.begun());
    if let Some(Listed::File(_)) = folder.get(dir, &position) {
        return Some((Known::Directory(Marker::Folder), begun));
    }
    complete &= folder.confirmed;
    complete.then_some((Known::Absent, begun))
}

pub(super) fn weight(position: &[u8], fact: &Fact) -> usize {
    let object = match &fact.known {
        Known::File(object) => object.key.as_bytes().len() + object.etag.as_str().len(),
        Known::Directory(_) | Known::Absent | Known::Unknown => 0,
    };
    FACT_BYTES + position.len() + object
}

pub(super) fn slashed(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}
