//! Shapes: what goes out is of one size and when it should be, and what comes out is what went in.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::bhttp::{Fields, MessageReader, Part};
use crate::limits::CHUNK_BYTES_MAX;
use crate::shape::{
    Body, Bucket, CELL_WINDOW, Cell, CellSize, FillStripper, LineCutter, QUEUE_BYTES_MAX, Shape,
    Shaper, TICK,
};

const MS: Duration = Duration::from_millis(1);

/// What an edge reads of cells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    interims: usize,
    status: u16,
    content: Vec<u8>,
    trailer: bool,
}

fn read(cells: &[Cell]) -> Read {
    let (last, before) = cells.split_last().expect("there is a last cell");
    assert!(last.is_final && before.iter().all(|cell| !cell.is_final));
    let mut reader = MessageReader::response();
    let mut read = Read::default();
    for cell in cells {
        let mut input = &cell.plain[..];
        while let Some(part) = reader.next(&mut input).unwrap() {
            match part {
                Part::Informational(status, _) => {
                    assert_eq!((status, read.status), (102, 0));
                    read.interims += 1;
                }
                Part::Response(status, _) => read.status = status,
                Part::Content(content) => read.content.extend_from_slice(content),
                Part::Trailer(_) => read.trailer = true,
                Part::Request(..) => unreachable!("this is a response"),
            }
        }
    }
    assert_eq!(reader.finish(), Ok(None), "the end is written out");
    read
}

fn stripped(content: &[u8], cut: usize) -> Vec<u8> {
    let (mut stripper, mut out) = (FillStripper::default(), Vec::new());
    content
        .chunks(cut)
        .for_each(|piece| stripper.push(piece, &mut out));
    stripper.finish(&mut out);
    out
}

fn header() -> Fields {
    let mut fields = Fields::default();
    fields.push("content-type", "text/event-stream").unwrap();
    fields
}

/// A response that comes in pieces, each so many milliseconds after the last, through a shape.
/// The cells, with the milliseconds they went at.
fn through(shape: Shape, pieces: &[(u64, &[u8])], body: Body) -> Vec<(u64, Cell)> {
    let begun = Instant::now();
    let mut shaper = Shaper::new(shape, begun);
    let mut cells = Vec::new();
    let mut ms = 0;
    let mut run = |shaper: &mut Shaper, until: u64| {
        loop {
            while let Some(cell) = shaper.next(begun + MS * ms as u32) {
                cells.push((ms, cell));
            }
            let is_over = cells.last().is_some_and(|(_, cell)| cell.is_final);
            if ms == until || is_over {
                return;
            }
            ms += 1;
        }
    };
    let mut at = 0;
    for (number, (after, piece)) in pieces.iter().enumerate() {
        at += after;
        run(&mut shaper, at);
        if number == 0 {
            shaper.begin(200, &header(), body).unwrap();
        }
        shaper.push(piece);
        run(&mut shaper, at);
    }
    shaper.end(&Fields::default());
    run(&mut shaper, at + 600_000);
    cells
}

fn plain(cells: Vec<(u64, Cell)>) -> Vec<Cell> {
    cells.into_iter().map(|(_, cell)| cell).collect()
}

const EVENT: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n";

#[test]
fn shapes_are_written_and_read() {
    for shape in Shape::all() {
        assert_eq!(shape.to_string().parse(), Ok(shape));
    }
    assert_eq!(Shape::all().len(), 21);
    assert_eq!(Shape::default().to_string(), "cells;size=512");
    for text in [
        "",
        "on",
        "cells",
        "cells;size=513",
        "cells; size=512",
        "constant;size=512",
    ] {
        assert!(text.parse::<Shape>().is_err());
    }
}

#[test]
fn off_sends_each_piece_as_it_is() {
    let cells = through(Shape::Off, &[(5, EVENT), (5, b"data: 2\n\n")], Body::Events);
    let times: Vec<u64> = cells.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [5, 10, 10]);
    let read = read(&plain(cells));
    assert_eq!((read.status, read.trailer), (200, true));
    assert_eq!(read.content, [EVENT, b"data: 2\n\n"].concat());
}

#[test]
fn the_first_token_goes_at_once_and_the_next_within_the_window() {
    let pieces: Vec<(u64, &[u8])> = (0..20).map(|_| (7, EVENT)).collect();
    let cells = through(Shape::default(), &pieces, Body::Events);
    assert_eq!(cells[0].0, 7, "the head waits for it, it waits for nothing");
    for pair in cells[..cells.len() - 1].windows(2) {
        assert!(pair[1].0 - pair[0].0 >= CELL_WINDOW.as_millis() as u64);
    }
    assert!(cells.iter().all(|(_, cell)| cell.plain.len() == 512));
    // 20 events in 140 ms: one cell each 20 ms or so, and the end.
    assert!((6..=9).contains(&cells.len()), "{}", cells.len());
    let read = read(&plain(cells));
    assert_eq!(stripped(&read.content, 7), EVENT.repeat(20));
}

#[test]
fn a_long_event_fills_cells_and_waits_for_nothing() {
    let long = [b"data: ", &[b'x'; 5_000][..], b"\n\n"].concat();
    let cells = through(
        Shape::default(),
        &[(0, EVENT), (1, &long[..4_000]), (1, &long[4_000..])],
        Body::Events,
    );
    assert!(cells.len() > 9);
    assert!(cells[..8].iter().all(|(at, _)| *at <= 1));
    assert!(cells.iter().all(|(_, cell)| cell.plain.len() == 512));
    let read = read(&plain(cells));
    assert_eq!(stripped(&read.content, 1), [EVENT, &long].concat());
}

/// Comments are nothing to JSON, so its cells are full, or wait for the end.
#[test]
fn a_body_that_is_no_event_stream_is_not_touched() {
    let body = [b"{\"text\":\"", &[b'y'; 1_500][..], b"\"}"].concat();
    for shape in Shape::all() {
        let pieces = [
            (3, &body[..100]),
            (400, &body[100..700]),
            (400, &body[700..]),
        ];
        let read = read(&plain(through(shape, &pieces, Body::Other)));
        assert_eq!(read.content, body, "{shape}");
    }
}

#[test]
fn constant_sends_a_cell_each_tick_from_the_request_to_a_length_among_few() {
    let slow: Vec<(u64, &[u8])> = [(900, EVENT)]
        .into_iter()
        .chain((0..30).map(|_| (33, EVENT)))
        .collect();
    let fast: Vec<(u64, &[u8])> = [(120, EVENT)]
        .into_iter()
        .chain((0..30).map(|_| (3, EVENT)))
        .collect();
    for bucket in Bucket::ALL {
        let shape = Shape::Constant(CellSize::B512, bucket);
        for pieces in [&slow, &fast] {
            let cells = through(shape, pieces, Body::Events);
            for (number, (at, cell)) in cells.iter().enumerate() {
                assert_eq!(*at, number as u64 * TICK.as_millis() as u64);
                assert_eq!(cell.plain.len(), 512);
            }
            let lengths: &[usize] = match bucket {
                Bucket::Quarter => &[20, 25, 32, 40, 50],
                Bucket::Double => &[20, 40, 80],
                Bucket::Fourfold => &[320],
            };
            assert!(lengths.contains(&cells.len()), "{} cells", cells.len());
            let read = read(&plain(cells));
            assert!(read.interims >= 2, "the wait for the first token is hidden");
            assert_eq!(stripped(&read.content, 5), EVENT.repeat(31));
        }
    }
}

#[test]
fn constant_catches_up_with_a_short_delay_and_not_with_a_long_one() {
    let begun = Instant::now();
    let mut shaper = Shaper::new(Shape::Constant(CellSize::B512, Bucket::Double), begun);
    assert!(shaper.next(begun).is_some());
    assert!(shaper.next(begun).is_none());
    assert_eq!(shaper.due(), Some(begun + TICK));
    let late = begun + 3 * TICK;
    assert_eq!((0..9).filter(|_| shaper.next(late).is_some()).count(), 3);
    let very_late = begun + 30 * TICK;
    assert_eq!(
        (0..9).filter(|_| shaper.next(very_late).is_some()).count(),
        1
    );
    assert_eq!(shaper.due(), Some(very_late + TICK));
}

#[test]
fn a_source_that_is_too_fast_has_to_wait() {
    let begun = Instant::now();
    let mut shaper = Shaper::new(Shape::Constant(CellSize::B512, Bucket::Double), begun);
    shaper.begin(200, &header(), Body::Events).unwrap();
    assert_eq!(shaper.room(), QUEUE_BYTES_MAX);
    let event = [b"data: ", &[b'x'; 1_000][..], b"\n\n"].concat();
    while shaper.room() > 0 {
        shaper.push(&event);
    }
    assert!(shaper.room() == 0);
    for tick in 0..10 {
        assert!(shaper.next(begun + tick * TICK).is_some());
    }
    assert!(shaper.room() > 3_000);
    let spent = shaper.spent();
    assert_eq!(
        (spent.cells, spent.plain_bytes, spent.missed_ticks),
        (10, 5_120, 0)
    );
    assert!(spent.content_bytes > QUEUE_BYTES_MAX as u64 - 1);
}

/// Beyond half the queue a body goes though it has not ended; what then is missing cannot be filled.
#[test]
fn a_tick_passes_where_nothing_may_be_put_into_a_body() {
    let begun = Instant::now();
    let mut shaper = Shaper::new(Shape::Constant(CellSize::KiB4, Bucket::Double), begun);
    shaper.begin(200, &header(), Body::Other).unwrap();
    let body = vec![b'z'; QUEUE_BYTES_MAX / 2 + 1];
    shaper.push(&body);
    let cells = (0..200)
        .filter(|tick| shaper.next(begun + *tick * TICK).is_some())
        .count();
    assert_eq!(cells, 128);
    assert_eq!(shaper.spent().missed_ticks, 72);
    shaper.end(&Fields::default());
    let cell = shaper.next(begun + 200 * TICK).unwrap();
    assert!(!cell.is_final, "zeros follow, to a length among few");
}

#[test]
fn a_response_begins_once_and_with_a_final_status() {
    for shape in Shape::all() {
        let mut shaper = Shaper::new(shape, Instant::now());
        assert!(shaper.begin(102, &header(), Body::Events).is_err());
        assert!(shaper.begin(200, &header(), Body::Events).is_ok());
    }
}

#[test]
fn an_empty_response_ends_too() {
    for shape in Shape::all() {
        let read = read(&plain(through(shape, &[(1, b"")], Body::Events)));
        assert_eq!((read.status, read.trailer), (200, true));
        assert_eq!(stripped(&read.content, 1), b"");
    }
}

#[test]
fn a_comment_stands_between_lines_and_not_within_a_line_end() {
    let mut lines = LineCutter::default();
    lines.push(b"data: 1\r");
    assert_eq!(lines.whole_len(), 0, "its line feed may be to come");
    lines.push(b"\n\r");
    assert_eq!(lines.whole_len(), 9);
    lines.push(b"\rx");
    assert_eq!(lines.whole_len(), 11);
    assert_eq!(lines.take(8), b"data: 1\r");
    assert!(!lines.is_between());
    assert_eq!(lines.take(1), b"\n");
    assert!(lines.is_between());
    assert_eq!(lines.take(1), b"\r");
    assert!(
        lines.is_between(),
        "what follows is known, and no line feed"
    );
    assert_eq!(lines.take(9), b"\rx");
    assert!(!lines.is_between() && lines.is_empty());
}

#[test]
fn only_lines_that_fill_are_taken_out() {
    let content = b":\n:   \n: a\n  :  \ndata: :\n\n:    \ndata:\r:  \n: keep-alive\n:  \r\n:";
    let left = b": a\n  :  \ndata: :\n\ndata:\r: keep-alive\n:  \r\n:";
    for cut in 1..content.len() {
        assert_eq!(stripped(content, cut), left);
    }
}

/// Lines as an event stream's reader sees them, comments left out (HTML, "Server-sent events").
fn lines(content: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(content)
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let lines = text.split('\n').map(|line| line.as_bytes().to_vec());
    lines.filter(|line| !line.starts_with(b":")).collect()
}

fn any_stream() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let byte = prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd')];
    let piece = prop_oneof![
        prop::collection::vec(byte.clone(), 0..30),
        prop::collection::vec(byte, 500..1_500),
        (400usize..530).prop_map(|length| [&vec![b'x'; length][..], b"\n"].concat()),
    ];
    prop::collection::vec((0u64..60, piece), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_stream_comes_out_as_it_went_in(stream in any_stream(), which in 0usize..21, cut in 1usize..40) {
        let shape = Shape::all()[which];
        let pieces: Vec<(u64, &[u8])> =
            stream.iter().map(|(after, piece)| (*after, piece.as_slice())).collect();
        let whole: Vec<u8> = stream.iter().flat_map(|(_, piece)| piece.clone()).collect();
        let cells = plain(through(shape, &pieces, Body::Events));
        let size = match shape {
            Shape::Off => None,
            Shape::Cells(size) | Shape::Constant(size, _) => Some(size.bytes()),
        };
        for cell in &cells {
            prop_assert!(cell.plain.len() <= CHUNK_BYTES_MAX);
            prop_assert!(size.is_none_or(|size| cell.plain.len() == size));
        }
        let read = read(&cells);
        // Whoever takes nothing out reads the same events, and whoever does reads the same bytes,
        // but for lines that the source itself filled with.
        prop_assert_eq!(lines(&read.content), lines(&whole));
        prop_assert_eq!(stripped(&read.content, cut), stripped(&whole, cut));
        if let Shape::Off = shape {
            prop_assert_eq!(read.content, whole);
        }
    }
}
