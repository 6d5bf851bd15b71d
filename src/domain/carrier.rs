//! Another way to an upstream than a connection to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{BackendError, Health, RequestId};

/// Takes requests to whoever answers them, and brings their answers: sealed, through a relay.
///
/// Contract, for every implementation:
/// - Dropping the future or the answer's body ends the exchange, there too, unless [`Enough`] was told.
/// - An `Err` means that the caller was sent nothing. Only [`BackendError::Unreachable`],
///   [`BackendError::TimedOut`] with the phase of connecting, [`BackendError::Overloaded`] and
///   [`BackendError::RateLimited`] say that nothing was done for the request; it may have been for any
///   other.
/// - An answer that is cut ends with an `Err`, never as if it were whole.
#[async_trait]
pub trait Carrier: fmt::Debug + Send + Sync + 'static {
    async fn carry(&self, parcel: Parcel) -> Result<Delivered, BackendError>;

    /// A cheap snapshot; never blocks, never asks the network.
    fn health(&self) -> Health;
}

/// One request, always a POST, without an address: its carrier knows where to.
#[derive(Clone)]
pub struct Parcel {
    pub request_id: RequestId,
    /// And query, as `/v1/chat/completions`.
    pub path: String,
    /// Names in lower case. None speaks of the body's length or form, or says who asks.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Bytes,
    /// Whether its answer is an event stream.
    pub is_streamed: bool,
    /// What the body names, for the record.
    pub model: String,
}

/// The answer to a parcel.
pub struct Delivered {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: BoxStream<'static, Result<Bytes, BackendError>>,
    pub enough: Enough,
}

/// Says of an answer that its reader has all it wants, before it drops the body. What is still to come
/// is then read unseen, where the carrier has a reason to: when a reader left would tell a length.
/// Without it, dropping the body is leaving.
#[derive(Clone, Debug, Default)]
pub struct Enough(Arc<AtomicBool>);

impl Enough {
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({}, {} bytes)", self.path, self.body.len())
    }
}

impl fmt::Debug for Delivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivered({})", self.status)
    }
}
