//! Reads a request's body inside its bounds: size, silence, total time.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use domain::{BadRequest, Fault};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::ingress::BodyLimits;

/// # Errors
/// - `TooLarge`: at once where the length is declared, else when the bound is crossed.
/// - `RequestTimedOut`: too long a silence, or too long altogether.
/// - `BadRequest`: the body ended early or its framing is broken.
pub(crate) async fn read<B: Body<Data = Bytes>>(
    body: B,
    limits: &BodyLimits,
) -> Result<Bytes, Fault> {
    let too_large = Fault::TooLarge {
        bytes_max: limits.bytes_max,
    };
    if body.size_hint().lower() > limits.bytes_max {
        return Err(too_large);
    }
    let mut body = pin!(body);
    let began = Instant::now();
    let mut parts = Parts::Nothing;
    loop {
        let now = Instant::now();
        let until = (now + limits.idle_max).min(began + limits.time_max);
        let frame = match timeout_at(until, body.frame()).await {
            Err(_) => return Err(Fault::RequestTimedOut),
            Ok(None) => return Ok(parts.finish()),
            Ok(Some(Err(_))) => return Err(Fault::BadRequest(broken())),
            Ok(Some(Ok(frame))) => frame,
        };
        // What is no data is trailers, which mean nothing to us.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if parts.len() as u64 + data.len() as u64 > limits.bytes_max {
            return Err(too_large);
        }
        parts = parts.and(data);
    }
}

fn broken() -> BadRequest {
    BadRequest {
        param: None,
        code: Some("incomplete_body".to_owned()),
        message: "the request body ended early or its framing is broken".to_owned(),
    }
}

/// A body up to this is copied, for it lies in the buffer that the connection reads into (8 KiB): kept
/// with its request it would cost a second one.
const COPIED_BYTES_MAX: usize = 4096;

/// What has come so far. Nearly every body comes in one piece, and a long one is then never copied.
enum Parts {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Parts {
    fn len(&self) -> usize {
        match self {
            Parts::Nothing => 0,
            Parts::One(bytes) => bytes.len(),
            Parts::Many(bytes) => bytes.len(),
        }
    }

    fn and(self, data: Bytes) -> Self {
        match self {
            Parts::Nothing => Parts::One(data),
            Parts::One(first) => {
                let mut joined = BytesMut::with_capacity((first.len() + data.len()) * 2);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                Parts::Many(joined)
            }
            Parts::Many(mut joined) => {
                joined.extend_from_slice(&data);
                Parts::Many(joined)
            }
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Parts::Nothing => Bytes::new(),
            Parts::One(bytes) if bytes.len() <= COPIED_BYTES_MAX => Bytes::copy_from_slice(&bytes),
            Parts::One(bytes) => bytes,
            Parts::Many(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{Stream, StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits {
        bytes_max: 10,
        idle_max: Duration::from_secs(2),
        time_max: Duration::from_secs(5),
    };

    /// Each piece comes after its pause.
    fn dripping(
        pieces: Vec<(u64, &'static str)>,
    ) -> impl Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> {
        stream::iter(pieces).then(|(pause_s, piece)| async move {
            tokio::time::sleep(Duration::from_secs(pause_s)).await;
            Ok(Frame::data(Bytes::from_static(piece.as_bytes())))
        })
    }

    async fn check(pieces: Vec<(u64, &'static str)>, read_as: Result<&'static str, Fault>) {
        let label = format!("{pieces:?}");
        let got = read(StreamBody::new(dripping(pieces)), &LIMITS).await;
        assert_eq!(
            got,
            read_as.map(|text| Bytes::from_static(text.as_bytes())),
            "{label}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_whole_or_refused_by_the_bound_it_crossed() {
        let too_large = Fault::TooLarge { bytes_max: 10 };
        check(vec![], Ok("")).await;
        check(vec![(0, "0123456789")], Ok("0123456789")).await;
        check(vec![(1, "01"), (1, "23"), (1, "45")], Ok("012345")).await;
        check(vec![(0, "012345"), (0, "6789a")], Err(too_large)).await;
        check(vec![(1, "0"), (3, "1")], Err(Fault::RequestTimedOut)).await;
        let steady_drip = vec![(1, "0"); 6];
        check(steady_drip, Err(Fault::RequestTimedOut)).await;
    }

    #[tokio::test]
    async fn a_declared_length_is_refused_without_a_read() {
        struct Unread;
        impl Body for Unread {
            type Data = Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
                unreachable!("the body was read")
            }
            fn size_hint(&self) -> http_body::SizeHint {
                http_body::SizeHint::with_exact(11)
            }
        }
        let refused = read(Unread, &LIMITS).await;
        assert_eq!(refused, Err(Fault::TooLarge { bytes_max: 10 }));
    }
}
