//! One candidate: asked, and given as long as it may take to its first content.

use std::sync::Arc;
use std::time::Duration;

use domain::{
    Backend, BackendCard, BackendError, ChatEvent, ChatStream, Delivery, Outbound, Tier,
    TimeoutPhase, read_head,
};
use tokio::time::timeout;

use crate::snapshot::Patience;

/// For a remote reply asked for whole. Upstreams have limits of their own below this one.
const WHOLE_REPLY_MAX: Duration = Duration::from_secs(3600);

/// Asks, and waits for the first content. `is_last` says that nobody is left after this one.
pub(crate) async fn attempt(
    backend: &Arc<dyn Backend>,
    call: Outbound,
    patience: &Patience,
    is_last: bool,
) -> Result<(Vec<ChatEvent>, ChatStream), BackendError> {
    let within = first_content_max(patience, backend.card(), is_last, call.request().delivery);
    let opening = async { read_head(backend.chat(call).await?).await };
    let opened = timeout(within, opening).await;
    opened.unwrap_or(Err(BackendError::TimedOut(TimeoutPhase::FirstEvent)))
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
