//! Requests that a [`Carrier`] takes, and answers that it brings.

use std::fmt;

use bytes::Bytes;
use domain::{BackendError, Carrier, Delivered, Delivery, Outbound, Parcel};
use futures::StreamExt;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{REQUEST_ID, Upstream};
use crate::target::Target;

const MALFORMED: BackendError = BackendError::Garbled("the reply has a head that HTTP has not");

impl Upstream {
    pub(super) async fn carry(
        &self,
        carrier: &dyn Carrier,
        call: &Outbound,
        target: &Target,
        body: Bytes,
    ) -> Result<Carried, BackendError> {
        let own = [
            (ACCEPT, self.accept(call).as_bytes().to_vec()),
            (REQUEST_ID, call.request_id().as_str().as_bytes().to_vec()),
        ];
        let betas = self.betas(call);
        let betas = betas.map(|(name, value)| (name, value.as_bytes().to_vec()));
        let settled = self.headers.iter();
        let settled = settled.map(|(name, value)| (name.clone(), value.as_bytes().to_vec()));
        let parcel = Parcel {
            request_id: call.request_id().clone(),
            path: target.uri.to_string(),
            headers: settled
                .chain(betas)
                .chain(own)
                .map(|(name, value)| (name.as_str().to_owned(), value))
                .collect(),
            body,
            is_streamed: matches!(call.request().delivery, Delivery::Streamed { .. }),
            model: call.model().to_owned(),
        };
        Carried::new(carrier.carry(parcel).await?)
    }
}

/// An answer that a carrier brought.
pub(crate) struct Carried {
    status: StatusCode,
    headers: HeaderMap,
    delivered: Delivered,
}

impl Carried {
    fn new(mut delivered: Delivered) -> Result<Self, BackendError> {
        let status = StatusCode::from_u16(delivered.status).map_err(|_| MALFORMED)?;
        let mut headers = HeaderMap::new();
        for (name, value) in std::mem::take(&mut delivered.headers) {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| MALFORMED)?;
            let value = HeaderValue::from_bytes(&value).map_err(|_| MALFORMED)?;
            headers.append(name, value);
        }
        if status != StatusCode::OK {
            // A refusal is short, and often left before its end.
            delivered.enough.tell();
        }
        Ok(Self {
            status,
            headers,
            delivered,
        })
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        self.delivered.body.next().await.transpose()
    }

    pub(crate) fn finish(&mut self) {
        self.delivered.enough.tell();
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Carried({})", self.status)
    }
}

#[cfg(test)]
mod tests;
