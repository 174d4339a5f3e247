//! An ordered map that is copied at once, however long it is: the copy shares all with the original, and each change
//! copies the few entries around it first. So a checkpoint can be written of a map that goes on changing.
//!
//! Entries lie in order in chunks of [`CHUNK`] at most. A search is two binary searches, a copy counts up one
//! reference a chunk (0.1 ms for a million entries), and the first change after it copies one chunk.
//!
//! Pure: no I/O, no clock.

use std::fmt;
use std::mem;
use std::ops::Index;
use std::slice;
use std::sync::Arc;

/// Entries of a chunk. More of them make copies cheaper and changes dearer.
const CHUNK: usize = 64;

/// A map in the order of its keys.
///
/// Invariants: no chunk is empty; keys ascend within and across chunks; a chunk's `from` is not above its first key and
/// above all keys of the chunk before.
pub struct CowMap<K, V> {
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

struct Chunk<K, V> {
    /// Here and not behind the pointer, so that a search touches one chunk only.
    from: K,
    entries: Arc<Vec<(K, V)>>,
}

impl<K: Ord + Clone, V: Clone> CowMap<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn clear(&mut self) {
        *self = CowMap::default();
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let (chunk, at) = self.place(key);
        at.ok().map(|at| &self.chunks[chunk].entries[at].1)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (chunk, at) = self.place(key);
        at.ok().map(|at| &mut self.entries_of(chunk)[at].1)
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.place(key).1.is_ok()
    }

    /// Gives back what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(&key) {
            (chunk, Ok(at)) => Some(mem::replace(&mut self.entries_of(chunk)[at].1, value)),
            (chunk, Err(at)) => {
                self.insert_at(chunk, at, key, value);
                None
            }
        }
    }

    /// What is there, or what `V` begins as.
    pub fn get_or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        if let (chunk, Err(at)) = self.place(key) {
            self.insert_at(chunk, at, key.clone(), V::default());
        }
        let (chunk, at) = self.place(key);
        let at = at.unwrap_or_else(|_| unreachable!("it was just put there"));
        &mut self.entries_of(chunk)[at].1
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (chunk, Ok(at)) = self.place(key) else { return None };
        let (_, value) = self.entries_of(chunk).remove(at);
        self.len -= 1;
        if self.chunks[chunk].entries.is_empty() {
            self.chunks.remove(chunk);
        } else {
            self.merge(chunk);
            if let Some(before) = chunk.checked_sub(1) {
                self.merge(before);
            }
        }
        Some(value)
    }

    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), entries: [].iter() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> + '_ {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> + '_ {
        self.iter().map(|(_, value)| value)
    }

    /// All of them, to be changed: what is shared with a copy is shared no longer.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> + '_ {
        let chunks = self.chunks.iter_mut();
        chunks.flat_map(|chunk| Arc::make_mut(&mut chunk.entries)).map(|(_, value)| value)
    }

    /// The entries from `key` on.
    pub fn iter_from(&self, key: &K) -> Iter<'_, K, V> {
        let (chunk, at) = self.place(key);
        let (Ok(at) | Err(at)) = at;
        let mut chunks = self.chunks[chunk..].iter();
        let entries = chunks.next().map_or(&[][..], |chunk| &chunk.entries[at..]).iter();
        Iter { chunks, entries }
    }

    /// The last entry whose key is below `key`.
    pub fn last_before(&self, key: &K) -> Option<(&K, &V)> {
        let (chunk, at) = self.place(key);
        let (Ok(at) | Err(at)) = at;
        let (key, value) = match at.checked_sub(1) {
            Some(at) => &self.chunks[chunk].entries[at],
            None => self.chunks.get(chunk.checked_sub(1)?)?.entries.last()?,
        };
        Some((key, value))
    }

    /// In which chunk `key` is or belongs, and where in it.
    fn place(&self, key: &K) -> (usize, Result<usize, usize>) {
        let chunk = self.chunks.partition_point(|chunk| chunk.from <= *key).saturating_sub(1);
        let found = self.chunks.get(chunk);
        let found = found.map(|found| found.entries.binary_search_by(|(at, _)| at.cmp(key)));
        (chunk, found.unwrap_or(Err(0)))
    }

    fn entries_of(&mut self, chunk: usize) -> &mut Vec<(K, V)> {
        Arc::make_mut(&mut self.chunks[chunk].entries)
    }

    fn insert_at(&mut self, mut chunk: usize, mut at: usize, key: K, value: V) {
        self.len += 1;
        let is_last = chunk + 1 >= self.chunks.len();
        let is_full = self.chunks.get(chunk).is_none_or(|found| found.entries.len() == CHUNK);
        if is_full && is_last && (at == CHUNK || self.chunks.is_empty()) {
            // Keys mostly ascend: the chunks before stay full.
            self.chunks.push(Chunk { from: key.clone(), entries: Arc::new(vec![(key, value)]) });
            return;
        }
        if is_full {
            let upper = self.entries_of(chunk).split_off(CHUNK / 2);
            let upper = Chunk { from: upper[0].0.clone(), entries: Arc::new(upper) };
            self.chunks.insert(chunk + 1, upper);
            if at > CHUNK / 2 {
                (chunk, at) = (chunk + 1, at - CHUNK / 2);
            }
        }
        if key < self.chunks[chunk].from {
            self.chunks[chunk].from = key.clone();
        }
        self.entries_of(chunk).insert(at, (key, value));
    }

    /// Puts a chunk and the one behind it together where both are nearly empty.
    fn merge(&mut self, chunk: usize) {
        let (Some(one), Some(other)) = (self.chunks.get(chunk), self.chunks.get(chunk + 1)) else {
            return;
        };
        if one.entries.len() + other.entries.len() <= CHUNK / 4 {
            let other = self.chunks.remove(chunk + 1);
            self.entries_of(chunk).extend(Arc::unwrap_or_clone(other.entries));
        }
    }
}

/// Entries in order.
pub struct Iter<'a, K, V> {
    chunks: slice::Iter<'a, Chunk<K, V>>,
    entries: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            self.entries = self.chunks.next()?.entries.iter();
        }
    }
}

impl<'a, K: Ord + Clone, V: Clone> IntoIterator for &'a CowMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Clone, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        let chunks = self.chunks.iter();
        let chunks = chunks
            .map(|Chunk { from, entries }| Chunk { from: from.clone(), entries: entries.clone() });
        CowMap { chunks: chunks.collect(), len: self.len }
    }
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        CowMap { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for CowMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Clone + Eq> Eq for CowMap<K, V> {}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for CowMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for CowMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = CowMap::default();
        entries.into_iter().for_each(|(key, value)| _ = map.insert(key, value));
        map
    }
}

impl<K: Ord + Clone, V: Clone> Index<&K> for CowMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).unwrap_or_else(|| panic!("no such key"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn same(map: &CowMap<u64, u64>, model: &BTreeMap<u64, u64>) {
        assert!(map.iter().eq(model.iter()));
        assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        assert!(map.chunks.iter().all(|chunk| !chunk.entries.is_empty()));
        assert!(map.chunks.iter().all(|chunk| chunk.entries.len() <= CHUNK));
        assert!(map.chunks.iter().all(|chunk| chunk.from <= chunk.entries[0].0));
        let neighbours = map.chunks.iter().zip(map.chunks.iter().skip(1));
        neighbours.for_each(|(one, other)| assert!(one.entries.last().unwrap().0 < other.from));
    }

    #[test]
    fn it_is_a_map_and_its_copies_stay_as_they_were() {
        let mut seed = 1_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for keys in [10, 300, 5_000] {
            let (mut map, mut model) = (CowMap::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in 0..20_000 {
                let key = random(keys);
                // Mostly grows, then mostly shrinks.
                match random(10) < if step < 10_000 { 7 } else { 3 } {
                    true => assert_eq!(map.insert(key, step), model.insert(key, step)),
                    false => assert_eq!(map.remove(&key), model.remove(&key)),
                }
                let probe = random(keys + 2);
                assert_eq!(map.get(&probe), model.get(&probe));
                assert_eq!(map.contains_key(&probe), model.contains_key(&probe));
                assert_eq!(map.iter_from(&probe).next(), model.range(probe..).next());
                assert_eq!(map.last_before(&probe), model.range(..probe).next_back());
                if let Some(value) = map.get_mut(&probe) {
                    *value += 1;
                    *model.get_mut(&probe).unwrap() += 1;
                }
                if step % 1_000 == 0 {
                    copies.push((map.clone(), model.clone()));
                    *map.get_or_default(&probe) += 7;
                    *model.entry(probe).or_default() += 7;
                    assert!(map.iter_from(&probe).eq(model.range(probe..)));
                    same(&map, &model);
                }
            }
            map.values_mut().for_each(|value| *value *= 2);
            model.values_mut().for_each(|value| *value *= 2);
            same(&map, &model);
            copies.iter().for_each(|(map, model)| same(map, model));
        }
    }

    #[test]
    fn what_comes_in_order_is_packed() {
        let map: CowMap<u64, ()> = (0..10 * CHUNK as u64).map(|key| (key, ())).collect();
        assert_eq!(map.chunks.len(), 10);
    }

    #[test]
    fn few_entries_that_are_left_are_in_few_chunks() {
        let mut map: CowMap<u64, ()> = (0..100_000).map(|key| (key, ())).collect();
        (0..100_000).filter(|key| key % 100 != 0).for_each(|key| _ = map.remove(&key));
        assert_eq!(map.len(), 1_000);
        assert!(map.chunks.len() <= 2 * 1_000 / (CHUNK / 8), "{} chunks", map.chunks.len());
    }
}
