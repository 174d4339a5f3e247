//! What can be made to go wrong between a client and the embedded store, as a contract that tests rely
//! on.
//!
//! A [`Rule`] says which requests (operation, part of the key), how often, and which [`Fault`]. Rules
//! are looked at in the order given; every one that matches fires, so latency and bandwidth combine
//! with any other fault. Of several that end the request, the first wins. A rule with a count fires on
//! the first that many matching requests and then is spent. Probabilities are drawn from a seeded
//! generator: the same seed and the same order of requests fire the same faults.
//!
//! | Fault | The client sees | The store has |
//! |---|---|---|
//! | `Latency` | the answer so much later | acted |
//! | `Bandwidth` | both bodies at that pace, this request | acted |
//! | `Status` | that status and error XML, the request's body read | not acted |
//! | `SlowDown` | 503 SlowDown with a Retry-After of so many seconds, the request's body read | not acted |
//! | `LoseAnswer` | connection reset, no byte of an answer | acted |
//! | `ResetBodyAfter` | headers, then at most so many bytes, then a reset | acted |
//! | `TruncateBodyAfter` | headers, so many bytes, then a clean close | acted |
//! | `StallBodyAfter` | headers, so many bytes, then nothing, until it hangs up | acted |
//! | `CorruptByte` | the byte at that offset of the answer's body with all bits flipped | acted |
//! | `WrongContentRange` | a Content-Range one byte off | acted |
//! | `ErrorInsideOk` | status 200 with an error document as its body | not acted |
//! | `Stall` | nothing, until it hangs up | not acted |
//! | `IgnoreCopyCondition` | what a store answers that does not know x-amz-copy-source-if-match | acted, whatever it says |
//! | `IgnoreChecksum` | what a store answers that does not know x-amz-checksum-crc32c | acted, whatever it says |
//! | outage ([`Faults::set_outage`]) | every connection reset, open ones at once | not acted |
//!
//! Faults that shape an answer's body fire on answers with a status below 300 only, and one whose offset
//! lies behind the end of the body changes nothing; it counts as fired all the same.

use std::time::Duration;

use tokio::sync::watch;

use super::operation::Operation;
use crate::clock::Instant;
use crate::lock::{Mutex, rank};

/// One thing that goes wrong. See the module's table for the contract.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Waits before the request is acted on.
    Latency(Duration),
    /// Paces the bodies of the request and of its answer, in bytes a second (never 0).
    Bandwidth(u64),
    /// Answers with this status and S3 error code.
    Status(u16, &'static str),
    /// Answers 503 SlowDown, and with a Retry-After of so many seconds.
    SlowDown(u64),
    /// Acts, then resets the connection in place of an answer.
    LoseAnswer,
    /// Resets the connection after at most so many bytes of the answer's body.
    ResetBodyAfter(u64),
    /// Closes the connection after so many bytes of the answer's body.
    TruncateBodyAfter(u64),
    /// Goes silent after so many bytes of the answer's body.
    StallBodyAfter(u64),
    /// Flips the bits of one byte of the answer's body, by its offset there.
    CorruptByte(u64),
    /// Answers with a Content-Range that is one byte off.
    WrongContentRange,
    /// Answers 200 with an error document of this code, as Complete and Copy may.
    ErrorInsideOk(&'static str),
    /// Never answers.
    Stall,
    /// Copies whichever version is there. Alters the answer of no other fault.
    IgnoreCopyCondition,
    /// Neither looks at a CRC-32C nor answers one. Alters the answer of no other fault.
    IgnoreChecksum,
}

/// Goes with a request that meets [`Fault::IgnoreCopyCondition`].
#[derive(Clone, Copy)]
pub(super) struct CopiesAnyVersion;

/// Goes with a request that meets [`Fault::IgnoreChecksum`].
#[derive(Clone, Copy)]
pub(super) struct IgnoresChecksum;

impl Fault {
    /// 503 SlowDown.
    pub fn slow_down() -> Fault {
        Fault::Status(503, "SlowDown")
    }

    /// 500 InternalError.
    pub fn internal_error() -> Fault {
        Fault::Status(500, "InternalError")
    }

    /// 403 AccessDenied.
    pub fn denied() -> Fault {
        Fault::Status(403, "AccessDenied")
    }
}

/// How often a rule fires on the requests that it matches.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Often {
    Always,
    Times(u64),
    /// Beyond so many requests in a second.
    Beyond(u64),
    /// 0.0 to 1.0.
    Probability(f64),
}

/// Which requests meet a fault, and how often. Without any restriction: every request, always.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    fault: Fault,
    operations: Vec<Operation>,
    key_contains: Option<String>,
    skip: u64,
    often: Often,
}

impl Rule {
    pub fn new(fault: Fault) -> Rule {
        Rule { fault, operations: Vec::new(), key_contains: None, skip: 0, often: Often::Always }
    }

    /// Only requests of this operation; called again, of either.
    pub fn on(mut self, operation: Operation) -> Rule {
        self.operations.push(operation);
        self
    }

    /// Only requests whose key holds this text.
    pub fn key_contains(mut self, text: impl Into<String>) -> Rule {
        self.key_contains = Some(text.into());
        self
    }

    /// Lets the first `count` matching requests pass.
    pub fn skip(mut self, count: u64) -> Rule {
        self.skip = count;
        self
    }

    /// Fires on so many matching requests, then never again.
    pub fn times(mut self, count: u64) -> Rule {
        self.often = Often::Times(count);
        self
    }

    /// Fires on those matching requests that come beyond so many in a second, as of a store that throttles.
    pub fn beyond(mut self, per_second: u64) -> Rule {
        self.often = Often::Beyond(per_second);
        self
    }

    /// Fires on each matching request with this probability, 0.0 to 1.0.
    pub fn probability(mut self, probability: f64) -> Rule {
        self.often = Often::Probability(probability);
        self
    }

    fn matches(&self, operation: Operation, key: &[u8]) -> bool {
        let names_operation = self.operations.is_empty() || self.operations.contains(&operation);
        let names_key = self.key_contains.as_ref().is_none_or(|text| {
            text.is_empty() || key.windows(text.len()).any(|part| part == text.as_bytes())
        });
        names_operation && names_key
    }
}

struct Armed {
    rule: Rule,
    seen: u64,
    fired: u64,
    /// When the second began that is counted, and how many have come in it.
    second: Option<(Instant, u64)>,
}

impl Armed {
    fn new(rule: Rule) -> Armed {
        Armed { rule, seen: 0, fired: 0, second: None }
    }

    fn is_beyond(&mut self, per_second: u64) -> bool {
        let fresh = self.second.filter(|(begun, _)| begun.elapsed() < Duration::from_secs(1));
        let (begun, count) = fresh.unwrap_or((Instant::now(), 0));
        self.second = Some((begun, count + 1));
        count >= per_second
    }

    fn meets(&mut self, operation: Operation, key: &[u8], random: &mut Random) -> bool {
        if !self.rule.matches(operation, key) {
            return false;
        }
        self.seen += 1;
        let fires = self.seen > self.rule.skip
            && match self.rule.often {
                Often::Always => true,
                Often::Times(count) => self.fired < count,
                Often::Beyond(per_second) => self.is_beyond(per_second),
                Often::Probability(probability) => random.below_one() < probability,
            };
        self.fired += u64::from(fires);
        fires
    }
}

/// splitmix64: enough to scatter faults, and the same everywhere.
struct Random(u64);

impl Random {
    fn below_one(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The faults of a server, settable while it runs. Shared by `Arc` between a test and its server.
pub struct Faults {
    state: Mutex<State, rank::Faults>,
    outage: watch::Sender<bool>,
}

struct State {
    armed: Vec<Armed>,
    random: Random,
    fired_before: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults::seeded(0)
    }
}

impl Faults {
    /// No faults yet; probabilities will be drawn from `seed`.
    pub fn seeded(seed: u64) -> Faults {
        let state = State { armed: Vec::new(), random: Random(seed), fired_before: 0 };
        Faults { state: Mutex::new(state), outage: watch::Sender::new(false) }
    }

    /// Puts these rules in place of all others. Requests under way keep what they met.
    pub fn set(&self, rules: Vec<Rule>) {
        let mut state = self.state.lock();
        state.fired_before += state.armed.iter().map(|armed| armed.fired).sum::<u64>();
        state.armed = rules.into_iter().map(Armed::new).collect();
    }

    /// Removes every rule and ends an outage.
    pub fn clear(&self) {
        self.set(Vec::new());
        self.set_outage(false);
    }

    /// While on: every connection is reset, the open ones at once, new ones as they come.
    pub fn set_outage(&self, on: bool) {
        self.outage.send_replace(on);
    }

    /// How often each rule of the last [`Faults::set`] has fired, in its order.
    pub fn fired(&self) -> Vec<u64> {
        self.state.lock().armed.iter().map(|armed| armed.fired).collect()
    }

    /// How many faults have fired since the start, the rules of earlier settings included.
    pub fn fired_total(&self) -> u64 {
        let state = self.state.lock();
        state.fired_before + state.armed.iter().map(|armed| armed.fired).sum::<u64>()
    }

    /// The faults that this request meets, in the order of their rules.
    pub(super) fn meet(&self, operation: Operation, key: &[u8]) -> Vec<Fault> {
        let mut state = self.state.lock();
        let State { armed, random, .. } = &mut *state;
        armed
            .iter_mut()
            .filter_map(|armed| {
                armed.meets(operation, key, random).then(|| armed.rule.fault.clone())
            })
            .collect()
    }

    pub(super) fn outage(&self) -> watch::Receiver<bool> {
        self.outage.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_rule_fires_that_often_behind_what_it_skips() {
        let faults = Faults::default();
        faults.set(vec![
            Rule::new(Fault::slow_down())
                .on(Operation::PutObject)
                .key_contains("x")
                .skip(1)
                .times(2),
        ]);
        let mut met = Vec::new();
        for key in ["x", "y", "ax", "xb", "x"] {
            met.push(faults.meet(Operation::PutObject, key.as_bytes()).len());
        }
        assert_eq!(met, [0, 0, 1, 1, 0]);
        assert!(faults.meet(Operation::GetObject, b"x").is_empty());
        assert_eq!(faults.fired(), [2]);
        faults.clear();
        assert_eq!(faults.fired_total(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_fires_on_what_comes_beyond_it() {
        let faults = Faults::default();
        faults.set(vec![Rule::new(Fault::SlowDown(1)).beyond(3)]);
        for _ in 0..2 {
            let met: usize = (0..5).map(|_| faults.meet(Operation::GetObject, b"k").len()).sum();
            assert_eq!(met, 2);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[test]
    fn probabilities_repeat_with_the_seed() {
        let draw = |seed| {
            let faults = Faults::seeded(seed);
            faults.set(vec![Rule::new(Fault::Stall).probability(0.3)]);
            (0..1000).map(|_| faults.meet(Operation::GetObject, b"k").len()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let fired: usize = draw(7).iter().sum();
        assert!((200..400).contains(&fired), "{fired} of 1000 at 0.3");
    }
}
