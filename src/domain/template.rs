//! The seam between an engine, which knows the model's template, and the room that renders one.

use std::fmt;
use std::sync::Arc;

use crate::ChatRequest;

/// A chat template as a model file states it.
#[derive(Clone, Debug)]
pub struct TemplateSource {
    /// Jinja, as in the file's `tokenizer.chat_template`.
    pub text: String,
    pub bos_token: String,
    pub eos_token: String,
    /// The text of every control token. Where a caller's own text contains one, it stays text.
    pub special_tokens: Vec<String>,
}

/// Compiles untrusted templates.
pub trait TemplateCompiler: Send + Sync + 'static {
    /// # Errors
    /// The template is too large or does not parse.
    fn compile(&self, source: TemplateSource) -> Result<Arc<dyn ChatTemplate>, TemplateError>;
}

/// A compiled template. Rendering is bounded in fuel and size and touches nothing outside.
pub trait ChatTemplate: Send + Sync + 'static {
    /// The prompt for `request`, ending where the assistant's reply begins.
    ///
    /// # Errors
    /// The template refused the messages, or ran past its bounds.
    fn render(&self, request: &ChatRequest) -> Result<Prompt, TemplateError>;

    /// True when the template shows tools to the model.
    fn renders_tools(&self) -> bool;
}

/// A rendered prompt, in pieces so that callers' text can never become a control token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    pub pieces: Vec<PromptPiece>,
    /// Where the request's images stand between the pieces, in order of place.
    pub images: Vec<ImagePlace>,
}

/// A place in a prompt where the model sees an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePlace {
    /// The index of the piece before which it stands; the number of pieces for the prompt's end.
    pub before: usize,
    /// Which one, of the request's images in reading order.
    pub image: usize,
}

#[derive(Clone, PartialEq, Eq)]
pub struct PromptPiece {
    pub text: String,
    /// True: control tokens in `text` are the template's own. False: everything is plain text.
    pub has_controls: bool,
}

impl Prompt {
    #[must_use]
    pub fn text(&self) -> String {
        self.pieces
            .iter()
            .map(|piece| piece.text.as_str())
            .collect()
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prompt({} pieces)", self.pieces.len())
    }
}

impl fmt::Debug for PromptPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PromptPiece({} bytes)", self.text.len())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template has {bytes} bytes and the limit is {bytes_max}")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the chat template does not parse at line {line}")]
    Malformed { line: usize },
    /// The template called `raise_exception`; the words are the template's own.
    #[error("the chat template refused the messages: {reason}")]
    Refused { reason: String },
    #[error("the chat template ran past its bound of {0}")]
    OutOfBounds(&'static str),
    #[error("the chat template failed to render at line {line}")]
    Failed { line: usize },
}
