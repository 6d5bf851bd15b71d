//! Two candidates at once: the second starts when the first is slower than it mostly is, and the first
//! to speak is kept.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use domain::BackendError;
use tokio::time::sleep;

/// The first event later than this share of the candidate's own, in percent, is late.
pub(crate) const LATE_PERCENT: u32 = 95;
/// Replies known before that share means anything: at least two of them were later.
pub(crate) const SAMPLES_MIN: u32 = 50;

/// How a race ended. Errors are those of candidates that were heard out.
pub(crate) enum Race<T> {
    /// The second one never started.
    First(Result<T, BackendError>),
    /// The first spoke while the second was under way, or after it had failed.
    FirstWon(T, Option<BackendError>),
    /// The second spoke; the first was cancelled, or had failed.
    SecondWon(T, Option<BackendError>),
    BothFailed(BackendError, BackendError),
}

/// Runs `first`, and beside it the future that `second` makes once `late` has gone by; it makes none
/// where no hedge may be had. Whoever does not win is dropped, which cancels it.
pub(crate) async fn race<T, S: Future<Output = Result<T, BackendError>>>(
    first: impl Future<Output = Result<T, BackendError>>,
    late: Duration,
    second: impl AsyncFnOnce() -> Option<S>,
) -> Race<T> {
    let mut first = pin!(first);
    tokio::select! {
        biased;
        heard = &mut first => return Race::First(heard),
        () = sleep(late) => {}
    }
    let Some(second) = second().await else {
        return Race::First(first.await);
    };
    let mut second = pin!(second);
    tokio::select! {
        biased;
        heard = &mut first => match heard {
            Ok(head) => Race::FirstWon(head, None),
            Err(error) => match second.await {
                Ok(head) => Race::SecondWon(head, Some(error)),
                Err(other) => Race::BothFailed(error, other),
            },
        },
        heard = &mut second => match heard {
            Ok(head) => Race::SecondWon(head, None),
            Err(other) => match first.await {
                Ok(head) => Race::FirstWon(head, Some(other)),
                Err(error) => Race::BothFailed(error, other),
            },
        },
    }
}
