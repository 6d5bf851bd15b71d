//! The accept loop: connections in, each with a seat, a time to speak, and an end.
//!
//! Ours rather than `axum::serve`, which never arms hyper's header timer.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use domain::{ChangeLog, KeyDigest, RecordShelf, ResponseShelf, TextShelf};
use pipeline::Pipeline;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::connection::Host;
use crate::desk::KeyDesk;
use crate::flood::FORGET_EVERY;
use crate::ingress::IngressConfig;
use crate::loaded::ModelBoard;
use crate::operators::AdminTokens;
use crate::probes::Scrape;
use crate::rights::Rights;
use crate::router::Door;
use crate::sign_in::SignIn;
use crate::tally::Tally;

/// How long to leave the listener alone when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections accepted before those accepted have a turn.
const ACCEPTED_AT_ONCE: usize = 8;

/// The HTTP side of the node. One value serves every listener.
pub struct Api {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) scrape: Arc<dyn Scrape>,
    pub(crate) board: Option<Arc<dyn ModelBoard>>,
    /// `None`: no responses are kept.
    pub(crate) shelf: Option<Arc<dyn ResponseShelf>>,
    /// `None`: no records are kept.
    pub(crate) records: Option<Arc<dyn RecordShelf>>,
    /// `None`: no texts are kept, and none ever were.
    pub(crate) texts: Option<Arc<dyn TextShelf>>,
    /// `None`: keys come from the configuration alone.
    pub(crate) desk: Option<Arc<dyn KeyDesk>>,
    /// Where operators' changes are written down; `None`: nowhere.
    pub(crate) changes: Option<Arc<dyn ChangeLog>>,
    /// `None`: nothing is found or removed by whose it is.
    pub(crate) rights: Option<Rights>,
    pub(crate) tokens: ArcSwap<AdminTokens>,
    /// `None`: nobody signs in.
    sign_in: ArcSwapOption<SignIn>,
    pub(crate) ingress: IngressConfig,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) tally: Tally,
    /// Unix seconds.
    pub(crate) started_at: u64,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("ingress", &self.ingress)
            .finish_non_exhaustive()
    }
}

impl Api {
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, scrape: Arc<dyn Scrape>, ingress: IngressConfig) -> Self {
        let requests_max = ingress.load.requests_max.clamp(1, Semaphore::MAX_PERMITS);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            pipeline,
            scrape,
            board: None,
            shelf: None,
            records: None,
            texts: None,
            desk: None,
            changes: None,
            rights: None,
            tokens: ArcSwap::default(),
            sign_in: ArcSwapOption::default(),
            ingress,
            requests: Arc::new(Semaphore::new(requests_max)),
            tally: Tally::default(),
            started_at: now.as_secs(),
        }
    }

    /// The same, showing the models on this machine to the operator.
    #[must_use]
    pub fn with_board(mut self, board: Arc<dyn ModelBoard>) -> Self {
        self.board = Some(board);
        self
    }

    /// The same, keeping responses that callers may go on from.
    #[must_use]
    pub fn with_shelf(mut self, shelf: Arc<dyn ResponseShelf>) -> Self {
        self.shelf = Some(shelf);
        self
    }

    /// The same, showing what was kept of exchanges to the operator.
    #[must_use]
    pub fn with_records(mut self, records: Arc<dyn RecordShelf>) -> Self {
        self.records = Some(records);
        self
    }

    /// The same, showing what exchanges said to the owner, where it is kept.
    #[must_use]
    pub fn with_texts(mut self, texts: Arc<dyn TextShelf>) -> Self {
        self.texts = Some(texts);
        self
    }

    /// The same, letting the operator change keys and teams.
    #[must_use]
    pub fn with_desk(mut self, desk: Arc<dyn KeyDesk>) -> Self {
        self.desk = Some(desk);
        self
    }

    /// The same, writing down what operators change beside keys and teams.
    #[must_use]
    pub fn with_changes(mut self, changes: Arc<dyn ChangeLog>) -> Self {
        self.changes = Some(changes);
        self
    }

    /// The same, handing out and removing what is somebody's.
    #[must_use]
    pub fn with_rights(mut self, rights: Rights) -> Self {
        self.rights = Some(rights);
        self
    }

    /// From the next request on these open the operator's listener, and no others. Without any it is
    /// open to all who reach it.
    pub fn set_tokens(&self, tokens: AdminTokens) {
        self.tokens.store(Arc::new(tokens));
    }

    /// From the next request on people sign in so. Sessions of another one's are over.
    pub fn set_sign_in(&self, sign_in: Option<Arc<SignIn>>) {
        self.sign_in.store(sign_in);
    }

    pub(crate) fn sign_in(&self) -> Option<Arc<SignIn>> {
        self.sign_in.load_full()
    }

    pub(crate) fn is_admin_token(&self, digest: &KeyDigest) -> bool {
        self.tokens.load().find(digest).is_some()
    }

    /// Serves callers of the API until `stop`, then drains for `shutdown_grace`. Shows `/metrics`
    /// as well when the listener is bound to loopback.
    pub async fn serve_client(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let is_loopback = is_loopback(&listener);
        self.serve(listener, Door::Client { is_loopback }, stop)
            .await;
    }

    /// Serves the operator. Without tokens, bind it to an address that only the operator reaches.
    pub async fn serve_admin(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        self.serve(listener, Door::Admin, stop).await;
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, door: Door, stop: CancellationToken) {
        let grace = self.ingress.shutdown_grace;
        let is_loopback = is_loopback(&listener);
        let host = Host::new(&self, door, is_loopback, stop.clone());
        let mut connections = JoinSet::new();
        let mut forget = interval(FORGET_EVERY);
        let mut accepted_count: usize = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => report(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        host.receive(&mut connections, stream, peer);
                        // What was accepted before gets on first: of a thousand callers at once the
                        // first are answered soon, and few are half way at a time.
                        accepted_count += 1;
                        if accepted_count.is_multiple_of(ACCEPTED_AT_ONCE) {
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => pause_after(&error).await,
                },
                _ = forget.tick() => host.forget_quiet(),
            }
        }
        drop(listener);
        drain(connections, grace).await;
    }
}

/// Lets the connections finish what they are at, for as long as `grace`; then drops them.
pub(crate) async fn drain(mut connections: JoinSet<()>, grace: Duration) {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(grace, all_ended).await.is_err() {
        warn!(
            connections = connections.len(),
            "grace is over; dropping open connections"
        );
        connections.shutdown().await;
    }
}

pub(crate) fn report(ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        error!("a connection's task panicked");
    }
}

/// A connection that died in the queue is its own affair; anything else will not have passed by
/// the next moment, and asking again at once would spin.
pub(crate) async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    warn!(%error, "accepting connections failed; pausing");
    sleep(ACCEPT_PAUSE).await;
}

fn is_loopback(listener: &TcpListener) -> bool {
    listener
        .local_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback())
}
