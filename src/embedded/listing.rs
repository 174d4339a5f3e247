//! One page of a listing, as arithmetic on sorted keys: prefix, delimiter, where to begin, how many.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    pub prefix: &'a str,
    /// Empty: nothing is folded.
    pub delimiter: &'a str,
    pub start: Start<'a>,
    /// At most so many keys and common prefixes together.
    pub max: usize,
}

/// Where a listing begins.
#[derive(Clone, Copy, Debug, Default)]
pub enum Start<'a> {
    #[default]
    First,
    /// Behind this key; a common prefix may hold it.
    BehindKey(&'a str),
    /// Behind everything that begins with this.
    BehindPrefix(&'a str),
}

/// An entry of a page.
#[derive(Debug, PartialEq)]
pub enum Entry<'a, T> {
    Item(&'a str, &'a T),
    CommonPrefix(&'a str),
}

#[derive(Debug)]
pub struct Page<'a, T> {
    pub entries: Vec<Entry<'a, T>>,
    pub truncated: bool,
}

/// One page of `map`.
pub fn page<'a, T>(map: &'a BTreeMap<String, T>, query: &Query<'_>) -> Page<'a, T> {
    let mut entries: Vec<Entry<'a, T>> = Vec::new();
    let mut from = first(query);
    loop {
        let Some(start) = from.take() else {
            return Page { entries, truncated: false };
        };
        for (key, item) in map.range::<String, _>((start, Bound::Unbounded)) {
            let Some(behind) = key.strip_prefix(query.prefix) else {
                return Page { entries, truncated: false };
            };
            if entries.len() == query.max {
                return Page { entries, truncated: true };
            }
            let folded =
                if query.delimiter.is_empty() { None } else { behind.find(query.delimiter) };
            if let Some(at) = folded {
                let common = &key[..query.prefix.len() + at + query.delimiter.len()];
                entries.push(Entry::CommonPrefix(common));
                // One step over all keys that it holds, however many.
                from = successor(common).map(Bound::Included);
                break;
            }
            entries.push(Entry::Item(key, item));
        }
        if from.is_none() {
            return Page { entries, truncated: false };
        }
    }
}

/// The first key to look at; `None` where there can be none.
fn first(query: &Query<'_>) -> Option<Bound<String>> {
    let start = match query.start {
        Start::First => Bound::Included(query.prefix.to_owned()),
        Start::BehindKey(key) => Bound::Excluded(key.to_owned()),
        Start::BehindPrefix(prefix) => Bound::Included(successor(prefix)?),
    };
    Some(match start {
        Bound::Included(key) | Bound::Excluded(key) if key.as_str() < query.prefix => {
            Bound::Included(query.prefix.to_owned())
        }
        start => start,
    })
}

/// The least string that is greater than every string that begins with `prefix`; `None` where there is
/// none.
fn successor(prefix: &str) -> Option<String> {
    let mut prefix = prefix.to_owned();
    while let Some(last) = prefix.pop() {
        // Char ranges step over the surrogates, which no string holds.
        if let Some(next) = (last..=char::MAX).nth(1) {
            prefix.push(next);
            return Some(prefix);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names<'a>(page: &Page<'a, ()>) -> Vec<&'a str> {
        page.entries
            .iter()
            .map(|entry| match entry {
                Entry::Item(key, ()) => *key,
                Entry::CommonPrefix(prefix) => *prefix,
            })
            .collect()
    }

    fn map(keys: &[&str]) -> BTreeMap<String, ()> {
        keys.iter().map(|key| ((*key).to_owned(), ())).collect()
    }

    #[test]
    fn prefixes_fold_and_markers_are_listed() {
        let map = map(&["a", "d/", "d/x", "p", "p/q", "p/r//s"]);
        let query = Query { delimiter: "/", max: 1000, ..Query::default() };
        assert_eq!(names(&page(&map, &query)), ["a", "d/", "p", "p/"]);
        let query = Query { prefix: "d/", ..query };
        assert_eq!(names(&page(&map, &query)), ["d/", "d/x"]);
        let query = Query { prefix: "p/r/", ..query };
        assert_eq!(names(&page(&map, &query)), ["p/r//"]);
    }

    #[test]
    fn a_start_inside_a_common_prefix_still_shows_it() {
        let map = map(&["d/a", "d/b", "e"]);
        let query =
            Query { delimiter: "/", max: 9, start: Start::BehindKey("d/a"), ..Query::default() };
        assert_eq!(names(&page(&map, &query)), ["d/", "e"]);
        let query = Query { start: Start::BehindPrefix("d/"), ..query };
        assert_eq!(names(&page(&map, &query)), ["e"]);
    }

    #[test]
    fn the_successor_skips_what_no_string_holds() {
        assert_eq!(successor("a/").as_deref(), Some("a0"));
        assert_eq!(successor("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(successor("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(successor("\u{10ffff}"), None);
    }

    proptest! {
        #[test]
        fn pages_of_any_size_add_up_to_the_whole(
            keys in proptest::collection::btree_set("[ab/]{0,5}", 0..40),
            prefix in "[ab/]{0,2}",
            folds: bool,
            max in 1usize..5,
        ) {
            let map: BTreeMap<String, ()> = keys.into_iter().map(|key| (key, ())).collect();
            let delimiter = if folds { "/" } else { "" };
            let whole = Query { prefix: &prefix, delimiter, start: Start::First, max: usize::MAX };
            let expected = page(&map, &whole);
            let mut found = Vec::new();
            let mut query = Query { max, ..whole };
            loop {
                let next = page(&map, &query);
                found.extend(names(&next));
                prop_assert!(next.entries.len() <= max);
                if !next.truncated {
                    break;
                }
                query.start = match next.entries.last() {
                    Some(Entry::Item(key, ())) => Start::BehindKey(key),
                    Some(Entry::CommonPrefix(prefix)) => Start::BehindPrefix(prefix),
                    None => Start::First,
                };
            }
            prop_assert_eq!(found, names(&expected));
        }
    }
}
