//! From a request to the tokens the model reads: rendering, tokenizing, the context's bound.
//!
//! Callers' text must never become a control token, so each piece of a rendered prompt is tokenized
//! with or without control tokens as it says. Cutting text at other places than the tokenizer would
//! does change the tokens, and with them what the model was trained on. So the whole prompt is
//! tokenized at once wherever no control token touches a caller's text.

use std::sync::Arc;

use crate::calls::{ANSWER_OPEN, Beginning, Manner, REMARK, ThoughtMarks, opened_thought};
use crate::decoder::{Token, Vocabulary};
use crate::gallery::{Seen, is_of_image};
use crate::prefill::take_prefill;
use crate::splitting::{Depth, RUN_CHARS_MAX, on_deep_stack};
use domain::{
    BackendError, ChatRequest, ChatTemplate, ImagePlace, OutputFormat, Prompt, PromptPiece,
    Sampling, TemplateError, Tokens, ToolChoice,
};

/// A prompt that fits.
#[derive(Debug, PartialEq)]
pub(crate) struct Prepared {
    pub tokens: Vec<Token>,
    /// The request's prediction; empty where there is none.
    pub prediction: Vec<Token>,
    /// What the reply may have of the context; at least 1.
    pub output_max: u32,
    /// What was asked for, or stands in for it.
    pub output_wanted: Option<u32>,
    /// Where the reply begins.
    pub beginning: Beginning,
}

/// Renders and tokenizes `request`. Takes milliseconds for long texts: not for an async worker.
///
/// A prompt that is no chat passes the template by: it is the caller's text and no more, without
/// control tokens but the one that the model wants first, and the reply to it is text alone.
///
/// A reply in a format or with a forced call has no thoughts: one that the prompt opens is closed,
/// as templates do where thinking is switched off. So is one before an answer that the prompt begins:
/// the assistant's text, where that is the last message ([`crate::prefill`]).
///
/// # Errors
/// The template refused the messages or failed, or left out one of `images`, which are the request's;
/// the prompt leaves no room for a reply in `context_tokens`, it has a run that the vocabulary cannot
/// split, or a token id is outside the vocabulary.
pub(crate) fn prepare(
    mut request: ChatRequest,
    images: &[Arc<Seen>],
    template: &dyn ChatTemplate,
    vocabulary: &dyn Vocabulary,
    manner: Manner,
    context_tokens: u32,
    output_default: Option<u32>,
) -> Result<Prepared, BackendError> {
    check_tokens(&request.sampling, vocabulary)?;
    let (prompt, beginning) = render(&mut request, template, manner)?;
    check_bytes(&prompt, vocabulary, context_tokens)?;
    check_images(&prompt, images.len())?;
    let tokens = tokenize_seeing(&prompt, images, vocabulary)?;
    let asked = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    // One token of the context is the reply's, or there is nothing to answer with.
    let left = context_tokens.saturating_sub(asked);
    if left == 0 {
        return Err(exceeded(asked, context_tokens));
    }
    // The logits that a reply begins from are those of a token of the vocabulary.
    if tokens.last().is_none_or(|last| is_of_image(*last)) {
        return Err(BackendError::Engine(
            "the chat template gave a prompt with nothing at its end",
        ));
    }
    let wanted = request
        .output_tokens_max
        .map(|tokens| tokens.0)
        .or(output_default);
    Ok(Prepared {
        tokens,
        prediction: predicted(&request, vocabulary, context_tokens),
        output_max: wanted.unwrap_or(left).clamp(1, left),
        output_wanted: wanted,
        beginning,
    })
}

/// The prompt that [`prepare`] tokenizes.
///
/// # Errors
/// The template refused the messages or failed.
pub(crate) fn rendered(
    mut request: ChatRequest,
    template: &dyn ChatTemplate,
    manner: Manner,
) -> Result<Prompt, BackendError> {
    render(&mut request, template, manner).map(|(prompt, _)| prompt)
}

fn render(
    request: &mut ChatRequest,
    template: &dyn ChatTemplate,
    manner: Manner,
) -> Result<(Prompt, Beginning), BackendError> {
    if request.is_raw() {
        return Ok((raw(request), Beginning::Plain));
    }
    if request.tool_choice == ToolChoice::None {
        request.tools.clear();
    }
    let prefill = take_prefill(request)?;
    let mut prompt = template.render(request).map_err(refusal)?;
    let beginning = begin_reply(&mut prompt, request, &prefill, manner);
    Ok((prompt, beginning))
}

fn raw(request: &ChatRequest) -> Prompt {
    let pieces = request.messages.iter().map(|message| PromptPiece {
        text: message.text(),
        has_controls: false,
    });
    Prompt {
        pieces: pieces.collect(),
        images: Vec::new(),
    }
}

/// Ends `prompt` where the reply is to go on: after a thought that is not wanted, and after what the
/// assistant has said already.
fn begin_reply(
    prompt: &mut Prompt,
    request: &ChatRequest,
    prefill: &str,
    manner: Manner,
) -> Beginning {
    let thought = ends_in_thought(prompt);
    let mut push = |text: &str, has_controls| {
        if !text.is_empty() {
            let text = text.to_owned();
            prompt.pieces.push(PromptPiece { text, has_controls });
        }
    };
    let is_forced = matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Named(_)
    );
    let is_formatted = request.format != OutputFormat::Text;
    let is_begun = !prefill.is_empty();
    if let Some(marks) = thought {
        if !is_forced && !is_formatted && !is_begun {
            return Beginning::Thought(marks);
        }
        push(&format!("\n{}\n\n", marks.close), true);
    }
    if is_forced {
        let (open, close) = if manner.family.is_channelled && is_begun {
            REMARK
        } else {
            ("", "")
        };
        push(open, true);
        push(prefill, false);
        push(close, true);
        return Beginning::Call;
    }
    if manner.family.is_channelled && (is_formatted || is_begun) {
        push(ANSWER_OPEN, true);
    }
    push(prefill, false);
    if is_formatted {
        Beginning::Plain
    } else if is_begun {
        Beginning::Answer
    } else {
        Beginning::Blank
    }
}

/// Bytes of a prediction for each token of the context: the rest is beyond what a reply could be.
const PREDICTION_TOKEN_BYTES: usize = 8;

/// The prediction's tokens. One that cannot be read helps nobody and is no fault.
fn predicted(
    request: &ChatRequest,
    vocabulary: &dyn Vocabulary,
    context_tokens: u32,
) -> Vec<Token> {
    let context_tokens = context_tokens as usize;
    let mut text = match &request.prediction {
        Some(prediction) => prediction.content.concat(),
        None => return Vec::new(),
    };
    let most = context_tokens.saturating_mul(PREDICTION_TOKEN_BYTES);
    text.truncate(text.floor_char_boundary(most));
    let read = || {
        let mut tokens = Vec::new();
        vocabulary.tokenize(&text, false, &mut tokens);
        tokens.truncate(context_tokens);
        tokens
    };
    match vocabulary.splitting().depth(&text) {
        Depth::Shallow => read(),
        Depth::Deep => on_deep_stack(read).unwrap_or_default(),
        Depth::Bottomless => Vec::new(),
    }
}

fn ends_in_thought(prompt: &Prompt) -> Option<&'static ThoughtMarks> {
    let last = prompt.pieces.last().filter(|piece| piece.has_controls)?;
    opened_thought(&last.text)
}

/// Refuses ids that the vocabulary does not have.
fn check_tokens(sampling: &Sampling, vocabulary: &dyn Vocabulary) -> Result<(), BackendError> {
    let size = vocabulary.size();
    let bias = sampling.logit_bias.iter();
    let bias = bias.map(|(token, _)| (*token, format!("logit_bias.{token}")));
    let stops = sampling.open.stop_tokens.iter().enumerate();
    let stops = stops.map(|(at, token)| (*token, format!("stop_token_ids[{at}]")));
    let Some((token, path)) = bias.chain(stops).find(|(token, _)| *token >= size) else {
        return Ok(());
    };
    // Ids differ from model to model, so another may know it.
    Err(BackendError::declined(
        path,
        format!(
            "token {token} does not exist; this model's tokens are 0 to {}",
            size - 1
        ),
    ))
}

/// Refuses a text that could not fit even if every token were the longest there is, so that nobody
/// buys minutes of tokenizing with one request.
fn check_bytes(
    prompt: &Prompt,
    vocabulary: &dyn Vocabulary,
    context_tokens: u32,
) -> Result<(), BackendError> {
    let bytes: usize = prompt.pieces.iter().map(|piece| piece.text.len()).sum();
    let least = bytes / vocabulary.piece_bytes_max().max(1) as usize;
    let least = u32::try_from(least).unwrap_or(u32::MAX);
    if least >= context_tokens {
        return Err(exceeded(least, context_tokens));
    }
    Ok(())
}

/// Refuses images that the template shows nowhere, so that no reply is about what was not seen.
fn check_images(prompt: &Prompt, count: usize) -> Result<(), BackendError> {
    let is_shown = |image| prompt.images.iter().any(|place| place.image == image);
    if (0..count).all(is_shown) {
        return Ok(());
    }
    Err(BackendError::declined(
        "messages",
        "the model's chat template leaves out images where they stand; put them into a message \
             of the user's",
    ))
}

pub(crate) fn exceeded(asked: u32, limit: u32) -> BackendError {
    BackendError::ContextExceeded {
        asked: Tokens(asked),
        limit: Tokens(limit),
    }
}

/// Templates differ from model to model, so another may take what this one refuses.
fn refusal(error: TemplateError) -> BackendError {
    match error {
        TemplateError::Refused { reason } => BackendError::declined(
            "messages",
            format!("the model's chat template does not take these messages: {reason}"),
        ),
        TemplateError::OutOfBounds(_) => BackendError::declined(
            "messages",
            "the messages are too many or too long for the model's chat template; shorten them",
        ),
        TemplateError::TooLarge { .. }
        | TemplateError::Malformed { .. }
        | TemplateError::Failed { .. } => BackendError::Engine("the model's chat template failed"),
    }
}

/// The tokens of a whole prompt's text.
///
/// # Errors
/// It has a run that the vocabulary cannot split.
pub(crate) fn tokenize_prompt(
    prompt: &Prompt,
    vocabulary: &dyn Vocabulary,
) -> Result<Vec<Token>, BackendError> {
    tokenize_seeing(prompt, &[], vocabulary)
}

/// The tokens of a whole prompt, with those of `images` in their places.
///
/// # Errors
/// As for [`tokenize_prompt`].
fn tokenize_seeing(
    prompt: &Prompt,
    images: &[Arc<Seen>],
    vocabulary: &dyn Vocabulary,
) -> Result<Vec<Token>, BackendError> {
    match vocabulary.splitting().depth(&prompt.text()) {
        Depth::Shallow => Ok(tokenize(prompt, images, vocabulary)),
        Depth::Deep => on_deep_stack(|| tokenize(prompt, images, vocabulary))
            .map_err(|_| BackendError::Engine("the tokenizer's thread failed")),
        Depth::Bottomless => Err(BackendError::declined(
            "messages",
            format!(
                "this model cannot read more than {RUN_CHARS_MAX} characters in a row without \
                     white space between them, or of white space alone; break the text up or name \
                     another model"
            ),
        )),
    }
}

/// The tokens of the pieces, and none beside them. Needs the stack for the whole text.
#[cfg_attr(not(feature = "llama"), expect(dead_code, reason = "for llama.cpp"))]
pub(crate) fn tokenize_pieces(prompt: &Prompt, vocabulary: &dyn Vocabulary) -> Vec<Token> {
    let mut tokens = Vec::new();
    read_pieces(&prompt.pieces, vocabulary, &mut tokens);
    tokens
}

fn read_pieces(pieces: &[PromptPiece], vocabulary: &dyn Vocabulary, tokens: &mut Vec<Token>) {
    if controls_stay_apart(pieces, vocabulary.controls()) {
        vocabulary.tokenize(&text_of(pieces), true, tokens);
    } else {
        for piece in pieces {
            vocabulary.tokenize(&piece.text, piece.has_controls, tokens);
        }
    }
}

fn text_of(pieces: &[PromptPiece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

/// What stands between two images is a text of its own to the tokenizer.
fn tokenize(prompt: &Prompt, images: &[Arc<Seen>], vocabulary: &dyn Vocabulary) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut from = 0;
    for ImagePlace { before, image } in &prompt.images {
        let Some(seen) = images.get(*image) else {
            continue;
        };
        read_pieces(&prompt.pieces[from..*before], vocabulary, &mut tokens);
        tokens.extend(&seen.tokens);
        from = *before;
    }
    read_pieces(&prompt.pieces[from..], vocabulary, &mut tokens);
    // Most templates write the first token themselves. Twice, it confuses models.
    if let Some(first) = vocabulary.first_token()
        && tokens.first() != Some(&first)
    {
        tokens.insert(0, first);
    }
    tokens
}

/// True when no control token's text lies in or reaches into a piece of plain text.
fn controls_stay_apart(pieces: &[PromptPiece], controls: &[String]) -> bool {
    let text = text_of(pieces);
    let mut plain = Vec::new();
    let mut at = 0;
    for piece in pieces {
        let end = at + piece.text.len();
        if !piece.has_controls && end > at {
            plain.push(at..end);
        }
        at = end;
    }
    controls
        .iter()
        .filter(|control| !control.is_empty())
        .all(|control| {
            // Overlapping matches of one control count too, so step by one character.
            let mut from = 0;
            while let Some(found) = text[from..].find(control.as_str()) {
                let start = from + found;
                let end = start + control.len();
                if plain
                    .iter()
                    .any(|range| range.start < end && start < range.end)
                {
                    return false;
                }
                from = start + control.chars().next().map_or(1, char::len_utf8);
            }
            true
        })
}

#[cfg(test)]
mod tests {
    use domain::{Message, Role};
    use serde_json::Value;

    use super::*;
    use crate::fake::{ECHO, FIRST, FakeTemplate, FakeVocabulary, request};
    use crate::splitting::Splitting;

    fn run(text: &str, change: impl FnOnce(&mut ChatRequest)) -> Result<Prepared, BackendError> {
        run_with(&ECHO, &FakeVocabulary::default(), text, change)
    }

    fn run_with(
        template: &FakeTemplate,
        vocabulary: &FakeVocabulary,
        text: &str,
        change: impl FnOnce(&mut ChatRequest),
    ) -> Result<Prepared, BackendError> {
        prepare(
            request(text, change),
            &[],
            template,
            vocabulary,
            Manner::default(),
            10,
            None,
        )
    }

    fn tokens(text: &str) -> Vec<Token> {
        text.bytes().map(Token::from).collect()
    }

    #[test]
    fn a_reply_may_have_what_the_context_has_left() {
        let bounds = [(None, 7), (Some(3), 3), (Some(1_000), 7)];
        for (asked, output_max) in bounds {
            let prepared = run("ab", |request| {
                request.output_tokens_max = asked.map(Tokens)
            });
            assert_eq!(prepared.unwrap().output_max, output_max, "{asked:?}");
        }
    }

    #[test]
    fn a_prompt_that_leaves_no_room_is_refused_with_its_size() {
        assert_eq!(run("12345678", |_| ()).unwrap().output_max, 1);
        for (length, said) in [(9, 10), (10, 11), (29, 10), (300, 100)] {
            let refused = run(&"x".repeat(length), |_| ()).unwrap_err();
            let BackendError::ContextExceeded { asked, limit } = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(limit, Tokens(10));
            // Beyond three bytes a token, the size is a lower bound: nothing was tokenized.
            assert!(
                asked.0 == said || length == 29 && asked.0 == 30,
                "{length}: {asked}"
            );
        }
    }

    #[test]
    fn callers_text_never_becomes_a_control_token() {
        let prepared = run("a<s>b", |_| ()).unwrap();
        assert_eq!(prepared.tokens, tokens("a<s>b>"));
    }

    #[test]
    fn a_control_token_half_in_callers_text_is_none() {
        let template = FakeTemplate { tail: "s>", ..ECHO };
        let prepared = run_with(&template, &FakeVocabulary::default(), "a<", |_| ()).unwrap();
        assert_eq!(prepared.tokens, tokens("a<s>"));
    }

    #[test]
    fn the_first_token_is_there_once() {
        let vocabulary = FakeVocabulary {
            has_first_token: true,
            ..FakeVocabulary::default()
        };
        let own = FakeTemplate {
            head: |_| "<s>".to_owned(),
            ..ECHO
        };
        for template in [&ECHO, &own] {
            let prepared = run_with(template, &vocabulary, "a", |_| ()).unwrap();
            assert_eq!(prepared.tokens, [FIRST, i32::from(b'a'), i32::from(b'>')]);
        }
    }

    #[test]
    fn a_raw_prompt_passes_the_template_by_and_its_control_tokens_are_text() {
        let vocabulary = FakeVocabulary {
            has_first_token: true,
            ..FakeVocabulary::default()
        };
        let raw = |request: &mut ChatRequest| request.dialect = domain::Dialect::Completions;
        let template = FakeTemplate {
            head: |_| panic!("a raw prompt was rendered"),
            tail: "<think>\n",
            ..ECHO
        };
        let prepared = run_with(&template, &vocabulary, "a<s>b", raw).unwrap();
        let mut expected = vec![FIRST];
        expected.extend(tokens("a<s>b"));
        assert_eq!(prepared.tokens, expected);
        assert_eq!(prepared.beginning, Beginning::Plain);
    }

    /// Seen: a long run of letters overflowed the stack in `std::regex` and ended the process.
    #[test]
    fn a_run_too_long_for_any_stack_is_declined_and_a_long_one_is_read() {
        let vocabulary = FakeVocabulary {
            splitting: Splitting::Runs,
            ..FakeVocabulary::default()
        };
        let run = |length| {
            let request = request(&"x".repeat(length), |_| ());
            let manner = Manner::default();
            prepare(request, &[], &ECHO, &vocabulary, manner, 1_000_000, None)
        };
        let deep = run(RUN_CHARS_MAX - 1).unwrap();
        assert_eq!(deep.tokens.len(), RUN_CHARS_MAX);
        let refused = run(RUN_CHARS_MAX);
        assert!(
            matches!(&refused, Err(BackendError::Declined { reason }) if reason.param.as_deref() == Some("messages")),
            "{refused:?}"
        );
    }

    #[test]
    fn a_prompt_that_ends_in_a_thought_says_so() {
        let template = FakeTemplate {
            tail: "<think>\n",
            ..ECHO
        };
        let (asked, vocabulary) = (request("a", |_| ()), FakeVocabulary::default());
        let manner = Manner::default();
        let prepared = prepare(asked, &[], &template, &vocabulary, manner, 99, None).unwrap();
        assert!(matches!(prepared.beginning, Beginning::Thought(_)));
        assert_eq!(run("<think>", |_| ()).unwrap().beginning, Beginning::Blank);
    }

    /// The prompt for a user's `q` and an assistant's `a<s>`, and where its reply begins.
    fn continued(
        tail: &'static str,
        manner: Manner,
        change: impl FnOnce(&mut ChatRequest),
    ) -> (String, Beginning) {
        let asked = request("q", |request| {
            let answer = Message::new(Role::Assistant, "a<s>");
            request.messages.push(answer);
            change(request);
        });
        let template = FakeTemplate { tail, ..ECHO };
        let vocabulary = FakeVocabulary::default();
        let prepared = prepare(asked, &[], &template, &vocabulary, manner, 200, None).unwrap();
        let bytes = prepared.tokens.iter().map(|token| *token as u8).collect();
        (String::from_utf8(bytes).unwrap(), prepared.beginning)
    }

    #[test]
    fn a_last_message_by_the_assistant_is_continued() {
        let plain = Manner::default();
        let harmony = Manner::of("<|channel|><|message|>");
        let forced = |request: &mut ChatRequest| request.tool_choice = ToolChoice::Required;
        let apart = |request: &mut ChatRequest| {
            let flag = Value::Bool(false);
            request
                .extra
                .insert("continue_final_message".to_owned(), flag);
        };
        let cases = [
            (continued(">", plain, |_| ()), "q>a<s>", Beginning::Answer),
            (
                continued("<think>\n", plain, |_| ()),
                "q<think>\n\n</think>\n\na<s>",
                Beginning::Answer,
            ),
            (
                continued(">", harmony, |_| ()),
                "q><|channel|>final<|message|>a<s>",
                Beginning::Answer,
            ),
            (
                continued(">", harmony, forced),
                "q><|channel|>commentary<|message|>a<s><|end|><|start|>assistant",
                Beginning::Call,
            ),
            (continued(">", plain, apart), "qa<s>>", Beginning::Blank),
        ];
        for ((prompt, beginning), expected, begins) in cases {
            assert_eq!((prompt.as_str(), beginning), (expected, begins));
        }
    }

    #[test]
    fn bad_requests_name_their_field() {
        let refused = run("refuse", |_| ()).unwrap_err();
        let biased = run("a", |request| {
            request.sampling.logit_bias = vec![(258, 1.0)]
        })
        .unwrap_err();
        for (error, param) in [(refused, "messages"), (biased, "logit_bias.258")] {
            // Seen: a template that takes no system messages ended the exchange, though the next
            // candidate would have answered.
            assert!(error.may_try_next());
            let BackendError::Declined { reason } = error else {
                panic!("{error:?}");
            };
            assert_eq!(reason.param.as_deref(), Some(param));
        }
    }
}
