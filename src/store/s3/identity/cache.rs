//! Credentials that are held, and renewed before they expire.
//!
//! One renewal runs at a time, as a task of its own: the requests that need its outcome share it, and one that is given
//! up does not end it. Some time before the end it runs in the background, while requests go on with what is held.
//!
//! Consistency: a renewal that fails leaves what is held. Retries: in the background every [`RETRY_EVERY`]; requests
//! whose credentials have expired are tried again by the layers above, since the error is of kind `Transient`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::task::AbortHandle;

use super::failure::Failure;
use crate::clock::{self, Instant};
use crate::lock::{Mutex, rank};
use crate::store::{ErrorKind, Result, StoreClock, StoreError};

/// So long before they expire credentials are renewed, or a quarter of the time that they were given for.
const EARLY: Duration = Duration::from_secs(300);
/// So long before they expire they are not used any more, or a tenth of the time that they were given for: a request
/// is on its way for some time.
const UNUSED: Duration = Duration::from_secs(10);
/// Credentials that have expired as they come, by this machine's clock, are used for so long: the store knows better.
const DOUBTED: Duration = Duration::from_secs(60);
/// A renewal in the background that has failed is tried again after this.
const RETRY_EVERY: Duration = Duration::from_secs(30);
/// No source takes longer: a helper program may talk to a service.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);

/// The code of errors that say that no credentials are set up.
pub const NO_CREDENTIALS: &str = "NoCredentials";

/// Where credentials come from.
#[async_trait]
pub trait Source: Send + Sync {
    async fn ask(&self) -> std::result::Result<Credentials, Failure>;
}

/// Credentials in use. They zero themselves, and their `Debug` shows no secret.
pub struct Held {
    credentials: Credentials,
    /// The same, for the signer.
    identity: Identity,
    times: Option<Times>,
}

/// When to do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    renew: SystemTime,
    end: SystemTime,
}

impl Held {
    fn new(credentials: Credentials, now: SystemTime) -> Held {
        let times = credentials.expiry().map(|expiry| {
            let left = expiry.duration_since(now).ok().filter(|left| !left.is_zero());
            let left = left.unwrap_or(DOUBTED);
            Times {
                renew: now + left - EARLY.min(left / 4),
                end: now + left - UNUSED.min(left / 10),
            }
        });
        Held { identity: credentials.clone().into(), credentials, times }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn has_token(&self) -> bool {
        self.credentials.session_token().is_some()
    }

    fn is_same(&self, other: &Held) -> bool {
        let (own, other) = (&self.credentials, &other.credentials);
        own.access_key_id() == other.access_key_id()
            && own.secret_access_key() == other.secret_access_key()
            && own.session_token() == other.session_token()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(..)")
    }
}

type Renewal = Shared<BoxFuture<'static, Result<Arc<Held>>>>;

/// The renewal that was begun last.
#[derive(Default)]
struct Renewals {
    last: Option<(AbortHandle, Renewal)>,
    /// No renewal in the background before.
    not_before: Option<Instant>,
}

/// The credentials of a store.
pub struct Cache {
    source: Box<dyn Source>,
    clock: Arc<StoreClock>,
    held: ArcSwapOption<Held>,
    renewals: Mutex<Renewals, rank::CredentialRenewal>,
}

impl Cache {
    pub fn new(source: impl Source + 'static, clock: Arc<StoreClock>) -> Arc<Cache> {
        let (held, renewals) = (ArcSwapOption::empty(), Mutex::new(Renewals::default()));
        Arc::new(Cache { source: Box::new(source), clock, held, renewals })
    }

    /// Credentials that are good now. Asks the source where there are none.
    ///
    /// # Errors
    /// `Denied` with the code [`NO_CREDENTIALS`] where none are set up, `Denied` where none could be had yet,
    /// `Transient` where those that were found cannot be renewed.
    pub async fn get(self: &Arc<Self>) -> Result<Arc<Held>> {
        let now = self.clock.signing();
        match self.held.load_full() {
            Some(held) if held.times.is_none_or(|times| now < times.renew) => Ok(held),
            Some(held) if held.times.is_some_and(|times| now < times.end) => {
                self.renew_aside();
                Ok(held)
            }
            _ => self.renew().await,
        }
    }

    /// Renews what the store has refused. Whether there are others now.
    pub async fn replace(self: &Arc<Self>, refused: &Arc<Held>) -> Result<bool> {
        let held = match self.held.load_full() {
            Some(held) if !Arc::ptr_eq(&held, refused) => held,
            _ => self.renew().await?,
        };
        Ok(!held.is_same(refused))
    }

    fn renew(self: &Arc<Self>) -> Renewal {
        self.begin(&mut self.renewals.lock())
    }

    /// The renewal that runs, or a new one.
    fn begin(self: &Arc<Self>, renewals: &mut Renewals) -> Renewal {
        if let Some((task, renewal)) = &renewals.last
            && !task.is_finished()
        {
            return renewal.clone();
        }
        let cache = self.clone();
        let task = tokio::spawn(async move { cache.ask().await });
        let handle = task.abort_handle();
        let renewal = async move {
            let died = |_| StoreError::new(ErrorKind::Transient, "Sign", "the renewal has died");
            task.await.map_err(died)?
        };
        let renewal = renewal.boxed().shared();
        renewals.last = Some((handle, renewal.clone()));
        renewal
    }

    fn renew_aside(self: &Arc<Self>) {
        let mut renewals = self.renewals.lock();
        let runs = renewals.last.as_ref().is_some_and(|(task, _)| !task.is_finished());
        if runs || renewals.not_before.is_some_and(|time| Instant::now() < time) {
            return;
        }
        renewals.not_before = Some(Instant::now() + RETRY_EVERY);
        let renewal = self.begin(&mut renewals);
        tokio::spawn(async move {
            if let Err(error) = renewal.await {
                log::warn!("{}; trying again", error.message);
            }
        });
    }

    async fn ask(&self) -> Result<Arc<Held>> {
        let late = || {
            let time = humantime::format_duration(ASK_TIMEOUT);
            Err(Failure::Failed(format!("their source does not answer within {time}")))
        };
        let asked = clock::timeout(ASK_TIMEOUT, self.source.ask()).await;
        match asked.unwrap_or_else(|_| late()) {
            Ok(credentials) => {
                let held = Arc::new(Held::new(credentials, self.clock.signing()));
                self.held.store(Some(held.clone()));
                Ok(held)
            }
            Err(failure) => Err(self.explain(&failure)),
        }
    }

    fn explain(&self, failure: &Failure) -> StoreError {
        if self.held.load().is_some() {
            let message = format!("the credentials cannot be renewed: {failure}");
            return StoreError::new(ErrorKind::Transient, "Sign", message);
        }
        let message = format!("no usable credentials: {failure}");
        let mut denied = StoreError::new(ErrorKind::Denied, "Sign", message);
        let code = if *failure == Failure::None { NO_CREDENTIALS } else { "CredentialsFailed" };
        denied.code = Some(code.to_owned());
        denied
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// Gives keys of which each is another, once for each permit.
    struct Numbered {
        asked: AtomicU32,
        permits: Semaphore,
    }

    #[async_trait]
    impl Source for Arc<Numbered> {
        async fn ask(&self) -> std::result::Result<Credentials, Failure> {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            let permit = self.permits.acquire().await;
            permit.map_err(|_| Failure::Failed("closed".to_owned()))?.forget();
            let expiry = clock::wall() + Duration::from_secs(3600);
            Ok(Credentials::new(format!("key{number}"), "s", None, Some(expiry), "test"))
        }
    }

    fn cache(permits: usize) -> (Arc<Numbered>, Arc<Cache>) {
        let source = Numbered { asked: AtomicU32::new(0), permits: Semaphore::new(permits) };
        let source = Arc::new(source);
        (source.clone(), Cache::new(source, Arc::default()))
    }

    fn key(held: &Held) -> &str {
        held.credentials.access_key_id()
    }

    /// What is held from now on has these seconds until it is to be renewed, and until its end.
    fn hold(cache: &Cache, renew: i64, end: i64) {
        let at = |seconds: i64| {
            let by = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { clock::wall() - by } else { clock::wall() + by }
        };
        let mut held = Held::new(Credentials::new("old", "s", None, None, "test"), clock::wall());
        held.times = Some(Times { renew: at(renew), end: at(end) });
        cache.held.store(Some(Arc::new(held)));
    }

    #[test]
    fn credentials_are_renewed_early_and_not_used_at_their_end() {
        let now = clock::wall();
        let times = |lifetime: i64| {
            let by = Duration::from_secs(lifetime.unsigned_abs());
            let expiry = if lifetime < 0 { now - by } else { now + by };
            let held = Held::new(Credentials::new("k", "s", None, Some(expiry), "test"), now);
            let times = held.times.unwrap();
            [times.renew, times.end].map(|time| time.duration_since(now).unwrap().as_millis())
        };
        assert_eq!(times(3600), [3_300_000, 3_590_000]);
        assert_eq!(times(40), [30_000, 36_000]);
        // As they come, by this machine's clock.
        assert_eq!(times(-100), [45_000, 54_000]);
        assert_eq!(Held::new(Credentials::new("k", "s", None, None, "test"), now).times, None);
    }

    #[tokio::test]
    async fn what_is_to_be_renewed_is_used_meanwhile() {
        let (source, cache) = cache(0);
        hold(&cache, -1, 100);
        for _ in 0..3 {
            assert_eq!(key(&cache.get().await.unwrap()), "old");
        }
        source.permits.add_permits(5);
        while key(&cache.get().await.unwrap()) == "old" {
            tokio::task::yield_now().await;
        }
        assert_eq!(key(&cache.get().await.unwrap()), "key1");
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_renewal_in_the_background_that_fails_disturbs_no_request() {
        let (source, cache) = cache(0);
        source.permits.close();
        hold(&cache, -1, 100);
        for _ in 0..50 {
            assert_eq!(key(&cache.get().await.unwrap()), "old");
            tokio::task::yield_now().await;
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
        cache.renewals.lock().not_before = Some(Instant::now());
        cache.get().await.unwrap();
        while source.asked.load(Ordering::SeqCst) == 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn all_that_wait_for_a_renewal_share_it() {
        let (source, cache) = cache(0);
        hold(&cache, -100, -1);
        let impatient = clock::timeout(Duration::from_millis(20), cache.get()).await;
        assert!(impatient.is_err(), "expired credentials were used");
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        source.permits.add_permits(5);
        for held in waiting {
            assert_eq!(key(&held.await.unwrap().unwrap()), "key1");
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_failure_is_denied_before_any_were_found_and_passes_later() {
        let (source, cache) = cache(1);
        let held = cache.get().await.unwrap();
        source.permits.close();
        let error = cache.replace(&held).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Transient);
        assert_eq!(key(&cache.get().await.unwrap()), "key1", "what is held went with the failure");
        cache.held.store(None);
        let error = cache.get().await.unwrap_err();
        assert_eq!(
            (error.kind, error.code.as_deref()),
            (ErrorKind::Denied, Some("CredentialsFailed"))
        );
    }

    #[tokio::test]
    async fn refused_credentials_are_replaced_once_for_all() {
        let (source, cache) = cache(5);
        let held = cache.get().await.unwrap();
        for _ in 0..3 {
            assert!(cache.replace(&held).await.unwrap());
        }
        assert_eq!(source.asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn nothing_of_credentials_is_shown() {
        let credentials = Credentials::new("k", "hunter2", Some("tok3n".to_owned()), None, "test");
        let shown = format!("{credentials:?} {:?}", Held::new(credentials.clone(), clock::wall()));
        assert!(!shown.contains("hunter2") && !shown.contains("tok3n"), "{shown}");
    }
}
