//! One candidate: asked, asked again where that is safe and paid for, and given as long as it may take
//! to its first content.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use domain::{
    Backend, BackendCard, BackendError, ChatEvent, ChatStream, Delivery, Outbound, Tier,
    TimeoutPhase, read_head,
};
use policy::{RETRIES_MAX, RETRY_AFTER_MAX, RETRY_AFTER_MAX_BESIDE_OTHERS, backoff};
use tokio::time::{Instant, sleep, timeout_at};

use crate::snapshot::Patience;
use crate::vitals::{Vitals, Ward, watched};

/// For a remote reply asked for whole. Upstreams have limits of their own below this one.
const WHOLE_REPLY_MAX: Duration = Duration::from_secs(3600);

/// Everything up to the first content, and what follows it.
pub(crate) type Head = (Vec<ChatEvent>, ChatStream);

/// One candidate, and what its tries have in common.
pub(crate) struct Attempt<'a> {
    pub backend: &'a Arc<dyn Backend>,
    pub vitals: Arc<Vitals>,
    pub ward: &'a Ward,
    pub patience: &'a Patience,
    /// Nobody is left after this one.
    pub is_last: bool,
    /// Counts the tries after the first.
    pub retries: &'a AtomicU32,
}

impl Attempt<'_> {
    /// Asks, and waits for the first content. Dropping it cancels the try under way.
    pub async fn run(&self, call: Outbound) -> Result<Head, BackendError> {
        let within = first_content_max(
            self.patience,
            self.backend.card(),
            self.is_last,
            call.request().delivery,
        );
        let until = Instant::now() + within;
        let mut retries = 0;
        loop {
            let error = match self.once(call.clone(), until).await {
                Ok(head) => return Ok(head),
                Err(error) => error,
            };
            let Some(wait) = self.wait_to_retry(&error, retries, until) else {
                return Err(error);
            };
            retries += 1;
            self.retries.fetch_add(1, Ordering::Relaxed);
            sleep(wait).await;
        }
    }

    async fn once(&self, call: Outbound, until: Instant) -> Result<Head, BackendError> {
        let visit = self.vitals.visit(call.request().delivery, self.is_last);
        let mut visit = visit.map_err(|wait| BackendError::Resting { wait })?;
        let opening = async { read_head(self.backend.chat(call).await?).await };
        let opened = timeout_at(until, opening).await;
        match opened.unwrap_or(Err(BackendError::TimedOut(TimeoutPhase::FirstEvent))) {
            Ok((head, rest)) => {
                visit.began();
                Ok((head, watched(rest, visit)))
            }
            Err(error) => {
                visit.failed(&error);
                Err(error)
            }
        }
    }

    /// How long to wait before the same candidate is asked again; `None` where it is not.
    fn wait_to_retry(
        &self,
        error: &BackendError,
        retries: u32,
        until: Instant,
    ) -> Option<Duration> {
        // This machine's engine and pools have queues and tries of their own.
        let is_remote = self.backend.card().tier == Tier::Upstream;
        if !is_remote || retries >= RETRIES_MAX || self.vitals.rests_now() {
            return None;
        }
        let named = match retry(error) {
            Retry::Safe { after } => after,
            Retry::IfIdempotent if self.backend.repeats_safely() => None,
            Retry::IfIdempotent | Retry::Never => return None,
        };
        let named_max = if self.is_last {
            RETRY_AFTER_MAX
        } else {
            RETRY_AFTER_MAX_BESIDE_OTHERS
        };
        if named.is_some_and(|named| named > named_max) {
            return None;
        }
        let wait = backoff(retries, named, self.ward.random());
        let is_in_time = Instant::now() + wait < until;
        (is_in_time && self.ward.take_retry()).then_some(wait)
    }
}

/// Whether a request may be sent to the same provider again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Nothing was done for it. `after` is the wait that the provider named.
    Safe { after: Option<Duration> },
    /// It may have been worked on, and charged.
    IfIdempotent,
    /// It would end the same way. Connects are tried again where they are made.
    Never,
}

fn retry(error: &BackendError) -> Retry {
    match error {
        BackendError::Overloaded { retry_after } => Retry::Safe {
            after: (!retry_after.is_zero()).then_some(*retry_after),
        },
        BackendError::RateLimited { retry_after } => Retry::Safe {
            after: *retry_after,
        },
        BackendError::TimedOut(TimeoutPhase::Request) => Retry::Safe { after: None },
        BackendError::Unreachable(_)
        | BackendError::TimedOut(TimeoutPhase::BetweenEvents)
        | BackendError::Garbled(_)
        | BackendError::Interrupted => Retry::IfIdempotent,
        BackendError::Failed { status } if *status >= 500 => Retry::IfIdempotent,
        BackendError::Failed { .. }
        | BackendError::Rejected { .. }
        | BackendError::Declined { .. }
        | BackendError::ContentRefused { .. }
        | BackendError::ModelUnknown { .. }
        | BackendError::ContextExceeded { .. }
        | BackendError::Unable(_)
        | BackendError::Resting { .. }
        | BackendError::Credentials { .. }
        // Its patience is spent.
        | BackendError::TimedOut(TimeoutPhase::Connect | TimeoutPhase::FirstEvent)
        | BackendError::Engine(_) => Retry::Never,
    }
}

fn first_content_max(
    patience: &Patience,
    card: &BackendCard,
    is_last: bool,
    delivery: Delivery,
) -> Duration {
    match (card.tier, delivery, is_last) {
        // A remote whole reply shows nothing until it is there; its own driver bounds it.
        (Tier::Pool | Tier::Upstream, Delivery::Whole, _) => WHOLE_REPLY_MAX,
        // A pool bounds each of its tries: cut short in the first, it could neither try the next nor
        // learn which endpoint hangs.
        (Tier::Pool, Delivery::Streamed { .. }, _) | (_, _, true) => patience.last,
        (Tier::Engine, _, false) => patience.local,
        (Tier::Upstream, Delivery::Streamed { .. }, false) => patience.remote,
    }
}
