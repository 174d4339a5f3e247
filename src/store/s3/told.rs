//! The checksums of whole objects that HEADs have told: an object that is read was mostly looked at before.
//!
//! Bounded by generations: when the younger half is full, the older is dropped and the younger becomes the older.

use std::collections::HashMap;

use crate::lock::{Mutex, rank};
use crate::store::{ETag, Key, ObjectHead, ObjectSum};

/// Of each generation: some 50 bytes each.
const OBJECTS_MAX: usize = 16_384;

/// By 128 bits of BLAKE3 of key and ETag.
#[derive(Default)]
pub struct ToldSums(Mutex<Generations, rank::ToldSums>);

#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 16], ObjectSum>,
    old: HashMap<[u8; 16], ObjectSum>,
}

impl ToldSums {
    pub fn note(&self, key: &Key, head: &ObjectHead) {
        let Some(sum) = head.sum else { return };
        let mut told = self.0.lock();
        if told.young.len() >= OBJECTS_MAX {
            told.old = std::mem::take(&mut told.young);
        }
        told.young.insert(name(key, &head.etag), sum);
    }

    pub fn of(&self, key: &Key, etag: &ETag) -> Option<ObjectSum> {
        let name = name(key, etag);
        let told = self.0.lock();
        told.young.get(&name).or_else(|| told.old.get(&name)).copied()
    }
}

fn name(key: &Key, etag: &ETag) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.as_bytes().len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(etag.as_str().as_bytes());
    let mut name = [0; 16];
    name.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    name
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::store::{Carried, Metadata};

    #[test]
    fn what_was_told_last_is_known_of_its_version_alone() {
        let head = |nth: u32| ObjectHead {
            etag: ETag::new(&format!("v{nth}")),
            len: 5,
            last_modified: UNIX_EPOCH,
            metadata: Metadata::new(),
            content_type: None,
            carried: Carried::default(),
            version_id: None,
            sum: Some(ObjectSum::Crc32c(nth)),
            archived: None,
        };
        let (told, key) = (ToldSums::default(), Key::from("a"));
        for nth in 0..3 * OBJECTS_MAX as u32 {
            told.note(&key, &head(nth));
        }
        let last = 3 * OBJECTS_MAX as u32 - 1;
        assert_eq!(told.of(&key, &head(last).etag), Some(ObjectSum::Crc32c(last)));
        assert_eq!(told.of(&Key::from("b"), &head(last).etag), None);
        assert_eq!(told.of(&key, &head(0).etag), None, "so long ago");
    }
}
