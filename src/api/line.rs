//! One accepted connection's bytes, with the manners that hyper leaves to its transport.
//!
//! - A client that takes no byte for too long is dropped.
//! - A connection that ends with request bytes unread is closed in two steps: our half first, the
//!   other once the client has had the chance to read the refusal. A plain close would reset the
//!   connection and might take the refusal with it (RFC 9112, section 9.6).
//! - A body can wait until everything before it was handed to the kernel, and only then break the
//!   connection off.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::time::{Sleep, sleep};

/// How long a refused client may go on sending before the connection is reset.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// How much a refused client may go on sending.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a connection's exchanges tell its transport. One task drives both, so the order of memory
/// operations is of no concern.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    has_unread: AtomicBool,
    awaits_flush: AtomicBool,
}

impl Signs {
    /// Says whether bytes of the present request may still be on their way.
    pub fn set_unread(&self, has_unread: bool) {
        self.has_unread.store(has_unread, Ordering::Relaxed);
    }

    /// Asks to be woken when everything written so far has left for the kernel.
    pub fn await_flush(&self) {
        self.awaits_flush.store(true, Ordering::Relaxed);
    }

    /// For an answer that goes over no connection of its own: what was handed over has left.
    pub fn note_flushed(&self) {
        self.awaits_flush.store(false, Ordering::Relaxed);
    }

    pub fn is_flushed(&self) -> bool {
        !self.awaits_flush.load(Ordering::Relaxed)
    }
}

/// The transport under hyper.
#[derive(Debug)]
pub(crate) struct Line<T> {
    io: T,
    signs: Arc<Signs>,
    write_stall_max: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    linger: Linger,
}

#[derive(Debug)]
enum Linger {
    NotYet,
    Reading {
        bytes_left: usize,
        until: Pin<Box<Sleep>>,
    },
    Over,
}

impl<T> Line<T> {
    pub fn new(io: T, signs: Arc<Signs>, write_stall_max: Duration) -> Self {
        Self {
            io,
            signs,
            write_stall_max,
            stall: None,
            linger: Linger::NotYet,
        }
    }

    /// Passes a write's outcome on, unless writes have been stuck for too long.
    fn watch<R>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.stall = None;
            return outcome;
        }
        let stall_max = self.write_stall_max;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(stall_max)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: Read + Unpin> Read for Line<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: Read + Write + Unpin> Write for Line<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.signs.awaits_flush.swap(false, Ordering::Relaxed) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.linger {
                Linger::NotYet => {
                    ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                    this.linger = if this.signs.has_unread.load(Ordering::Relaxed) {
                        let until = Box::pin(sleep(LINGER_MAX));
                        Linger::Reading {
                            bytes_left: LINGER_BYTES_MAX,
                            until,
                        }
                    } else {
                        Linger::Over
                    };
                }
                Linger::Reading { bytes_left, until } => {
                    let is_over = until.as_mut().poll(cx).is_ready();
                    if is_over || ready!(poll_discard(&mut this.io, cx, bytes_left)) {
                        this.linger = Linger::Over;
                    }
                }
                Linger::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Reads once and forgets it. Ready with true when there is nothing left worth waiting for.
fn poll_discard<T: Read + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    bytes_left: &mut usize,
) -> Poll<bool> {
    let mut scratch = [0_u8; 16 * 1024];
    let mut buf = ReadBuf::new(&mut scratch);
    match ready!(Pin::new(io).poll_read(cx, buf.unfilled())) {
        Err(_) => Poll::Ready(true),
        Ok(()) => {
            let count = buf.filled().len();
            *bytes_left = bytes_left.saturating_sub(count);
            Poll::Ready(count == 0 || *bytes_left == 0)
        }
    }
}
