//! Forced calls over vocabularies in which each family's marks are control tokens.

use std::collections::VecDeque;

use domain::{ChatEvent, Extra};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::*;
use crate::calls::{Beginning, FAMILIES, Manner, Offered};
use crate::decoder::{Token, Vocabulary};
use crate::fake::request;
use crate::grammar::Grammars;
use crate::splitting::Splitting;
use crate::voice::{Voice, VoiceRules};

const END: Token = 256;

/// Bytes, an end, and marks that are one token each.
struct Marked(Vec<&'static str>);

impl Vocabulary for Marked {
    fn size(&self) -> u32 {
        257 + self.0.len() as u32
    }

    fn splitting(&self) -> Splitting {
        Splitting::Flat
    }

    fn tokenize(&self, _: &str, _: bool, _: &mut Vec<Token>) {}

    fn piece(&self, token: Token, bytes: &mut Vec<u8>) {
        match u8::try_from(token) {
            Ok(byte) => bytes.push(byte),
            Err(_) if token == END => {}
            Err(_) => bytes.extend(self.0[token as usize - 257].bytes()),
        }
    }

    fn is_control(&self, token: Token) -> bool {
        token >= END
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn first_token(&self) -> Option<Token> {
        None
    }

    fn controls(&self) -> &[String] {
        &[]
    }

    fn piece_bytes_max(&self) -> u32 {
        32
    }
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters: json!({
            "type": "object",
            "properties": {"n": {"enum": [1, "[ARGS]</tool_call><|call|>"]}},
            "required": ["n"],
            "additionalProperties": false,
        }),
        extra: Extra::new(),
    }
}

#[test]
fn marks_that_are_tokens_are_drawn_as_such_and_read_again() {
    let mut random = StdRng::seed_from_u64(3);
    for family in FAMILIES {
        let Some(form) = &family.forced else {
            continue;
        };
        let thoughts = None;
        let manner = Manner { family, thoughts };
        let vocabulary = Marked(manner.marks());
        let grammars = Grammars::new(&vocabulary).unwrap().with_forced(Some(form));
        let asked = request("a", |request| {
            request.tools = vec![tool("f"), tool("g-2")];
            request.tool_choice = ToolChoice::Required;
        });
        let mut most = 0;
        for _ in 0..12 {
            let calls = drawn(&vocabulary, &grammars, &asked, manner, &mut random);
            most = most.max(calls);
        }
        assert_eq!(most > 1, form.joint.is_some(), "{}: {most}", family.name);
    }
}

/// How many calls a reply at random makes, all of them whole and nothing else in it.
fn drawn(
    vocabulary: &Marked,
    grammars: &Grammars,
    asked: &ChatRequest,
    manner: Manner,
    random: &mut StdRng,
) -> usize {
    let mut grammar = grammars.grammar(None, asked).unwrap().unwrap();
    let mut voice = Voice::new(VoiceRules {
        manner,
        beginning: Beginning::Call,
        offered: Some(Offered::of(&asked.tools)),
        ..VoiceRules::default()
    });
    let mut events = VecDeque::new();
    let mut marks = 0;
    loop {
        let allowed: Vec<usize> = grammar.allowed().unwrap().tokens().collect();
        let token = *allowed.choose(random).unwrap() as Token;
        if vocabulary.is_end(token) {
            break;
        }
        let mut piece = Vec::new();
        vocabulary.piece(token, &mut piece);
        marks += usize::from(token > END);
        voice.hear(&piece, &mut events);
        if grammar.accept(token).unwrap() {
            break;
        }
    }
    voice.finish(&mut events);
    let mut calls = Vec::new();
    for event in events {
        match event {
            ChatEvent::ToolCall { part, .. } => match part.name {
                Some(name) => calls.push((name, part.arguments)),
                None => calls.last_mut().unwrap().1.push_str(&part.arguments),
            },
            other => panic!("{}: {other:?}", manner.family.name),
        }
    }
    for (name, arguments) in &calls {
        assert!(["f", "g-2"].contains(&name.as_str()), "{name}");
        let read: Value = serde_json::from_str(arguments).unwrap();
        assert!(read["n"] == 1 || read["n"].is_string(), "{arguments}");
    }
    // Llama's objects are the one form without a mark.
    assert_eq!(marks == 0, manner.family.name == "llama3");
    calls.len()
}

#[test]
fn text_is_spelled_with_the_longest_marks_in_it() {
    let controls = [("<a>".to_owned(), 7), ("<a><b>".to_owned(), 8)];
    assert_eq!(
        spelled("x<a><b>\n<a>", &controls),
        ["\"x\"", "<[8]>", "\"\\n\"", "<[7]>"]
    );
    assert!(spelled("", &controls).is_empty());
}
