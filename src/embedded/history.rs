//! What a bucket has under its keys, also what it had there before: versions and delete markers, of a bucket that keeps
//! them. A bucket that keeps none has one version of each object, which is called `null`.

use std::collections::BTreeMap;
use std::iter::{self, Peekable};
use std::ops::Bound;
use std::sync::Arc;

use super::records::{Marker, Object};

/// Something that stands, or stood, under a key.
#[derive(Clone, Debug)]
pub enum Version {
    Object(Arc<Object>),
    /// Since then there is no object, until there is one again.
    Marker(Marker),
}

impl Version {
    /// `None` is the version `null`.
    pub fn id(&self) -> Option<&str> {
        match self {
            Version::Object(object) => object.version.as_deref(),
            Version::Marker(marker) => marker.version.as_deref(),
        }
    }

    pub fn object(&self) -> Option<&Arc<Object>> {
        match self {
            Version::Object(object) => Some(object),
            Version::Marker(_) => None,
        }
    }
}

/// Invariants: of one key no two versions have the same id; the newest of them is either an object, and then in
/// `current`, or a marker; no list is empty.
#[derive(Default)]
pub struct Objects {
    /// What is found where no version is named. In the order of the keys: bytewise, as UTF-8 sorts.
    pub current: BTreeMap<String, Arc<Object>>,
    /// What is behind the current object, or hides that there is none: the oldest first.
    past: BTreeMap<String, Vec<Version>>,
}

impl Objects {
    /// Puts an object. What it takes the place of is kept, unless that has the same version; then it is returned.
    pub fn put(&mut self, key: String, object: Arc<Object>) -> Option<Arc<Object>> {
        let gone = self.take(&key, object.version.as_deref());
        if let Some(before) = self.current.insert(key.clone(), object) {
            self.past.entry(key).or_default().push(Version::Object(before));
        }
        gone.and_then(|gone| gone.object().cloned())
    }

    /// Deletes what is there, or hides it behind a marker. Returns the object that is gone for good, if one is.
    pub fn delete(&mut self, key: &str, marker: Option<Marker>) -> Option<Arc<Object>> {
        let Some(marker) = marker else { return self.current.remove(key) };
        let gone = self.take(key, marker.version.as_deref());
        let before = self.current.remove(key).map(Version::Object);
        let past = self.past.entry(key.to_owned()).or_default();
        past.extend(before.into_iter().chain([Version::Marker(marker)]));
        gone.and_then(|gone| gone.object().cloned())
    }

    /// Deletes one version for good, and returns it. The newest of those that are left is current then.
    pub fn delete_version(&mut self, key: &str, id: Option<&str>) -> Option<Version> {
        let gone = self.take(key, id)?;
        if !self.current.contains_key(key)
            && let Some(past) = self.past.get_mut(key)
            && let Some(object) = past.last().and_then(Version::object).cloned()
        {
            past.pop();
            self.current.insert(key.to_owned(), object);
        }
        self.forget_if_empty(key);
        Some(gone)
    }

    /// Takes a version out of its place, which stays empty.
    fn take(&mut self, key: &str, id: Option<&str>) -> Option<Version> {
        if self.current.get(key).is_some_and(|object| object.version.as_deref() == id) {
            return self.current.remove(key).map(Version::Object);
        }
        let past = self.past.get_mut(key)?;
        let at = past.iter().position(|version| version.id() == id)?;
        let gone = past.remove(at);
        self.forget_if_empty(key);
        Some(gone)
    }

    fn forget_if_empty(&mut self, key: &str) {
        if self.past.get(key).is_some_and(Vec::is_empty) {
            self.past.remove(key);
        }
    }

    /// All of a key, the newest first.
    pub fn versions(&self, key: &str) -> impl Iterator<Item = Version> {
        let current = self.current.get(key).cloned().map(Version::Object);
        let past = self.past.get(key).into_iter().flatten().rev().cloned();
        current.into_iter().chain(past)
    }

    pub fn version(&self, key: &str, id: Option<&str>) -> Option<Version> {
        self.versions(key).find(|version| version.id() == id)
    }

    /// The keys with a version, in order.
    pub fn keys<'a>(&'a self, from: Bound<&'a str>) -> impl Iterator<Item = &'a str> {
        let current = self.current.range::<str, _>((from, Bound::Unbounded));
        let past = self.past.range::<str, _>((from, Bound::Unbounded));
        let current = current.map(|(key, _)| key.as_str()).peekable();
        merged(current, past.map(|(key, _)| key.as_str()).peekable())
    }

    pub fn is_empty(&self) -> bool {
        self.current.is_empty() && self.past.is_empty()
    }

    /// All objects, in whichever version.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        let past = self.past.values().flatten().filter_map(Version::object);
        self.current.values().chain(past)
    }

    /// All that is in it, key after key, the oldest first: made anew in this order, it is the same.
    pub fn in_order(&self) -> impl Iterator<Item = (&str, Version)> {
        self.keys(Bound::Unbounded).flat_map(|key| {
            let mut versions: Vec<_> = self.versions(key).map(|version| (key, version)).collect();
            versions.reverse();
            versions
        })
    }
}

/// Two sorted rows as one, what is in both once.
fn merged<'a, I: Iterator<Item = &'a str>, J: Iterator<Item = &'a str>>(
    mut one: Peekable<I>,
    mut other: Peekable<J>,
) -> impl Iterator<Item = &'a str> {
    iter::from_fn(move || {
        let next = match (one.peek(), other.peek()) {
            (Some(one), Some(other)) => (*one).min(*other),
            (one, other) => one.or(other)?,
        };
        one.next_if_eq(&next);
        other.next_if_eq(&next);
        Some(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::records::Attributes;

    fn object(version: Option<&str>, etag: &str) -> Arc<Object> {
        Arc::new(Object {
            etag: etag.to_owned(),
            len: 0,
            modified: 0,
            pieces: Vec::new(),
            attributes: Attributes::default(),
            crc: None,
            version: version.map(str::to_owned),
        })
    }

    fn marker(version: Option<&str>) -> Marker {
        Marker { version: version.map(str::to_owned), modified: 0 }
    }

    /// The ids, the newest first; a marker's in brackets.
    fn ids(objects: &Objects, key: &str) -> Vec<String> {
        let shown = |version: Version| {
            let id = version.id().unwrap_or("null").to_owned();
            if version.object().is_some() { id } else { format!("({id})") }
        };
        objects.versions(key).map(shown).collect()
    }

    #[test]
    fn what_a_version_hides_comes_back_when_that_is_deleted() {
        let mut objects = Objects::default();
        assert!(objects.put("k".into(), object(None, "0")).is_none());
        assert!(objects.put("k".into(), object(Some("a"), "1")).is_none());
        assert!(objects.delete("k", Some(marker(Some("b")))).is_none());
        assert!(!objects.current.contains_key("k"));
        assert_eq!(ids(&objects, "k"), ["(b)", "a", "null"]);
        assert!(objects.delete_version("k", Some("b")).unwrap().object().is_none());
        assert_eq!(objects.current["k"].etag, "1");
        assert_eq!(objects.delete_version("k", Some("a")).unwrap().object().unwrap().etag, "1");
        assert_eq!(objects.current["k"].etag, "0");
        assert!(objects.delete_version("k", Some("a")).is_none());
        assert!(objects.delete_version("k", None).is_some());
        assert!(objects.is_empty());
    }

    #[test]
    fn there_is_one_version_of_each_id() {
        let mut objects = Objects::default();
        objects.put("k".into(), object(None, "0"));
        assert_eq!(objects.put("k".into(), object(None, "1")).unwrap().etag, "0");
        objects.put("k".into(), object(Some("a"), "2"));
        // As of a bucket that keeps versions no more.
        assert_eq!(objects.delete("k", Some(marker(None))).unwrap().etag, "1");
        assert_eq!(ids(&objects, "k"), ["(null)", "a"]);
        assert!(objects.put("k".into(), object(None, "3")).is_none());
        assert_eq!(ids(&objects, "k"), ["null", "a"]);
    }

    #[test]
    fn keys_that_have_only_a_past_are_keys_too() {
        let mut objects = Objects::default();
        for key in ["b", "a", "c"] {
            objects.put(key.into(), object(Some("1"), key));
        }
        objects.delete("b", Some(marker(Some("2"))));
        objects.put("a".into(), object(Some("2"), "a2"));
        let keys: Vec<&str> = objects.keys(Bound::Unbounded).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        assert_eq!(objects.keys(Bound::Excluded("a")).count(), 2);
        let order: Vec<String> = objects
            .in_order()
            .map(|(key, version)| format!("{key}{}", version.id().unwrap()))
            .collect();
        assert_eq!(order, ["a1", "a2", "b1", "b2", "c1"]);
        assert_eq!(objects.all().count(), 4);
    }
}
