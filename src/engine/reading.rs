//! Text to tokens and back, and chats to prompts, for those who want to know how the model reads.
//! No arithmetic of the model's: it all happens on the blocking pool.

use std::sync::Arc;

use async_trait::async_trait;
use domain::{BackendError, ChatRequest, ReadToken, TextPart, TextToRead, Tokenizer};

use crate::decoder::{Token, Vocabulary};
use crate::engine::{Engine, Mind};
use crate::prompt::{rendered, tokenize_prompt};
use crate::splitting::{Depth, RUN_CHARS_MAX, on_deep_stack};

/// Texts that are read for their own sake at once; others wait. One, so that the cores stay with the
/// engine's thread.
pub(crate) const READING_MAX: usize = 1;
/// Those who wait for that; one more is refused as overloaded.
pub(crate) const READING_WAITS_MAX: usize = 16;
/// The longest text that is read for its own sake, and the longest that tokens come to. A second's
/// work, and more than any context holds.
pub(crate) const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

#[async_trait]
impl Tokenizer for Engine {
    async fn tokenize(&self, text: TextToRead) -> Result<Vec<ReadToken>, BackendError> {
        self.read(move |mind| tokens_of(&text, mind.vocabulary.as_ref()))
            .await
    }

    async fn tokenize_chat(&self, request: ChatRequest) -> Result<Vec<ReadToken>, BackendError> {
        if request.has_images() {
            // Counted without them, the prompt would be said to be shorter than it is.
            return Err(BackendError::declined(
                "messages",
                "images are not counted here; leave them out",
            ));
        }
        self.read(move |mind| {
            let vocabulary = mind.vocabulary.as_ref();
            let prompt = rendered(request, mind.template.as_ref(), mind.manner)?;
            if prompt.text().len() > READ_BYTES_MAX {
                return Err(too_long("messages"));
            }
            let tokens = tokenize_prompt(&prompt, vocabulary)?;
            Ok(with_pieces(&tokens, vocabulary))
        })
        .await
    }

    async fn detokenize(&self, tokens: Vec<u32>) -> Result<Vec<u8>, BackendError> {
        self.read(move |mind| bytes_of(&tokens, mind.vocabulary.as_ref()))
            .await
    }

    async fn render(&self, request: ChatRequest) -> Result<String, BackendError> {
        self.read(move |mind| {
            let prompt = rendered(request, mind.template.as_ref(), mind.manner)?;
            Ok(prompt.text())
        })
        .await
    }
}

impl Engine {
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mind) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let turn = self.reading().take().await?;
        let mind = Arc::clone(self.mind());
        let work = tokio::task::spawn_blocking(move || {
            // Held to the end, whichever way it comes.
            let _turn = turn;
            work(&mind)
        });
        work.await
            .map_err(|_| BackendError::Engine("reading the text failed"))?
    }
}

pub(crate) fn tokens_of(
    text: &TextToRead,
    vocabulary: &dyn Vocabulary,
) -> Result<Vec<ReadToken>, BackendError> {
    let bytes: usize = text.parts.iter().map(part_bytes).sum();
    if bytes > READ_BYTES_MAX {
        return Err(too_long("content"));
    }
    let is_one = text.parts.len() == 1;
    let mut tokens = Vec::new();
    for (at, part) in text.parts.iter().enumerate() {
        let path = || {
            if is_one {
                "content".to_owned()
            } else {
                format!("content[{at}]")
            }
        };
        match part {
            TextPart::Token(token) => tokens.push(known(*token, vocabulary, path)?),
            TextPart::Text(part) => {
                let adds_special = text.adds_special && at == 0;
                let read = || {
                    let mut tokens = Vec::new();
                    if adds_special {
                        vocabulary.tokenize_whole(part, text.reads_special, &mut tokens);
                    } else {
                        vocabulary.tokenize(part, text.reads_special, &mut tokens);
                    }
                    tokens
                };
                tokens.extend(at_depth(part, vocabulary, path, read)?);
            }
        }
    }
    Ok(with_pieces(&tokens, vocabulary))
}

fn part_bytes(part: &TextPart) -> usize {
    match part {
        TextPart::Text(text) => text.len(),
        TextPart::Token(_) => 0,
    }
}

/// Runs `read`, which tokenizes `text`, where there is the stack for it.
pub(crate) fn at_depth<T: Send>(
    text: &str,
    vocabulary: &dyn Vocabulary,
    path: impl FnOnce() -> String,
    read: impl FnOnce() -> T + Send,
) -> Result<T, BackendError> {
    match vocabulary.splitting().depth(text) {
        Depth::Shallow => Ok(read()),
        Depth::Deep => {
            on_deep_stack(read).map_err(|_| BackendError::Engine("the tokenizer's thread failed"))
        }
        Depth::Bottomless => Err(BackendError::declined(
            path(),
            format!(
                "this model cannot read more than {RUN_CHARS_MAX} characters in a row without \
                     white space between them, or of white space alone; break the text up"
            ),
        )),
    }
}

pub(crate) fn bytes_of(
    tokens: &[u32],
    vocabulary: &dyn Vocabulary,
) -> Result<Vec<u8>, BackendError> {
    let mut bytes = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let token = known(*token, vocabulary, || format!("tokens[{at}]"))?;
        vocabulary.shown_piece(token, &mut bytes);
        if bytes.len() > READ_BYTES_MAX {
            return Err(too_long("tokens"));
        }
    }
    Ok(bytes)
}

fn with_pieces(tokens: &[Token], vocabulary: &dyn Vocabulary) -> Vec<ReadToken> {
    let read = |token: &Token| {
        let mut piece = Vec::new();
        vocabulary.shown_piece(*token, &mut piece);
        ReadToken {
            id: token.cast_unsigned(),
            piece,
        }
    };
    tokens.iter().map(read).collect()
}

fn known(
    token: u32,
    vocabulary: &dyn Vocabulary,
    path: impl FnOnce() -> String,
) -> Result<Token, BackendError> {
    let size = vocabulary.size();
    if token < size {
        return Ok(token.cast_signed());
    }
    Err(BackendError::declined(
        path(),
        format!(
            "token {token} does not exist; this model's tokens are 0 to {}",
            size.saturating_sub(1)
        ),
    ))
}

fn too_long(path: &str) -> BackendError {
    BackendError::declined(
        path,
        format!("this comes to more than {READ_BYTES_MAX} bytes of text; send less at once"),
    )
}

#[cfg(test)]
mod tests;
