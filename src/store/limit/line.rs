//! A fair line: files in turn, and the requests of one file in the order in which they came. So one file with
//! many requests under way holds up another one by one request at the most.
//!
//! Locks: none is held together with another. Cancellation: a request that is dropped leaves the line. Crash: nothing
//! is kept.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};
use crate::store::Key;

/// Whose requests take turns with those of others: those of one key. Two keys with one hash share their turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flow(u64);

impl Flow {
    pub fn of(key: &Key) -> Flow {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        Flow(hasher.finish())
    }
}

/// What the request whose turn it is gets of what there is.
pub enum Turn<T> {
    Taken(T),
    /// Nothing before then.
    At(Instant),
    /// Nothing before something changes ([`Line::change`]).
    Later,
}

/// Something that requests take from, of which there is not enough for all.
pub struct Line<S> {
    inner: Mutex<Inner<S>, rank::Line>,
}

struct Inner<S> {
    state: S,
    /// Those with requests in the line, the next first. Each has a queue, which is not empty.
    turns: VecDeque<Flow>,
    queues: HashMap<Flow, VecDeque<Arc<Notify>>>,
}

impl<S> Inner<S> {
    fn head(&self) -> Option<&Arc<Notify>> {
        self.turns.front().and_then(|flow| self.queues.get(flow)).and_then(VecDeque::front)
    }

    fn wake_head(&self) {
        if let Some(head) = self.head() {
            head.notify_one();
        }
    }

    fn join(&mut self, flow: Flow) -> Arc<Notify> {
        let woken = Arc::new(Notify::new());
        let queue = self.queues.entry(flow).or_default();
        if queue.is_empty() {
            self.turns.push_back(flow);
        }
        queue.push_back(woken.clone());
        woken
    }

    /// Served or given up. It is another's turn if it was this one's.
    fn leave(&mut self, flow: Flow, woken: &Arc<Notify>) {
        let was_head = self.head().is_some_and(|head| Arc::ptr_eq(head, woken));
        let Some(queue) = self.queues.get_mut(&flow) else { return };
        queue.retain(|other| !Arc::ptr_eq(other, woken));
        let is_empty = queue.is_empty();
        if is_empty {
            self.queues.remove(&flow);
        }
        if was_head {
            self.turns.pop_front();
            if !is_empty {
                self.turns.push_back(flow);
            }
            self.wake_head();
        } else if is_empty {
            self.turns.retain(|other| *other != flow);
        }
    }
}

/// A request in the line, until it is dropped.
struct Place<'a, S> {
    line: &'a Line<S>,
    flow: Flow,
    woken: Arc<Notify>,
}

impl<S> Drop for Place<'_, S> {
    fn drop(&mut self) {
        self.line.inner.lock().leave(self.flow, &self.woken);
    }
}

impl<S> Line<S> {
    pub fn new(state: S) -> Line<S> {
        let inner = Inner { state, turns: VecDeque::new(), queues: HashMap::new() };
        Line { inner: Mutex::new(inner) }
    }

    pub fn look<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&self.inner.lock().state)
    }

    /// Changes what there is; the request whose turn it is looks again.
    pub fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        let mut inner = self.inner.lock();
        let changed = change(&mut inner.state);
        inner.wake_head();
        changed
    }

    /// Waits until it is this request's turn and `take` takes something.
    pub async fn take<T>(&self, flow: Flow, take: impl Fn(&mut S) -> Turn<T>) -> T {
        let woken = {
            let mut inner = self.inner.lock();
            if inner.turns.is_empty()
                && let Turn::Taken(taken) = take(&mut inner.state)
            {
                return taken;
            }
            inner.join(flow)
        };
        let place = Place { line: self, flow, woken };
        loop {
            let turn = {
                let mut inner = self.inner.lock();
                let is_head = inner.head().is_some_and(|head| Arc::ptr_eq(head, &place.woken));
                if is_head { take(&mut inner.state) } else { Turn::Later }
            };
            match turn {
                Turn::Taken(taken) => return taken,
                Turn::At(until) => {
                    let _ = clock::timeout_at(until, place.woken.notified()).await;
                }
                Turn::Later => place.woken.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn flow(name: &str) -> Flow {
        Flow::of(&Key::from(name))
    }

    fn one(left: &mut u32) -> Turn<()> {
        match left.checked_sub(1) {
            Some(less) => {
                *left = less;
                Turn::Taken(())
            }
            None => Turn::Later,
        }
    }

    /// The names of those that are served, one after the other, where these came in this order.
    async fn served(names: &[&'static str], drop_at: Option<usize>) -> Vec<&'static str> {
        let line = Arc::new(Line::new(0));
        let order = Arc::new(Mutex::<_, rank::Test>::new(Vec::new()));
        let mut waiting = Vec::new();
        for name in names {
            let (line, order, name) = (line.clone(), order.clone(), *name);
            waiting.push(tokio::spawn(async move {
                line.take(flow(name), one).await;
                order.lock().push(name);
            }));
            clock::sleep(Duration::from_millis(1)).await;
        }
        if let Some(at) = drop_at {
            waiting[at].abort();
            clock::sleep(Duration::from_millis(1)).await;
        }
        for _ in names {
            line.change(|left| *left += 1);
            clock::sleep(Duration::from_millis(1)).await;
        }
        for one in waiting {
            let _ = one.await;
        }
        assert!(line.inner.lock().queues.is_empty() && line.inner.lock().turns.is_empty());
        let order = order.lock();
        order.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn files_take_turns_whatever_they_have_waiting() {
        let names = ["large", "large", "large", "large", "small", "other", "other"];
        let told = ["large", "small", "other", "large", "other", "large", "large"];
        assert_eq!(served(&names, None).await, told);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_up_holds_up_no_other() {
        assert_eq!(served(&["a", "b", "b"], Some(0)).await, ["b", "b"], "whose turn it was");
        assert_eq!(served(&["a", "b", "a"], Some(1)).await, ["a", "a"], "the only one of its file");
        assert_eq!(served(&["a", "a", "b"], Some(1)).await, ["a", "b"]);
    }
}
