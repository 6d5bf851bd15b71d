//! Slim frames: what comes out is what went in, whatever it is and however it is cut, and what a
//! token costs is less than in the stream that it came in.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::bhttp::{Fields, MessageReader, Part};
use crate::limits::TAG_BYTES;
use crate::shape::{Body, CELL_WINDOW, Cell, Shape, Shaper};
use crate::slim::{HOLES_MAX, RECENT_MAX, RECORD_BYTES_MAX, SlimDecoder, SlimEncoder, SlimFault};

fn frames(stream: &[u8], cut: usize) -> Vec<u8> {
    let (mut encoder, mut out) = (SlimEncoder::default(), Vec::new());
    stream
        .chunks(cut.max(1))
        .for_each(|piece| encoder.push(piece, &mut out));
    encoder.flush(&mut out);
    out
}

fn events(frames: &[u8], cut: usize) -> Result<Vec<u8>, SlimFault> {
    let (mut decoder, mut out) = (SlimDecoder::default(), Vec::new());
    for piece in frames.chunks(cut.max(1)) {
        decoder.push(piece, &mut out)?;
    }
    decoder.finish()?;
    Ok(out)
}

fn text(stream: &[u8]) -> String {
    String::from_utf8_lossy(stream).into_owned()
}

const WORDS: &str = "The quick brown fox, who had never been quick before, jumps over the lazy dog; \
    \u{201c}so\u{201d} it is said, and 1,024 times over \\\"again\\\" and again and again.\\n";

fn tokens(count: usize) -> impl Iterator<Item = &'static str> {
    WORDS.split_inclusive(' ').cycle().take(count)
}

/// A chat of OpenAI's, in the form of its chunks, as the fixtures of the wire have them.
fn openai(count: usize, obfuscates: bool) -> Vec<String> {
    let chunk = |number: usize, delta: &str, reason: &str| {
        // As many random letters as the reference says there may be.
        let filling = "aVbXcYdZe0f1g2h3".chars().cycle().skip(number * 7);
        let filling: String = filling.take(number * 5 % 16).collect();
        let obfuscation = match obfuscates {
            true => format!(",\"obfuscation\":\"{filling}\""),
            false => String::new(),
        };
        format!(
            "data: {{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\
             \"object\":\"chat.completion.chunk\",\"created\":1741569952,\
             \"model\":\"gpt-5.1-2025-11-13\",\"service_tier\":\"default\",\
             \"system_fingerprint\":null,\"choices\":[{{\"index\":0,\"delta\":{delta},\
             \"logprobs\":null,\"finish_reason\":{reason}}}],\"usage\":null{obfuscation}}}\n\n"
        )
    };
    let first = chunk(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null");
    let content = tokens(count).zip(1..);
    let content =
        content.map(|(token, at)| chunk(at, &format!("{{\"content\":\"{token}\"}}"), "null"));
    let last = [
        chunk(count + 1, "{}", "\"stop\""),
        "data: [DONE]\n\n".to_owned(),
    ];
    [first].into_iter().chain(content).chain(last).collect()
}

/// A message of Anthropic's, in the form of its streams, as the fixtures of the wire have them.
fn anthropic(count: usize) -> Vec<String> {
    let event =
        |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n");
    let first = [
        event(
            "message_start",
            ",\"message\":{\"id\":\"msg_01\",\"content\":[]}",
        ),
        event(
            "content_block_start",
            ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}",
        ),
        event("ping", ""),
    ];
    let content = tokens(count).map(|token| {
        let delta =
            format!(",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{token}\"}}");
        event("content_block_delta", &delta)
    });
    let last = [
        event("content_block_stop", ",\"index\":0"),
        event(
            "message_delta",
            ",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}",
        ),
        event("message_stop", ""),
    ];
    first.into_iter().chain(content).chain(last).collect()
}

/// A response of OpenAI's in the form of its events: each is numbered.
fn responses(count: usize) -> Vec<String> {
    let numbered = tokens(count).zip(4..).map(|(token, number)| {
        format!(
            "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\
             \"sequence_number\":{number},\"item_id\":\"msg_67c9fdcf37fc8190ba82116e33fb28c5\",\
             \"output_index\":0,\"content_index\":0,\"delta\":\"{token}\",\"logprobs\":[],\
             \"obfuscation\":\"abcDEF{number}\"}}\n\n"
        )
    });
    numbered.collect()
}

fn published() -> Vec<(String, Vec<u8>)> {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire");
    let mut found = Vec::new();
    for dialect in ["anthropic", "completions", "openai"] {
        for file in fs::read_dir(wire.join(dialect).join("fixtures")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "sse") {
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn streams_as_providers_publish_them_come_out_as_they_went_in() {
    let streams = published();
    assert!(streams.len() >= 14);
    for (name, stream) in streams {
        let slim = frames(&stream, stream.len());
        assert!(
            slim.len() < stream.len() + 8,
            "{name}: {} bytes",
            slim.len()
        );
        for cut in [1, 2, 7, 61, stream.len()] {
            assert_eq!(
                frames(&stream, cut),
                slim,
                "{name}: events go as they are whole"
            );
            assert_eq!(text(&events(&slim, cut).unwrap()), text(&stream), "{name}");
        }
    }
}

/// Bytes of frames for one token, once a stream has begun.
fn bytes_a_token(stream: fn(usize) -> Vec<String>) -> (usize, usize) {
    let of = |count| {
        let plain = stream(count).concat();
        (plain.len(), frames(plain.as_bytes(), plain.len()).len())
    };
    let (some, more) = (of(100), of(400));
    ((more.0 - some.0) / 300, (more.1 - some.1) / 300)
}

#[test]
fn a_token_takes_two_bytes_more_than_its_text() {
    let text: usize = tokens(400).map(str::len).sum();
    let text = text / 400;
    let (plain, slim) = bytes_a_token(|count| openai(count, false));
    assert!(plain > 250 && slim <= text + 3, "{plain} {slim}");
    let (plain, slim) = bytes_a_token(anthropic);
    assert!(plain > 100 && slim <= text + 3, "{plain} {slim}");
    // With filling, or a number: one byte more, and these.
    let (plain, slim) = bytes_a_token(|count| openai(count, true));
    assert!(plain > 280 && slim <= text + 12, "{plain} {slim}");
    let (plain, slim) = bytes_a_token(responses);
    assert!(plain > 230 && slim <= text + 22, "{plain} {slim}");
}

#[test]
fn kinds_that_take_turns_are_told_apart() {
    let mut stream = String::new();
    for (number, token) in tokens(200).enumerate() {
        write!(stream, "event: a\ndata: {{\"a\":\"{token}\"}}\n\n").unwrap();
        write!(
            stream,
            "event: b\ndata: {{\"number\":\"{number}\",\"b\":\"{token}\"}}\n\n"
        )
        .unwrap();
        if number % 5 == 0 {
            stream += "event: ping\ndata: {\"type\": \"ping\"}\n\n";
        }
    }
    let slim = frames(stream.as_bytes(), 50);
    let text: usize = tokens(200).map(str::len).sum();
    assert!(slim.len() < 2 * text + 200 * 8 + 500, "{}", slim.len());
    assert_eq!(events(&slim, 3).unwrap(), stream.as_bytes());
}

#[test]
fn every_line_end_ends_events() {
    for end in ["\n", "\r\n", "\r"] {
        let event = format!("event: x{end}data: {{\"text\":\"word\"}}{end}{end}");
        let stream = event.repeat(40);
        let slim = frames(stream.as_bytes(), 1);
        assert!(slim.len() < event.len() * 4, "{}", slim.len());
        assert_eq!(events(&slim, 1).unwrap(), stream.as_bytes());
    }
}

#[test]
fn an_event_that_is_too_long_goes_before_it_is_whole() {
    let long = [
        b"data: \"",
        &vec![b'x'; 3 * RECORD_BYTES_MAX][..],
        b"\"\n\n",
    ]
    .concat();
    let (mut encoder, mut out) = (SlimEncoder::default(), Vec::new());
    for piece in long.chunks(1_000) {
        encoder.push(piece, &mut out);
        assert!(encoder.held() < RECORD_BYTES_MAX);
    }
    encoder.push(b"data: \"1\"\n\ndata: \"2\"\n\n", &mut out);
    assert_eq!(encoder.held(), 0);
    let after = events(&out, 1_000).unwrap();
    assert_eq!(
        after,
        [&long[..], b"data: \"1\"\n\ndata: \"2\"\n\n"].concat()
    );
}

#[test]
fn lines_can_go_before_their_event_is_whole() {
    let (mut encoder, mut out) = (SlimEncoder::default(), Vec::new());
    encoder.push(b"data: unfinished", &mut out);
    assert!(!encoder.holds_lines());
    encoder.flush_lines(&mut out);
    assert!(out.is_empty());
    encoder.push(b"\n: still here\ndata", &mut out);
    assert!(out.is_empty() && encoder.holds_lines());
    encoder.flush_lines(&mut out);
    assert!(!encoder.holds_lines());
    assert_eq!(
        events(&out, 1).unwrap(),
        b"data: unfinished\n: still here\n"
    );
    encoder.push(b": 1\n\n", &mut out);
    assert_eq!(encoder.held(), 0);
    assert_eq!(
        events(&out, 1).unwrap(),
        b"data: unfinished\n: still here\ndata: 1\n\n"
    );
}

#[test]
fn what_no_encoder_writes_is_refused_for_ever() {
    let record = |bytes: usize| {
        [
            &[1, 0x40 | (bytes >> 8) as u8, bytes as u8][..],
            &vec![b'x'; bytes],
        ]
        .concat()
    };
    let long = RECORD_BYTES_MAX + 1;
    let holes = HOLES_MAX as u8 + 1;
    let cases: [(Vec<u8>, SlimFault); 13] = [
        (vec![3], SlimFault::Kind),
        (vec![0x0f], SlimFault::Kind),
        (vec![0x10 + RECENT_MAX as u8], SlimFault::Kind),
        (vec![0x40], SlimFault::Kind),
        (vec![0xff], SlimFault::Kind),
        (vec![0x10], SlimFault::Record),
        ([record(2), vec![0x21]].concat(), SlimFault::Record),
        (
            vec![1, 0x40 | (long >> 8) as u8, long as u8],
            SlimFault::Long,
        ),
        (
            vec![2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            SlimFault::Long,
        ),
        ([record(4), vec![0x20, 1, 5]].concat(), SlimFault::Range),
        (
            [record(4), vec![0x20, 1, 3, 2, 0]].concat(),
            SlimFault::Range,
        ),
        ([record(4), vec![0x30, holes]].concat(), SlimFault::Holes),
        (
            [
                record(RECORD_BYTES_MAX - 1),
                vec![0x20, 1, 0, 0, 2, b'a', b'b'],
            ]
            .concat(),
            SlimFault::Long,
        ),
    ];
    for (frames, fault) in cases {
        for cut in [1, frames.len()] {
            assert_eq!(events(&frames, cut), Err(fault), "{frames:?}");
        }
        let mut decoder = SlimDecoder::default();
        assert_eq!(decoder.push(&frames, &mut Vec::new()), Err(fault));
        assert_eq!(decoder.push(b"\0", &mut Vec::new()), Err(fault));
        assert_eq!(decoder.finish(), Err(fault));
    }
}

#[test]
fn frames_that_end_within_one_are_cut() {
    let stream = openai(3, true).concat();
    let (mut encoder, mut slim, mut ends) = (SlimEncoder::default(), Vec::new(), vec![0]);
    for byte in stream.as_bytes() {
        encoder.push(&[*byte], &mut slim);
        ends.push(slim.len());
    }
    for cut in 0..slim.len() {
        let mut decoder = SlimDecoder::default();
        let mut out = Vec::new();
        decoder.push(&slim[..cut], &mut out).unwrap();
        assert!(stream.as_bytes().starts_with(&out));
        let is_between = ends.contains(&cut);
        assert_eq!(decoder.finish().is_ok(), is_between, "after {cut} bytes");
    }
}

#[test]
fn neither_end_says_what_it_holds() {
    let mut encoder = SlimEncoder::default();
    encoder.push(b"data: secret", &mut Vec::new());
    let mut decoder = SlimDecoder::default();
    decoder.push(b"\x01\x0asecret", &mut Vec::new()).unwrap();
    let said = format!("{encoder:?} {decoder:?}");
    assert_eq!(
        said,
        "SlimEncoder(12 bytes held) SlimDecoder { record_bytes: 6, fault: None, .. }"
    );
}

/// Pieces, so many milliseconds after each other, through a shape: cells, and when they went.
fn through(shape: Shape, pieces: &[(u64, &[u8])]) -> Vec<(u64, Cell)> {
    let begun = Instant::now();
    let mut shaper = Shaper::new(shape, begun);
    let (mut cells, mut ms) = (Vec::new(), 0);
    let mut run = |shaper: &mut Shaper, until: u64| loop {
        while let Some(cell) = shaper.next(begun + Duration::from_millis(ms)) {
            cells.push((ms, cell));
        }
        if ms == until || cells.last().is_some_and(|(_, cell)| cell.is_final) {
            return;
        }
        ms += 1;
    };
    let mut header = Fields::default();
    header.push("content-type", "text/event-stream").unwrap();
    let mut at = 0;
    for (number, (after, piece)) in pieces.iter().enumerate() {
        at += after;
        run(&mut shaper, at);
        if number == 0 {
            shaper.begin(200, &header, Body::Slim).unwrap();
        }
        shaper.push(piece);
        run(&mut shaper, at);
    }
    shaper.end(&Fields::default());
    run(&mut shaper, at + 3_000_000);
    cells
}

/// What an edge reads of cells, and with how many of them its first so many bytes were there.
fn read(cells: &[(u64, Cell)]) -> (Vec<u8>, Vec<usize>) {
    let mut reader = MessageReader::response();
    let (mut decoder, mut out, mut lengths) = (SlimDecoder::default(), Vec::new(), Vec::new());
    for (_, cell) in cells {
        let mut input = &cell.plain[..];
        while let Some(part) = reader.next(&mut input).unwrap() {
            match part {
                Part::Content(content) => decoder.push(content, &mut out).unwrap(),
                Part::Informational(..) | Part::Response(..) => {}
                Part::Trailer(_) => decoder.finish().unwrap(),
                Part::Request(..) => unreachable!("this is a response"),
            }
        }
        lengths.push(out.len());
    }
    assert_eq!(reader.finish(), Ok(None), "the end is written out");
    (out, lengths)
}

/// What a cell takes beyond its plaintext: its length and its tag.
const SEALED_MORE: usize = 2 + TAG_BYTES;

#[test]
fn a_sealed_token_takes_fewer_bytes_than_a_plain_one_at_any_speed() {
    let kinds: [(&str, Vec<String>); 4] = [
        ("openai", openai(300, false)),
        ("openai, with filling", openai(300, true)),
        ("anthropic", anthropic(300)),
        ("responses", responses(300)),
    ];
    for (name, stream) in kinds {
        let plain: usize = stream.iter().map(String::len).sum();
        for gap in [1, 5, 12, 20, 33, 100] {
            let pieces: Vec<(u64, &[u8])> =
                stream.iter().map(|event| (gap, event.as_bytes())).collect();
            let cells = through(Shape::default(), &pieces);
            let sealed: usize = cells
                .iter()
                .map(|(_, cell)| cell.plain.len() + SEALED_MORE)
                .sum();
            assert!(
                sealed < plain,
                "{name}, {gap} ms: {sealed} of {plain} bytes"
            );
            println!(
                "{name}, each {gap} ms: {} of {} bytes a token",
                sealed / 300,
                plain / 300
            );
            assert_eq!(text(&read(&cells).0), stream.concat(), "{name}");
        }
    }
}

#[test]
fn cells_are_an_eighth_once_the_head_has_gone_and_all_alike() {
    let stream = openai(50, true);
    let pieces: Vec<(u64, &[u8])> = stream.iter().map(|event| (25, event.as_bytes())).collect();
    for (shape, first, later) in [
        ("cells;size=512", 512, 64),
        ("cells;size=1024", 1_024, 128),
        ("cells;size=4096", 4_096, 512),
        ("cells;size=64", 64, 64),
        ("constant;size=128;bucket=2", 128, 128),
        ("constant;size=512;bucket=2", 512, 512),
    ] {
        let cells = through(shape.parse().unwrap(), &pieces);
        assert_eq!(cells[0].1.plain.len(), first, "{shape}");
        assert!(
            cells[1..].iter().all(|(_, cell)| cell.plain.len() == later),
            "{shape}"
        );
    }
}

#[test]
fn a_token_goes_no_later_in_frames_than_in_lines() {
    let event = "data: {\"text\":\"word\"}\n\n";
    let pieces: Vec<(u64, &[u8])> = (0..30).map(|_| (33, event.as_bytes())).collect();
    let cells = through(Shape::default(), &pieces);
    let (_, lengths) = read(&cells);
    for (number, (at, _)) in cells[..30].iter().enumerate() {
        assert_eq!(
            (*at, lengths[number]),
            ((number as u64 + 1) * 33, (number + 1) * event.len())
        );
    }
}

/// Lines whose event is not whole wait for the window, as they do where there are no frames.
#[test]
fn half_an_event_waits_for_the_window_and_not_for_the_other_half() {
    let pieces: [(u64, &[u8]); 4] = [
        (0, b"data: {\"text\":\"word\"}\n\n"),
        (5, b": one\n"),
        (400, b"data: [DO"),
        (400, b"NE]\n\n"),
    ];
    let cells = through(Shape::default(), &pieces);
    let (out, lengths) = read(&cells);
    let times: Vec<u64> = cells.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, CELL_WINDOW.as_millis() as u64, 805, 805]);
    assert_eq!(lengths, [23, 29, 43, 43]);
    assert_eq!(out.len(), 43);
}

fn any_stream() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let byte = prop_oneof![
        Just(b'\n'),
        Just(b'\r'),
        Just(b'"'),
        Just(b'\\'),
        Just(0),
        Just(b'd'),
        any::<u8>()
    ];
    let line = prop::sample::select(vec![
        "data: {\"a\":\"",
        "\"}\n\n",
        "\"",
        "\n\n",
        "x",
        "\r\n\r\n",
    ]);
    let lines = prop::collection::vec(line, 0..60).prop_map(|lines| lines.concat().into_bytes());
    let piece = prop_oneof![
        prop::collection::vec(byte.clone(), 0..40),
        prop::collection::vec(byte, 400..900),
        lines,
        (8_000usize..9_000).prop_map(|length| [&vec![b'x'; length][..], b"\n"].concat()),
    ];
    prop::collection::vec((0u64..60, piece), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_bytes_come_out_as_they_went_in(
        stream in any_stream(), cut in 1usize..300, flushes in any::<u8>(), fills in 0usize..5,
    ) {
        let (mut encoder, mut slim) = (SlimEncoder::default(), Vec::new());
        for (number, (_, piece)) in stream.iter().enumerate() {
            piece.chunks(cut).for_each(|piece| encoder.push(piece, &mut slim));
            match flushes >> number & 1 {
                0 => encoder.flush_lines(&mut slim),
                _ => encoder.flush(&mut slim),
            }
            crate::slim::fill(fills, &mut slim);
        }
        encoder.flush(&mut slim);
        let whole: Vec<u8> = stream.iter().flat_map(|(_, piece)| piece.clone()).collect();
        // At worst a byte for the kind and two for the length of each record, of a byte at least.
        prop_assert!(slim.len() <= 4 * whole.len() + 8 * fills);
        prop_assert_eq!(events(&slim, cut).unwrap(), &whole[..]);
        prop_assert_eq!(events(&slim, slim.len()).unwrap(), whole);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..20) {
        prop_assert_eq!(events(&bytes, cut), events(&bytes, bytes.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_stream_goes_through_every_shape(stream in any_stream(), which in 0usize..21) {
        let shape = Shape::all()[which];
        let pieces: Vec<(u64, &[u8])> =
            stream.iter().map(|(after, piece)| (*after, piece.as_slice())).collect();
        let whole: Vec<u8> = stream.iter().flat_map(|(_, piece)| piece.clone()).collect();
        let cells = through(shape, &pieces);
        prop_assert_eq!(read(&cells).0, whole);
        if shape != Shape::Off {
            let sizes: Vec<usize> = cells.iter().map(|(_, cell)| cell.plain.len()).collect();
            prop_assert!(sizes.is_sorted_by(|one, next| one >= next));
            prop_assert!(sizes.iter().all(|size| [sizes[0], sizes[sizes.len() - 1]].contains(size)));
        }
    }
}
