//! Turns at work of which only a little is done at once, with a bound on those who wait for theirs: each
//! of them holds a seat of the node while it does.

use std::sync::Arc;
use std::time::Duration;

use domain::BackendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a caller is told to wait when no place in the line is left.
const FULL_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Turns {
    at_once: Arc<Semaphore>,
    /// Of those at work and those who wait.
    places: Arc<Semaphore>,
}

/// One turn. Dropping it gives way to the next.
#[derive(Debug)]
pub(crate) struct Turn {
    _place: OwnedSemaphorePermit,
    _work: OwnedSemaphorePermit,
}

impl Turns {
    pub fn new(at_once_max: usize, waiting_max: usize) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(at_once_max)),
            places: Arc::new(Semaphore::new(at_once_max + waiting_max)),
        }
    }

    /// Waits for a turn, in the order of asking.
    ///
    /// # Errors
    /// `Overloaded` when as many wait as may.
    pub async fn take(&self) -> Result<Turn, BackendError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| BackendError::Overloaded {
            retry_after: FULL_WAIT,
        })?;
        let work = Arc::clone(&self.at_once).acquire_owned().await;
        let work = work.map_err(|_| BackendError::Engine("it has stopped"))?;
        Ok(Turn {
            _place: place,
            _work: work,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn one_more_than_may_wait_is_refused_and_who_leaves_gives_way() {
        let turns = Turns::new(1, 1);
        let working = turns.take().await.unwrap();
        let mut second = Box::pin(turns.take());
        assert!(poll!(second.as_mut()).is_pending());
        let refused = turns.take().await;
        assert!(
            matches!(refused, Err(BackendError::Overloaded { .. })),
            "{refused:?}"
        );
        drop(second);
        let mut third = pin!(turns.take());
        assert!(poll!(third.as_mut()).is_pending());
        drop(working);
        third.await.unwrap();
    }
}
