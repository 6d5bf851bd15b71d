//! The vocabulary of a loaded model.

use std::collections::HashSet;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::decoder::{Token, Vocabulary};
use crate::tagged::TAGS;

pub(super) struct LlamaVocabulary {
    model: Arc<LlamaModel>,
    size: u32,
    controls: Vec<String>,
    /// Control tokens whose text is a part of the reply: they mark calls and thoughts.
    spoken: HashSet<Token>,
    piece_bytes_max: u32,
    first_token: Option<Token>,
}

impl LlamaVocabulary {
    pub(super) fn new(model: Arc<LlamaModel>) -> Self {
        let vocab = model.vocab();
        let mut controls = Vec::new();
        let mut spoken = HashSet::new();
        let mut piece_bytes_max = 1;
        for token in vocab.tokens() {
            let Some(text) = vocab.text(token).and_then(|text| text.to_str().ok()) else {
                continue;
            };
            piece_bytes_max = piece_bytes_max.max(text.len());
            let attributes = vocab.attr(token);
            // Those that llama.cpp reads as one token only when told to (llama-vocab.cpp,
            // `tokenizer_st_partition`).
            if attributes.contains(LlamaTokenAttr::Control)
                || attributes.contains(LlamaTokenAttr::Unknown)
            {
                controls.push(text.to_owned());
                if TAGS.contains(&text) {
                    spoken.insert(token.0);
                }
            }
        }
        let first = vocab.bos().0;
        let first_token = (vocab.should_add_bos() && first >= 0).then_some(first);
        let size = u32::try_from(vocab.n_tokens()).unwrap_or(0);
        Self {
            size,
            controls,
            spoken,
            piece_bytes_max: u32::try_from(piece_bytes_max).unwrap_or(u32::MAX),
            first_token,
            model,
        }
    }

    /// The text of a token that may not exist.
    pub(super) fn text(&self, token: LlamaToken) -> String {
        // llama.cpp looks ids up with a check that throws.
        if u32::try_from(token.0).is_ok_and(|token| token < self.size) {
            let vocab = self.model.vocab();
            let text = vocab
                .text(token)
                .map(|text| text.to_string_lossy().into_owned());
            return text.unwrap_or_default();
        }
        String::new()
    }
}

impl Vocabulary for LlamaVocabulary {
    fn size(&self) -> u32 {
        self.size
    }

    fn tokenize(&self, text: &str, has_controls: bool, tokens: &mut Vec<Token>) {
        let read = self
            .model
            .vocab()
            .tokenize(text.as_bytes(), false, has_controls);
        tokens.extend(read.into_iter().map(|token| token.0));
    }

    fn piece(&self, token: Token, bytes: &mut Vec<u8>) {
        if u32::try_from(token).is_ok_and(|token| token < self.size) {
            let is_spoken = self.spoken.contains(&token);
            let vocab = self.model.vocab();
            vocab.token_to_piece_into(LlamaToken(token), bytes, is_spoken, None);
        }
    }

    fn is_end(&self, token: Token) -> bool {
        self.model.vocab().is_eog(LlamaToken(token))
    }

    fn first_token(&self) -> Option<Token> {
        self.first_token
    }

    fn controls(&self) -> &[String] {
        &self.controls
    }

    fn piece_bytes_max(&self) -> u32 {
        self.piece_bytes_max
    }
}
