//! What was told of many objects, of which the latest is remembered: by a name of 128 bits, and within bounds.
//!
//! Bounded by generations: when the younger half is full, the older is dropped and the younger becomes the older. What is
//! asked for is young again.

use std::collections::HashMap;

use crate::lock::{Mutex, Rank};

/// Of each generation: some 50 bytes each, and what the value has elsewhere.
pub const OBJECTS_MAX: usize = 16_384;

/// What an entry is found by.
pub type Name = [u8; 16];

pub struct Recent<V, R>(Mutex<Generations<V>, R>);

struct Generations<V> {
    young: HashMap<Name, V>,
    old: HashMap<Name, V>,
}

impl<V, R: Rank> Default for Recent<V, R> {
    fn default() -> Self {
        Recent(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }))
    }
}

impl<V: Clone, R: Rank> Recent<V, R> {
    pub fn note(&self, name: Name, value: V) {
        self.0.lock().note(name, value);
    }

    pub fn get(&self, name: &Name) -> Option<V> {
        let mut generations = self.0.lock();
        if let Some(value) = generations.young.get(name) {
            return Some(value.clone());
        }
        let value = generations.old.remove(name)?;
        generations.note(*name, value.clone());
        Some(value)
    }

    pub fn forget(&self, name: &Name) {
        let mut generations = self.0.lock();
        generations.young.remove(name);
        generations.old.remove(name);
    }
}

impl<V> Generations<V> {
    fn note(&mut self, name: Name, value: V) {
        if self.young.len() >= OBJECTS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, value);
    }
}

/// 128 bits of BLAKE3 of all parts, each told apart from the next.
pub fn name_of(parts: &[&[u8]]) -> Name {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut name = Name::default();
    name.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::rank;

    #[test]
    fn what_is_asked_for_outlives_what_is_not() {
        let recent = Recent::<u32, rank::Test>::default();
        let name = |nth: u32| name_of(&[&nth.to_le_bytes()]);
        for nth in 0..3 * OBJECTS_MAX as u32 {
            recent.note(name(nth), nth);
            assert_eq!(recent.get(&name(0)), Some(0), "{nth}");
        }
        assert_eq!(recent.get(&name(1)), None, "so long ago");
        recent.forget(&name(0));
        assert_eq!(recent.get(&name(0)), None);
        assert_ne!(name_of(&[b"a", b"bc"]), name_of(&[b"ab", b"c"]));
    }
}
