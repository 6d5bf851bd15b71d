//! Golden transcripts, whole and cut anywhere; and what no transcript may do.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use domain::{ChatEvent, Extra, Tool};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::families::{FAMILIES, GENERIC};
use super::*;
use crate::voice::{Voice, VoiceRules};

/// One transcript: where its reply begins, what the model wrote, what that is.
struct Case {
    place: String,
    manner: Manner,
    beginning: Beginning,
    written: String,
    events: Vec<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("calls/fixtures")
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn families() -> Vec<PathBuf> {
    let paths = entries(&fixtures()).into_iter();
    paths.filter(|path| path.is_dir()).collect()
}

fn manner(family: &Path) -> Manner {
    Manner::of(&fs::read_to_string(family.join("template.jinja")).unwrap())
}

fn cases() -> Vec<Case> {
    let paths = families().into_iter().flat_map(|family| entries(&family));
    let paths = paths.filter(|path| path.extension().is_some_and(|name| name == "txt"));
    paths.map(|path| case(&path)).collect()
}

fn case(path: &Path) -> Case {
    let text = fs::read_to_string(path).unwrap();
    let manner = manner(path.parent().unwrap());
    let (head, rest) = text.split_once('\n').unwrap();
    let (written, events) = rest.rsplit_once("\n=== events\n").unwrap();
    let beginning = match head {
        "=== blank" => Beginning::Blank,
        "=== thought" => Beginning::Thought(manner.thoughts.unwrap()),
        "=== call" => Beginning::Call,
        "=== answer" => Beginning::Answer,
        other => panic!("{}: {other}", path.display()),
    };
    Case {
        place: path.display().to_string(),
        manner,
        beginning,
        written: written.to_owned(),
        events: events.lines().map(str::to_owned).collect(),
    }
}

/// For the fuzzer, which says by three bytes before each how it is to be read.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |case: Case| {
        let mut families = FAMILIES.iter();
        let family = families.position(|family| family.name == case.manner.family.name);
        let place = match case.beginning {
            Beginning::Blank => 5,
            Beginning::Thought(_) => 6,
            Beginning::Call => 7,
            Beginning::Plain => 8,
            Beginning::Answer => 9,
        };
        let family = u8::try_from(family.unwrap_or(FAMILIES.len())).unwrap();
        [&[family, place, 3], case.written.as_bytes()].concat()
    };
    cases().into_iter().map(seed).collect()
}

fn tool(name: &str, properties: Value) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters: json!({"type": "object", "properties": properties}),
        extra: Extra::new(),
    }
}

/// The tools of all transcripts.
fn offered() -> Offered {
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

fn read<'p>(
    manner: Manner,
    beginning: Beginning,
    pieces: impl IntoIterator<Item = &'p str>,
) -> Vec<Spoken> {
    let mut reader = Reader::new(manner, beginning, Some(offered()));
    let mut said = Vec::new();
    for piece in pieces {
        reader.push(piece, &mut said);
        assert!(reader.held() <= HELD_BYTES_MAX + piece.len(), "held back");
    }
    reader.finish(&mut said);
    assert_eq!(reader.held(), 0, "nothing is lost");
    said
}

/// As the fixtures have them: neighbours of a kind joined, how text was cut is not the point.
fn told(said: &[Spoken]) -> Vec<String> {
    let mut told: Vec<(&str, Vec<String>)> = Vec::new();
    for spoken in said {
        match (spoken, told.last_mut()) {
            (Spoken::Text(more), Some(("text", last)))
            | (Spoken::Thought(more), Some(("thought", last))) => last[0].push_str(more),
            (Spoken::Text(text), _) => told.push(("text", vec![text.clone()])),
            (Spoken::Thought(text), _) => told.push(("thought", vec![text.clone()])),
            (Spoken::Call(name), _) => told.push(("open", vec![name.clone(), String::new()])),
            (Spoken::Arguments(more), Some(("open", last))) => last[1].push_str(more),
            (Spoken::CallEnded, Some((kind @ "open", _))) => *kind = "call",
            (other, _) => panic!("{other:?} without a call"),
        }
    }
    let line = |(kind, texts): &(&str, Vec<String>)| {
        let texts = texts
            .iter()
            .map(|text| Value::from(text.as_str()).to_string());
        format!("{kind} {}", texts.collect::<Vec<_>>().join(" "))
    };
    told.iter().map(line).collect()
}

fn letters(text: &str) -> Vec<&str> {
    let ends = text.char_indices().map(|(at, c)| (at, at + c.len_utf8()));
    ends.map(|(at, end)| &text[at..end]).collect()
}

fn cut<'t>(text: &'t str, random: &mut StdRng) -> Vec<&'t str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, _) in text.char_indices().skip(1) {
        if random.random_bool(0.2) {
            pieces.push(&text[start..at]);
            start = at;
        }
    }
    pieces.push(&text[start..]);
    pieces
}

#[test]
fn each_template_tells_its_family() {
    for family in families() {
        let name = family.file_name().unwrap().to_str().unwrap();
        assert_eq!(manner(&family).family.name, name);
    }
    for family in FAMILIES.into_iter().chain([&GENERIC]) {
        assert!(fixtures().join(family.name).is_dir(), "{}", family.name);
    }
}

#[test]
fn transcripts_read_the_same_whole_by_letter_and_cut_anywhere() {
    let mut random = StdRng::seed_from_u64(7);
    let mut failed = Vec::new();
    for case in cases() {
        let read = |pieces: Vec<&str>| told(&read(case.manner, case.beginning, pieces));
        let whole = read(vec![&case.written]);
        if whole != case.events {
            failed.push(format!("{}:\n{whole:#?}", case.place));
            continue;
        }
        assert_eq!(
            read(letters(&case.written)),
            whole,
            "{} by letter",
            case.place
        );
        for _ in 0..8 {
            let pieces = cut(&case.written, &mut random);
            assert_eq!(read(pieces.clone()), whole, "{}: {pieces:?}", case.place);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// As a reply of the engine has them: characters cut, ids and indices given.
#[test]
fn transcripts_read_the_same_by_byte_as_events_of_a_reply() {
    for case in cases() {
        let mut voice = Voice::new(VoiceRules {
            manner: case.manner,
            beginning: case.beginning,
            offered: Some(offered()),
            ..VoiceRules::default()
        });
        let mut events = VecDeque::new();
        let mut said = Vec::new();
        let mut calls = 0;
        for byte in case.written.as_bytes() {
            voice.hear(&[*byte], &mut events);
            // Taken at once, so that nothing is joined in the queue.
            said.extend(events.drain(..).map(|event| spoken(event, &mut calls)));
        }
        voice.finish(&mut events);
        said.extend(events.into_iter().map(|event| spoken(event, &mut calls)));
        // A call's end is no event.
        let said: Vec<_> = said.into_iter().flatten().collect();
        let ended: Vec<_> = case
            .events
            .iter()
            .map(|event| event.replacen("call ", "open ", 1))
            .collect();
        assert_eq!(told(&said), ended, "{}", case.place);
    }
}

fn spoken(event: ChatEvent, calls: &mut u32) -> Vec<Spoken> {
    match event {
        ChatEvent::Text { text, .. } => vec![Spoken::Text(text)],
        ChatEvent::Thought { text, .. } => vec![Spoken::Thought(text)],
        ChatEvent::ToolCall { index, part, .. } => {
            *calls += u32::from(part.name.is_some());
            assert_eq!(
                (index + 1, part.id.is_some()),
                (*calls, part.name.is_some())
            );
            let call = part.name.map(Spoken::Call);
            call.into_iter()
                .chain([Spoken::Arguments(part.arguments)])
                .collect()
        }
        other => panic!("unexpected {other:?}"),
    }
}

/// The arguments of a call that ended whole are JSON, whatever the form.
#[test]
fn arguments_of_whole_transcripts_are_json() {
    for case in cases() {
        if ["broken", "cut"]
            .iter()
            .any(|word| case.place.contains(word))
        {
            continue;
        }
        for event in case
            .events
            .iter()
            .filter(|event| event.starts_with("call "))
        {
            let mut texts = serde_json::Deserializer::from_str(&event["call ".len()..])
                .into_iter::<String>()
                .map(Result::unwrap);
            let arguments = texts.nth(1).unwrap();
            assert!(
                serde_json::from_str::<serde_json::Map<String, Value>>(&arguments).is_ok(),
                "{}: {arguments}",
                case.place
            );
        }
    }
}

#[test]
fn without_tools_calls_are_text() {
    for case in cases() {
        if case.manner.family.is_channelled {
            continue;
        }
        let mut reader = Reader::new(case.manner, Beginning::Answer, None);
        let mut said = Vec::new();
        reader.push(&case.written, &mut said);
        reader.finish(&mut said);
        assert_eq!(said, [Spoken::Text(case.written)], "{}", case.place);
    }
}

#[test]
fn no_part_of_a_mark_leaks_before_it_is_certain() {
    let mut reader = Reader::new(Manner::of("<tool_call>"), Beginning::Blank, Some(offered()));
    let mut said = Vec::new();
    for piece in ["hi <", "tool", "_call", ">{\"name\""] {
        reader.push(piece, &mut said);
    }
    assert_eq!(told(&said), ["text \"hi \""]);
}

#[test]
fn a_head_without_end_is_text_after_a_bound() {
    let manner = Manner::of("<tool_call>");
    let long = format!("<tool_call>{{\"name\": \"{}", "x".repeat(HELD_BYTES_MAX));
    let mut reader = Reader::new(manner, Beginning::Blank, Some(offered()));
    let mut said = Vec::new();
    let (early, late) = long.split_at(HELD_BYTES_MAX);
    reader.push(early, &mut said);
    assert!(said.is_empty());
    reader.push(late, &mut said);
    assert_eq!(told(&said), [format!("text {}", Value::from(long))]);
}

#[test]
fn marks_that_may_be_control_tokens_are_all_known() {
    let marks = Manner::of("[TOOL_CALLS] [ARGS] [THINK]").marks();
    for mark in ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"] {
        assert!(marks.contains(&mark), "{mark}");
    }
    for family in FAMILIES {
        let manner = Manner {
            family,
            thoughts: None,
        };
        assert!(manner.marks().contains(&"</think>"));
    }
}

/// Any mixture of marks and letters is read alike however it is cut, and none of it is lost where
/// there is no call in it.
fn mixture() -> impl Strategy<Value = (usize, Vec<usize>, usize, u8)> {
    let parts = prop::collection::vec(0_usize..64, 0..14);
    (0..FAMILIES.len() + 1, parts, 1_usize..6, 0_u8..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn cuts_do_not_matter((family, parts, every, place) in mixture()) {
        let family = FAMILIES.get(family).copied().unwrap_or(&GENERIC);
        let manner = Manner {
            thoughts: Manner::of("<think>").thoughts,
            family,
        };
        let beginning = match place {
            0 => Beginning::Blank,
            1 => Beginning::Answer,
            _ => Beginning::Thought(Manner::of("<think>").thoughts.unwrap()),
        };
        let mut words = manner.marks();
        words.extend([
            "{\"name\":\"now\",", "\"arguments\":{}}", "{\"name\": \"now\"}", "{", "}", "[", "]",
            "\"", ",", "é", " ", "\n", "<", "a", "now(", ")", "city=", "'x'", "call:now{", "city:",
            "get_weather", "<function=now>", "<parameter=city>", "</parameter>", "</function>",
            "to=functions.now", "analysis", "\n```json\n", "```", "assistant", "function",
        ]);
        let whole: String = parts.iter().map(|at| words[at % words.len()]).collect();
        let letters = letters(&whole);
        let pieces: Vec<String> = letters.chunks(every).map(<[&str]>::concat).collect();
        let once = told(&read(manner, beginning, [whole.as_str()]));
        let often = told(&read(manner, beginning, pieces.iter().map(String::as_str)));
        prop_assert_eq!(&once, &often);
        if once.iter().all(|event| event.starts_with("text ")) && !family.is_channelled && place == 1 {
            prop_assert_eq!(once.concat(), if whole.is_empty() { String::new() } else { format!("text {}", Value::from(whole)) });
        }
    }
}
