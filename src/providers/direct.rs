//! Plain HTTP/1.1 to one upstream, with nothing between it and whoever waits for the answer.
//!
//! A client that many share gives each connection a task, and talks to it over channels: two switches
//! of tasks an exchange. Here the exchange holds its connection and polls it itself; between two
//! exchanges the connection lies in [`Idle`], polled by nobody. Dropping what is held closes it.
//!
//! ```text
//! Idle ─take─► Connection ─send─► Response ─read to its end─► Idle
//!   or connect ─┘                    └─ dropped before ─► closed
//! ```

mod connection;
mod idle;

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::timeout;
use tower_service::Service;

pub(crate) use connection::Response;
pub(crate) use idle::Idle;

use crate::transport::DirectRules;
use crate::upstream::SendError;
use connection::{Connection, Unanswered};

/// Between two probes of a silent connection, and how many until it is dead: as the client's.
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_RETRIES: u32 = 3;

/// One upstream's connections.
pub(crate) struct Direct {
    uri: Uri,
    connector: HttpConnector,
    connect_timeout: Duration,
    idle: Arc<Idle>,
}

impl Direct {
    pub fn new(uri: Uri, rules: &DirectRules, connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_keepalive(Some(rules.tcp_keepalive));
        connector.set_keepalive_interval(Some(TCP_KEEPALIVE_INTERVAL));
        connector.set_keepalive_retries(Some(TCP_KEEPALIVE_RETRIES));
        #[cfg(target_os = "linux")]
        connector.set_tcp_user_timeout(Some(rules.tcp_user_timeout));
        // Split among the name's addresses, so that a dead one leaves time for the next.
        connector.set_connect_timeout(Some(connect_timeout));
        Self {
            uri,
            connector,
            connect_timeout,
            idle: Arc::new(Idle::new(rules)),
        }
    }

    /// Where its requests go.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    pub fn idle(&self) -> &Arc<Idle> {
        &self.idle
    }

    /// Sends on a kept connection, or on a new one where none is left that still stands.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response, SendError> {
        while let Some(connection) = self.idle.take() {
            match connection.send(request, &self.idle).await {
                Ok(response) => return Ok(response),
                // Its server closed it meanwhile.
                Err(Unanswered::Unsent(unsent)) => request = *unsent,
                Err(Unanswered::Broken) => return Err(SendError::Broken),
            }
        }
        let connection = self.connect().await?;
        connection
            .send(request, &self.idle)
            .await
            .map_err(|error| match error {
                Unanswered::Unsent(_) => SendError::Unconnected,
                Unanswered::Broken => SendError::Broken,
            })
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let mut connector = self.connector.clone();
        let connecting = timeout(self.connect_timeout, async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(self.uri.clone()).await
        });
        match connecting.await {
            Err(_) => Err(SendError::ConnectTimedOut),
            Ok(Err(error)) if is_timeout(&error) => Err(SendError::ConnectTimedOut),
            Ok(Err(_)) => Err(SendError::Unconnected),
            Ok(Ok(io)) => Connection::open(io)
                .await
                .map_err(|_| SendError::Unconnected),
        }
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct")
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let is_named = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
    is_named || error.source().is_some_and(is_timeout)
}

#[cfg(test)]
mod tests;
