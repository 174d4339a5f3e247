//! What goes wrong: rules "operation × key → fault", and the requests that they met.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::range::ByteRange;
use crate::store::{ErrorKind, Key};

/// As S3 calls them, and as a rule names them.
pub const OPERATIONS: [&str; 15] = [
    "GetObject",
    "HeadObject",
    "GetObjectTagging",
    "ListObjectsV2",
    "PutObject",
    "DeleteObject",
    "DeleteObjects",
    "CopyObject",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "ListParts",
    "ListMultipartUploads",
];

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails and has no effect. By its kind this is a 412 (`PreconditionFailed`), a 503 (`Throttled`), an upload that
    /// the store has forgotten (`NoSuchUpload`), or any other.
    Refused(ErrorKind),
    /// Likewise by a 503 that asks to be left alone for so long.
    Busy(Duration),
    /// It takes effect, but its answer is lost.
    Lost(ErrorKind),
    /// It takes effect and is answered so much later.
    Slow(Duration),
    /// It hangs, and takes effect when the gate lets it pass.
    Held(Gate),
    /// It takes effect, and its answer hangs until the gate lets it pass.
    Unanswered(Gate),
    /// It panics, as no server can make it.
    Panics,
    /// GetObject: the body breaks off after so many bytes.
    Short(u64, ErrorKind),
    /// GetObject: a bit in the middle of the body is turned.
    Flipped,
    /// GetObject: no more of the body comes than the tap lets out.
    Trickles(Tap),
}

impl Fault {
    fn is_of_a_body(&self) -> bool {
        matches!(self, Fault::Short(..) | Fault::Flipped | Fault::Trickles(_))
    }
}

/// Where requests wait. It is shut until it is told otherwise.
#[derive(Clone, Debug)]
pub struct Gate {
    admitted: Arc<Semaphore>,
    /// How many have come to it so far.
    came: Arc<AtomicUsize>,
}

impl Gate {
    pub fn shut() -> Gate {
        Gate { admitted: Arc::new(Semaphore::new(0)), came: Arc::default() }
    }

    /// Lets so many more requests pass: those that wait, or those that come.
    pub fn admit(&self, requests: usize) {
        self.admitted.add_permits(requests);
    }

    /// Lets none pass that has not come yet, whatever was admitted.
    pub fn admit_no_more(&self) {
        self.admitted.forget_permits(usize::MAX);
    }

    /// Lets all pass, for good.
    pub fn open(&self) {
        self.admitted.close();
    }

    /// How many requests have come to it so far.
    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    pub(super) async fn pass(&self) {
        self.came.fetch_add(1, Ordering::SeqCst);
        if let Ok(permit) = self.admitted.acquire().await {
            permit.forget();
        }
    }
}

/// How many bytes of each body may come.
#[derive(Clone, Debug)]
pub struct Tap(watch::Sender<u64>);

impl Tap {
    pub fn of(bytes: u64) -> Tap {
        Tap(watch::channel(bytes).0)
    }

    pub fn let_out(&self, bytes: u64) {
        self.0.send_replace(bytes);
    }

    /// How many bytes may come, once that is more than `at`.
    pub(super) async fn beyond(&self, at: u64) -> u64 {
        let mut bytes = self.0.subscribe();
        bytes.wait_for(|bytes| *bytes > at).await.map_or(u64::MAX, |bytes| *bytes)
    }
}

/// A request that the store has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub operation: &'static str,
    /// The keys that it names: of a copy the target, then the source; of a listing the prefix.
    pub keys: Vec<Key>,
    /// Of the object that is read.
    pub range: Option<ByteRange>,
}

/// Which requests, and what happens to them. Kept by the test to see whether it was used, and to lift it.
#[derive(Clone)]
pub struct Rule(Arc<Terms>);

struct Terms {
    /// Any, where it says none.
    operation: Option<&'static str>,
    key: Option<Key>,
    fault: Fault,
    /// How many requests it is for yet.
    left: AtomicUsize,
}

impl Rule {
    pub(super) fn new(
        operation: Option<&'static str>,
        key: Option<Key>,
        times: usize,
        fault: Fault,
    ) -> Rule {
        Rule(Arc::new(Terms { operation, key, fault, left: AtomicUsize::new(times) }))
    }

    /// How many requests more it is for.
    pub fn left(&self) -> usize {
        self.0.left.load(Ordering::SeqCst)
    }

    pub fn lift(&self) {
        self.0.left.store(0, Ordering::SeqCst);
    }

    fn is_for(&self, request: &Request) -> bool {
        let Terms { operation, key, fault, .. } = &*self.0;
        self.left() > 0
            && operation.is_none_or(|operation| operation == request.operation)
            && key.as_ref().is_none_or(|key| request.keys.contains(key))
            && (request.operation == "GetObject" || !fault.is_of_a_body())
    }

    fn take(&self) -> Fault {
        if self.left() < usize::MAX {
            self.0.left.fetch_sub(1, Ordering::SeqCst);
        }
        self.0.fault.clone()
    }
}

/// All rules, and all requests so far.
#[derive(Default)]
pub(super) struct Script {
    rules: Vec<Rule>,
    pub requests: Vec<Request>,
    /// By operation: how many are under way, and the most that ever were.
    pub under_way: BTreeMap<&'static str, (usize, usize)>,
}

impl Script {
    pub fn add(&mut self, rule: Rule) {
        self.rules.retain(|rule| rule.left() > 0);
        self.rules.push(rule);
    }

    pub fn lift_all(&mut self) {
        self.rules.drain(..).for_each(|rule| rule.lift());
    }

    /// Notes a request; what happens to it is what the first rule says that is for it.
    pub fn meets(&mut self, request: Request) -> Option<Fault> {
        let (now, most) = self.under_way.entry(request.operation).or_default();
        *now += 1;
        *most = (*most).max(*now);
        let fault = self.rules.iter().find(|rule| rule.is_for(&request)).map(Rule::take);
        self.requests.push(request);
        fault
    }
}
