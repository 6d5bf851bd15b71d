//! One reply on its way from the engine's thread to its reader.
//!
//! ```text
//! engine thread: ReplySender ──(events_max)──► ReplyStream: reader
//!        ▲                                         │
//!        └── Bell (room again, or gone) ◄──────────┤
//!            Interrupt (gone in mid-prompt) ◄──────┘
//! ```
//! The sender never waits. The stream cancels by being dropped.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::thread::Thread;

use domain::{BackendError, ChatEvent};
use futures::Stream;
use tokio::sync::mpsc;

use crate::decoder::Interrupt;

/// Wakes the engine's thread.
#[derive(Debug, Default)]
pub(crate) struct Bell(OnceLock<Thread>);

impl Bell {
    /// Says who is to be woken. Rings before that are lost, so the thread looks once after it.
    pub(crate) fn hang(&self, thread: Thread) {
        // A second engine thread never exists for one bell.
        let _ = self.0.set(thread);
    }

    pub(crate) fn ring(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// What sender and stream know of each other besides the events.
#[derive(Debug, Default)]
struct Ticket {
    is_cancelled: AtomicBool,
    /// The slot waits for room in the channel.
    is_paused: AtomicBool,
    /// The reply is a large part of the batch being computed: not worth finishing without it.
    weighs_in_batch: AtomicBool,
    /// Set once, at the end: `None` for a good one.
    end: OnceLock<Option<BackendError>>,
}

/// Makes the two ends of a reply that holds at most `events_max` unread events.
pub(crate) fn reply(
    events_max: usize,
    bell: Arc<Bell>,
    interrupt: Arc<Interrupt>,
) -> (ReplySender, ReplyStream) {
    let (sender, events) = mpsc::channel(events_max.max(1));
    let ticket = Arc::new(Ticket::default());
    let stream = ReplyStream {
        events,
        ticket: Arc::clone(&ticket),
        bell,
        interrupt,
        is_over: false,
    };
    (ReplySender { sender, ticket }, stream)
}

/// How [`ReplySender::send`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    /// The reader has not read. It rings the bell when it does.
    Full,
}

/// The engine's end. Dropped without [`ReplySender::end`], the reader sees a cut-off reply.
pub(crate) struct ReplySender {
    sender: mpsc::Sender<ChatEvent>,
    ticket: Arc<Ticket>,
}

impl fmt::Debug for ReplySender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReplySender").field(&self.ticket).finish()
    }
}

impl ReplySender {
    /// Sends what `next` gives if there is room for it now.
    pub(crate) fn send(&self, next: impl FnOnce() -> Option<ChatEvent>) -> Sent {
        let Ok(permit) = self.sender.try_reserve() else {
            return self.pause(next);
        };
        self.ticket.is_paused.store(false, Ordering::SeqCst);
        if let Some(event) = next() {
            permit.send(event);
        }
        Sent::Taken
    }

    /// The reader may have read between our look and the mark it rings by, so look again after.
    fn pause(&self, next: impl FnOnce() -> Option<ChatEvent>) -> Sent {
        self.ticket.is_paused.store(true, Ordering::SeqCst);
        let Ok(permit) = self.sender.try_reserve() else {
            return Sent::Full;
        };
        self.ticket.is_paused.store(false, Ordering::SeqCst);
        if let Some(event) = next() {
            permit.send(event);
        }
        Sent::Taken
    }

    /// Ends the reply, well or with an error. The reader still gets every event sent before.
    pub(crate) fn end(self, error: Option<BackendError>) {
        let _ = self.ticket.end.set(error);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.ticket.is_cancelled.load(Ordering::SeqCst)
    }

    /// While true, the stream's end raises the interrupt. Set it, then look at
    /// [`ReplySender::is_cancelled`]: one of both sides then sees the other.
    pub(crate) fn set_weighs_in_batch(&self, weighs: bool) {
        self.ticket.weighs_in_batch.store(weighs, Ordering::SeqCst);
    }
}

/// The reader's end.
pub(crate) struct ReplyStream {
    events: mpsc::Receiver<ChatEvent>,
    ticket: Arc<Ticket>,
    bell: Arc<Bell>,
    interrupt: Arc<Interrupt>,
    is_over: bool,
}

impl Stream for ReplyStream {
    type Item = Result<ChatEvent, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(event) = ready!(self.events.poll_recv(cx)) {
            if self.ticket.is_paused.load(Ordering::SeqCst) {
                self.bell.ring();
            }
            return Poll::Ready(Some(Ok(event)));
        }
        self.is_over = true;
        let end = self.ticket.end.get().cloned();
        Poll::Ready(end.unwrap_or(Some(BackendError::Interrupted)).map(Err))
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        self.ticket.is_cancelled.store(true, Ordering::SeqCst);
        if self.ticket.weighs_in_batch.load(Ordering::SeqCst) {
            self.interrupt.raise();
        }
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use domain::Usage;
    use futures::StreamExt;
    use futures::executor::block_on;

    use super::*;

    fn ends() -> (ReplySender, ReplyStream, Arc<Interrupt>) {
        let interrupt = Arc::new(Interrupt::default());
        let (sender, stream) = reply(1, Arc::new(Bell::default()), Arc::clone(&interrupt));
        (sender, stream, interrupt)
    }

    fn event() -> Option<ChatEvent> {
        Some(ChatEvent::Usage(Usage::default()))
    }

    #[test]
    fn a_full_channel_takes_nothing_and_loses_nothing() {
        let (sender, mut stream, _) = ends();
        assert_eq!(sender.send(event), Sent::Taken);
        assert_eq!(
            sender.send(|| panic!("asked for an event without room")),
            Sent::Full
        );
        assert!(block_on(stream.next()).is_some());
        assert_eq!(sender.send(event), Sent::Taken);
    }

    #[test]
    fn what_was_sent_comes_before_the_end() {
        let (sender, stream, _) = ends();
        sender.send(event);
        sender.end(Some(BackendError::Engine("e")));
        let all: Vec<_> = block_on(stream.collect());
        assert!(
            matches!(all[..], [Ok(_), Err(BackendError::Engine("e"))]),
            "{all:?}"
        );
    }

    #[test]
    fn a_sender_that_vanishes_cut_the_reply_off() {
        let (sender, stream, _) = ends();
        drop(sender);
        let all: Vec<_> = block_on(stream.collect());
        assert!(
            matches!(all[..], [Err(BackendError::Interrupted)]),
            "{all:?}"
        );
    }

    #[test]
    fn leaving_interrupts_only_the_batch_it_weighs_in() {
        for weighs in [false, true] {
            let (sender, stream, interrupt) = ends();
            sender.set_weighs_in_batch(weighs);
            drop(stream);
            assert!(sender.is_cancelled());
            assert_eq!(interrupt.is_raised(), weighs);
        }
    }
}
