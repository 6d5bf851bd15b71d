//! `application/vnd.amazon.eventstream`: messages in binary frames.
//!
//! ```text
//! total: u32 │ headers: u32 │ crc of both: u32 │ headers │ payload │ crc of all before: u32
//! ```
//! All numbers are big-endian, the checksums CRC-32 as gzip has it. A header is a name (u8 length),
//! a type (u8) and a value.

/// The longest message taken, as of server-sent events.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;
const PRELUDE_BYTES: usize = 12;
const CRC_BYTES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameFault {
    #[error("a message's length is out of range")]
    Length,
    #[error("a message's checksum does not match")]
    Checksum,
    #[error("a message's headers are malformed")]
    Headers,
}

/// One message, by the headers that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// `event`, `exception` or `error`.
    pub kind: &'a str,
    /// What kind of event or exception it is, or an error's code.
    pub name: &'a str,
    pub payload: &'a [u8],
}

/// Splits bytes into messages, wherever they are cut.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    /// A message whose end has not come yet.
    held: Vec<u8>,
}

impl FrameDecoder {
    /// Takes the next bytes and hands every message they complete to `each`, in order.
    ///
    /// # Errors
    /// The frames are none. The decoder is then of no further use.
    pub fn push(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), FrameFault> {
        self.held.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(length) = length_of(&self.held[done..])? {
            let Some(frame) = self.held.get(done..done + length) else {
                break;
            };
            each(read(frame)?);
            done += length;
        }
        self.held.drain(..done);
        Ok(())
    }

    /// True where the body may end.
    pub fn is_between(&self) -> bool {
        self.held.is_empty()
    }
}

/// The whole message's length; `None` until its prelude is there.
fn length_of(bytes: &[u8]) -> Result<Option<usize>, FrameFault> {
    let Some(prelude) = bytes.get(..PRELUDE_BYTES) else {
        return Ok(None);
    };
    let (numbers, crc) = prelude.split_at(PRELUDE_BYTES - CRC_BYTES);
    check(numbers, crc)?;
    let total = number(numbers)?;
    if !(PRELUDE_BYTES + CRC_BYTES..=MESSAGE_BYTES_MAX).contains(&total) {
        return Err(FrameFault::Length);
    }
    Ok(Some(total))
}

fn check(bytes: &[u8], crc: &[u8]) -> Result<(), FrameFault> {
    if crc32fast::hash(bytes).to_be_bytes() == crc {
        Ok(())
    } else {
        Err(FrameFault::Checksum)
    }
}

/// The first four bytes.
fn number(bytes: &[u8]) -> Result<usize, FrameFault> {
    let first = bytes.first_chunk().ok_or(FrameFault::Length)?;
    usize::try_from(u32::from_be_bytes(*first)).map_err(|_| FrameFault::Length)
}

fn read(frame: &[u8]) -> Result<Message<'_>, FrameFault> {
    let (body, crc) = frame
        .split_at_checked(frame.len() - CRC_BYTES)
        .ok_or(FrameFault::Length)?;
    check(body, crc)?;
    let headers = number(&body[CRC_BYTES..])?;
    let (mut headers, payload) = body[PRELUDE_BYTES..]
        .split_at_checked(headers)
        .ok_or(FrameFault::Length)?;
    let mut message = Message {
        payload,
        ..Message::default()
    };
    while !headers.is_empty() {
        let (name, value) = read_header(&mut headers).ok_or(FrameFault::Headers)?;
        match (name, value) {
            (":message-type", Some(kind)) => message.kind = kind,
            (":event-type" | ":exception-type" | ":error-code", Some(name)) => message.name = name,
            _ => {}
        }
    }
    Ok(message)
}

/// The next header's name and, if it is text, its value; `None` for one that is malformed.
fn read_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, Option<&'a str>)> {
    let length = take(rest, 1)?.first().copied()?;
    let name = std::str::from_utf8(take(rest, usize::from(length))?).ok()?;
    let kind = take(rest, 1)?.first().copied()?;
    let value = match kind {
        // True and false.
        0 | 1 => None,
        2 => take(rest, 1).map(|_| None)?,
        3 => take(rest, 2).map(|_| None)?,
        4 => take(rest, 4).map(|_| None)?,
        // A long number, and a time.
        5 | 8 => take(rest, 8).map(|_| None)?,
        6 => take_sized(rest).map(|_| None)?,
        7 => Some(std::str::from_utf8(take_sized(rest)?).ok()?),
        // A UUID.
        9 => take(rest, 16).map(|_| None)?,
        _ => return None,
    };
    Some((name, value))
}

fn take_sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(rest, 2)?.first_chunk().copied()?;
    take(rest, usize::from(u16::from_be_bytes(length)))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// The frame of one message, for tests that play the upstream.
#[cfg(test)]
pub(crate) fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    for (name, value) in headers {
        written.push(u8::try_from(name.len()).unwrap());
        written.extend_from_slice(name.as_bytes());
        written.push(7);
        written.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        written.extend_from_slice(value.as_bytes());
    }
    let total = PRELUDE_BYTES + written.len() + payload.len() + CRC_BYTES;
    let mut frame = Vec::with_capacity(total);
    frame.extend_from_slice(&u32::try_from(total).unwrap().to_be_bytes());
    frame.extend_from_slice(&u32::try_from(written.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&written);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8], cut: usize) -> Result<Vec<(String, String, Vec<u8>)>, FrameFault> {
        let mut decoder = FrameDecoder::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(cut.max(1)) {
            decoder.push(piece, &mut |message| {
                let (kind, name) = (message.kind.to_owned(), message.name.to_owned());
                seen.push((kind, name, message.payload.to_vec()));
            })?;
        }
        Ok(seen)
    }

    fn event(name: &str, payload: &str) -> Vec<u8> {
        let headers = [
            (":event-type", name),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ];
        frame(&headers, payload.as_bytes())
    }

    /// The specification's own test vectors, "empty message" and "int32 header", by their bytes.
    #[test]
    fn the_specifications_messages_are_read() {
        let empty: &[u8] = &[
            0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff,
        ];
        let with_header: &[u8] = &[
            0, 0, 0, 0x2d, 0, 0, 0, 0x10, 0x41, 0xc4, 0x24, 0xb8, 0x0a, b'e', b'v', b'e', b'n',
            b't', b'-', b't', b'y', b'p', b'e', 0x04, 0, 0, 0xa0, 0x0c, b'{', b'\'', b'f', b'o',
            b'o', b'\'', b':', b'\'', b'b', b'a', b'r', b'\'', b'}', 0x36, 0xf4, 0x80, 0xa0,
        ];
        let nameless = |payload: &[u8]| (String::new(), String::new(), payload.to_vec());
        for cut in [1, 7, 64] {
            assert_eq!(decode(empty, cut), Ok(vec![nameless(b"")]));
            assert_eq!(
                decode(with_header, cut),
                Ok(vec![nameless(b"{'foo':'bar'}")])
            );
        }
    }

    #[test]
    fn every_kind_of_header_is_read_over() {
        let mut headers = Vec::new();
        let values: [(u8, &[u8]); 10] = [
            (0, b""),
            (1, b""),
            (2, b"1"),
            (3, b"12"),
            (4, b"1234"),
            (5, b"12345678"),
            (6, b"\0\x02ab"),
            (8, b"12345678"),
            (9, b"0123456789abcdef"),
            (7, b"\0\x01c"),
        ];
        for (kind, value) in values {
            headers.extend_from_slice(&[1, b'h', kind]);
            headers.extend_from_slice(value);
        }
        let mut rest = headers.as_slice();
        for (kind, _) in values {
            let text = (kind == 7).then_some("c");
            assert_eq!(read_header(&mut rest), Some(("h", text)), "{kind}");
        }
        assert!(rest.is_empty());
        assert_eq!(read_header(&mut [1, b'h', 10].as_slice()), None);
        assert_eq!(read_header(&mut [9, b'h'].as_slice()), None);
    }

    #[test]
    fn what_is_damaged_is_named() {
        let good = event("x", "{}");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert_eq!(decode(&bad, bad.len()), Err(FrameFault::Checksum), "{at}");
        }
        let of_lengths = |total: u32, headers: u32| {
            let mut bytes = [total.to_be_bytes(), headers.to_be_bytes()].concat();
            bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
            bytes
        };
        for total in [
            0,
            15,
            1 + u32::try_from(MESSAGE_BYTES_MAX).unwrap(),
            u32::MAX,
        ] {
            let got = decode(&of_lengths(total, 0), 64);
            assert_eq!(got, Err(FrameFault::Length), "{total}");
        }
        let mut beyond = of_lengths(16, 1);
        beyond.extend_from_slice(&crc32fast::hash(&beyond).to_be_bytes());
        assert_eq!(decode(&beyond, 64), Err(FrameFault::Length));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(
            payloads in prop::collection::vec("[a-z{}\"]{0,40}", 1..5),
            cut in 1..50_usize,
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|it| event("e", it)).collect();
            prop_assert_eq!(decode(&bytes, cut), decode(&bytes, bytes.len()));
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 13);
        }
    }
}
