//! Callers' text must never become a control token.
//!
//! Before rendering, each control token spelled out in callers' text is replaced by one character
//! that occurs nowhere else; afterwards that character is a piece of its own again, marked as plain
//! text. One character survives whatever templates do with text: trimming, slicing, JSON.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use domain::{ChatRequest, Part, Prompt, PromptPiece, TemplateError, TemplateSource};
use regex::{Regex, RegexBuilder};

/// Unicode's two private planes, from which marks are taken.
const MARKS: [std::ops::RangeInclusive<char>; 2] =
    ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

/// All control tokens of a vocabulary compile to some hundred KiB.
const PATTERN_BYTES_MAX: usize = 64 << 20;

pub(super) struct Shield {
    /// Any control token, longest first. `None` when there are none.
    tokens: Option<Regex>,
    /// Characters of the private planes that the template itself uses.
    own: HashSet<char>,
}

/// The marks of one rendering: what stands for which token, and back.
#[derive(Default)]
pub(super) struct Marks {
    by_token: BTreeMap<String, char>,
    by_mark: BTreeMap<char, String>,
}

impl Shield {
    pub fn new(source: &TemplateSource) -> Self {
        let mut tokens: Vec<&str> = source
            .special_tokens
            .iter()
            .map(String::as_str)
            .filter(|token| !token.is_empty())
            .collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
        let pattern: Vec<String> = tokens.iter().map(|token| regex::escape(token)).collect();
        let tokens = (!pattern.is_empty()).then(|| {
            RegexBuilder::new(&pattern.join("|"))
                .size_limit(PATTERN_BYTES_MAX)
                .build()
                .expect("escaped text is a regular expression")
        });
        Self {
            tokens,
            own: source.text.chars().filter(is_private).collect(),
        }
    }

    /// Chooses a mark for each control token in the request's text.
    pub fn marks(&self, request: &ChatRequest) -> Result<Marks, TemplateError> {
        let Some(tokens) = &self.tokens else {
            return Ok(Marks::default());
        };
        let mut found: HashSet<String> = HashSet::new();
        let mut used = self.own.clone();
        every_text(request, &mut |text| {
            found.extend(
                tokens
                    .find_iter(text)
                    .map(|token| token.as_str().to_owned()),
            );
            used.extend(text.chars().filter(is_private));
        });
        let mut free = MARKS
            .into_iter()
            .flatten()
            .filter(|mark| !used.contains(mark));
        let mut marks = Marks::default();
        let mut found: Vec<String> = found.into_iter().collect();
        found.sort();
        for token in found {
            let mark = free.next().ok_or(TemplateError::OutOfBounds("marks"))?;
            marks.by_mark.insert(mark, token.clone());
            marks.by_token.insert(token, mark);
        }
        Ok(marks)
    }

    /// `text` with every control token replaced by its mark.
    pub fn cover<'a>(&self, text: &'a str, marks: &Marks) -> Cow<'a, str> {
        match &self.tokens {
            Some(tokens) if !marks.by_token.is_empty() => {
                tokens.replace_all(text, |token: &regex::Captures<'_>| {
                    let mark = marks.by_token.get(&token[0]);
                    mark.map_or_else(String::new, char::to_string)
                })
            }
            Some(_) | None => Cow::Borrowed(text),
        }
    }

    /// Takes the marks out again, each a piece of plain text.
    pub fn split(&self, text: &str, marks: &Marks) -> Prompt {
        let mut pieces = Vec::new();
        let mut start = 0;
        let mut push = |text: &str, has_controls: bool| {
            if !text.is_empty() {
                pieces.push(PromptPiece {
                    text: text.to_owned(),
                    has_controls,
                });
            }
        };
        for (at, letter) in text.char_indices() {
            if let Some(token) = marks.by_mark.get(&letter) {
                push(&text[start..at], true);
                push(token, false);
                start = at + letter.len_utf8();
            }
        }
        push(&text[start..], true);
        Prompt { pieces }
    }
}

fn is_private(letter: &char) -> bool {
    MARKS.iter().any(|plane| plane.contains(letter))
}

/// Every text of the request that a template may print.
fn every_text(request: &ChatRequest, visit: &mut dyn FnMut(&str)) {
    for message in &request.messages {
        // Parts are joined before they are shown, and a token may lie across the seam.
        let texts = message
            .content
            .iter()
            .filter(|part| matches!(part, Part::Text(_)));
        if texts.count() > 1 {
            visit(&message.text());
        }
        for call in &message.tool_calls {
            visit(&call.id);
            visit(&call.name);
            if let Ok(arguments) = serde_json::from_str(&call.arguments) {
                every_string(&arguments, visit);
            }
        }
        if let Some(id) = &message.tool_call_id {
            visit(id);
        }
    }
    for tool in &request.tools {
        visit(&tool.name);
        every_string(&tool.parameters, visit);
        tool.extra.iter().for_each(|(key, value)| {
            visit(key);
            every_string(value, visit);
        });
    }
    request.texts(visit);
}

/// Keys as well as values.
fn every_string(value: &serde_json::Value, visit: &mut dyn FnMut(&str)) {
    match value {
        serde_json::Value::String(text) => visit(text),
        serde_json::Value::Array(items) => items.iter().for_each(|item| every_string(item, visit)),
        serde_json::Value::Object(fields) => fields.iter().for_each(|(key, field)| {
            visit(key);
            every_string(field, visit);
        }),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}
