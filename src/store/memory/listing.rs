//! The pages of ListObjectsV2.

use std::collections::BTreeMap;

use super::bucket::Bucket;
use crate::store::retry::settle::hex;
use crate::store::{Key, ListPage, ListRequest, ListedObject};

/// How a store lists.
pub(super) struct Order {
    /// Entries of a page, at most.
    pub page: usize,
    /// A prefix comes at the place of its bare name, as on some servers: `d` before `d-1`, although `d/` sorts behind it.
    pub misordered: bool,
}

/// Like on AWS, the token stands for the last key or prefix that was answered.
fn token_of(request: &ListRequest) -> Option<Vec<u8>> {
    let digits = request.continuation.as_ref()?.token().as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect()
}

pub(super) fn page(bucket: &Bucket, order: &Order, request: &ListRequest) -> ListPage {
    let limit = request.max_keys.map_or(order.page, |max| order.page.min(max as usize));
    let token = token_of(request);
    let found = entries(bucket, order, request, token.as_deref(), limit);
    let mut left = found.into_iter().filter(|(key, _)| token.as_ref().is_none_or(|t| key > t));
    let mut page = ListPage::default();
    for (key, object) in left.by_ref().take(limit) {
        page.continuation = Some(hex(&key).into());
        match object {
            Some(object) => page.objects.push(object),
            None if key.ends_with(b"/") => page.common_prefixes.push(Key::new(key)),
            None => page.common_prefixes.push(Key::new([key.as_slice(), b"/"].concat())),
        }
    }
    if left.next().is_none() {
        page.continuation = None;
    }
    page
}

/// At least one entry more than the page has, where there is one, by the key that it is listed at; a common prefix is
/// `None`.
fn entries(
    bucket: &Bucket,
    order: &Order,
    request: &ListRequest,
    token: Option<&[u8]>,
    limit: usize,
) -> BTreeMap<Vec<u8>, Option<ListedObject>> {
    let prefix = request.prefix.as_bytes();
    let start = request.start_after.as_ref().map_or(&b""[..], Key::as_bytes).max(prefix);
    // A misordered store's tokens are not in the order of keys.
    let resumed = token.filter(|_| !order.misordered).unwrap_or(start).max(start);
    let is_skipped =
        |key: &[u8]| request.start_after.as_ref().is_some_and(|start| key <= start.as_bytes());
    let folded = |key: &[u8]| {
        let rest = key.strip_prefix(prefix)?;
        let slash = rest.iter().position(|byte| *byte == b'/').filter(|_| request.by_directory)?;
        Some(key[..prefix.len() + slash + usize::from(!order.misordered)].to_vec())
    };
    let mut found: BTreeMap<Vec<u8>, Option<ListedObject>> = BTreeMap::new();
    for (key, object) in bucket.objects.range(resumed.to_vec()..) {
        if !key.starts_with(prefix) {
            break;
        }
        if is_skipped(key) {
            continue;
        }
        match folded(key) {
            Some(folder) => found.insert(folder, None),
            None => found.insert(key.clone(), Some(object.listed(key))),
        };
        // One more than a page tells whether it is the last, and one may be what the token names.
        if found.len() > limit + 1 && !order.misordered {
            break;
        }
    }
    let folders = bucket.folders.range(resumed.to_vec()..);
    let folders = folders.take_while(|key| key.starts_with(prefix)).filter(|key| !is_skipped(key));
    found.extend(folders.filter_map(|key| Some((folded(key)?, None))));
    found
}
