//! An answer on its way out: brought into cells, sealed and sent one by one.
//!
//! ```text
//! node ─► shaper ─► sealer ─► frame
//! ```
//! Nothing is read from the node while the shaper has no room, and nothing is sent before it is due. An
//! answer that breaks off in the node says so within itself, and is then ended properly; one that is
//! ended by us, because its edge was revoked or takes nothing, is cut: its reader can tell.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use domain::SealedResult;
use futures::task::AtomicWaker;
use http_body::{Body as _, Frame};
use relay::bhttp::Fields;
use relay::shape::{self, Shape, Shaper};
use relay::slim::{FRAMES_FIELD, SLIM_FRAMES};
use relay::{ChunkedResponse, ResponseSealer, SESSION_FIELD, SESSION_YES};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::inner::{Inner, answer_fields, is_events};
use super::judging::Grant;
use super::visit::Visit;
use crate::line::Signs;

/// How long the head of an answer waits for the first of the answer itself.
const HEAD_WAIT: Duration = Duration::from_millis(20);

/// Pieces that are taken from the node before what is due of them goes out.
const FEEDS_MAX: usize = 32;

/// What comes out of the node, in the future or now.
pub(super) type Coming = Pin<Box<dyn Future<Output = Inner> + Send>>;

/// The answer has no end: whoever reads it knows.
#[derive(Debug, thiserror::Error)]
#[error("the sealed answer was cut")]
pub(super) struct Cut;

enum Upstream {
    Coming(Coming),
    Flowing(Body),
    Over,
}

/// How an answer goes out.
pub(super) struct Sealing {
    pub sealer: ResponseSealer,
    pub shape: Shape,
    pub takes_frames: bool,
    /// What is said of it when it ends without a fault.
    pub result: SealedResult,
    pub grant: Option<Grant>,
    pub signs: Arc<Signs>,
}

pub(super) struct Flow {
    upstream: Upstream,
    /// What the node's streams tell the connection that they believe to write to.
    signs: Arc<Signs>,
    shape: Shape,
    /// Whether the edge puts events together again from frames.
    takes_frames: bool,
    /// Until it is told.
    grant: Option<Grant>,
    shaper: Shaper,
    /// `None` once the final chunk is sealed.
    sealer: Option<ChunkedResponse>,
    out: Vec<u8>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What is said of it when it ends without a fault.
    result: SealedResult,
    has_broken: bool,
    /// Since when content waits for its cell.
    waits_since: Option<std::time::Instant>,
    waits: u64,
    waited: Duration,
    visit: Visit,
}

impl Flow {
    pub fn new(coming: Coming, sealing: Sealing, mut visit: Visit) -> Self {
        let Sealing {
            sealer,
            shape,
            takes_frames,
            result,
            grant,
            signs,
        } = sealing;
        visit.note_shape(shape);
        let mut out = Vec::new();
        let sealer = sealer.start(&mut rand::rng(), &mut out);
        Self {
            upstream: Upstream::Coming(coming),
            signs,
            shape,
            takes_frames,
            grant,
            shaper: Shaper::new(shape, Instant::now().into_std()),
            sealer: Some(sealer),
            out,
            timer: None,
            result,
            has_broken: false,
            waits_since: None,
            waits: 0,
            waited: Duration::ZERO,
            visit,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if self.visit.is_revoked() {
                return Poll::Ready(Some(Err(Cut)));
            }
            if self.sealer.is_none() {
                return Poll::Ready(None);
            }
            let has_fed = self.feed_ready(cx)?;
            match self.seal_due() {
                Err(cut) => return Poll::Ready(Some(Err(cut))),
                Ok(true) => {
                    let sealed = std::mem::take(&mut self.out);
                    self.visit.note_sealed(sealed.len());
                    return Poll::Ready(Some(Ok(sealed.into())));
                }
                Ok(false) => {}
            }
            if has_fed {
                continue;
            }
            let Some(due) = self.shaper.due() else {
                return Poll::Pending;
            };
            ready!(self.wait(due.into(), cx));
        }
    }

    /// Whether a cell was due. All that are go out together.
    fn seal_due(&mut self) -> Result<bool, Cut> {
        let now = Instant::now().into_std();
        let mut has_cell = false;
        while let Some(cell) = self.shaper.next(now) {
            has_cell = true;
            if let Some(since) = self.waits_since.take() {
                self.waits += 1;
                self.waited += now.saturating_duration_since(since);
            }
            if cell.is_final {
                if let Some(sealer) = self.sealer.take() {
                    sealer.finish(&cell.plain, &mut self.out).map_err(|_| Cut)?;
                }
                let is_whole = !self.has_broken;
                let result = if is_whole {
                    self.result
                } else {
                    SealedResult::Broken
                };
                self.visit.end(result);
                break;
            }
            if let Some(sealer) = &mut self.sealer {
                sealer.push(&cell.plain, &mut self.out).map_err(|_| Cut)?;
            }
        }
        Ok(has_cell)
    }

    /// Takes what the node has ready, so that it goes out together: a short answer is then one frame, and
    /// one write. Whether there was anything.
    fn feed_ready(&mut self, cx: &mut Context<'_>) -> Result<bool, Cut> {
        for taken in 0..FEEDS_MAX {
            if self.shaper.room() == 0 || !self.feed(cx)? {
                return Ok(taken > 0);
            }
        }
        Ok(true)
    }

    /// Whether anything came of the node.
    fn feed(&mut self, cx: &mut Context<'_>) -> Result<bool, Cut> {
        match &mut self.upstream {
            Upstream::Coming(coming) => match coming.as_mut().poll(cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(inner) => self.begin(inner).map(|()| true),
            },
            Upstream::Flowing(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(Some(Ok(frame))) => {
                    // It left as far as the node is concerned.
                    self.signs.note_flushed();
                    if let Ok(content) = frame.into_data() {
                        self.push(&content);
                    }
                    Ok(true)
                }
                // Its error event was said before.
                Poll::Ready(Some(Err(_))) => {
                    self.has_broken = true;
                    self.end();
                    Ok(true)
                }
                Poll::Ready(None) => {
                    self.end();
                    Ok(true)
                }
            },
            Upstream::Over => Ok(false),
        }
    }

    fn begin(&mut self, inner: Inner) -> Result<(), Cut> {
        let (head, body) = inner.response.into_parts();
        let status = head.status.as_u16();
        self.visit.note_status(status);
        let now = self.visit.now();
        let mut fields = answer_fields(&head.headers, inner.is_processed, Some(self.shape), now);
        // What was never told takes no other session's place.
        if let Some(grant) = self.grant.take()
            && fields.push(SESSION_FIELD, SESSION_YES).is_ok()
        {
            grant.keep();
        }
        let kind = match (is_events(&head.headers), self.takes_frames) {
            (true, true) => shape::Body::Slim,
            (true, false) => shape::Body::Events,
            (false, _) => shape::Body::Other,
        };
        if kind == shape::Body::Slim {
            fields.push(FRAMES_FIELD, SLIM_FRAMES).map_err(|_| Cut)?;
        }
        self.shaper.begin(status, &fields, kind).map_err(|_| Cut)?;
        self.upstream = Upstream::Flowing(body);
        Ok(())
    }

    fn push(&mut self, content: &[u8]) {
        if !content.is_empty() {
            self.waits_since
                .get_or_insert_with(|| Instant::now().into_std());
            self.shaper.push(content);
        }
    }

    fn end(&mut self) {
        self.upstream = Upstream::Over;
        self.shaper.end(&Fields::default());
    }

    fn wait(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.as_mut().poll(cx)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let spent = self.shaper.spent();
        self.visit.note_spent(spent, self.waits, self.waited);
    }
}

/// Where an answer stands between its connection, which reads it, and who may have to end it.
pub(super) struct Stand {
    held: Mutex<Held>,
    waker: AtomicWaker,
}

struct Held {
    flow: Option<Box<Flow>>,
    is_over: bool,
    /// When a frame was handed out after which none was asked for.
    handed_at: Option<Instant>,
}

impl Stand {
    pub fn new(flow: Flow) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::new(Held {
                flow: Some(Box::new(flow)),
                is_over: false,
                handed_at: None,
            }),
            waker: AtomicWaker::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the answer where its edge was revoked, or takes nothing of it.
    fn look(&self, stall_max: Duration) {
        let mut held = self.lock();
        let now = Instant::now();
        let is_stuck = held
            .handed_at
            .is_some_and(|at| now.saturating_duration_since(at) >= stall_max);
        let is_revoked = held.flow.as_ref().is_some_and(|it| it.visit.is_revoked());
        if !is_stuck && !is_revoked {
            return;
        }
        let flow = held.flow.take();
        drop(held);
        if let Some(mut flow) = flow {
            flow.visit.end(SealedResult::Broken);
        }
        self.waker.wake();
    }
}

/// The answers of one connection.
#[derive(Clone, Default)]
pub(super) struct Stands(Arc<Mutex<Vec<Weak<Stand>>>>);

impl Stands {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Stand>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, stand: &Arc<Stand>) {
        let mut stands = self.lock();
        stands.retain(|stand| stand.strong_count() > 0);
        stands.push(Arc::downgrade(stand));
    }

    /// How many are under way. To be called every second or so.
    pub fn look(&self, stall_max: Duration) -> usize {
        let alive: Vec<Arc<Stand>> = self.lock().iter().filter_map(Weak::upgrade).collect();
        for stand in &alive {
            stand.look(stall_max);
        }
        alive.len()
    }
}

/// What the connection sends.
pub(super) struct SealedBody {
    stand: Arc<Stand>,
    /// What came before the connection asked for it.
    first: Option<Polled>,
}

type Polled = Option<Result<Frame<Bytes>, Cut>>;

impl SealedBody {
    /// As soon as there is something of it, so that the head goes out with that, or after a moment:
    /// the head says nothing of the answer, but that there will be one.
    pub async fn begun(stand: Arc<Stand>) -> Self {
        let mut body = Self { stand, first: None };
        let first = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        body.first = timeout(HEAD_WAIT, first).await.ok();
        body
    }
}

impl http_body::Body for SealedBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(first);
        }
        self.stand.waker.register(cx.waker());
        let mut held = self.stand.lock();
        held.handed_at = None;
        if held.is_over {
            return Poll::Ready(None);
        }
        let Some(flow) = held.flow.as_mut() else {
            held.is_over = true;
            return Poll::Ready(Some(Err(Cut)));
        };
        let polled = ready!(flow.poll(cx));
        let ended = match &polled {
            Some(Ok(_)) => {
                held.handed_at = Some(Instant::now());
                None
            }
            Some(Err(Cut)) => held.flow.take().map(|mut flow| {
                flow.visit.end(SealedResult::Broken);
                flow
            }),
            None => held.flow.take(),
        };
        held.is_over = held.flow.is_none();
        drop(held);
        // What it held goes outside of the lock.
        drop(ended);
        Poll::Ready(polled.map(|sealed| sealed.map(Frame::data)))
    }

    /// The last frame says that it is the last: no empty one comes after it.
    fn is_end_stream(&self) -> bool {
        let held = self.stand.lock();
        let is_sealed = held.flow.as_ref().is_some_and(|flow| flow.sealer.is_none());
        (held.is_over || is_sealed) && self.first.is_none()
    }
}

impl Drop for SealedBody {
    /// The edge left, or has it all.
    fn drop(&mut self) {
        let flow = self.stand.lock().flow.take();
        drop(flow);
    }
}
