//! A caller that looks into one directory after the other (`du`, `find`, `rsync`, `cp -r` of a tree) is looked ahead of, too:
//! the first pages of the directories that come next are asked for side by side, and where it looks at the files
//! in them, the HEADs of the first of those. A page has the directory's own marker, so that its attributes
//! take no HEAD where there is none, or one of a version that is remembered.
//!
//! It begins with the second directory in order that a caller looks into, and ends when directories are only
//! looked at ([`UNENTERED_MAX`]).

use std::sync::Arc;

use super::files::Prefetch;
use super::walk::{Course, Descent, IDLE, LEFT, Run, WINDOW_FIRST};
use crate::blocking;
use crate::clock::Instant;
use crate::namespace::numbers::NumberOrder;
use crate::namespace::segment::{Listed, Marker, Placed};
use crate::namespace::{name, page};
use crate::store::{Key, ListedObject, Result, looking};
use crate::without::Heuristic;

/// Directories that a caller passes without a look inside before it is followed no more.
const UNENTERED_MAX: u32 = 3;

impl Prefetch {
    /// A caller looks into the directory with this prefix, which is in the directory of number `parent`.
    pub fn entered(self: &Arc<Self>, parent: u64, prefix: &Key) {
        let Some((dir, _)) = name::split(prefix) else { return };
        // A page that is never believed is of no use.
        if self.listings.ttl().is_zero() || !Heuristic::Prefetch.is_on() {
            return;
        }
        let position = &prefix.as_bytes()[dir.as_bytes().len()..];
        let now = self.listings.clock().now();
        let mut descents = self.descents.lock();
        let descent = descents.get_or_insert_mut(dir.clone(), || Descent::new(now));
        descent.unentered = 0;
        let files = descent.files;
        if let Some(run) = descent.walk.reach(position, now) {
            return self.fill_pages(&dir, run, now, files);
        }
        let window_max = self.window_max();
        let (run, ordered) = descent.walk.stray(parent, position, now, window_max, false);
        self.fill_pages(&dir, run, now, files);
        drop(descents);
        if ordered {
            self.put_directories_in_order(parent, dir, position.to_vec());
        }
    }

    /// A caller looks at the directory with this prefix; whether it is expected to look into it next.
    pub(super) fn passes(self: &Arc<Self>, prefix: &Key) -> bool {
        let Some((dir, _)) = name::split(prefix) else { return false };
        let position = &prefix.as_bytes()[dir.as_bytes().len()..];
        let now = self.listings.clock().now();
        let mut descents = self.descents.lock();
        let Some(descent) = descents.get_mut(&dir) else { return false };
        let files = descent.files;
        let Some(run) = descent.walk.reach(position, now) else { return false };
        descent.unentered += 1;
        if descent.unentered > UNENTERED_MAX {
            descent.walk.end();
            return false;
        }
        // Looks from outside alone lead nowhere.
        if !run.leads() {
            return false;
        }
        self.fill_pages(&dir, run, now, files);
        true
    }

    /// Whether the directory is one of those whose pages are asked for prefetch.
    pub(super) fn is_entered_next(&self, prefix: &Key) -> bool {
        let Some((dir, _)) = name::split(prefix) else { return false };
        self.descents.lock().peek(&dir).is_some_and(|descent| descent.walk.leads())
    }

    /// A caller looks at this file, of which nothing is known.
    pub(super) fn looked_inside(&self, key: &Key) {
        if let Some((dir, _)) = name::split(key)
            && let Some((parent, _)) = name::split(&dir)
            && let Some(descent) = self.descents.lock().peek_mut(&parent)
        {
            descent.files = true;
        }
    }

    pub(super) fn forget_descents(&self, now: Instant) {
        let mut descents = self.descents.lock();
        while descents.peek_lru().is_some_and(|(_, descent)| descent.walk.is_idle(now, LEFT)) {
            descents.pop_lru();
        }
    }

    /// The first page of a directory, asked for once for all callers that want it.
    pub(super) async fn page(&self, prefix: &Key) -> Result<()> {
        let (store, listings, dir) = (self.store.clone(), self.listings.clone(), prefix.clone());
        let request = async move { page::keep_page(&store, &listings, &dir, &[]).await };
        self.pages.join(prefix, self.listings.begin(), request).1.await
    }

    fn put_directories_in_order(self: &Arc<Self>, parent: u64, dir: Key, position: Vec<u8>) {
        let prefetch = self.clone();
        blocking::run(move || {
            let order = NumberOrder::new(parent, prefetch.listings.held(&dir));
            let course = Course::by_number(order, &position);
            let now = prefetch.listings.clock().now();
            if let Some(descent) = prefetch.descents.lock().peek_mut(&dir) {
                descent.walk.add(Run::new(course, &position, now, prefetch.window_max(), true));
            }
        });
    }

    fn fill_pages(self: &Arc<Self>, dir: &Key, run: &mut Run, now: Instant, files: bool) {
        let wanted = run.wanted(now, self.listings.ttl());
        if wanted == 0 {
            return;
        }
        let is_known = |placed: &Placed, _| matches!(placed.listed, Listed::File(_));
        let (entries, looks) = run.more(&self.listings, dir, wanted, is_known);
        for placed in entries.into_iter().filter(|_| looks) {
            self.start_page(run, dir.join(&placed.position), files);
        }
    }

    fn start_page(self: &Arc<Self>, run: &mut Run, prefix: Key, files: bool) {
        let (prefetch, touched) = (self.clone(), run.touched.clone());
        run.heads.spawn(looking(async move {
            let Ok(permit) = prefetch.permits.acquire().await else { return };
            if prefetch.listings.clock().now().saturating_duration_since(*touched.lock()) > IDLE {
                return;
            }
            // The error is for the caller that asks for it itself.
            if !prefetch.listings.has_page(&prefix)
                && let Err(error) = prefetch.page(&prefix).await
            {
                return log::debug!("the first page of {prefix} ahead of time: {error}");
            }
            let fresh = prefetch.remembered_directory(&prefix).is_some() || prefetch.options.fast;
            if !fresh && let Err(error) = prefetch.ask_directory(&prefix, Marker::Unknown).await {
                log::debug!("attributes of {prefix} ahead of time: {error}");
            }
            drop(permit);
            if files && !prefetch.options.fast {
                let first = prefetch.listings.following(&prefix, &[], WINDOW_FIRST, false);
                let objects = first.into_iter().filter_map(|placed| match placed.listed {
                    Listed::File(object) => Some(object),
                    Listed::Directory(_) => None,
                });
                futures_util::future::join_all(objects.map(|object| prefetch.glance(object))).await;
            }
        }));
    }

    /// A HEAD of a file, unless its attributes are remembered.
    async fn glance(self: &Arc<Self>, object: ListedObject) {
        let Ok(_permit) = self.permits.acquire().await else { return };
        if !self.attributes.knows(&object)
            && let Err(error) = self.ask(&object).await
        {
            log::debug!("attributes of {} ahead of time: {error}", object.key);
        }
    }
}
