//! From a request to the tokens the model reads: rendering, tokenizing, the context's bound.
//!
//! Callers' text must never become a control token, so each piece of a rendered prompt is tokenized
//! with or without control tokens as it says. Cutting text at other places than the tokenizer would
//! does change the tokens, and with them what the model was trained on. So the whole prompt is
//! tokenized at once wherever no control token touches a caller's text.

use domain::{BackendError, BadRequest, ChatRequest, ChatTemplate, Prompt, TemplateError, Tokens, ToolChoice};

use crate::decoder::{Token, Vocabulary};
use crate::tagged::THOUGHT_OPEN;

/// A prompt that fits.
#[derive(Debug, PartialEq)]
pub(crate) struct Prepared {
    pub tokens: Vec<Token>,
    /// What the reply may have of the context; at least 1.
    pub output_max: u32,
    /// The prompt ends inside a thought.
    pub opens_thought: bool,
}

/// Renders and tokenizes `request`. Takes milliseconds for long texts: not for an async worker.
///
/// # Errors
/// The template refused the messages or failed, the prompt leaves no room for a reply in
/// `context_tokens`, or a token id is outside the vocabulary.
pub(crate) fn prepare(
    mut request: ChatRequest,
    template: &dyn ChatTemplate,
    vocabulary: &dyn Vocabulary,
    context_tokens: u32,
    output_default: Option<u32>,
) -> Result<Prepared, BackendError> {
    check_bias(&request, vocabulary)?;
    if request.tool_choice == ToolChoice::None {
        request.tools.clear();
    }
    let prompt = template.render(&request).map_err(refusal)?;
    check_bytes(&prompt, vocabulary, context_tokens)?;
    let tokens = tokenize(&prompt, vocabulary);
    let asked = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
    // One token of the context is the reply's, or there is nothing to answer with.
    let left = context_tokens.saturating_sub(asked);
    if left == 0 {
        return Err(exceeded(asked, context_tokens));
    }
    if tokens.is_empty() {
        return Err(BackendError::Engine("the chat template gave an empty prompt"));
    }
    let wanted = request.output_tokens_max.map(|tokens| tokens.0).or(output_default);
    let opens_thought = prompt
        .pieces
        .last()
        .is_some_and(|piece| piece.has_controls && piece.text.trim_end().ends_with(THOUGHT_OPEN));
    Ok(Prepared {
        tokens,
        output_max: wanted.unwrap_or(left).clamp(1, left),
        opens_thought,
    })
}

fn check_bias(request: &ChatRequest, vocabulary: &dyn Vocabulary) -> Result<(), BackendError> {
    let size = vocabulary.size();
    let Some((token, _)) = request.sampling.logit_bias.iter().find(|(token, _)| *token >= size) else {
        return Ok(());
    };
    Err(BackendError::Rejected {
        status: 400,
        reason: BadRequest::at(
            format!("logit_bias.{token}"),
            format!("token {token} does not exist; this model's tokens are 0 to {}", size - 1),
        ),
    })
}

/// Refuses a text that could not fit even if every token were the longest there is, so that nobody
/// buys minutes of tokenizing with one request.
fn check_bytes(prompt: &Prompt, vocabulary: &dyn Vocabulary, context_tokens: u32) -> Result<(), BackendError> {
    let bytes: usize = prompt.pieces.iter().map(|piece| piece.text.len()).sum();
    let least = bytes / vocabulary.piece_bytes_max().max(1) as usize;
    let least = u32::try_from(least).unwrap_or(u32::MAX);
    if least >= context_tokens {
        return Err(exceeded(least, context_tokens));
    }
    Ok(())
}

fn exceeded(asked: u32, limit: u32) -> BackendError {
    BackendError::ContextExceeded {
        asked: Tokens(asked),
        limit: Tokens(limit),
    }
}

fn refusal(error: TemplateError) -> BackendError {
    match error {
        TemplateError::Refused { reason } => BackendError::Rejected {
            status: 400,
            reason: BadRequest::at(
                "messages",
                format!("the model's chat template does not take these messages: {reason}"),
            ),
        },
        TemplateError::OutOfBounds(_) => BackendError::Rejected {
            status: 400,
            reason: BadRequest::at(
                "messages",
                "the messages are too many or too long for the model's chat template; shorten them",
            ),
        },
        TemplateError::TooLarge { .. }
        | TemplateError::Malformed { .. }
        | TemplateError::Failed { .. } => BackendError::Engine("the model's chat template failed"),
    }
}

fn tokenize(prompt: &Prompt, vocabulary: &dyn Vocabulary) -> Vec<Token> {
    let mut tokens = Vec::new();
    if controls_stay_apart(prompt, vocabulary.controls()) {
        vocabulary.tokenize(&prompt.text(), true, &mut tokens);
    } else {
        for piece in &prompt.pieces {
            vocabulary.tokenize(&piece.text, piece.has_controls, &mut tokens);
        }
    }
    // Most templates write the first token themselves. Twice, it confuses models.
    if let Some(first) = vocabulary.first_token()
        && tokens.first() != Some(&first)
    {
        tokens.insert(0, first);
    }
    tokens
}

/// True when no control token's text lies in or reaches into a piece of plain text.
fn controls_stay_apart(prompt: &Prompt, controls: &[String]) -> bool {
    let text = prompt.text();
    let mut plain = Vec::new();
    let mut at = 0;
    for piece in &prompt.pieces {
        let end = at + piece.text.len();
        if !piece.has_controls && end > at {
            plain.push(at..end);
        }
        at = end;
    }
    controls.iter().filter(|control| !control.is_empty()).all(|control| {
        // Overlapping matches of one control count too, so step by one character.
        let mut from = 0;
        while let Some(found) = text[from..].find(control.as_str()) {
            let start = from + found;
            let end = start + control.len();
            if plain.iter().any(|range| range.start < end && start < range.end) {
                return false;
            }
            from = start + control.chars().next().map_or(1, char::len_utf8);
        }
        true
    })
}
