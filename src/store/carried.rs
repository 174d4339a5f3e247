//! What an object carries beside its bytes, its type and its user metadata. Pure.
//!
//! S3 changes nothing of an object in place: a request that writes it anew, or copies it with other metadata, gives all
//! of it, and what is not given is gone. So it is read as a whole and written as a whole.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// Headers that a store keeps with an object and gives out as they are: how a web server's clients are to
/// treat it.
pub const SERVED_HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
];

/// What an object carries beside its bytes, its type and its user metadata. Nothing, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Carried {
    /// Those of [`SERVED_HEADERS`] that it has, by name, as they were answered.
    pub headers: BTreeMap<String, String>,
    pub storage: Storage,
    pub tags: Tags,
}

impl Carried {
    pub fn is_nothing(&self) -> bool {
        *self == Carried::default()
    }
}

/// How the store keeps an object. A copy does not inherit it, whatever else it does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Storage {
    /// `None`: the mount's, and the store's where that has none.
    pub class: Option<String>,
    /// x-amz-server-side-encryption. `None`: likewise.
    pub encryption: Option<String>,
    /// The key's id, where it is encrypted by one.
    pub kms_key_id: Option<String>,
}

/// An object's tags. HEAD tells how many there are. A copy takes them along by itself; to write the object
/// in another way they have to be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tags {
    #[default]
    None,
    /// So many, at least one.
    Counted(u32),
    /// As x-amz-tagging has them: `name=value`, percent-encoded, joined by `&`.
    These(String),
}

/// What need not be encoded in x-amz-tagging.
const TAGGING: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Tags {
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Tags {
        let encoded = |text| utf8_percent_encode(text, TAGGING);
        let pairs = pairs.into_iter();
        let pairs: Vec<String> =
            pairs.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        if pairs.is_empty() { Tags::None } else { Tags::These(pairs.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_encoded_as_the_header_has_them() {
        assert_eq!(Tags::new([]), Tags::None);
        let tags = Tags::new([("a b", "ü=&"), ("kind", "")]);
        assert_eq!(tags, Tags::These("a%20b=%C3%BC%3D%26&kind=".to_owned()));
    }
}
