//! Doors for the fuzzers in `fuzz/`, in their builds and in tests: each takes any bytes, has them
//! read, and panics where what must hold of a reading does not.
//!
//! The first bytes say how the rest is to be read, so that one corpus reaches every branch.

use std::time::{Duration, Instant};

use crate::bhttp::{Fields, InvalidMessage, MessageReader, Part};
use crate::key_config::KeyConfig;
use crate::manifest::{IdentityKey, KeyPolicy, Pins, SignedManifest, TrustedManifest};
use crate::proof::EdgeClaim;
use crate::sealed;
use crate::shape::{Body, FillStripper, Shape, Shaper};
use crate::slim::{SlimDecoder, SlimEncoder, SlimFault};
use crate::time::UnixTime;

/// Chunks of a sealed message, under a cipher that believes every other tag. However they are cut,
/// they say the same.
pub fn chunks(bytes: &[u8]) {
    let Some(([every], sealed)) = bytes.split_first_chunk() else {
        return;
    };
    let whole = sealed::fuzz_chunks(sealed, sealed.len().max(1));
    let cut = sealed::fuzz_chunks(sealed, usize::from(*every).max(1));
    assert_eq!(whole, cut, "a cut made a difference");
}

/// What a message said: its parts in words, its content as one, and how it ended.
type Said = (Vec<String>, Vec<u8>, Result<(), InvalidMessage>);

/// A message of binary HTTP, of either kind. However it is cut, it says the same.
pub fn message(bytes: &[u8]) {
    let Some(([kind, every], message)) = bytes.split_first_chunk() else {
        return;
    };
    let read = |cut: usize| {
        let mut reader = match kind % 2 {
            0 => MessageReader::request(),
            _ => MessageReader::response(),
        };
        let mut said: Said = (Vec::new(), Vec::new(), Ok(()));
        said.2 = read_message(&mut reader, message, cut, &mut said.0, &mut said.1);
        said
    };
    let (whole, cut) = (read(message.len().max(1)), read(usize::from(*every).max(1)));
    assert_eq!(whole, cut, "a cut made a difference");
    assert!(whole.1.len() <= message.len(), "more came out than went in");
    let _ = KeyConfig::read_list(message);
}

fn read_message(
    reader: &mut MessageReader,
    message: &[u8],
    cut: usize,
    parts: &mut Vec<String>,
    content: &mut Vec<u8>,
) -> Result<(), InvalidMessage> {
    let fields = |fields: &Fields| -> String {
        let lines = fields.iter();
        lines
            .map(|(name, value)| format!("{name}: {value:?};"))
            .collect()
    };
    let mut take = |part: Part<'_>| match part {
        Part::Request(line, header) => {
            let target = [line.method(), line.scheme(), line.authority(), line.path()].join(" ");
            parts.push(target + &fields(&header));
        }
        Part::Informational(status, header) | Part::Response(status, header) => {
            parts.push(format!("{status} {}", fields(&header)));
        }
        Part::Content(some) => content.extend_from_slice(some),
        Part::Trailer(trailer) => parts.push(fields(&trailer)),
    };
    for mut piece in message.chunks(cut) {
        while let Some(part) = reader.next(&mut piece)? {
            take(part);
        }
    }
    while let Some(part) = reader.finish()? {
        take(part);
    }
    Ok(())
}

/// A manifest: its body as a pinned relay would sign it, and its fields as anybody may write them.
/// Signed bytes are believed or not; others never are.
pub fn manifest(bytes: &[u8]) {
    const NOW: UnixTime = UnixTime(1_800_000_000);
    let key = IdentityKey::from_bytes(&[7; 32]);
    let pins = Pins {
        relay_id: "r".to_owned(),
        current: key.pin(),
        next: None,
    };
    let check = |signed: &SignedManifest| TrustedManifest::check(signed, &pins, None, NOW);
    let good = SignedManifest::sign_bytes(bytes.to_vec(), &key, NOW, Duration::from_secs(60));
    if let Ok(trusted) = check(&good) {
        let _ = trusted.choose(KeyPolicy::default(), NOW);
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    let _ = EdgeClaim::read(bytes);
    for which in 0..2 {
        let mut forged = good.clone();
        match which {
            0 => forged.signature_input.clone_from(&text),
            _ => forged.signature.clone_from(&text),
        }
        assert!(
            forged == good || check(&forged).is_err(),
            "a forgery is believed"
        );
    }
}

/// An event stream, through a shape and back: cells are of one size, and whoever takes the filling
/// out has what went in.
pub fn shape(bytes: &[u8]) {
    let Some(([which, every, wait], content)) = bytes.split_first_chunk() else {
        return;
    };
    // A minute of ticks at most, so that an input takes milliseconds.
    let content = &content[..content.len().min(2_048)];
    let wait = wait % 32;
    let all = Shape::all();
    let shape = all[usize::from(*which) % all.len()];
    let mut now = Instant::now();
    let mut shaper = Shaper::new(shape, now);
    let mut cells = Vec::new();
    shaper
        .begin(200, &Fields::default(), Body::Events)
        .expect("200 is final");
    for piece in content.chunks(usize::from(*every).max(1)) {
        shaper.push(piece);
        now += Duration::from_millis(u64::from(wait));
        while let Some(cell) = shaper.next(now) {
            cells.push(cell);
        }
    }
    shaper.end(&Fields::default());
    while cells.last().is_none_or(|cell| !cell.is_final) {
        now += Duration::from_millis(50);
        cells.extend(shaper.next(now));
    }
    let size = cells[0].plain.len();
    assert!(shape == Shape::Off || cells.iter().all(|cell| cell.plain.len() == size));
    let whole: Vec<u8> = cells.iter().flat_map(|cell| cell.plain.to_vec()).collect();
    let (mut parts, mut read) = (Vec::new(), Vec::new());
    let mut reader = MessageReader::response();
    read_message(&mut reader, &whole, whole.len(), &mut parts, &mut read)
        .expect("what a shape writes is a message");
    let stripped = |content: &[u8]| {
        let (mut stripper, mut out) = (FillStripper::default(), Vec::new());
        stripper.push(content, &mut out);
        stripper.finish(&mut out);
        out
    };
    assert_eq!(
        stripped(&read),
        stripped(content),
        "what came out is not what went in"
    );
}

/// An event stream as slim frames, and any bytes as frames. What was written is read; what was not is
/// read or refused, in bounds, and however it is cut it says the same.
pub fn slim(bytes: &[u8]) {
    let Some(([every, flushes], stream)) = bytes.split_first_chunk() else {
        return;
    };
    let every = usize::from(*every).max(1);
    let read = |frames: &[u8], cut: usize| {
        let (mut decoder, mut out) = (SlimDecoder::default(), Vec::new());
        let read = frames.chunks(cut.max(1)).try_for_each(|mut piece| {
            while let Some(record) = decoder.next(&mut piece)? {
                assert!(record.len() <= crate::slim::RECORD_BYTES_MAX);
                // A frame of a byte can stand for thousands.
                if out.len() < 1 << 20 {
                    out.extend_from_slice(record);
                }
            }
            Ok::<(), SlimFault>(())
        });
        (out, read.and_then(|()| decoder.finish()))
    };
    let (mut encoder, mut frames) = (SlimEncoder::default(), Vec::new());
    for (number, piece) in stream.chunks(every).enumerate() {
        encoder.push(piece, &mut frames);
        match flushes >> (number % 8) & 1 {
            0 => {}
            _ => encoder.flush_lines(&mut frames),
        }
    }
    encoder.flush(&mut frames);
    assert_eq!(read(&frames, every), (stream.to_vec(), Ok(())));
    assert_eq!(read(stream, every), read(stream, stream.len()));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    type Door = fn(&[u8]);

    /// What the fuzzers found their way by, without their compiler.
    #[test]
    fn what_the_fuzzers_keep_is_read() {
        let doors: [(&str, Door); 5] = [
            ("sealed", super::chunks),
            ("messages", super::message),
            ("manifests", super::manifest),
            ("shapes", super::shape),
            ("slim", super::slim),
        ];
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, door) in doors {
            let kept: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(kept.len() >= 4, "{name}");
            for file in kept {
                door(&fs::read(file.unwrap().path()).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_pass_the_fuzzers_doors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::chunks(&bytes);
            super::message(&bytes);
            super::shape(&bytes);
            super::slim(&bytes);
        }

        #[test]
        fn any_text_passes_the_manifests_door(text in "[ -~]{0,200}") {
            super::manifest(text.as_bytes());
        }
    }
}
