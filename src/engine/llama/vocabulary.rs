//! The vocabulary of a loaded model.

use std::collections::HashSet;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::decoder::{Token, Vocabulary};
use crate::splitting::Splitting;

pub(super) struct LlamaVocabulary {
    model: Arc<LlamaModel>,
    size: u32,
    controls: Vec<String>,
    /// Control tokens whose text is a part of the reply: they mark calls and thoughts.
    spoken: HashSet<Token>,
    piece_bytes_max: u32,
    first_token: Option<Token>,
    splitting: Splitting,
}

/// Values of `tokenizer.ggml.model` whose tokenizers split by no expression (llama-vocab.cpp).
const MODELS_FLAT: [&str; 5] = ["llama", "bert", "t5", "rwkv", "plamo2"];

/// Values of `tokenizer.ggml.pre` each of whose expressions has a loop of its own in unicode.cpp,
/// `unicode_regex_split_custom`, or matches one character. Read in llama-cpp-sys-2 0.1.161; what is
/// not here counts as recursive.
const PRES_FLAT: [&str; 57] = [
    "a.x-4.0",
    "chatglm-bpe",
    "codeshell",
    "command-r",
    "dbrx",
    "deepseek-r1-qwen",
    "exaone",
    "exaone4",
    "f2llmv2",
    "falcon-h1",
    "falcon3",
    "gemma4",
    "gigachat",
    "glm4",
    "glm5",
    "gpt-2",
    "granite-docling",
    "granite-embed-multi-311m",
    "grok-2",
    "hunyuan",
    "jais",
    "jina-de",
    "jina-es",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-de",
    "jina-v2-es",
    "jina-v5-nano",
    "kimi-k2",
    "kormo",
    "laguna",
    "lfm2",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "megrez",
    "mellum",
    "mellum2",
    "midm-2.0",
    "minerva-7b",
    "mmbert",
    "modern-bert",
    "mpt",
    "olmo",
    "phi-2",
    "pixtral",
    "qwen2",
    "qwen35",
    "refact",
    "roberta-bpe",
    "sarvam-moe",
    "smaug-bpe",
    "smollm",
    "solar-open",
    "stablelm2",
    "starcoder",
    "trillion",
];

/// Its words may have spaces within (llama-vocab.cpp, `LLAMA_VOCAB_PRE_TYPE_EXAONE_MOE`).
const PRE_ACROSS_SPACES: &str = "exaone-moe";

impl LlamaVocabulary {
    /// `marks`: texts to be kept where they are control tokens.
    pub(super) fn new(model: Arc<LlamaModel>, marks: &[&str]) -> Self {
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
                if marks.contains(&text) {
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
            splitting: splitting(
                model.meta_val_str("tokenizer.ggml.model").ok().as_deref(),
                model.meta_val_str("tokenizer.ggml.pre").ok().as_deref(),
            ),
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

/// A file without `pre` is split by llama.cpp's default, which is recursive.
pub(super) fn splitting(model: Option<&str>, pre: Option<&str>) -> Splitting {
    if model.is_some_and(|model| MODELS_FLAT.contains(&model)) {
        return Splitting::Flat;
    }
    match pre {
        Some(pre) if PRES_FLAT.contains(&pre) => Splitting::Flat,
        Some(PRE_ACROSS_SPACES) => Splitting::RunsAcrossSpaces,
        _ => Splitting::Runs,
    }
}

impl Vocabulary for LlamaVocabulary {
    fn size(&self) -> u32 {
        self.size
    }

    fn splitting(&self) -> Splitting {
        self.splitting
    }

    fn tokenize(&self, text: &str, has_controls: bool, tokens: &mut Vec<Token>) {
        let read = self
            .model
            .vocab()
            .tokenize(text.as_bytes(), false, has_controls);
        tokens.extend(read.into_iter().map(|token| token.0));
    }

    fn tokenize_whole(&self, text: &str, has_controls: bool, tokens: &mut Vec<Token>) {
        let read = self
            .model
            .vocab()
            .tokenize(text.as_bytes(), true, has_controls);
        tokens.extend(read.into_iter().map(|token| token.0));
    }

    fn shown_piece(&self, token: Token, bytes: &mut Vec<u8>) {
        if u32::try_from(token).is_ok_and(|token| token < self.size) {
            let vocab = self.model.vocab();
            vocab.token_to_piece_into(LlamaToken(token), bytes, true, None);
        }
    }

    fn piece(&self, token: Token, bytes: &mut Vec<u8>) {
        if u32::try_from(token).is_ok_and(|token| token < self.size) {
            let is_spoken = self.spoken.contains(&token);
            let vocab = self.model.vocab();
            vocab.token_to_piece_into(LlamaToken(token), bytes, is_spoken, None);
        }
    }

    fn is_control(&self, token: Token) -> bool {
        let attributes = self.model.vocab().attr(LlamaToken(token));
        attributes.contains(LlamaTokenAttr::Control) || attributes.contains(LlamaTokenAttr::Unknown)
    }

    fn is_end(&self, token: Token) -> bool {
        self.model.vocab().is_eog(LlamaToken(token))
    }

    fn control_text(&self, token: Token) -> String {
        self.text(LlamaToken(token))
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
