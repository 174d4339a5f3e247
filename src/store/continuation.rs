//! Where a listing goes on: the store's token, and what shows that the pages move on.
//!
//! A store that answers page after page without moving (the same keys again, or no keys and always another
//! token) would hold up its caller for good; [`Continuation::behind`] finds that with what one page tells.

use std::cmp::Ordering;

use super::error::{ErrorKind, Result, StoreError};
use super::key::Key;

/// Pages in a row without an entry. A bucket full of delete markers may have some of them.
const EMPTY_PAGES_MAX: u32 = 1000;

/// From one page of a listing to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continuation {
    token: String,
    /// The last key so far in bytewise order, and in the order of a tree's folders, in which SeaweedFS lists.
    /// A page must go beyond one of them; keys that only repeat go beyond neither.
    last: Key,
    last_in_tree: Key,
    empty_pages: u32,
}

impl From<String> for Continuation {
    /// By a store that is trusted to move on.
    fn from(token: String) -> Continuation {
        Continuation { token, last: Key::default(), last_in_tree: Key::default(), empty_pages: 0 }
    }
}

impl Continuation {
    /// As the store wants it back.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What follows a page with these keys, which came after `before`; `Corrupt` where the listing does not move on.
    pub fn behind<'a>(
        before: Option<&Continuation>,
        token: String,
        keys: impl Iterator<Item = &'a Key> + Clone,
    ) -> Result<Self> {
        let mut next = before.cloned().unwrap_or_else(|| Continuation::from(String::new()));
        if before.is_some_and(|before| before.token == token) {
            return Err(stuck());
        }
        next.token = token;
        let Some(last) = keys.clone().max() else {
            next.empty_pages += 1;
            return if next.empty_pages <= EMPTY_PAGES_MAX { Ok(next) } else { Err(stuck()) };
        };
        next.empty_pages = 0;
        let moved = *last > next.last;
        if moved {
            next.last = last.clone();
        }
        let last = keys.max_by(|a, b| in_tree(a, b)).unwrap_or(last);
        let moved_in_tree = in_tree(last, &next.last_in_tree).is_gt();
        if moved_in_tree {
            next.last_in_tree = last.clone();
        }
        if moved || moved_in_tree { Ok(next) } else { Err(stuck()) }
    }
}

/// Everything in a folder comes before the folder's next sibling: `/` is the least of all bytes.
fn in_tree(a: &Key, b: &Key) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    a.as_bytes().iter().map(rank).cmp(b.as_bytes().iter().map(rank))
}

fn stuck() -> StoreError {
    let message = "the listing goes on but does not move on";
    StoreError::new(ErrorKind::Corrupt, "ListObjectsV2", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ListPage;

    fn page(prefixes: &[&str]) -> ListPage {
        let common_prefixes = prefixes.iter().map(|key| Key::from(*key)).collect();
        ListPage { common_prefixes, ..ListPage::default() }
    }

    /// How many of these pages are taken, each under a token of its own.
    fn taken<'a>(pages: impl IntoIterator<Item = &'a [&'a str]>) -> usize {
        let mut before: Option<Continuation> = None;
        for (at, keys) in pages.into_iter().enumerate() {
            match Continuation::behind(before.as_ref(), format!("t{at}"), page(keys).keys()) {
                Ok(next) => before = Some(next),
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Corrupt);
                    return at;
                }
            }
        }
        usize::MAX
    }

    #[test]
    fn pages_move_on_in_either_order() {
        let bytewise: [&[&str]; 3] = [&["a", "a-b"], &[], &["a/x", "b"]];
        assert_eq!(taken(bytewise), usize::MAX);
        let tree: [&[&str]; 3] = [&["a/x", "a/y"], &["a-b"], &["a0"]];
        assert_eq!(taken(tree), usize::MAX);
    }

    #[test]
    fn pages_that_repeat_or_stay_empty_are_an_error() {
        assert_eq!(taken([["a", "b"].as_slice(); 9]), 1);
        // Each goes beyond the one before in one of the two orders.
        let both: [&[&str]; 2] = [&["a-b"], &["a/x"]];
        assert_eq!(taken(both.into_iter().cycle().take(9)), 2);
        let empty: &[&str] = &[];
        assert_eq!(taken(std::iter::repeat_n(empty, 9999)), EMPTY_PAGES_MAX as usize);
        let same = Continuation::from("t".to_owned());
        assert!(Continuation::behind(Some(&same), "t".to_owned(), page(&["a"]).keys()).is_err());
    }
}
