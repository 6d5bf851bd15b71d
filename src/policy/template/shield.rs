//! Callers' text must never become a control token.
//!
//! Before rendering, each control token spelled out in callers' text is replaced by one character
//! that occurs nowhere else; afterwards that character is a piece of its own again, marked as plain
//! text. One character survives whatever templates do with text: trimming, slicing, JSON. Images go
//! through a template in the same way, so no text can be taken for one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use domain::{ChatRequest, ImagePlace, Part, Prompt, PromptPiece, TemplateError, TemplateSource};
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
    by_mark: BTreeMap<char, Meaning>,
    /// Of the request's images, in reading order.
    images: Vec<char>,
}

/// What a mark stands for.
enum Meaning {
    Token(String),
    Image(usize),
}

impl Marks {
    /// Of the request's image of that number.
    pub fn of_image(&self, image: usize) -> Option<char> {
        self.images.get(image).copied()
    }
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

    /// Chooses a mark for each control token in the request's text, and for each image.
    pub fn marks(&self, request: &ChatRequest) -> Result<Marks, TemplateError> {
        if self.tokens.is_none() && !request.has_images() {
            return Ok(Marks::default());
        }
        let mut found: HashSet<String> = HashSet::new();
        let mut used = self.own.clone();
        every_text(request, &mut |text| {
            let tokens = self.tokens.iter().flat_map(|tokens| tokens.find_iter(text));
            found.extend(tokens.map(|token| token.as_str().to_owned()));
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
            marks.by_mark.insert(mark, Meaning::Token(token.clone()));
            marks.by_token.insert(token, mark);
        }
        for image in 0..image_count(request) {
            let mark = free.next().ok_or(TemplateError::OutOfBounds("marks"))?;
            marks.by_mark.insert(mark, Meaning::Image(image));
            marks.images.push(mark);
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

    /// Takes the marks out again: of each token, a piece of plain text, and of each image its place.
    pub fn split(&self, text: &str, marks: &Marks) -> Prompt {
        let mut prompt = Prompt::default();
        let mut start = 0;
        for (at, letter) in text.char_indices() {
            let Some(meaning) = marks.by_mark.get(&letter) else {
                continue;
            };
            push(&mut prompt, &text[start..at], true);
            match meaning {
                Meaning::Token(token) => push(&mut prompt, token, false),
                Meaning::Image(image) => prompt.images.push(ImagePlace {
                    before: prompt.pieces.len(),
                    image: *image,
                }),
            }
            start = at + letter.len_utf8();
        }
        push(&mut prompt, &text[start..], true);
        prompt
    }
}

fn push(prompt: &mut Prompt, text: &str, has_controls: bool) {
    if !text.is_empty() {
        let text = text.to_owned();
        prompt.pieces.push(PromptPiece { text, has_controls });
    }
}

fn image_count(request: &ChatRequest) -> usize {
    let parts = request.messages.iter().flat_map(|message| &message.content);
    parts.filter(|part| matches!(part, Part::Image(_))).count()
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
