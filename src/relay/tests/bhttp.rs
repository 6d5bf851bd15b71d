//! Binary HTTP: the examples of RFC 9292, what must fail, and any cut of the bytes.

use proptest::prelude::*;

use super::support::{field, hex, shared};
use crate::bhttp::{
    Fields, InvalidMessage, MessageReader, Part, RequestLine, ResponseWriter, write_known_request,
    write_known_response, write_request,
};
use crate::limits::{CONTROL_BYTES_MAX, FIELDS_MAX, INFORMATIONAL_MAX, SECTION_BYTES_MAX};

type Lines = Vec<(String, Vec<u8>)>;

/// What a message says, however it was cut.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Said {
    /// Request lines and statuses, each with its fields.
    begins: Vec<(String, Lines)>,
    content: Vec<u8>,
    trailer: Option<Lines>,
}

fn listed(fields: &Fields) -> Lines {
    let lines = fields.iter();
    lines
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

fn read(mut reader: MessageReader, bytes: &[u8], cut: usize) -> Result<Said, InvalidMessage> {
    let mut said = Said::default();
    let mut take = |part: Part<'_>| match part {
        Part::Request(line, fields) => {
            let [method, scheme] = [line.method(), line.scheme()];
            let line = format!("{method} {scheme}://{}{}", line.authority(), line.path());
            said.begins.push((line, listed(&fields)));
        }
        Part::Informational(status, fields) | Part::Response(status, fields) => {
            said.begins.push((status.to_string(), listed(&fields)));
        }
        Part::Content(content) => {
            assert!(!content.is_empty());
            said.content.extend_from_slice(content);
        }
        Part::Trailer(fields) => assert!(said.trailer.replace(listed(&fields)).is_none()),
    };
    for mut piece in bytes.chunks(cut) {
        while let Some(part) = reader.next(&mut piece)? {
            take(part);
        }
        assert!(piece.is_empty());
    }
    while let Some(part) = reader.finish()? {
        take(part);
    }
    assert!(said.trailer.is_some(), "a message that ended has an end");
    Ok(said)
}

fn request(bytes: &[u8]) -> Result<Said, InvalidMessage> {
    let whole = read(MessageReader::request(), bytes, bytes.len().max(1));
    assert_eq!(read(MessageReader::request(), bytes, 1), whole);
    whole
}

fn response(bytes: &[u8]) -> Result<Said, InvalidMessage> {
    let whole = read(MessageReader::response(), bytes, bytes.len().max(1));
    assert_eq!(read(MessageReader::response(), bytes, 1), whole);
    whole
}

fn lines(lines: &[(&str, &str)]) -> Lines {
    let line = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
    lines.iter().map(line).collect()
}

fn fields(all: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    all.iter()
        .for_each(|(name, value)| fields.push(name, *value).unwrap());
    fields
}

/// RFC 9292, section 5.1: the request in both forms.
const HELLO_KNOWN: &str = "\
    00034745540568747470730\
    00a2f68656c6c6f2e747874406c0a757365722d6167656e74346375726c2f372e31362e33206c69626375726c2f37\
    2e31362e33204f70656e53534c2f302e392e376c207a6c69622f312e322e3304686f73740f7777772e6578616d706c\
    652e636f6d0f6163636570742d6c616e677561676506656e2c206d690000";
const HELLO_OPEN: &str = "\
    02034745540568747470730\
    00a2f68656c6c6f2e7478740a757365722d6167656e74346375726c2f372e31362e33206c69626375726c2f37\
    2e31362e33204f70656e53534c2f302e392e376c207a6c69622f312e322e3304686f73740f7777772e6578616d706c\
    652e636f6d0f6163636570742d6c616e677561676506656e2c206d6900000000000000000000000000";

fn hello() -> Said {
    let agent = "curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3";
    let header = [
        ("user-agent", agent),
        ("host", "www.example.com"),
        ("accept-language", "en, mi"),
    ];
    Said {
        begins: vec![("GET https:///hello.txt".to_owned(), lines(&header))],
        content: Vec::new(),
        trailer: Some(Vec::new()),
    }
}

#[test]
fn the_request_of_rfc_9292_is_read_however_far_it_is_truncated() {
    // The method and the target are 23 bytes with the framing; what follows may be missing.
    let mut bare = hello();
    bare.begins[0].1.clear();
    for (bytes, truncated_max) in [(hex(HELLO_KNOWN), 2), (hex(HELLO_OPEN), 12)] {
        for truncated in 0..bytes.len() {
            let left = bytes.len() - truncated;
            let read = request(&bytes[..left]);
            match (left, truncated <= truncated_max) {
                (_, true) => assert_eq!(read.unwrap(), hello()),
                (23, _) => assert_eq!(read.unwrap(), bare),
                _ => assert_eq!(read, Err(InvalidMessage::CutShort), "{left} bytes"),
            }
        }
        let padded = [&bytes[..], &[0; 1_000]].concat();
        assert_eq!(request(&padded).unwrap(), hello());
        let spoilt = [&padded[..], &[1]].concat();
        assert_eq!(request(&spoilt), Err(InvalidMessage::Padding));
    }
}

#[test]
fn the_request_of_rfc_9292_is_written_so() {
    let said = hello();
    let header = said.begins[0].1.iter();
    let mut all = Fields::default();
    header.for_each(|(name, value)| all.push(name, value.clone()).unwrap());
    let line = RequestLine::new("GET", "https", "", "/hello.txt").unwrap();
    let mut out = Vec::new();
    write_known_request(&line, &all, b"", &Fields::default(), &mut out);
    assert_eq!(out, hex(HELLO_KNOWN));
    out.clear();
    let content = write_request(&line, &all, &mut out);
    content.finish(&Fields::default(), &mut out);
    out.resize(out.len() + 10, 0);
    assert_eq!(out, hex(HELLO_OPEN));
}

/// RFC 9292, section 5.2, first example: two informational responses before the final one.
#[test]
fn informational_responses_come_before_the_final_one() {
    let link = [
        "</style.css>; rel=preload; as=style",
        "</script.js>; rel=preload; as=script",
    ];
    let content = b"Hello World! My content includes a trailing CRLF.\r\n";
    let mut out = Vec::new();
    let writer = ResponseWriter::start(&mut out);
    writer
        .informational(102, &fields(&[("running", "\"sleep 15\"")]), &mut out)
        .unwrap();
    let links = [("link", link[0]), ("link", link[1])];
    writer
        .informational(103, &fields(&links), &mut out)
        .unwrap();
    let header = [("server", "Apache"), ("content-length", "51")];
    let writer = writer.response(200, &fields(&header), &mut out).unwrap();
    writer.push(b"", &mut out);
    writer.push(&content[..20], &mut out);
    writer.push(&content[20..], &mut out);
    writer.finish(&Fields::default(), &mut out);
    assert!(out.starts_with(&hex("0340660772756e6e696e670a22736c6565702031352200406704")));
    let begins = [
        ("102", lines(&[("running", "\"sleep 15\"")])),
        ("103", lines(&links)),
        ("200", lines(&header)),
    ];
    let said = Said {
        begins: begins
            .map(|(status, fields)| (status.to_owned(), fields))
            .to_vec(),
        content: content.to_vec(),
        trailer: Some(Vec::new()),
    };
    assert_eq!(response(&out).unwrap(), said);
    // The trailer may be missing, or all that follows the final status or the header; a body that
    // has begun may not lose its end.
    assert_eq!(response(&out[..out.len() - 1]).unwrap(), said);
    let body = content.len() + 2 + 2;
    let header = out.len() - body - "servercontent-lengthApache51".len() - 4 - 1;
    for end in 0..out.len() - 1 {
        let read = response(&out[..end]);
        if end == header || end == out.len() - body {
            assert_eq!(read.unwrap().content, b"");
        } else {
            assert_eq!(read, Err(InvalidMessage::CutShort), "ends at {end}");
        }
    }
}

#[test]
fn trailers_are_read_in_both_forms() {
    let said = Said {
        begins: vec![("200".to_owned(), Vec::new())],
        content: b"This content contains CRLF.\r\n".to_vec(),
        trailer: Some(lines(&[("trailer", "text")])),
    };
    let mut known = Vec::new();
    let trailer = fields(&[("Trailer", "text")]);
    write_known_response(200, &Fields::default(), &said.content, &trailer, &mut known).unwrap();
    let mut open = Vec::new();
    let writer = ResponseWriter::start(&mut open);
    let writer = writer.response(200, &Fields::default(), &mut open).unwrap();
    writer.push(&said.content, &mut open);
    writer.finish(&trailer, &mut open);
    for bytes in [known, open] {
        assert_eq!(response(&bytes).unwrap(), said);
        let truncated = response(&bytes[..bytes.len() - 1]);
        assert!(
            matches!(truncated, Err(InvalidMessage::CutShort)),
            "{truncated:?}"
        );
    }
}

#[test]
fn the_shared_examples_are_read_and_the_bad_ones_refused() {
    let Some(file) = shared("rfc9292-examples.json") else {
        return;
    };
    assert_eq!(
        field(&file["known_length_request"], "bhttp"),
        hex(HELLO_KNOWN)
    );
    for name in ["known_length_response", "indeterminate_length_response"] {
        let said = response(&field(&file[name], "bhttp")).unwrap();
        assert_eq!(said.begins, [("200".to_owned(), Vec::new())]);
        assert_eq!(
            said.content,
            file[name]["content"].as_str().unwrap().as_bytes()
        );
        assert_eq!(said.trailer, Some(lines(&[("trailer", "text")])));
    }
    let tiny = request(&field(&file, "tiny_request")).unwrap();
    assert_eq!(tiny.begins[0].0, "GET https://example.com/");
    assert_eq!(
        response(&field(&file, "tiny_response")).unwrap().begins[0].0,
        "200"
    );
    let must_fail = &file["must_fail"];
    let truncated = field(must_fail, "truncated_control_data");
    assert_eq!(request(&truncated), Err(InvalidMessage::CutShort));
    assert_eq!(
        request(&field(must_fail, "length_overflow")),
        Err(InvalidMessage::TooLarge)
    );
}

#[test]
fn what_is_no_message_is_refused_with_its_reason() {
    use InvalidMessage::{CutShort, Field, Framing, Line, Status, TooLarge};
    // GET https example.com, and then what is cut off.
    let get = "0347455405687474707300";
    let framed = |framing: &str, rest: &str| hex(&format!("{framing}{get}{rest}"));
    for (bytes, reason) in [
        (hex(""), CutShort),
        (hex("40"), CutShort),
        (hex("01"), Framing),
        (hex("04"), Framing),
        (hex("4002"), CutShort),
        (framed("00", "00"), Line),
        (framed("00", "0161"), Line),
        (framed("00", "022f20"), Line),
        (framed("00", "032f0d0a"), Line),
        (hex("00034720540568747470730001 2f"), Line),
        (hex("0000056874747073 00012f"), Line),
        // An authority with a user, with a path.
        (hex("000347455405687474707303614062012f"), Line),
        (hex("000347455405687474707303612f62012f"), Line),
        // Known: a section that ends within a line, a name of no bytes, content that is cut.
        (framed("00", "012f020161"), Field),
        (framed("00", "012f0101"), Field),
        (framed("00", "012f030161"), CutShort),
        (framed("00", "012f0201610000"), Field),
        (framed("00", "012f020001"), Field),
        (framed("00", "012f0002"), CutShort),
        (framed("00", "012f000261"), CutShort),
        (framed("00", "012f000040"), CutShort),
        // Open: a line that is cut, a section without its end, a body without its end.
        (framed("02", "012f01610162"), CutShort),
        (framed("02", "012f0161"), CutShort),
        (framed("02", "012f000161"), CutShort),
        (framed("02", "012f00016100016101"), CutShort),
        // Names and values.
        (framed("02", "012f0120016200"), Field),
        (framed("02", "012f0161012000"), Field),
        (framed("02", "012f016103620a6300"), Field),
        (framed("02", "012f016103620d6300"), Field),
        (framed("02", "012f01610362006300"), Field),
        (framed("02", "012f01ff016200"), Field),
        (framed("02", "012f053a70617468016200"), Field),
        (framed("02", "012f0161016202 3a78016200"), Field),
        (framed("02", "012f0000023a78016200"), Field),
        // Lengths that are refused before anything is kept.
        (framed("00", "012fffffffffffffffff"), TooLarge),
        (framed("02", "012fffffffffffffffff"), TooLarge),
        (framed("02", "012f0161ffffffffffffffff"), TooLarge),
    ] {
        assert_eq!(request(&bytes), Err(reason), "{bytes:02x?}");
    }
    for (bytes, reason) in [
        (hex("00"), Framing),
        (hex("03"), CutShort),
        (hex("034063"), Status),
        (hex("034258"), Status),
        (hex("03ffffffffffffffff"), Status),
        // Nothing after an informational response.
        (hex("03406600"), CutShort),
        (hex("034066"), CutShort),
        (hex("01406600"), CutShort),
    ] {
        assert_eq!(response(&bytes), Err(reason), "{bytes:02x?}");
    }
    assert_eq!(request(&framed("02", "012f000001780179")), Err(CutShort));
}

#[test]
fn a_pseudo_field_of_an_extension_stands_before_the_others() {
    let said = fields(&[(":protocol", "x"), ("a", "b")]);
    assert_eq!(said.only(":protocol"), Some(&b"x"[..]));
    let mut late = fields(&[("a", "b")]);
    assert_eq!(late.push(":protocol", "x"), Err(InvalidMessage::Field));
}

#[test]
fn of_a_doubled_field_there_is_none() {
    let doubled = fields(&[("date", "1"), ("Date", "2"), ("other", "3")]);
    assert_eq!(doubled.only("date"), None);
    assert_eq!(doubled.only("other"), Some(&b"3"[..]));
    assert_eq!(doubled.all("date").count(), 2);
    assert_eq!(doubled.len(), 3);
    assert_eq!(format!("{doubled:?}"), "Fields(3 of 40 bytes)");
}

#[test]
fn a_header_bomb_is_refused_by_count_and_by_size() {
    let mut many = Fields::default();
    for _ in 0..FIELDS_MAX {
        many.push("a", "").unwrap();
    }
    assert_eq!(many.push("a", ""), Err(InvalidMessage::TooLarge));
    let mut large = Fields::default();
    large.push("a", vec![b'x'; SECTION_BYTES_MAX - 9]).unwrap();
    assert_eq!(large.push("a", ""), Err(InvalidMessage::TooLarge));

    let begin = hex("02034745540568747470730001 2f");
    let count = [&begin[..], &hex("016100").repeat(FIELDS_MAX + 1)].concat();
    assert_eq!(request(&count), Err(InvalidMessage::TooLarge));
    let size = [&begin[..], &hex("01610161 0161 80004000")].concat();
    assert_eq!(request(&size), Err(InvalidMessage::TooLarge));
    let mut known = hex("00034745540568747470730001 2f");
    known.extend(hex("80004001"));
    assert_eq!(request(&known), Err(InvalidMessage::TooLarge));

    let path = "/".repeat(CONTROL_BYTES_MAX);
    let line = RequestLine::new("GET", "https", "relay.invalid", &path);
    assert_eq!(line.unwrap_err(), InvalidMessage::TooLarge);
}

#[test]
fn informational_responses_without_end_are_refused() {
    let one = hex("406600");
    let mut reader = MessageReader::response();
    assert_eq!(reader.next(&mut &[3][..]), Ok(None));
    for _ in 0..INFORMATIONAL_MAX {
        let part = reader.next(&mut &one[..]).unwrap();
        assert_eq!(part, Some(Part::Informational(102, Fields::default())));
    }
    assert_eq!(reader.next(&mut &one[..]), Err(InvalidMessage::TooLarge));
    assert_eq!(
        reader.next(&mut &[0][..]),
        Err(InvalidMessage::TooLarge),
        "once and for all"
    );
}

#[test]
fn a_status_is_written_where_it_belongs() {
    let mut out = Vec::new();
    let none = Fields::default();
    for status in [99, 200, 600] {
        let writer = ResponseWriter::start(&mut out);
        assert_eq!(
            writer.informational(status, &none, &mut out),
            Err(InvalidMessage::Status)
        );
    }
    for status in [199, 600] {
        let writer = ResponseWriter::start(&mut out);
        assert_eq!(
            writer.response(status, &none, &mut out).unwrap_err(),
            InvalidMessage::Status
        );
        let known = write_known_response(status, &none, b"", &none, &mut out);
        assert_eq!(known, Err(InvalidMessage::Status));
    }
}

/// A field that HTTP has.
fn any_field() -> impl Strategy<Value = (String, String)> {
    ("[a-z][a-z0-9-]{0,15}", "([!-~]([ -~]{0,30}[!-~])?)?")
}

proptest! {
    #[test]
    fn what_is_written_is_read_whatever_the_cut(
        header in prop::collection::vec(any_field(), 0..6),
        trailer in prop::collection::vec(any_field(), 0..3),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
        path in "/[!-\"$-~]{0,40}",
        padding in 0usize..40,
        cut in 1usize..60,
    ) {
        let as_fields = |all: &[(String, String)]| {
            let mut fields = Fields::default();
            all.iter().for_each(|(name, value)| fields.push(name, value.as_str()).unwrap());
            fields
        };
        let (header, trailer) = (as_fields(&header), as_fields(&trailer));
        let line = RequestLine::new("POST", "https", "relay.invalid", &path).unwrap();
        let said = Said {
            begins: vec![(format!("POST https://relay.invalid{path}"), listed(&header))],
            content: pieces.concat(),
            trailer: Some(listed(&trailer)),
        };
        let mut open = Vec::new();
        let writer = write_request(&line, &header, &mut open);
        pieces.iter().for_each(|piece| writer.push(piece, &mut open));
        writer.finish(&trailer, &mut open);
        let mut known = Vec::new();
        write_known_request(&line, &header, &pieces.concat(), &trailer, &mut known);
        for bytes in [&mut open, &mut known] {
            bytes.resize(bytes.len() + padding, 0);
            prop_assert_eq!(read(MessageReader::request(), bytes, cut).unwrap(), said.clone());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_alike_whatever_the_cut(
        framing in 0u8..4,
        bytes in prop::collection::vec(prop_oneof![0u8..9, any::<u8>()], 0..120),
        cut in 1usize..20,
    ) {
        let bytes = [&[framing][..], &bytes].concat();
        for reader in [MessageReader::request, MessageReader::response] {
            let whole = read(reader(), &bytes, bytes.len());
            prop_assert_eq!(read(reader(), &bytes, cut), whole);
        }
    }
}
