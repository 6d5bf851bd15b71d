//! Tells other replicas over Redis that something changed, and hears it from them.
//!
//! A message is a number that nobody relies on. In a cluster each node passes it on to all others, so that
//! it does not matter which one is asked.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::Common;

/// Between two attempts to reach Redis.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// For a connection, and for each answer.
const CALL_MAX: Duration = Duration::from_secs(1);

pub struct Bell {
    client: Client,
    channel: String,
}

#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("Redis did not answer in time")]
    Late,
    #[error("Redis ended the connection")]
    Ended,
}

impl Bell {
    pub fn new(client: Client, prefix: &str) -> Self {
        Self {
            client,
            channel: format!("{prefix}:keys"),
        }
    }

    /// Never ends by itself.
    pub async fn run(self, common: &Common) {
        let mut is_said = false;
        loop {
            let Err(unheard) = self.tell(common).await;
            if common.is_told.swap(false, Ordering::Relaxed) {
                is_said = false;
            }
            if !is_said {
                warn!(error = %unheard,
                    "Redis does not tell of changed keys; it is looked for them every half second");
                is_said = true;
            }
            sleep(RETRY_EVERY).await;
        }
    }

    async fn tell(&self, common: &Common) -> Result<std::convert::Infallible, Unheard> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_MAX))
            .set_response_timeout(Some(CALL_MAX));
        let mut hearing = in_time(self.client.get_async_pubsub()).await?;
        in_time(hearing.subscribe(&self.channel)).await?;
        let speaking = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let mut speaking = in_time(speaking).await?;
        let mut made = common.made.subscribe();
        // What was made while nobody could be told.
        made.mark_changed();
        common.is_told.store(true, Ordering::Relaxed);
        info!("Redis tells of changed keys");
        // What others made meanwhile.
        common.look.notify_one();
        let mut heard = hearing.on_message();
        loop {
            tokio::select! {
                message = heard.next() => match message {
                    Some(_) => common.look.notify_one(),
                    None => return Err(Unheard::Ended),
                },
                changed = made.changed() => {
                    // The sender is what all of this is a part of.
                    drop(changed);
                    let generation = *made.borrow_and_update();
                    let mut publish = redis::cmd("PUBLISH");
                    publish.arg(&self.channel).arg(generation);
                    let _: i64 = in_time(publish.query_async(&mut speaking)).await?;
                }
            }
        }
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, Unheard> {
    Ok(timeout(CALL_MAX, call).await.map_err(|_| Unheard::Late)??)
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bell({})", self.channel)
    }
}
