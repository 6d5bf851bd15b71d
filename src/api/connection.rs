//! From an accepted socket to a conversation in HTTP/1.1.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use domain::Fault;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::{Layer, ServiceExt};
use tracing::debug;

use crate::auth::{Peer, is_within, origin};
use crate::doors::refuser;
use crate::error::{Verdict, verdict};
use crate::flood::Flood;
use crate::line::{Line, Signs};
use crate::request_id::{self, X_REQUEST_ID};
use crate::router::Door;
use crate::seats::{AddressKey, Seat, Seats};
use crate::server::Api;
use crate::service::Front;

/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8 * 1024;

/// A peer that vanished without a word is noticed after about this, plus the kernel's probes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// What a caller is told to wait when there is no seat for its connection.
const SEAT_WAIT: Duration = Duration::from_secs(1);

/// What one listener needs to receive connections.
pub(crate) struct Host {
    front: Arc<Front>,
    seats: Seats,
    flood: Flood,
    http: http1::Builder,
    /// The whole answer to a connection that gets no seat.
    turned_away: Vec<u8>,
    stop: CancellationToken,
}

impl Host {
    pub fn new(api: &Arc<Api>, door: Door, is_loopback: bool, stop: CancellationToken) -> Self {
        let ingress = &api.ingress;
        let header_bytes_max = ingress.header_bytes_max.max(BUFFER_BYTES_MIN);
        let mut http = http1::Builder::new();
        // At most 100 headers is hyper's default; setting it would cost an allocation per request.
        http.timer(TokioTimer::new())
            .header_read_timeout(ingress.header_timeout)
            .max_header_size(header_bytes_max)
            .max_buf_size(header_bytes_max);
        Self {
            seats: Seats::new(&ingress.load),
            flood: Flood::new(&ingress.flood),
            front: Arc::new(Front::new(Arc::clone(api), door, is_loopback)),
            http,
            turned_away: turned_away(),
            stop,
        }
    }

    pub fn forget_quiet(&self) {
        self.flood.forget_quiet();
    }

    /// Gives a connection a seat and a task, or turns it away.
    pub fn receive(&self, connections: &mut JoinSet<()>, stream: TcpStream, peer: SocketAddr) {
        let address = peer.ip();
        let is_proxy = is_within(address, &self.front.api.ingress.proxies);
        // A proxy of the operator's has as many connections as there are, and each of its requests counts
        // as whom it speaks for.
        let key = self.flood.key(address);
        let (counted, guarded) = match is_proxy {
            true => (None, Some(AddressKey::of(address))),
            false => (key, key),
        };
        let Some(seat) = self.seats.take(counted) else {
            self.front.api.tally.count_connection_refused();
            // Said if it can be said without waiting; the connection closes either way.
            let _: io::Result<usize> = stream.try_write(&self.turned_away);
            return;
        };
        tune(&stream);
        let signs = Arc::new(Signs::default());
        let stall_max = self.front.api.ingress.write_stall_max;
        let line = Line::new(TokioIo::new(stream), Arc::clone(&signs), stall_max);
        let front = Arc::clone(&self.front);
        let stop = self.stop.clone();
        match guarded {
            None => {
                let service = open_service(Arc::clone(&front), signs, Peer(address));
                let connection = self.http.serve_connection(line, service);
                connections.spawn(converse(connection, front, seat, stop));
            }
            Some(key) => {
                let from = (key, Peer(address));
                let service = guarded_service(&self.flood, from, Arc::clone(&front), signs);
                let connection = self.http.serve_connection(line, service);
                connections.spawn(converse(connection, front, seat, stop));
            }
        }
    }
}

/// In a box, for a connection keeps room for one of its service's futures as long as it is open.
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn open_service(
    front: Arc<Front>,
    signs: Arc<Signs>,
    peer: Peer,
) -> impl HttpService<Incoming, ResBody = Body, Error = Infallible, Future = Answering> + Send + use<>
{
    service_fn(move |mut request: Request<Incoming>| -> Answering {
        request.extensions_mut().insert(peer);
        let (front, signs) = (Arc::clone(&front), Arc::clone(&signs));
        Box::pin(async move { Ok(front.answer(&signs, request).await) })
    })
}

/// The same behind the flood guard.
fn guarded_service(
    flood: &Flood,
    (key, peer): (AddressKey, Peer),
    front: Arc<Front>,
    signs: Arc<Signs>,
) -> impl HttpService<Incoming, ResBody = Body, Error = Infallible, Future = Answering> + Send + use<>
{
    let answering = {
        let front = Arc::clone(&front);
        tower::service_fn(move |request: Request<Incoming>| -> Answering {
            let (front, signs) = (Arc::clone(&front), Arc::clone(&signs));
            Box::pin(async move { Ok(front.answer(&signs, request).await) })
        })
    };
    let guarded = flood.layer().layer(answering);
    service_fn(move |mut request: Request<Incoming>| -> Answering {
        let (front, guarded) = (Arc::clone(&front), guarded.clone());
        let Peer(address) = peer;
        let proxies = &front.api.ingress.proxies;
        let from = origin(address, request.headers(), proxies);
        let key = if from == address {
            key
        } else {
            AddressKey::of(from)
        };
        request.extensions_mut().insert(key);
        request.extensions_mut().insert(peer);
        let sent_id = request.headers().get(X_REQUEST_ID).cloned();
        let refuser = refuser(request.uri().path(), request.headers());
        Box::pin(async move {
            let mut response = guarded.oneshot(request).await?;
            if !response.headers().contains_key(X_REQUEST_ID) {
                let id = request_id::from_sent(sent_id.as_ref());
                front.finish(&mut response, id, refuser);
            }
            Ok(response)
        })
    })
}

/// Serves one connection to its end. After `stop` the exchange under way is finished and no other
/// begun.
async fn converse<S>(
    connection: http1::Connection<Line<TokioIo<TcpStream>>, S>,
    front: Arc<Front>,
    _seat: Seat,
    stop: CancellationToken,
) where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible>,
{
    let _open = front.api.tally.connection();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Mostly clients that left or were too slow: worth a line only to who looks for it.
        debug!(%error, "connection ended early");
    }
}

fn turned_away() -> Vec<u8> {
    let fault = Fault::Overloaded {
        retry_after: SEAT_WAIT,
    };
    let Verdict { status, body, .. } = verdict(&fault);
    let body = body.to_json();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: {}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        SEAT_WAIT.as_secs(),
        body.len()
    );
    [head.into_bytes(), body].concat()
}

pub(crate) fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        debug!(%error, "socket options not set");
    }
}
