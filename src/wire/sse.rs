//! Server-sent events, framing alone: bytes in at any cut, events out.
//!
//! After the "Interpreting an event stream" section of the WHATWG HTML standard, less what a
//! single reply has no use for: `id`, `retry` and reconnection are read over.

/// The longest event taken, in bytes of its lines together. A provider's chunk is a few hundred
/// bytes; the largest seen in practice (tool arguments in one piece) stay below 100 KiB.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// One dispatched event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event:` field, empty when absent.
    pub name: &'a [u8],
    /// The `data:` lines, joined by a line feed.
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseFault {
    #[error("an event is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
}

/// Splits bytes into events, wherever they are cut.
#[derive(Debug, Default)]
pub struct SseDecoder {}
