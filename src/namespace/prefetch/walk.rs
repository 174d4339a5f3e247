//! Which callers walk a directory, in which order, and how far ahead it pays to look. No I/O.
//!
//! A [`Run`] is one caller that goes through the entries in an order: that of the listing, or of the inode
//! numbers ([`NumberOrder`]). A question for an entry that no run expects is a stray, and a stray begins a run in
//! the order of the listing. Strays whose numbers rise are taken for a caller in the order of numbers.
//!
//! A stray is looked ahead of at once where that is likely to be right: in a directory of one page, unless it is
//! one of several here and there. Otherwise it is noted what comes next, and asked for if the caller follows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock::Instant;
use crate::lock::{Mutex, rank};
use crate::namespace::listings::Listings;
use crate::namespace::numbers::{NumberOrder, Rising, number_of};
use crate::namespace::segment::Placed;
use crate::store::Key;

/// A caller that asks for nothing in this time follows no more.
pub(super) const IDLE: Duration = Duration::from_secs(2);
/// One that stays away so long is forgotten.
pub(super) const LEFT: Duration = Duration::from_secs(30);
/// How far the first question looks ahead: enough to be worth it, cheap if no caller follows.
pub(super) const WINDOW_FIRST: usize = 16;
/// Callers of a directory that are followed at a time.
const RUNS_MAX: usize = 4;
/// Strays in a row that are looked ahead of.
const STRAYS_MAX: u32 = 2;
/// Strays in the order of their numbers before the listing is put into that order; twice as many each time that
/// no caller followed.
const RISES_FIRST: u32 = 3;
/// A caller in the order of numbers that leaves out so many has left.
const REACH: usize = 64;
/// Places of an order that are looked at in one go for entries that are not known.
const SEARCH_MAX: usize = 1024;

/// The callers of a directory.
pub(super) struct Walk {
    /// Only callers that look into its directories, one after the other, are of interest.
    directories: bool,
    /// The one that was followed last comes first.
    runs: VecDeque<Run>,
    strays: u32,
    rising: Rising,
    rises_needed: u32,
    touched: Instant,
}

impl Walk {
    pub fn new(now: Instant, directories: bool) -> Walk {
        let (runs, rising) = (VecDeque::new(), Rising::default());
        Walk { directories, runs, strays: 0, rising, rises_needed: RISES_FIRST, touched: now }
    }

    /// The run that expects this position, which the caller is at now.
    pub fn reach(&mut self, position: &[u8], now: Instant) -> Option<&mut Run> {
        let at = self.runs.iter_mut().position(|run| run.reach(position))?;
        self.runs.swap(0, at);
        let run = self.runs.front_mut()?;
        *run.touched.lock() = now;
        (self.strays, self.touched) = (0, now);
        if matches!(run.course, Course::Numbers { .. }) {
            self.rises_needed = RISES_FIRST;
        }
        Some(run)
    }

    /// No run expects this position: it begins one. And whether it is time to look at the order of numbers.
    pub fn stray(
        &mut self,
        parent: u64,
        position: &[u8],
        now: Instant,
        window_max: usize,
        is_small: bool,
    ) -> (&mut Run, bool) {
        if self.is_idle(now, IDLE) {
            self.strays = 0;
        }
        self.touched = now;
        self.strays += 1;
        let name = position.strip_suffix(b"/").unwrap_or(position);
        self.rising.note(number_of(parent, name));
        let ordered = self.rising.count > self.rises_needed;
        if ordered {
            self.rises_needed = self.rises_needed.saturating_mul(2);
        }
        let looks = is_small && self.strays <= STRAYS_MAX;
        self.add(Run::new(Course::Listing, position, now, window_max, looks));
        (&mut self.runs[0], ordered)
    }

    pub fn add(&mut self, mut run: Run) {
        run.directories = self.directories;
        self.runs.push_front(run);
        self.runs.truncate(RUNS_MAX);
    }

    /// Whether a caller that asked for several entries in the order of the listing is expected at this position.
    pub fn is_walked(&self, position: &[u8]) -> bool {
        let walks = |run: &Run| !matches!(run.course, Course::Numbers { .. }) && run.is_followed;
        self.runs.iter().any(|run| walks(run) && run.expects(position))
    }

    /// Whether there is a walk to look ahead of.
    pub fn leads(&self) -> bool {
        self.runs.front().is_some_and(Run::leads)
    }

    /// The walk has stopped.
    pub fn end(&mut self) {
        self.runs.clear();
    }

    pub fn is_idle(&self, now: Instant, after: Duration) -> bool {
        now.saturating_duration_since(self.touched) > after
    }
}

/// The callers that look into the directories of a directory.
pub(super) struct Descent {
    pub walk: Walk,
    /// Directories passed since a caller looked into one.
    pub unentered: u32,
    /// The files in them are looked at.
    pub files: bool,
}

impl Descent {
    pub fn new(now: Instant) -> Descent {
        Descent { walk: Walk::new(now, true), unentered: 0, files: false }
    }
}

/// The order that a caller is in.
pub(super) enum Course {
    Listing,
    /// All there is has been asked for.
    Ended,
    /// The place behind those that were asked for.
    Numbers {
        order: NumberOrder,
        next: usize,
    },
}

impl Course {
    /// In the order of numbers, behind this position.
    pub fn by_number(order: NumberOrder, position: &[u8]) -> Course {
        let name = position.strip_suffix(b"/").unwrap_or(position);
        let next = order.place_of(name) + 1;
        Course::Numbers { order, next }
    }
}

/// A caller that walks a directory.
pub(super) struct Run {
    course: Course,
    directories: bool,
    /// The position that was asked for last.
    last: Vec<u8>,
    /// The positions ahead of it, in order.
    upcoming: VecDeque<Vec<u8>>,
    window: usize,
    window_max: usize,
    /// The caller has asked for one that it was expected to.
    is_followed: bool,
    /// It is asked for what is upcoming.
    looks: bool,
    /// When the window was filled last, and how many of it the caller has passed since.
    filled: (Instant, u32),
    pub touched: Arc<Mutex<Instant, rank::WalkTouched>>,
    /// Dropped with the run, and with it the HEADs that have no other waiter.
    pub heads: JoinSet<()>,
}

impl Run {
    pub fn new(
        course: Course,
        position: &[u8],
        now: Instant,
        window_max: usize,
        looks: bool,
    ) -> Run {
        Run {
            course,
            directories: false,
            last: position.to_vec(),
            upcoming: VecDeque::new(),
            window: WINDOW_FIRST,
            window_max: window_max.max(WINDOW_FIRST),
            is_followed: false,
            looks,
            filled: (now, 0),
            touched: Arc::new(Mutex::new(now)),
            heads: JoinSet::new(),
        }
    }

    /// The caller has come as expected, and is looked ahead of.
    pub fn leads(&self) -> bool {
        self.looks && self.is_followed
    }

    fn expects(&self, position: &[u8]) -> bool {
        self.last == position || self.upcoming.iter().any(|upcoming| upcoming == position)
    }

    /// Whether a caller at this position stays in the run: it is ahead, or asked for again.
    fn reach(&mut self, position: &[u8]) -> bool {
        if self.last == position {
            return true;
        }
        if let Some(at) = self.upcoming.iter().position(|upcoming| upcoming == position) {
            self.upcoming.drain(..=at);
            self.filled.1 += at as u32 + 1;
        } else if let Course::Numbers { order, next } = &mut self.course {
            let place = order.place_of(position.strip_suffix(b"/").unwrap_or(position));
            if !(*next..*next + REACH).contains(&place) {
                return false;
            }
            self.upcoming.clear();
            self.filled.1 += 1;
            *next = place + 1;
        } else {
            return false;
        }
        self.last = position.to_vec();
        self.is_followed = true;
        true
    }

    /// How many entries more are to be asked for, where what is asked for is believed for `ttl`.
    pub fn wanted(&mut self, now: Instant, ttl: Duration) -> usize {
        while self.heads.try_join_next().is_some() {}
        if !self.looks && self.is_followed {
            // What was only noted is now asked for.
            self.looks = true;
            self.upcoming.clear();
        } else if self.upcoming.len() > self.window * 3 / 4 {
            return 0;
        }
        if self.is_followed {
            self.window = (self.window * 2).min(self.window_max).min(self.affordable(now, ttl));
        }
        self.filled = (now, 0);
        self.window.saturating_sub(self.upcoming.len())
    }

    /// How many entries the caller passes in half of the time for which their answers are believed.
    fn affordable(&self, now: Instant, ttl: Duration) -> usize {
        let (since, passed) = self.filled;
        let each = now.saturating_duration_since(since).as_nanos() / u128::from(passed.max(1));
        let half = ttl.as_nanos() / 2;
        usize::try_from(half.checked_div(each).unwrap_or(u128::MAX)).unwrap_or(usize::MAX).max(1)
    }

    /// The next entries, of which `is_known` says that there is nothing to ask; and whether to ask for them.
    pub fn more(
        &mut self,
        listings: &Listings,
        dir: &Key,
        count: usize,
        is_known: impl Fn(&Placed, u64) -> bool,
    ) -> (Vec<Placed>, bool) {
        let entries = match &mut self.course {
            Course::Ended => Vec::new(),
            Course::Listing => {
                let from = self.upcoming.back().unwrap_or(&self.last);
                let mut entries = listings.following(dir, from, count, self.directories);
                if self.looks && !self.is_followed && entries.len() < count {
                    // A small directory is asked for as a whole, in whatever order it is walked.
                    let first = listings.following(dir, &[], count - entries.len(), false);
                    entries.extend(first.into_iter().take_while(|one| one.position < self.last));
                    self.course = Course::Ended;
                }
                entries
            }
            Course::Numbers { order, next } => {
                let end = *next + SEARCH_MAX;
                let mut entries = Vec::with_capacity(count);
                while entries.len() < count
                    && *next < end
                    && let Some((placed, begun)) = order.get(dir, *next)
                {
                    *next += 1;
                    if !is_known(&placed, begun) {
                        entries.push(placed);
                    }
                }
                entries
            }
        };
        self.upcoming.extend(entries.iter().map(|placed| placed.position.clone()));
        (entries, self.looks)
    }
}
