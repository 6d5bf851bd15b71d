//! Messages on a byte stream: four bytes of length, then the message in postcard's form.
//!
//! Both ends are the same binary, so a frame that cannot be read is no message of a later version
//! but a broken peer: whoever sees one ends the connection.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// The longest message to the child: twice the longest body that may be configured is refused here
/// rather than sent.
pub(super) const ASK_BYTES_MAX: usize = 512 * 1024 * 1024;
/// The longest message from the child: the arguments of one tool call over a whole context.
pub(super) const TELL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Read at once. A token's frame has about 20 bytes.
const READ_BYTES: usize = 16 * 1024;
/// Buffers that grew for one long message give their memory back above this.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;
const HEAD_BYTES: usize = 4;

/// What is wrong with what came.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameFault {
    #[error("a frame of {bytes} bytes, of at most {max}")]
    TooLong { bytes: usize, max: usize },
    #[error("a frame that is no message")]
    Malformed,
    #[error("the connection ended within a frame")]
    Cut,
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

impl FrameFault {
    /// In a constant, for the log; `None` for an end without words.
    pub(super) fn complaint(&self) -> Option<&'static str> {
        match self {
            FrameFault::TooLong { .. } => Some("it sent a frame that is too long"),
            FrameFault::Malformed => Some("it sent a frame that is no message"),
            FrameFault::Cut | FrameFault::Io(_) => None,
        }
    }
}

/// The message is too long, or has no such form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message cannot be sent")]
pub(super) struct Unsendable;

/// Appends one frame.
pub(super) fn put<T: Serialize>(
    frames: &mut Vec<u8>,
    message: &T,
    bytes_max: usize,
) -> Result<(), Unsendable> {
    let body = postcard::to_allocvec(message).map_err(|_| Unsendable)?;
    if body.len() > bytes_max {
        return Err(Unsendable);
    }
    let length = u32::try_from(body.len()).map_err(|_| Unsendable)?;
    frames.extend_from_slice(&length.to_le_bytes());
    frames.extend_from_slice(&body);
    Ok(())
}

/// Reads frames, however the bytes are cut.
#[derive(Debug)]
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes before this are read.
    start: usize,
    bytes_max: usize,
}

impl FrameReader {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            bytes_max,
        }
    }

    /// The next message; `None` where the stream ends between two. Cancel safe.
    ///
    /// # Errors
    /// See [`FrameFault`]; there is nothing to be read after one.
    pub(super) async fn next<T: DeserializeOwned>(
        &mut self,
        read: &mut (impl AsyncRead + Unpin),
    ) -> Result<Option<T>, FrameFault> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            self.make_room();
            if read.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.len() == self.start {
                    Ok(None)
                } else {
                    Err(FrameFault::Cut)
                };
            }
        }
    }

    /// A message, if a whole one is here.
    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameFault> {
        let unread = &self.buffer[self.start..];
        let Some((head, rest)) = unread.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*head) as usize;
        if bytes > self.bytes_max {
            return Err(FrameFault::TooLong {
                bytes,
                max: self.bytes_max,
            });
        }
        let Some(body) = rest.get(..bytes) else {
            return Ok(None);
        };
        let (message, left) = postcard::take_from_bytes(body).map_err(|_| FrameFault::Malformed)?;
        if !left.is_empty() {
            return Err(FrameFault::Malformed);
        }
        self.start += HEAD_BYTES + bytes;
        Ok(Some(message))
    }

    fn make_room(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        self.buffer.reserve(READ_BYTES);
    }
}

/// Frames that wait to be written. Its bound is the windows of the replies that put into it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: Mutex<Vec<u8>>,
    waker: AtomicWaker,
}

impl Outbox {
    /// # Errors
    /// The message is longer than `bytes_max`.
    pub(super) fn put<T: Serialize>(
        &self,
        message: &T,
        bytes_max: usize,
    ) -> Result<(), Unsendable> {
        put(&mut self.frames(), message, bytes_max)?;
        self.waker.wake();
        Ok(())
    }

    pub(super) fn clear(&self) {
        self.frames().clear();
    }

    pub(super) fn bytes(&self) -> usize {
        self.frames().len()
    }

    fn frames(&self) -> MutexGuard<'_, Vec<u8>> {
        // Frames are appended whole.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes an [`Outbox`]'s frames: all that wait in one write.
#[derive(Debug)]
pub(super) struct Pen<W> {
    write: W,
    sending: Vec<u8>,
    sent: usize,
}

impl<W: AsyncWrite + Unpin> Pen<W> {
    pub(super) fn new(write: W) -> Self {
        Self {
            write,
            sending: Vec::new(),
            sent: 0,
        }
    }

    /// Writes one stretch; waits while there is nothing to write. `last` may add to the outbox
    /// before it is emptied. Cancel safe.
    pub(super) async fn write_some(
        &mut self,
        outbox: &Outbox,
        mut last: impl FnMut(),
    ) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll(outbox, &mut last, cx)).await
    }

    /// Writes until the outbox is empty.
    pub(super) async fn write_all(&mut self, outbox: &Outbox) -> io::Result<()> {
        while outbox.bytes() > 0 || self.sent < self.sending.len() {
            self.write_some(outbox, || ()).await?;
        }
        Ok(())
    }

    fn poll(
        &mut self,
        outbox: &Outbox,
        last: &mut impl FnMut(),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.sent == self.sending.len() {
            self.refill(outbox, last, cx);
        }
        if self.sending.is_empty() {
            return Poll::Pending;
        }
        let stretch = &self.sending[self.sent..];
        let count = ready!(Pin::new(&mut self.write).poll_write(cx, stretch))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent += count;
        Poll::Ready(Ok(()))
    }

    fn refill(&mut self, outbox: &Outbox, last: &mut impl FnMut(), cx: &Context<'_>) {
        self.sent = 0;
        self.sending.clear();
        if self.sending.capacity() > BUFFER_BYTES_KEPT {
            self.sending = Vec::new();
        }
        // Before looking, so that what comes after the look wakes us.
        outbox.waker.register(cx.waker());
        if outbox.bytes() > 0 {
            last();
            std::mem::swap(&mut self.sending, &mut outbox.frames());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Word {
        Count(u64),
        Text(String),
    }

    fn word() -> impl Strategy<Value = Word> {
        prop_oneof![
            any::<u64>().prop_map(Word::Count),
            ".{0,40}".prop_map(Word::Text)
        ]
    }

    /// Reads all of `bytes`, which come in stretches of `cut`.
    fn read(bytes: &[u8], cut: usize, max: usize) -> (Vec<Word>, Result<(), FrameFault>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut parts = tokio_test_stream(bytes, cut);
        let mut reader = FrameReader::new(max);
        let mut words = Vec::new();
        let end = runtime.block_on(async {
            loop {
                match reader.next(&mut parts).await {
                    Ok(Some(word)) => words.push(word),
                    Ok(None) => return Ok(()),
                    Err(fault) => return Err(fault),
                }
            }
        });
        (words, end)
    }

    struct Stretches<'a>(std::slice::Chunks<'a, u8>);

    fn tokio_test_stream(bytes: &[u8], cut: usize) -> Stretches<'_> {
        Stretches(bytes.chunks(cut))
    }

    impl AsyncRead for Stretches<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(part) = self.0.next() {
                buffer.put_slice(part);
            }
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn what_was_put_is_read_however_it_is_cut(
            words in prop::collection::vec(word(), 0..20), cut in 1_usize..64,
        ) {
            let mut bytes = Vec::new();
            for word in &words {
                put(&mut bytes, word, 1024).unwrap();
            }
            let (read, end) = read(&bytes, cut, 1024);
            prop_assert!(end.is_ok());
            prop_assert_eq!(read, words);
        }

        #[test]
        fn garbage_ends_and_is_bounded(
            bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1_usize..64,
        ) {
            // However it ends, it does so without a panic, and nothing longer was taken in.
            let (words, _end) = read(&bytes, cut, 64);
            prop_assert!(words.len() <= bytes.len() / HEAD_BYTES);
        }

        #[test]
        fn a_frame_cut_off_is_no_good_end(word in word(), short in 1_usize..4) {
            let mut bytes = Vec::new();
            put(&mut bytes, &word, 1024).unwrap();
            bytes.truncate(bytes.len() - short);
            let (read, end) = read(&bytes, 16, 1024);
            prop_assert!(read.is_empty());
            prop_assert!(matches!(end, Err(FrameFault::Cut)));
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_its_bytes_come() {
        let bytes = u32::MAX.to_le_bytes();
        let (_, end) = read(&bytes, 4, 64);
        assert!(
            matches!(end, Err(FrameFault::TooLong { max: 64, .. })),
            "{end:?}"
        );
        let mut frames = Vec::new();
        let long = Word::Text("x".repeat(65));
        assert_eq!(put(&mut frames, &long, 64), Err(Unsendable));
        assert!(frames.is_empty());
    }

    #[test]
    fn a_kind_that_does_not_exist_and_bytes_too_many_are_malformed() {
        for body in [&[9, 0][..], &[0, 1, 7][..]] {
            let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(body);
            let (_, end) = read(&bytes, 64, 64);
            assert!(matches!(end, Err(FrameFault::Malformed)), "{end:?}");
        }
    }
}
