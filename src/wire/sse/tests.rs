use proptest::prelude::*;

use super::*;

/// Every event as `name|data`, and the fault if one came.
fn read(stretches: &[&[u8]]) -> (Vec<String>, Option<SseFault>) {
    let mut decoder = SseDecoder::new();
    let mut seen = Vec::new();
    let mut each = |event: SseEvent<'_>| {
        let name = String::from_utf8_lossy(event.name).into_owned();
        seen.push(format!("{name}|{}", String::from_utf8_lossy(event.data)));
    };
    let fault = stretches
        .iter()
        .try_for_each(|bytes| decoder.push(bytes, &mut each))
        .and_then(|()| decoder.finish(&mut each))
        .err();
    (seen, fault)
}

fn check(bytes: &[u8], expected: &[&str]) {
    let (seen, fault) = read(&[bytes]);
    assert_eq!(fault, None);
    assert_eq!(seen, expected, "{:?}", String::from_utf8_lossy(bytes));
}

#[test]
fn events_end_at_blank_lines_of_every_kind() {
    check(b"data: a\n\ndata: b\n\n", &["|a", "|b"]);
    check(b"data: a\r\n\r\ndata: b\r\n\r\n", &["|a", "|b"]);
    check(b"data: a\r\rdata: b\r\r", &["|a", "|b"]);
}

#[test]
fn data_lines_are_joined_and_one_space_is_taken() {
    check(b"data: a\ndata:b\ndata:  c\n\n", &["|a\nb\n c"]);
    check(b"data\n\n", &["|"]);
}

#[test]
fn comments_and_other_fields_are_read_over() {
    check(b": ping\n\nid: 7\nretry: 1\n\ndata: a\n\n", &["|a"]);
    check(b"event: error\ndata: a\n\ndata: b\n\n", &["error|a", "|b"]);
}

#[test]
fn a_byte_order_mark_is_taken_off_the_first_line_only() {
    check(b"\xEF\xBB\xBFdata: a\n\n", &["|a"]);
    check(b"data: a\n\n\xEF\xBB\xBFdata: b\n\n", &["|a"]);
}

#[test]
fn an_event_without_its_blank_line_comes_out_at_the_end() {
    check(b"data: a\n\ndata: [DONE]", &["|a", "|[DONE]"]);
    check(b"data: a\n", &["|a"]);
}

#[test]
fn a_line_without_end_is_refused_at_its_bound() {
    let stretch = vec![b'x'; 64 * 1024];
    let stretches = vec![stretch.as_slice(); LINE_BYTES_MAX / stretch.len() + 1];
    assert_eq!(read(&stretches).1, Some(SseFault::LineTooLong));
}

#[test]
fn an_event_of_many_lines_is_refused_at_its_bound() {
    let line = format!("data: {}\n", "x".repeat(1024));
    let stretches = vec![line.as_bytes(); EVENT_BYTES_MAX / 1024 + 1];
    assert_eq!(read(&stretches).1, Some(SseFault::EventTooLarge));
}

#[test]
fn empty_data_lines_are_bounded_too() {
    let stretch = b"data\n".repeat(64 * 1024);
    let stretches = vec![stretch.as_slice(); EVENT_BYTES_MAX / (64 * 1024) + 1];
    assert_eq!(read(&stretches).1, Some(SseFault::EventTooLarge));
}

proptest! {
    #[test]
    fn cuts_change_nothing(
        lines in prop::collection::vec("(data: ?|event: ?|: ?|)[ab:é]{0,3}(\n|\r|\r\n)", 0..20),
        cuts in prop::collection::vec(1_usize..7, 0..40),
    ) {
        let text = lines.concat();
        let mut rest = text.as_bytes();
        let mut stretches = Vec::new();
        for cut in cuts {
            let (stretch, after) = rest.split_at(cut.min(rest.len()));
            stretches.push(stretch);
            rest = after;
        }
        stretches.push(rest);
        prop_assert_eq!(read(&stretches), read(&[text.as_bytes()]));
    }
}
