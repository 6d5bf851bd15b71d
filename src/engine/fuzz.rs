//! Doors for the fuzzers in `fuzz/`, in their builds and in tests: each takes any bytes, has them
//! read, and panics where what must hold of a reading does not.
//!
//! The first bytes say how the rest is to be read, so that one corpus reaches every branch.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use domain::{Extra, Tool};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, ReadBuf};

use crate::calls::{Beginning, FAMILIES, Manner, Offered, Reader, Spoken};
use crate::grammar;
use crate::process;

/// A reply: the family, where it begins and how it is cut, then what the model wrote. However it is
/// cut, it says the same, and nothing of it is held back at its end.
pub fn calls(bytes: &[u8]) {
    let Some(([family, place, every], written)) = bytes.split_first_chunk() else {
        return;
    };
    let written = String::from_utf8_lossy(written);
    let thoughts = Manner::of("<think>").thoughts;
    // One beyond the last is the family of templates that nobody knows.
    let family = usize::from(*family) % (FAMILIES.len() + 1);
    let manner = match FAMILIES.get(family) {
        Some(family) => Manner { thoughts, family },
        None => Manner::of("<think>"),
    };
    let beginning = match (place % 5, thoughts) {
        (0, _) => Beginning::Blank,
        (1, Some(marks)) => Beginning::Thought(marks),
        (2, _) => Beginning::Call,
        (3, _) => Beginning::Plain,
        _ => Beginning::Answer,
    };
    let letters: Vec<char> = written.chars().collect();
    let pieces = letters.chunks(usize::from(*every).max(1));
    let pieces: Vec<String> = pieces.map(|piece| piece.iter().collect()).collect();
    let offered = (place / 5 % 4 != 0).then(offered);
    let read = |pieces: &[&str]| {
        let mut reader = Reader::new(manner, beginning, offered.clone());
        let mut said = Vec::new();
        pieces
            .iter()
            .for_each(|piece| reader.push(piece, &mut said));
        reader.finish(&mut said);
        assert_eq!(reader.held(), 0, "held back for good");
        joined(said)
    };
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    assert_eq!(read(&[&written]), read(&pieces), "a cut made a difference");
}

/// Neighbours of a kind as one: how text was cut is not the point.
fn joined(said: Vec<Spoken>) -> Vec<Spoken> {
    let mut joined: Vec<Spoken> = Vec::new();
    for spoken in said {
        match (joined.last_mut(), spoken) {
            (Some(Spoken::Text(last)), Spoken::Text(more))
            | (Some(Spoken::Thought(last)), Spoken::Thought(more))
            | (Some(Spoken::Arguments(last)), Spoken::Arguments(more)) => last.push_str(&more),
            (_, spoken) => joined.push(spoken),
        }
    }
    joined
}

/// The tools of the golden transcripts, among them one with an argument of each reading.
fn offered() -> Offered {
    let tool = |name: &str, properties: Value| Tool {
        name: name.to_owned(),
        description: None,
        parameters: json!({"type": "object", "properties": properties}),
        extra: Extra::new(),
    };
    let text = || json!({"type": "string"});
    Offered::of(&[
        tool(
            "get_weather",
            json!({"city": text(), "days": {"type": "integer"}}),
        ),
        tool(
            "search",
            json!({"query": text(), "filter": {"type": "object"}, "tags": {"type": "array"}}),
        ),
        tool("write_file", json!({"path": text(), "content": text()})),
        tool("now", json!({})),
    ])
}

/// What a reply is to be held to: the kind, then its text. Only our own reading of it, not the
/// compiler's.
pub fn grammars(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    match kind % 3 {
        0 => grammar::fuzz::gbnf(&text),
        1 => grammar::fuzz::regex(&text),
        _ => grammar::fuzz::schema(&text),
    }
}

/// A stretch of the connection between the two processes: who reads and how it is cut, then frames.
pub fn frames(bytes: &[u8]) {
    let Some(([side, every], frames)) = bytes.split_first_chunk() else {
        return;
    };
    let whole = &mut Stretches(frames.chunks(STRETCH_BYTES_MAX));
    let cut = &mut Stretches(frames.chunks(usize::from(*every).max(1)));
    let (whole, cut) = match side % 2 {
        0 => (process::fuzz::orders(whole), process::fuzz::orders(cut)),
        _ => (process::fuzz::words(whole), process::fuzz::words(cut)),
    };
    assert_eq!(whole, cut, "a cut made a difference");
}

/// No reader asks for less at once.
const STRETCH_BYTES_MAX: usize = 4 * 1024;

/// Gives one stretch at each reading.
struct Stretches<'a>(std::slice::Chunks<'a, u8>);

impl AsyncRead for Stretches<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(part) = self.0.next() {
            buffer.put_slice(part);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::EngineConfig;

    /// What the fuzzers found their way by, without their compiler.
    #[test]
    fn what_the_fuzzers_keep_is_read() {
        read_all("calls", calls);
        read_all("grammars", grammars);
        read_all("frames", frames);
    }

    fn read_all(name: &str, door: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let mut count = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap() {
            door(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "no corpus for {name}");
    }

    fn write(name: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        fs::create_dir_all(folder.join(name)).unwrap();
        for (index, seed) in seeds.into_iter().enumerate() {
            fs::write(folder.join(name).join(format!("seed-{index}")), seed).unwrap();
        }
    }

    #[test]
    #[ignore = "writes what the fuzzers begin with"]
    fn seeds_are_written() {
        write("calls", crate::calls::seeds());
        write(
            "frames",
            crate::process::fuzz::seeds(EngineConfig::new("m", "m")),
        );
        let texts = [
            "\0root ::= \"a\" (b | [^a-z\\n]{2,3})* # c\nb ::= [\\x41-\\u00ff]+ | . ?",
            "\0root ::= \"\\\"\" name{,4} | name{2,}\nname ::= \"\\U0001F600\" root |",
            "\u{1}^(?:[a-z0-9._%+-]{1,64}|\\d\\w\\s\\D)@x\\.(com|org)$",
            "\u{1}(a|b)*?c+?[^\\]\\x2d-]{3,}\\u00e9\\p{L}",
            "\u{2}{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/b\"}},\"required\":[\"a\"],\
             \"additionalProperties\":false,\"$defs\":{\"b\":{\"anyOf\":[{\"type\":[\"string\",\"null\"],\
             \"pattern\":\"^a\"},{\"enum\":[1,2.5,\"x\"]}]}}}",
            "\u{2}{\"allOf\":[{\"type\":\"integer\",\"minimum\":0,\"multipleOf\":3},{\"maximum\":9}]}",
            "\u{2}{\"type\":\"array\",\"prefixItems\":[{\"const\":1}],\"items\":{\"format\":\"date-time\"},\
             \"minItems\":1,\"maxItems\":3,\"uniqueItems\":false}",
            "\u{2}{\"type\":\"object\",\"patternProperties\":{\"^x\":{\"type\":\"number\"}},\
             \"minProperties\":1,\"oneOf\":[{\"title\":\"a\"}]}",
        ];
        write("grammars", texts.map(|text| text.as_bytes().to_vec()));
    }
}
