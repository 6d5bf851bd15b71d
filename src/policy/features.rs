//! What the rules can see of a request, each thing computed when first asked for.
//!
//! The detectors here are cheap guesses with fixed bounds, not judgements: a rule that must not be
//! wrong should ask for an exact pattern instead.

use std::cell::OnceCell;
use std::sync::LazyLock;

use domain::{ChatRequest, Message, Part, Role, TeamId};
use regex::Regex;

use crate::tokens::{count_tokens, prefix};

/// Patterns and detectors look at the first 16 KiB of a text; that takes about a tenth of a
/// millisecond. What comes later does not take part.
pub const MATCHED_BYTES_MAX: usize = 16 * 1024;

/// The language is judged by the first 512 bytes: more hardly changes the verdict.
const LANGUAGE_BYTES_MAX: usize = 512;

/// Role markers and separators that chat formats add, as OpenAI's cookbook counts them.
const TOKENS_PER_MESSAGE: usize = 3;

/// One request with what its caller brought along.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub request: &'a ChatRequest,
    pub team: &'a TeamId,
    /// Names in lower case, without credentials.
    pub headers: &'a [(String, String)],
}

/// The features of one request.
pub(crate) struct Features<'a> {
    pub ask: &'a Ask<'a>,
    text_bytes: OnceCell<usize>,
    tokens: OnceCell<usize>,
    last_user: OnceCell<String>,
    system: OnceCell<String>,
    has_code: OnceCell<bool>,
    has_mathematics: OnceCell<bool>,
    language: OnceCell<Option<&'static str>>,
}

impl<'a> Features<'a> {
    pub fn new(ask: &'a Ask<'a>) -> Self {
        Self {
            ask,
            text_bytes: OnceCell::new(),
            tokens: OnceCell::new(),
            last_user: OnceCell::new(),
            system: OnceCell::new(),
            has_code: OnceCell::new(),
            has_mathematics: OnceCell::new(),
            language: OnceCell::new(),
        }
    }

    /// True when the prompt has at least `min` tokens. Tokenizes only where bytes cannot tell: a
    /// token is never shorter than a byte.
    pub fn has_tokens(&self, min: u32) -> bool {
        let min = min as usize;
        if self.tokens.get().is_none() && self.tokens_at_most() < min {
            return false;
        }
        self.tokens() >= min
    }

    fn tokens_at_most(&self) -> usize {
        let bytes = *self.text_bytes.get_or_init(|| {
            let mut bytes = 0;
            self.ask.request.texts(&mut |text| bytes += text.len());
            bytes
        });
        bytes + self.markers()
    }

    fn markers(&self) -> usize {
        markers(self.ask.request)
    }

    fn tokens(&self) -> usize {
        *self
            .tokens
            .get_or_init(|| estimate_tokens(self.ask.request))
    }

    /// The number of messages by the user.
    pub fn turns(&self) -> usize {
        let is_user = |message: &&Message| message.role == Role::User;
        self.ask.request.messages.iter().filter(is_user).count()
    }

    /// The last message by the user, without white space around it.
    pub fn last_user(&self) -> &str {
        self.last_user
            .get_or_init(|| self.ask.request.last_user_text().trim().to_owned())
    }

    /// Every system message, joined by line ends, without white space around them.
    pub fn system(&self) -> &str {
        self.system.get_or_init(|| {
            let is_system =
                |message: &&Message| matches!(message.role, Role::System | Role::Developer);
            let texts: Vec<String> = self
                .ask
                .request
                .messages
                .iter()
                .filter(is_system)
                .map(Message::text)
                .collect();
            texts.join("\n").trim().to_owned()
        })
    }

    pub fn has_code(&self) -> bool {
        *self.has_code.get_or_init(|| self.anywhere_said(&CODE))
    }

    pub fn has_mathematics(&self) -> bool {
        *self
            .has_mathematics
            .get_or_init(|| self.anywhere_said(&MATHEMATICS))
    }

    /// The ISO 639-1 or, where there is none, 639-3 code of the last user text's language, when the
    /// detector is sure of it. It rarely is below a sentence in Latin letters.
    pub fn language(&self) -> Option<&'static str> {
        *self.language.get_or_init(|| {
            let info = whatlang::detect(prefix(self.last_user(), LANGUAGE_BYTES_MAX))?;
            info.is_reliable().then(|| short_code(info.lang()))
        })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.ask
            .headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// Looks through what was said, newest first, until [`MATCHED_BYTES_MAX`] are read.
    fn anywhere_said(&self, pattern: &Regex) -> bool {
        let mut left = MATCHED_BYTES_MAX;
        for message in self.ask.request.messages.iter().rev() {
            for part in &message.content {
                let Part::Text(text) = part else { continue };
                let head = prefix(text, left);
                if pattern.is_match(head) {
                    return true;
                }
                left -= head.len();
            }
        }
        false
    }
}

/// About how many tokens a prompt has, whichever model reads it: its texts by the one yardstick of
/// [`count_tokens`], and what chat formats add. Images, sound and files that came as bytes do not count.
#[must_use]
pub fn estimate_tokens(request: &ChatRequest) -> usize {
    let mut whole = String::new();
    request.texts(&mut |text| {
        whole.push_str(text);
        whole.push('\n');
    });
    count_tokens(&whole) + markers(request)
}

fn markers(request: &ChatRequest) -> usize {
    TOKENS_PER_MESSAGE * (request.messages.len() + 1)
}

/// Code itself, or a plain request for some.
static CODE: LazyLock<Regex> = LazyLock::new(|| {
    constant_pattern(
        r#"(?x)
        ```
        | (?m:^\s{0,12}(?:def|class|fn|func|function|import|from|pub|const|let|var|public|private|static|return|\#include|\#define|package|using)\s[^\n]{0,120}[;:{(=>"']\s*$)
        | (?-u:\b)(?:SELECT\s[^\n]{1,80}\sFROM|INSERT\sINTO|CREATE\sTABLE)(?-u:\b)
        | (?-u:\b)(?i:python|javascript|typescript|golang|c\+\+|c\#|kotlin|sql\squery|regex|regular\sexpression|source\scode|unit\stests?|stack\s?trace|segfault|refactor|compiler|dockerfile|bash\sscript|shell\sscript|pull\srequest|codebase)(?-u:\b|\B)
        | (?-u:\b)(?i:write|implement|fix|debug|create|build|add|review|explain)(?-u:\b)[^.\n]{0,60}(?-u:\b)(?i:function|method|class|script|program|code|endpoint|api|parser|crate|module|algorithm)(?-u:\b)
        | Traceback\s\(most | (?-u:\b)(?:NullPointerException|TypeError|SyntaxError|panicked\sat)(?-u:\b)
        "#,
    )
});

/// Mathematics beyond a sum of two numbers.
static MATHEMATICS: LazyLock<Regex> = LazyLock::new(|| {
    constant_pattern(
        r"(?x)
        \\(?:frac|sqrt|sum|int|begin|left|cdot|mathbb|boxed|binom)(?-u:\b)
        | \$[^$\n]{1,200}\$ | \\\( | \\\[
        | [∫∑∏√∂∇≤≥≠∞∈∀∃]
        | (?-u:\b)(?i:prove|theorem|lemma|derivative|integral|integrate|differentiate|polynomial|matrix|eigenvalues?|determinant|probability|factori[sz]e|logarithm|trigonometr\w+|quadratic|equations?|inequality|modulo|permutations?|combinatorics|geometr\w+)(?-u:\b)
        | (?i:solve\sfor\s[a-z])(?-u:\b)
        ",
    )
});

fn constant_pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern, compiled by a test")
}

/// The two-letter code where ISO 639-1 has one. `whatlang` speaks 639-3.
fn short_code(lang: whatlang::Lang) -> &'static str {
    use whatlang::Lang;
    match lang {
        Lang::Eng => "en",
        Lang::Deu => "de",
        Lang::Fra => "fr",
        Lang::Spa => "es",
        Lang::Por => "pt",
        Lang::Ita => "it",
        Lang::Nld => "nl",
        Lang::Pol => "pl",
        Lang::Rus => "ru",
        Lang::Ukr => "uk",
        Lang::Cmn => "zh",
        Lang::Jpn => "ja",
        Lang::Kor => "ko",
        Lang::Ara => "ar",
        Lang::Heb => "he",
        Lang::Hin => "hi",
        Lang::Tur => "tr",
        Lang::Swe => "sv",
        Lang::Dan => "da",
        Lang::Nob => "no",
        Lang::Fin => "fi",
        Lang::Ces => "cs",
        Lang::Ell => "el",
        Lang::Hun => "hu",
        Lang::Ron => "ro",
        Lang::Vie => "vi",
        Lang::Tha => "th",
        Lang::Ind => "id",
        other => other.code(),
    }
}
