//! A bucket as it was at a time, read-only: [`VersionView`], laid over all other wrappers, so that each of the requests that an
//! answer takes is limited, repeated and counted by itself.
//!
//! Of each key it shows the version that was the newest at that time; where that is a delete marker, or there was none yet,
//! there is no object. Listings are made of ListObjectVersions; a common prefix is shown if anything below it was there.
//! Bytes are asked for by version and ETag both ([`Store::pin`]), and are remembered by key and ETag as ever: what is the same
//! in the bucket of today is fetched once.
//!
//! Consistency: versions do not change, so what was seen once stays so. One that was deleted for good is not there. An
//! upload in parts has the time at which it was begun, on most stores: it shows from then on.
//! Retries: the store's. Cancellation: nothing is left behind. Crash: nothing is kept.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::layer::{Call, Layer};
use super::recent::{Recent, name_of};
use super::version::{
    ListedVersion, VersionId, VersionMarkers, VersionObject, VersionsPage, VersionsRequest,
    newest_first,
};
use super::{
    Body, ETag, ErrorKind, Key, ListPage, ListRequest, ListedObject, ObjectHead, Result,
    SharedStore, Store, StoreError,
};
use crate::lock::rank;
use crate::range::ByteRange;

/// Entries of the first page that is asked for where one version is looked for: most keys have fewer.
const FEW: u32 = 50;
/// Directories that are looked into at once, to see whether they were there.
const LOOKS_AT_ONCE: usize = 16;
/// Pages in a row of nothing but what was not there: ten million versions.
const IDLE_PAGES_MAX: u32 = 10_000;

pub struct VersionView {
    store: SharedStore,
    at: SystemTime,
    /// Versions that were found, by key.
    chosen: Recent<Chosen, rank::ChosenVersions>,
}

#[derive(Clone)]
struct Chosen {
    version: VersionId,
    etag: ETag,
}

impl VersionView {
    pub fn new(store: SharedStore, at: SystemTime) -> VersionView {
        VersionView { store, at, chosen: Recent::default() }
    }

    /// The version of this key that stood.
    async fn chosen(&self, key: &Key, operation: &'static str) -> Result<Chosen> {
        let name = name_of(&[key.as_bytes()]);
        if let Some(chosen) = self.chosen.get(&name) {
            return Ok(chosen);
        }
        let mut request =
            VersionsRequest { prefix: key.clone(), max_keys: Some(FEW), ..Default::default() };
        loop {
            let page = self.store.list_versions(&request).await?;
            let of_key = page.versions.iter().filter(|version| version.key == *key);
            if let Some(stood) = standing(of_key, self.at) {
                let Some(object) = &stood.object else { return Err(absent(operation, key)) };
                return Ok(self.choose(stood, object));
            }
            // The key itself comes before all that begins with it.
            let Some(next) = page.next.filter(|next| next.key == *key) else {
                return Err(absent(operation, key));
            };
            (request.markers, request.max_keys) = (Some(next), None);
        }
    }

    fn choose(&self, stood: &ListedVersion, object: &VersionObject) -> Chosen {
        let chosen = Chosen { version: stood.id.clone(), etag: object.etag.clone() };
        self.chosen.note(name_of(&[stood.key.as_bytes()]), chosen.clone());
        chosen
    }

    /// The objects of a page that were there, and where the next page begins.
    fn objects_of(
        &self,
        page: &VersionsPage,
        from: Option<&VersionMarkers>,
    ) -> (Vec<ListedObject>, Option<VersionMarkers>) {
        let mut by_key: BTreeMap<&Key, Vec<&ListedVersion>> = BTreeMap::new();
        for version in page.versions.iter().filter(|version| is_behind(&version.key, from)) {
            by_key.entry(&version.key).or_default().push(version);
        }
        let (mut objects, mut next) = (Vec::new(), page.next.clone());
        for (key, versions) in by_key {
            let Some(stood) = standing(versions, self.at) else { continue };
            if let Some(object) = &stood.object {
                self.choose(stood, object);
                objects.push(listed(stood, object));
            }
            // It is known what it was, so that its older versions need not be looked at.
            if let Some(next) = next.as_mut().filter(|next| next.key == *key) {
                next.version = None;
            }
        }
        (objects, next)
    }

    /// The directories of a page that were there.
    async fn directories_of(
        &self,
        page: VersionsPage,
        from: Option<&VersionMarkers>,
    ) -> Result<Vec<Key>> {
        let prefixes = page.common_prefixes.into_iter().filter(|prefix| is_behind(prefix, from));
        let looks = prefixes.map(|prefix| async move {
            let any = self.any_below(&prefix).await?;
            Ok::<_, StoreError>(any.then_some(prefix))
        });
        let looks: Vec<_> = looks.collect();
        let there: Vec<Option<Key>> =
            stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(there.into_iter().flatten().collect())
    }

    /// Whether any object was there below a prefix.
    async fn any_below(&self, prefix: &Key) -> Result<bool> {
        let mut request =
            VersionsRequest { prefix: prefix.clone(), max_keys: Some(FEW), ..Default::default() };
        for _ in 0..IDLE_PAGES_MAX {
            let page = self.store.list_versions(&request).await?;
            let (objects, next) = self.objects_of(&page, request.markers.as_ref());
            if !objects.is_empty() || next.is_none() {
                return Ok(!objects.is_empty());
            }
            (request.markers, request.max_keys) = (next, None);
        }
        Err(stuck())
    }
}

/// Whether a key is of this page, and not of one before: not all stores know a marker without a version.
fn is_behind(key: &Key, from: Option<&VersionMarkers>) -> bool {
    from.is_none_or(|from| *key > from.key || (*key == from.key && from.version.is_some()))
}

/// The newest of the versions of one key that are not younger than `at`.
fn standing<'a>(
    versions: impl IntoIterator<Item = &'a ListedVersion>,
    at: SystemTime,
) -> Option<&'a ListedVersion> {
    let mut versions: Vec<_> =
        versions.into_iter().filter(|version| version.last_modified <= at).collect();
    newest_first(&mut versions);
    versions.first().copied()
}

fn listed(version: &ListedVersion, object: &VersionObject) -> ListedObject {
    ListedObject {
        key: version.key.clone(),
        etag: object.etag.clone(),
        len: object.len,
        last_modified: version.last_modified,
        storage_class: object.storage_class.clone(),
    }
}

fn absent(operation: &'static str, key: &Key) -> StoreError {
    StoreError::new(ErrorKind::NotFound, operation, format!("there was no object {key} then"))
}

fn stuck() -> StoreError {
    let message = "the listing goes on but shows nothing that was there";
    StoreError::new(ErrorKind::Corrupt, "ListObjectVersions", message)
}

/// The markers as a continuation has them: `KEY`, or `KEY&VERSION`, percent-encoded.
fn token(markers: &VersionMarkers) -> String {
    let key = percent_encode(markers.key.as_bytes(), NON_ALPHANUMERIC);
    let Some(version) = &markers.version else { return key.to_string() };
    format!("{key}&{}", percent_encode(version.as_str().as_bytes(), NON_ALPHANUMERIC))
}

fn of_token(token: &str) -> VersionMarkers {
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (key, version) = match token.split_once('&') {
        Some((key, version)) => (key, Some(version)),
        None => (token, None),
    };
    let version =
        version.map(|version| VersionId::new(&String::from_utf8_lossy(&decoded(version))));
    VersionMarkers { key: Key::new(decoded(key)), version }
}

/// At most so many entries of a page. What is left out is behind the markers that are returned.
fn cut(page: &mut ListPage, max: usize) -> Option<VersionMarkers> {
    if page.objects.len() + page.common_prefixes.len() <= max {
        return None;
    }
    let mut keys: Vec<Key> = page.keys().cloned().collect();
    keys.sort();
    let last = keys.get(max.checked_sub(1)?)?.clone();
    page.objects.retain(|object| object.key <= last);
    page.common_prefixes.retain(|prefix| *prefix <= last);
    Some(VersionMarkers { key: last, version: None })
}

impl Layer for VersionView {
    type Below = dyn Store;

    fn below(&self) -> &dyn Store {
        &*self.store
    }

    async fn pass<T, F>(&self, call: Call<'_>, send: impl Fn() -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        match call {
            Call::Get { .. }
            | Call::Head { .. }
            | Call::Attributes { .. }
            | Call::List { .. }
            | Call::ListVersions { .. } => send().await,
            _ => {
                let message = "the bucket is shown as it was: nothing of that changes";
                Err(StoreError::new(ErrorKind::Denied, call.name(), message))
            }
        }
    }

    async fn pass_get(&self, key: &Key, range: ByteRange, if_match: &ETag) -> Result<Body> {
        let chosen = self.chosen(key, "GetObject").await?;
        if chosen.etag != *if_match {
            let message = format!("it was another version: {} for {if_match}", chosen.etag);
            return Err(StoreError::new(ErrorKind::PreconditionFailed, "GetObject", message));
        }
        self.store.pin(key, if_match, &chosen.version);
        self.store.get(key, range, if_match).await
    }

    async fn pass_head(&self, key: &Key) -> Result<ObjectHead> {
        let chosen = self.chosen(key, "HeadObject").await?;
        self.store.pin(key, &chosen.etag, &chosen.version);
        self.store.head_version(key, &chosen.version).await
    }

    async fn pass_list(&self, request: &ListRequest) -> Result<ListPage> {
        let behind = |key: &Key| VersionMarkers { key: key.clone(), version: None };
        let mut from = match (&request.continuation, &request.start_after) {
            (Some(continuation), _) => Some(of_token(continuation.token())),
            (None, after) => after.as_ref().map(behind),
        };
        // Few entries are asked for to see whether there are any.
        let mut max_keys = request.max_keys.map(|_| FEW);
        for _ in 0..IDLE_PAGES_MAX {
            let asked = VersionsRequest {
                prefix: request.prefix.clone(),
                by_directory: request.by_directory,
                markers: from.clone(),
                max_keys: max_keys.take(),
            };
            let page = self.store.list_versions(&asked).await?;
            let (objects, next) = self.objects_of(&page, from.as_ref());
            let common_prefixes = self.directories_of(page, from.as_ref()).await?;
            let mut seen = ListPage { objects, common_prefixes, continuation: None };
            let max = request.max_keys.map_or(usize::MAX, |max| max as usize);
            let next = cut(&mut seen, max).or(next);
            if seen.keys().next().is_some() || next.is_none() {
                seen.continuation = next.map(|next| token(&next).into());
                return Ok(seen);
            }
            from = next;
        }
        Err(stuck())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// An object, or a marker, of that second.
    fn version(key: &str, id: &str, seconds: u64, is_object: bool) -> ListedVersion {
        let object = VersionObject { etag: ETag::new(id), len: 1, storage_class: None };
        ListedVersion {
            key: Key::from(key),
            id: VersionId::new(id),
            is_latest: false,
            last_modified: at(seconds),
            object: is_object.then_some(object),
        }
    }

    #[test]
    fn what_stood_is_the_newest_that_was_there_already() {
        let mut versions = [
            // As some stores tell them, markers apart.
            version("k", "deleted", 40, false),
            version("k", "new", 50, true),
            version("k", "second", 30, true),
            version("k", "first", 30, true),
            version("k", "oldest", 10, true),
        ];
        versions[1].is_latest = true;
        let stood = |seconds| {
            standing(&versions, at(seconds)).map(|version| version.id.as_str().to_owned())
        };
        for (seconds, id) in [
            (9, None),
            (10, Some("oldest")),
            (29, Some("oldest")),
            (30, Some("second")),
            (40, Some("deleted")),
            (50, Some("new")),
            (99, Some("new")),
        ] {
            assert_eq!(stood(seconds).as_deref(), id, "{seconds}");
        }
    }

    #[test]
    fn markers_come_back_from_their_token() {
        for (key, version) in [("a&b/ü%", Some("v&1")), ("k", None), ("", Some("null"))] {
            let markers =
                VersionMarkers { key: Key::from(key), version: version.map(VersionId::new) };
            assert_eq!(of_token(&token(&markers)), markers);
        }
    }
}
