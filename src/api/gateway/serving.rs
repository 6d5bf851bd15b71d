//! The gateway's accept loop: TLS and HTTP/1.1 or HTTP/2, each in its time.
//!
//! A connection is looked at every second: whether it ever asked for anything, whether it still does,
//! and whether its answers are taken. HTTP/2 knows no time-outs of its own for any of that.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Gateway;
use super::enrolment::PeerCertificate;
use super::flow::Stands;
use super::outer::{Answered, Peer};
use super::turnstile::Places;
use crate::connection::tune;
use crate::ingress::LoadLimits;
use crate::line::{Line, Signs};
use crate::seats::{AddressKey, Seat, Seats};
use crate::server::{drain, pause_after, report};

/// How often a connection is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What HTTP/2 holds of an answer that its reader does not take yet.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// hyper's smallest buffer.
const BUFFER_BYTES_MIN: usize = 8 * 1024;

/// How long connections have to close when all answers have ended.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// What one listener needs.
struct Host {
    gateway: Arc<Gateway>,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    http: auto::Builder<TokioExecutor>,
    seats: Seats,
    edges: Places<String>,
    /// Ends connections, once their answers have ended.
    close: CancellationToken,
}

impl Gateway {
    /// Serves edges until `stop`, then lets answers end for the grace, and meanwhile tells whoever asks
    /// for another one to turn elsewhere. `tls` may change, for connections to come; without any, what
    /// is not sealed can be read on the way, and no edge can show a certificate.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
        stop: CancellationToken,
    ) {
        let host = Arc::new(Host::new(Arc::clone(&self), tls));
        let mut connections = JoinSet::new();
        let accepting = accept(&host, &listener, &mut connections);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = accepting => {}
        }
        self.is_stopping.store(true, Ordering::Relaxed);
        let grace = self.rules.limits.shutdown_grace;
        let all = u32::try_from(self.requests_max).unwrap_or(u32::MAX);
        let all_ended = timeout(grace, self.requests.acquire_many(all));
        tokio::select! {
            biased;
            _ = all_ended => {}
            () = accept(&host, &listener, &mut connections) => {}
        }
        drop(listener);
        host.close.cancel();
        drain(connections, CLOSE_GRACE).await;
    }
}

/// Never ends.
async fn accept(host: &Arc<Host>, listener: &TcpListener, connections: &mut JoinSet<()>) {
    loop {
        tokio::select! {
            biased;
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => host.receive(connections, stream, peer),
                Err(error) => pause_after(&error).await,
            },
        }
    }
}

impl Host {
    fn new(gateway: Arc<Gateway>, tls: Option<watch::Receiver<Arc<ServerConfig>>>) -> Self {
        let limits = gateway.rules.limits;
        let mut http = auto::Builder::new(TokioExecutor::new());
        let header_bytes_max = limits.header_bytes_max.max(BUFFER_BYTES_MIN);
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_max)
            .max_buf_size(header_bytes_max);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BYTES_MAX)
            .keep_alive_interval(limits.idle_max / 4)
            .keep_alive_timeout(limits.write_stall_max);
        let load = LoadLimits {
            connections_max: limits.connections_max,
            connections_per_address_max: limits.connections_per_address_max,
            requests_max: limits.requests_max,
        };
        Self {
            seats: Seats::new(&load),
            edges: Places::new(limits.connections_per_edge_max),
            close: CancellationToken::new(),
            gateway,
            tls,
            http,
        }
    }

    fn receive(
        self: &Arc<Self>,
        connections: &mut JoinSet<()>,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let Some(seat) = self.seats.take(Some(AddressKey::of(peer.ip()))) else {
            // Nothing can be said before a handshake.
            self.gateway.tally.count_connection_refused();
            return;
        };
        tune(&stream);
        let host = Arc::clone(self);
        connections.spawn(async move {
            if let Err(error) = host.converse(stream, peer, seat).await {
                debug!(%error, "connection to the gateway ended early");
            }
        });
    }

    async fn converse(&self, stream: TcpStream, peer: SocketAddr, _seat: Seat) -> io::Result<()> {
        let gateway = &self.gateway;
        let _open = gateway.tally.connection();
        let address = peer.ip();
        let Some(tls) = &self.tls else {
            let certificate = None;
            return self
                .speak(
                    stream,
                    Peer {
                        address,
                        certificate,
                    },
                )
                .await;
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let handshake_max = gateway.rules.limits.handshake_max;
        let stream = timeout(handshake_max, acceptor.accept(stream)).await??;
        let shown = stream.get_ref().1.peer_certificates();
        let trust_domain = &gateway.rules.trust_domain;
        let shown = shown.and_then(|chain| chain.first());
        let certificate = shown.and_then(|der| PeerCertificate::read(der, trust_domain));
        if certificate
            .as_ref()
            .is_some_and(|it| gateway.is_anothers(it))
        {
            gateway.tally.count_connection_refused();
            return Ok(());
        }
        let place = match &certificate {
            None => None,
            Some(shown) => match self.edges.take(shown.edge_id.clone()) {
                None => {
                    gateway.tally.count_connection_refused();
                    return Ok(());
                }
                place => place,
            },
        };
        let spoken = self
            .speak(
                stream,
                Peer {
                    address,
                    certificate,
                },
            )
            .await;
        drop(place);
        spoken
    }

    async fn speak<T>(&self, stream: T, peer: Peer) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.gateway.rules.limits;
        let signs = Arc::new(Signs::default());
        let line = Line::new(
            TokioIo::new(stream),
            Arc::clone(&signs),
            limits.write_stall_max,
        );
        let talk = Arc::new(Talk::new());
        let (gateway, peer) = (Arc::clone(&self.gateway), Arc::new(peer));
        let of_service = Arc::clone(&talk);
        let service = service_fn(move |request: http::Request<Incoming>| -> Answered {
            let (gateway, peer) = (Arc::clone(&gateway), Arc::clone(&peer));
            let (signs, talk) = (Arc::clone(&signs), Arc::clone(&of_service));
            let asking = Asking::of(&talk);
            Box::pin(async move {
                let _asking = asking;
                Ok(gateway.answer(&peer, &talk.stands, &signs, request).await)
            })
        });
        let mut connection = pin!(self.http.serve_connection(line, service));
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_closing = false;
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => return ended.map_err(io::Error::other),
                () = self.close.cancelled(), if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => match talk.look(&limits) {
                    Looked::Talks => {}
                    Looked::Silent => return Ok(()),
                    Looked::Idle => {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                },
            }
        }
    }
}

/// What is known of one connection's requests.
struct Talk {
    stands: Stands,
    /// Requests that are being read, or decided.
    asking: AtomicUsize,
    has_asked: AtomicBool,
    last: Mutex<Instant>,
}

enum Looked {
    Talks,
    /// Nothing has come since its beginning.
    Silent,
    /// Nothing has come for a while.
    Idle,
}

impl Talk {
    fn new() -> Self {
        Self {
            stands: Stands::default(),
            asking: AtomicUsize::new(0),
            has_asked: AtomicBool::new(false),
            last: Mutex::new(Instant::now()),
        }
    }

    fn touch(&self) -> Instant {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut last, now)
    }

    fn look(&self, limits: &super::rules::GatewayLimits) -> Looked {
        let answers = self.stands.look(limits.write_stall_max);
        if answers > 0 || self.asking.load(Ordering::Relaxed) > 0 {
            self.touch();
            return Looked::Talks;
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = last.elapsed();
        if !self.has_asked.load(Ordering::Relaxed) && quiet >= limits.header_max {
            Looked::Silent
        } else if quiet >= limits.idle_max {
            Looked::Idle
        } else {
            Looked::Talks
        }
    }
}

/// A request until its answer begins.
struct Asking(Arc<Talk>);

impl Asking {
    fn of(talk: &Arc<Talk>) -> Self {
        talk.asking.fetch_add(1, Ordering::Relaxed);
        talk.has_asked.store(true, Ordering::Relaxed);
        Self(Arc::clone(talk))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.touch();
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}
