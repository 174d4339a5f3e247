//! Waiting for a store that does not answer yet, as when the network comes up beside the mount (`--mount-timeout`).
//!
//! Retries: what may pass, until the time is over; what the store refuses is told at once. Cancellation: it ends with
//! the command that waits, and holds nothing. Crash: nothing is kept.

use std::time::Duration;

use anyhow::bail;

use super::reach::{s3_settings, unusable};
use super::starter::Starter;
use crate::clock::{self, FOR_EVER, Instant};
use crate::settings::MountSettings;
use crate::store::s3::{S3Store, cure};
use crate::store::{ErrorKind, Result, StoreError};

/// How long to wait before the store is asked again: at first, and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The client for the bucket, once the store answers, and whether there is a key below the prefix.
///
/// # Errors
/// The store's last fault when the time is over, and at once what it refuses.
pub(super) async fn wait_for_store(
    settings: &MountSettings,
    starter: &dyn Starter,
    time: Duration,
) -> anyhow::Result<(S3Store, bool)> {
    let tell = |error: &StoreError| {
        let within = if time < FOR_EVER {
            format!(" for up to {}", humantime::format_duration(time))
        } else {
            String::new()
        };
        starter.meanwhile(&format!(
            "the store does not answer yet, waiting{within} (Ctrl-C ends it): {error}: {}",
            cure(error)
        ));
    };
    tokio::select! {
        biased;
        () = starter.gone() => bail!("the command that waited for the store was ended"),
        found = answer_within(time, || ask(settings), tell) => found.map_err(|error| unusable(&error)),
    }
}

async fn ask(settings: &MountSettings) -> Result<(S3Store, bool)> {
    let s3 = s3_settings(&settings.store, &settings.bucket, &settings.transfer);
    let client = S3Store::connect(s3).await?;
    let any = client.probe(&settings.prefix).await?;
    Ok((client, any))
}

/// What `ask` finds, which is asked again where that may help. The first time it may take longer. `tell` hears of each
/// fault that is another than the one before.
async fn answer_within<T, F>(
    time: Duration,
    ask: impl Fn() -> F,
    tell: impl Fn(&StoreError),
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let end = Instant::now() + time;
    let mut pause = PAUSE_MIN;
    let mut answer = ask().await;
    let mut told = None;
    loop {
        let error = match answer {
            Err(error) if is_awaited(&error) && Instant::now() < end => error,
            answer => return answer,
        };
        if told.as_ref() != Some(&error.cause()) {
            tell(&error);
            told = Some(error.cause());
        }
        clock::sleep_until(end.min(Instant::now() + pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        answer = clock::timeout_at(end, ask()).await.unwrap_or(Err(error));
    }
}

/// Whether the store may answer soon: it was not reached, or is too busy.
fn is_awaited(error: &StoreError) -> bool {
    matches!(error.kind, ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::Throttled)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn fault(kind: ErrorKind) -> StoreError {
        StoreError::new(kind, "ListObjectsV2", "connection refused")
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_is_waited_for_until_it_answers() {
        for time in [MINUTE * 10, FOR_EVER] {
            let (begun, told) = (Instant::now(), RefCell::new(Vec::new()));
            let ask = || async move {
                let is_up = begun.elapsed() > MINUTE * 5;
                if is_up { Ok(7) } else { Err(fault(ErrorKind::Transient)) }
            };
            let tell = |error: &StoreError| told.borrow_mut().push(error.to_string());
            assert_eq!(answer_within(time, ask, tell).await.ok(), Some(7));
            assert!(begun.elapsed() < MINUTE * 5 + PAUSE_MAX * 2, "{:?}", begun.elapsed());
            assert_eq!(told.borrow().len(), 1, "said once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_told_at_once_and_the_rest_in_time() {
        let (begun, asked) = (Instant::now(), Cell::new(0));
        let refuse = || async {
            asked.set(asked.get() + 1);
            Err::<(), _>(fault(ErrorKind::Denied))
        };
        let told = answer_within(MINUTE, refuse, |_| ()).await;
        assert_eq!((told.unwrap_err().kind, asked.get()), (ErrorKind::Denied, 1));
        assert_eq!(begun.elapsed(), Duration::ZERO);

        // Also where an answer takes longer than there is time.
        let hang = || async {
            clock::sleep(MINUTE / 2).await;
            Err::<(), _>(fault(ErrorKind::Timeout))
        };
        let told = answer_within(MINUTE, hang, |_| ()).await;
        assert_eq!(told.unwrap_err().kind, ErrorKind::Timeout);
        assert_eq!(begun.elapsed(), MINUTE);
    }
}
