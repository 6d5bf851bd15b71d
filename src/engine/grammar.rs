//! Replies held to a format or to a tool call: which tokens may come next.
//!
//! ```text
//! JSON schema ── schema::read ────► plain schema ─┐
//! expression ── schema::translate ► its dialect ──┼─ llguidance ─► Grammar ─► Allowed, each token
//! GBNF ──────── gbnf::translate ──► Lark ─────────┘
//! ```
//! [`Grammars`] belongs to a model and knows the bytes of its tokens; a [`Grammar`] belongs to one
//! reply and goes with it to the engine's thread. Control tokens have no text here, so none can
//! come out as a part of any. A reply that has said all it may is over; no end token is waited for.
//!
//! Everything a schema may cost has a bound with a name: its text in [`schema`], the compiler's
//! work and each step's in [`limits`], what is kept in [`kept`].

mod calls;
mod formats;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod gbnf;
mod kept;
mod schema;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use domain::{BackendError, BadRequest, ChatRequest, OutputFormat, TeamId};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};
use tracing::warn;

use crate::calls::ForcedForm;
use crate::decoder::{Token, Vocabulary};
use crate::grammar::calls::Forced;
use crate::grammar::kept::{Kept, Key};
use crate::grammar::schema::{PLACE, Spent};
use crate::splitting::on_deep_stack;

/// Longer tokens are never drawn under a grammar: the trie's depth has 10 bits. Few vocabularies
/// have any, of white space.
const PIECE_BYTES_MAX: usize = 1_000;

/// All tokens' bytes together, of which the trie's addresses have 22 bits. 150,000 tokens come to
/// about one million.
const PIECES_BYTES_MAX: usize = 4_000_000;

/// A step that costs more than this ends its reply in an error: all chats wait for it. In
/// llguidance's words 14,000 a millisecond.
const STEP_FUEL_MAX: u64 = 200_000;

/// What all steps of one reply may come to keep, 1 to 2 kB each.
const STATES_MAX: usize = 15_000;

/// The compiler's first look at all strings of a schema: 1,000 a millisecond where it is slowest, so
/// this is less than a tenth of a second.
const COMPILE_FUEL_MAX: u64 = 60_000;

/// Symbols of a grammar while it is compiled. What takes longest to compile has the most.
const SYMBOLS_MAX: usize = 20_000;

/// An expression that all of a reply matches. Longer ones take longer to compile than they may.
const REGEX_BYTES_MAX: usize = 4 * 1024;

/// The compiler's words that a caller is told, in bytes.
const REASON_BYTES_MAX: usize = 300;

/// White space between the parts of a JSON text: one space, or a line break with an indentation.
/// Small models that may write more of it write nothing else.
const GAP: &str = r" |\n[ \t]{0,32}";

/// Escapes in strings, one for each character that must have one. With `\u` a member's name could
/// be spelled in a second way, and escape what the schema says of it.
const ESCAPES: &str = "nrbtf\\\"";

/// Makes grammars for one model's vocabulary.
pub(crate) struct Grammars {
    factory: ParserFactory,
    /// The texts of a reply that are control tokens, with them.
    controls: Vec<(String, u32)>,
    /// How a call that must be made is written; `None`: none can be.
    forced: Option<&'static ForcedForm>,
    kept: Mutex<Kept>,
}

/// The grammar of one reply, and how far the reply has come in it.
pub(crate) struct Grammar(Matcher);

/// The tokens that may come next.
pub(crate) struct Allowed(SimpleVob);

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammars {
    /// `None` for a vocabulary that no grammar can be laid over; the log says why. Takes a tenth of
    /// a second for a large one.
    pub(crate) fn new(vocabulary: &dyn Vocabulary) -> Option<Self> {
        let mut controls = Vec::new();
        let Some(trie) = trie(vocabulary, &mut controls) else {
            warn!("the vocabulary is too large for formats, which are refused");
            return None;
        };
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = match ParserFactory::new_simple(&env) {
            Ok(factory) => factory,
            Err(error) => {
                warn!(%error, "the vocabulary takes no formats, which are refused");
                return None;
            }
        };
        factory.quiet();
        *factory.limits_mut() = limits();
        Some(Self {
            factory,
            controls,
            forced: None,
            kept: Mutex::default(),
        })
    }

    /// Says how calls are written, without which none can be forced.
    pub(crate) fn with_forced(mut self, form: Option<&'static ForcedForm>) -> Self {
        self.forced = form;
        self
    }

    /// The grammar that the reply to `request` is held to; `None` for free text. Takes milliseconds,
    /// and up to a tenth of a second for one at its limits: not for an async worker.
    ///
    /// # Errors
    /// A schema, an expression or a grammar is malformed, beyond a limit, or could not be kept to, or
    /// there is no tool to call.
    pub(crate) fn grammar(
        &self,
        team: Option<&TeamId>,
        request: &ChatRequest,
    ) -> Result<Option<Grammar>, BackendError> {
        // Another candidate may know the keyword, or have a larger limit.
        self.of_request(team, request)
            .map_err(|reason| BackendError::Declined { reason })
    }

    fn of_request(
        &self,
        team: Option<&TeamId>,
        request: &ChatRequest,
    ) -> Result<Option<Grammar>, BadRequest> {
        if let Some(forced) = Forced::of(request)? {
            let Some(form) = self.forced else {
                return Err(BadRequest::at(
                    "tool_choice",
                    "this model's calls cannot be forced; use `auto`",
                ));
            };
            let make = || {
                let mut spent = Spent::default();
                let grammar = forced.grammar(form, &self.controls, &mut spent)?;
                self.compile("tools", grammar, &spent)
            };
            return self.kept_or((team.cloned(), forced.text()), make).map(Some);
        }
        let any = json!({"type": "object"});
        let schema = match &request.format {
            OutputFormat::Text => return Ok(None),
            OutputFormat::JsonObject => &any,
            // One without a schema is OpenAI's name for any object as well.
            OutputFormat::JsonSchema(named) => named.get("schema").unwrap_or(&any),
            OutputFormat::Regex(regex) => {
                let make = || self.of_regex(regex);
                return self
                    .kept_or((team.cloned(), format!("regex {regex}")), make)
                    .map(Some);
            }
            OutputFormat::Choice(texts) => {
                let make = || self.of_choice(texts);
                let text = format!("choice {}", json!(texts));
                return self.kept_or((team.cloned(), text), make).map(Some);
            }
            OutputFormat::Grammar(grammar) => {
                let make = || self.of_gbnf(grammar);
                return self
                    .kept_or((team.cloned(), format!("gbnf {grammar}")), make)
                    .map(Some);
            }
        };
        let make = || {
            let mut spent = Spent::default();
            let plain = schema::read(schema, PLACE, &mut spent)?;
            let grammar = TopLevelGrammar::from_json_schema(with_options(plain));
            self.compile(PLACE, grammar, &spent)
        };
        self.kept_or((team.cloned(), schema.to_string()), make)
            .map(Some)
    }

    /// Patterns in schemas are found anywhere in a text; this one is all of it.
    fn of_regex(&self, regex: &str) -> Result<Grammar, BadRequest> {
        const PLACE: &str = "structured_outputs.regex";
        let refuse = |said: String| {
            BadRequest::at(
                PLACE,
                format!("replies cannot be held to this expression: {said}"),
            )
        };
        if regex.len() > REGEX_BYTES_MAX {
            return Err(refuse(format!("it may have up to {REGEX_BYTES_MAX} bytes")));
        }
        let written = schema::translate(regex).map_err(refuse)?;
        let lark = format!("start: /{written}/\n");
        self.try_compile(TopLevelGrammar::from_lark(lark))
            .map_err(refuse)
    }

    fn of_choice(&self, texts: &[String]) -> Result<Grammar, BadRequest> {
        let mut lark = "start: /".to_owned();
        for (index, text) in texts.iter().enumerate() {
            if index > 0 {
                lark.push('|');
            }
            text.chars().for_each(|c| schema::push_char(&mut lark, c));
        }
        lark.push_str("/\n");
        self.try_compile(TopLevelGrammar::from_lark(lark))
            .map_err(|said| {
                let said = format!("replies cannot be held to this choice: {said}");
                BadRequest::at("structured_outputs.choice", said)
            })
    }

    fn of_gbnf(&self, text: &str) -> Result<Grammar, BadRequest> {
        let lark = gbnf::translate(text);
        let made = lark.and_then(|lark| self.try_compile(TopLevelGrammar::from_lark(lark)));
        made.map_err(|said| {
            let said = format!("replies cannot be held to this grammar: {said}");
            BadRequest::at("structured_outputs.grammar", said)
        })
    }

    fn kept_or(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<Grammar, BadRequest>,
    ) -> Result<Grammar, BadRequest> {
        if let Some(known) = self.kept().find(&key) {
            return known;
        }
        let made = make();
        self.kept().keep(key, &made);
        made
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Every change under the lock is whole, so a panic elsewhere leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compile(
        &self,
        path: &str,
        grammar: TopLevelGrammar,
        spent: &Spent,
    ) -> Result<Grammar, BadRequest> {
        let made = self.try_compile(grammar);
        made.map_err(|reason| {
            // Looking into each would take as long again.
            let is_one = reason != TOO_COMPLEX;
            match is_one.then(|| self.pattern_at_fault(spent)).flatten() {
                Some((place, reason)) => schema::fault(place, &reason, spent),
                None => schema::fault(path, &reason, spent),
            }
        })
    }

    /// The compiler recurses as deep as references lead, so it has a stack for that.
    fn try_compile(&self, grammar: TopLevelGrammar) -> Result<Grammar, String> {
        let made = on_deep_stack(|| {
            let mut matcher = Matcher::new(self.factory.create_parser(grammar));
            // The first step is the dearest, and what it learns is kept with the grammar. It also
            // finds out those that cannot even begin.
            matcher.compute_mask().map(|_| matcher)
        });
        match made {
            Ok(Ok(matcher)) => Ok(Grammar(matcher)),
            Ok(Err(error)) => Err(reason(&error.to_string())),
            Err(_) => Err(TOO_COMPLEX.to_owned()),
        }
    }

    /// The first pattern that nothing can be held to, by itself, and why.
    fn pattern_at_fault<'s>(&self, spent: &'s Spent) -> Option<(&'s str, String)> {
        spent.patterns.iter().find_map(|(place, pattern)| {
            let alone = with_options(json!({"type": "string", "pattern": pattern}));
            let made = self.try_compile(TopLevelGrammar::from_json_schema(alone));
            made.err().map(|reason| (place.as_str(), reason))
        })
    }
}

/// `plain` with our options for the compiler, which it reads out of a schema.
fn with_options(mut plain: Value) -> Value {
    JsonCompileOptions {
        whitespace_pattern: Some(GAP.to_owned()),
        json_allowed_escapes: Some(ESCAPES.to_owned()),
        ..JsonCompileOptions::default()
    }
    .apply_to(&mut plain);
    plain
}

impl Grammar {
    /// The tokens that may come next, at least one.
    ///
    /// # Errors
    /// There is none, or finding them out costs too much. The reply cannot go on.
    pub(crate) fn allowed(&mut self) -> Result<Allowed, BackendError> {
        let allowed = self.0.compute_mask_or_eos();
        allowed
            .map(Allowed)
            .map_err(|error| stuck(&error.to_string()))
    }

    /// Goes on by `token`, which was allowed. True when nothing may follow it.
    ///
    /// # Errors
    /// As for [`Grammar::allowed`].
    pub(crate) fn accept(&mut self, token: Token) -> Result<bool, BackendError> {
        let token = u32::try_from(token).map_err(|_| STUCK)?;
        let accepted = self.0.consume_token(token);
        accepted.map_err(|error| stuck(&error.to_string()))?;
        Ok(self.0.is_stopped())
    }

    /// The same grammar at its beginning, sharing nothing with this one.
    pub(crate) fn again(&self) -> Self {
        Self(self.0.deep_clone())
    }
}

const TOO_COMPLEX: &str = "it is too complex; ask for less at once";

/// What the compiler says when one of [`limits`] or its own is passed.
const LIMIT_WORDS: [&str; 6] = [
    "Current row has",
    "too big",
    "too large",
    "too many",
    "fuel",
    "Unable to determine",
];

const STUCK: BackendError = BackendError::Engine("the reply could not go on within its format");

/// A step that costs more than it may is the format's affair, whatever else is ours.
fn stuck(words: &str) -> BackendError {
    if reason(words) != TOO_COMPLEX {
        return STUCK;
    }
    BackendError::Declined {
        reason: BadRequest {
            param: None,
            code: Some("format_too_complex".to_owned()),
            message: "going on within the reply's format costs too much: simplify its pattern, \
                      grammar or schema"
                .to_owned(),
        },
    }
}

impl Allowed {
    #[cfg(test)]
    pub(crate) fn of(tokens: &[u32]) -> Self {
        let mut set = SimpleVob::alloc(64);
        tokens.iter().for_each(|token| set.allow_token(*token));
        Self(set)
    }

    #[cfg(test)]
    pub(crate) fn has(&self, token: usize) -> bool {
        token < self.0.len() && self.0.get(token)
    }

    /// In rising order.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|token| token as usize)
    }
}

fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: COMPILE_FUEL_MAX,
        step_lexer_fuel: STEP_FUEL_MAX,
        max_lexer_states: STATES_MAX,
        max_grammar_size: SYMBOLS_MAX,
        // Errors would hold what was said so far.
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The tokens by their bytes, and in `controls` the control tokens that have a text. `None` for a
/// vocabulary that does not fit.
fn trie(vocabulary: &dyn Vocabulary, controls: &mut Vec<(String, u32)>) -> Option<TokTrie> {
    let size = vocabulary.size();
    let mut pieces = Vec::with_capacity(size as usize);
    let mut ends = Vec::new();
    for token in 0..size {
        let id = Token::try_from(token).ok()?;
        let mut piece = Vec::new();
        if vocabulary.is_end(id) {
            ends.push(token);
        } else {
            vocabulary.piece(id, &mut piece);
        }
        if piece.len() > PIECE_BYTES_MAX || piece.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
            piece.clear();
        }
        if vocabulary.is_control(id) && !piece.is_empty() {
            let text = String::from_utf8(piece.clone());
            controls.extend(text.map(|text| (text, token)));
            // No UTF-8 text has this byte: a grammar reaches such a token by its number only.
            piece.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
        }
        pieces.push(piece);
    }
    let bytes: usize = pieces.iter().map(Vec::len).sum();
    // Some token must say that a reply is over where more could follow.
    let first_end = *ends.first()?;
    if bytes == 0 || bytes > PIECES_BYTES_MAX {
        return None;
    }
    let trie = TokTrie::from(&TokRxInfo::new(size, first_end), &pieces);
    Some(trie.with_eos_tokens(&ends))
}

/// The first line of the compiler's words, cut to a length that fits an answer.
fn reason(words: &str) -> String {
    let mut line = words.lines().next().unwrap_or_default();
    // What follows draws an arrow, and says at the end what it points at.
    if line == "regex parse error:" {
        line = words.lines().last().unwrap_or_default();
    }
    // It has checks of its own that panic, and catches them.
    let is_limit = |word| line.contains(word);
    if line.starts_with("panic") || LIMIT_WORDS.into_iter().any(is_limit) {
        return TOO_COMPLEX.to_owned();
    }
    if line == "NoExtensionBias" {
        return "nothing is valid by it".to_owned();
    }
    let mut end = line.len().min(REASON_BYTES_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].to_owned()
}

#[cfg(test)]
mod tests;
