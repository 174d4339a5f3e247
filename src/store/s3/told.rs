//! The checksums of whole objects that HEADs have told: an object that is read was mostly looked at before.

use crate::lock::rank;
use crate::store::recent::{Name, Recent, name_of};
use crate::store::{ETag, Key, ObjectHead, ObjectSum};

#[derive(Default)]
pub struct ToldSums(Recent<ObjectSum, rank::ToldSums>);

impl ToldSums {
    pub fn note(&self, key: &Key, head: &ObjectHead) {
        if let Some(sum) = head.sum {
            self.0.note(name(key, &head.etag), sum);
        }
    }

    pub fn of(&self, key: &Key, etag: &ETag) -> Option<ObjectSum> {
        self.0.get(&name(key, etag))
    }
}

fn name(key: &Key, etag: &ETag) -> Name {
    name_of(&[key.as_bytes(), etag.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::store::recent::OBJECTS_MAX;
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
