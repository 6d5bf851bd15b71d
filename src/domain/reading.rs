//! How a model on this machine reads text: its tokens, and the prompt that a chat becomes.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{BackendError, ChatRequest};

/// What is to be cut into tokens. Texts and tokens that stand for themselves may alternate.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TextToRead {
    pub parts: Vec<TextPart>,
    /// Whether the first part gets what the model wants at either end of a text.
    pub adds_special: bool,
    /// Whether the texts of control tokens become those tokens; else they are text.
    pub reads_special: bool,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum TextPart {
    Text(String),
    Token(u32),
}

impl fmt::Debug for TextPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextPart::Text(text) => write!(f, "Text({} bytes)", text.len()),
            TextPart::Token(_) => f.write_str("Token"),
        }
    }
}

impl fmt::Debug for TextToRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TextToRead({} parts)", self.parts.len())
    }
}

/// A token, and the bytes it stands for, which may be a part of a character.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadToken {
    pub id: u32,
    pub piece: Vec<u8>,
}

impl fmt::Debug for ReadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadToken({} bytes)", self.piece.len())
    }
}

/// The reading half of a model, without its arithmetic. Nothing is masked for it: it is on this
/// machine, and keeps nothing.
#[async_trait]
pub trait Tokenizer: Send + Sync {
    /// The tokens of a text, in order, with their bytes.
    ///
    /// # Errors
    /// [`BackendError::Declined`] names the part at fault, as `content` or `content[3]`.
    async fn tokenize(&self, text: TextToRead) -> Result<Vec<ReadToken>, BackendError>;

    /// The tokens that a chat comes to, in order, with their bytes. No context bounds them.
    ///
    /// # Errors
    /// As [`Tokenizer::render`].
    async fn tokenize_chat(&self, request: ChatRequest) -> Result<Vec<ReadToken>, BackendError>;

    /// The bytes of all `tokens`, control tokens included.
    ///
    /// # Errors
    /// [`BackendError::Declined`] names the token at fault, as `tokens[3]`.
    async fn detokenize(&self, tokens: Vec<u32>) -> Result<Vec<u8>, BackendError>;

    /// The prompt that the model reads for a chat, up to where its reply begins.
    ///
    /// # Errors
    /// The template does not take these messages.
    async fn render(&self, request: ChatRequest) -> Result<String, BackendError>;
}
