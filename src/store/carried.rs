//! What an object carries beside its bytes, its type and its user metadata. Pure.
//!
//! S3 changes nothing of an object in place: a request that writes it anew, or copies it with other metadata, gives all
//! of it, and what is not given is gone. So it is read as a whole and written as a whole.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
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

/// Names of storage classes whose objects cannot be read as they are, in capitals without what joins their words: those
/// of S3 (OSS and TOS have some of the same names) and those of OSS's and TOS's own.
const ARCHIVES: [&str; 5] = ["GLACIER", "DEEPARCHIVE", "ARCHIVE", "COLDARCHIVE", "DEEPCOLDARCHIVE"];

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

impl Storage {
    /// Whether an object of this class has to be restored before it can be read.
    pub fn is_archive(&self) -> bool {
        let name = self.class.as_deref().unwrap_or_default().replace('_', "").to_ascii_uppercase();
        ARCHIVES.contains(&name.as_str())
    }
}

/// An object's tags. HEAD tells how many there are. A copy takes them along by itself; to write the object
/// in another way they have to be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tags {
    #[default]
    None,
    /// So many, at least one.
    Counted(u32),
    /// As x-amz-tagging has them: `name=value`, percent-encoded, joined by `&`. The empty text says that there are none,
    /// where new objects get some.
    These(String),
}

/// What need not be encoded in x-amz-tagging.
const TAGGING: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// S3's limits; those of length are in characters.
const TAGS_MAX: usize = 10;
const TAG_NAME_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;

fn is_of_a_tag(c: char) -> bool {
    c.is_alphanumeric() || c == ' ' || "+-=._:/@".contains(c)
}

impl Tags {
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Tags {
        let encoded = |text| utf8_percent_encode(text, TAGGING);
        let pairs = pairs.into_iter();
        let pairs: Vec<String> =
            pairs.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        if pairs.is_empty() { Tags::None } else { Tags::These(pairs.join("&")) }
    }

    /// `name=value&name=value`, percent-encoded, as a user writes them: S3 takes ten of them, with names of 128
    /// characters and values of 256 at most.
    ///
    /// # Errors
    /// What is wrong with them, and how it should be.
    pub fn parse(text: &str) -> Result<Tags, String> {
        // As forms are encoded: a `+` is a space.
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            let decoded = percent_decode_str(&text).decode_utf8();
            decoded.map(Cow::into_owned).map_err(|_| format!("{text:?} is no UTF-8"))
        };
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&') {
            let wrong = |what: &str| Err(format!("{pair:?} {what}"));
            let Some((name, value)) = pair.split_once('=') else {
                return wrong("is no NAME=VALUE");
            };
            let (name, value) = (decoded(name)?, decoded(value)?);
            if name.is_empty() || name.chars().count() > TAG_NAME_MAX {
                return wrong("has a name of 0, or of more than 128, characters");
            }
            if value.chars().count() > TAG_VALUE_MAX {
                return wrong("has a value of more than 256 characters");
            }
            if name.starts_with("aws:") {
                return wrong("has a name that is kept for AWS");
            }
            if let Some(odd) = name.chars().chain(value.chars()).find(|c| !is_of_a_tag(*c)) {
                return wrong(&format!(
                    "holds {odd:?}: take letters, digits, spaces and + - = . _ : / @"
                ));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return wrong("has the name of another one");
            }
            pairs.push((name, value));
        }
        if pairs.len() > TAGS_MAX {
            return Err(format!("{} tags are too many: an object has ten at most", pairs.len()));
        }
        Ok(Tags::new(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))))
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

    #[test]
    fn tags_of_a_user_keep_to_the_limits_of_s3() {
        let these = |text: &str| Ok(Tags::These(text.to_owned()));
        assert_eq!(Tags::parse("team=web+site&kind="), these("team=web%20site&kind="));
        let long = |name, value| format!("{}={}", "n".repeat(name), "v".repeat(value));
        assert!(Tags::parse(&long(128, 256)).is_ok());
        let eleven: Vec<String> = (0..11).map(|n| format!("n{n}=v")).collect();
        for (text, told) in [
            ("", "NAME=VALUE"),
            ("a=b&", "NAME=VALUE"),
            ("=b", "128"),
            (&long(129, 0), "128"),
            (&long(1, 257), "256"),
            ("aws:a=b", "AWS"),
            ("a=%3C", "letters"),
            ("a=%FF", "UTF-8"),
            ("a=1&%61=2", "another one"),
            (&eleven.join("&"), "ten"),
        ] {
            let refused = Tags::parse(text).unwrap_err();
            assert!(refused.contains(told), "{text}: {refused}");
        }
    }

    #[test]
    fn archives_are_told_by_the_names_of_all_providers() {
        for (class, is_archive) in [
            (Some("GLACIER"), true),
            (Some("DEEP_ARCHIVE"), true),
            (Some("ColdArchive"), true),
            (Some("GLACIER_IR"), false),
            (Some("ARCHIVE_FR"), false),
            (Some("INTELLIGENT_TIERING"), false),
            (None, false),
        ] {
            let storage = Storage { class: class.map(str::to_owned), ..Storage::default() };
            assert_eq!(storage.is_archive(), is_archive, "{class:?}");
        }
    }
}
