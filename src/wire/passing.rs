//! What a provider wrote, passed on to a caller who reads the same dialect.

use bytes::{BufMut, Bytes, BytesMut};
use domain::{ChatEvent, Dialect, Extent, Written};

use crate::sse_reading::Out;

/// Whether a member stands in a provider's object and says something.
pub(crate) fn is_filled(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

/// Puts what was written before the events in `out` that it says: those from `first` on, the usage
/// aside, which encoders write at the end.
pub(crate) fn put_before(out: &mut Out, first: usize, dialect: Dialect, bytes: Bytes) {
    let said = out.iter().skip(first);
    let said = said.filter(|event| !matches!(event, Ok(ChatEvent::Usage(_))));
    let events = u32::try_from(said.count()).unwrap_or(u32::MAX);
    let written = Written {
        dialect,
        extent: Extent::Event { events },
        bytes,
    };
    out.insert(first, Ok(ChatEvent::Written(written)));
}

/// A whole reply as it came.
pub(crate) fn whole(dialect: Dialect, bytes: &[u8]) -> Written {
    Written {
        dialect,
        extent: Extent::Reply,
        bytes: Bytes::copy_from_slice(bytes),
    }
}

/// A server-sent event as it stands in a stream, its blank line included; `name` may be empty.
pub(crate) fn frame(name: &[u8], data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + data.len() + 24);
    if !name.is_empty() {
        out.put_slice(b"event: ");
        out.put_slice(name);
        out.put_u8(b'\n');
    }
    for line in data.split(|byte| *byte == b'\n') {
        out.put_slice(b"data: ");
        out.put_slice(line.strip_suffix(b"\r").unwrap_or(line));
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
    out.freeze()
}

/// Whether a stream is passed on. That is settled by its first event, for all of them: between those of
/// its provider no event of ours would have its place. OpenAI's chunks need no neighbours, so one among
/// them may be written anew, under the provider's id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Passing {
    #[default]
    Unsettled,
    PassesOn,
    /// Every event is written anew.
    Encodes,
}

impl Passing {
    /// What of `event` is to be copied, or `None` where it is to be encoded.
    pub fn copy<'e>(&mut self, event: &'e ChatEvent, dialect: Dialect) -> Option<&'e [u8]> {
        let written = match event {
            ChatEvent::Written(written) => {
                let is_event = matches!(written.extent, Extent::Event { .. });
                Some(written).filter(|it| is_event && it.dialect == dialect)
            }
            _ => None,
        };
        if *self == Self::Unsettled {
            *self = match written {
                Some(_) => Self::PassesOn,
                None => Self::Encodes,
            };
        }
        match self {
            Self::PassesOn => Some(written.map_or(&[], |written| written.bytes.as_ref())),
            Self::Unsettled | Self::Encodes => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SseDecoder, SseEvent};

    #[test]
    fn a_frame_reads_as_what_was_framed() {
        for (name, data) in [
            ("", "{}"),
            ("ping", r#"{"type":"ping"}"#),
            ("", "{\n \"a\": 1\n}"),
            ("", ""),
        ] {
            let mut seen = Vec::new();
            let mut each = |event: SseEvent<'_>| {
                seen.push((event.name.to_vec(), event.data.to_vec()));
            };
            let frame = frame(name.as_bytes(), data.as_bytes());
            SseDecoder::new().push(&frame, &mut each).unwrap();
            assert_eq!(seen, [(name.as_bytes().to_vec(), data.as_bytes().to_vec())]);
        }
    }
}
