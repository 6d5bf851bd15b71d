//! A scripted model for tests: bytes are tokens, and it answers as its script says.
//!
//! Every breach of the [`Decoder`] contract panics, so that each test also checks the scheduler's
//! side of it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use domain::{
    ChatRequest, ChatTemplate, Findings, ImagePlace, Message, Outbound, Part, Prompt, PromptPiece,
    Role, TemplateError, Trust,
};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::adapters::AdapterSet;
use crate::decoder::{
    Decoded, Decoder, Entry, Fingerprint, Interrupt, Shape, Threads, Token, Vocabulary,
};
use crate::splitting::Splitting;

/// Ends a reply. Bytes are the tokens below it.
pub(crate) const END: Token = 256;
/// Read from `<s>` where control tokens are read.
pub(crate) const FIRST: Token = 257;
const SIZE: usize = 258;

pub(crate) struct FakeVocabulary {
    pub controls: Vec<String>,
    pub has_first_token: bool,
    pub splitting: Splitting,
}

impl Default for FakeVocabulary {
    fn default() -> Self {
        Self {
            controls: vec!["<s>".to_owned()],
            has_first_token: false,
            splitting: Splitting::Flat,
        }
    }
}

impl Vocabulary for FakeVocabulary {
    fn size(&self) -> u32 {
        SIZE as u32
    }

    fn splitting(&self) -> Splitting {
        self.splitting
    }

    fn tokenize(&self, text: &str, has_controls: bool, tokens: &mut Vec<Token>) {
        let plain = |text: &str, tokens: &mut Vec<Token>| {
            tokens.extend(text.bytes().map(Token::from));
        };
        if !has_controls {
            return plain(text, tokens);
        }
        let mut parts = text.split("<s>");
        plain(parts.next().unwrap_or(""), tokens);
        for part in parts {
            tokens.push(FIRST);
            plain(part, tokens);
        }
    }

    fn piece(&self, token: Token, bytes: &mut Vec<u8>) {
        bytes.extend(u8::try_from(token));
    }

    fn is_control(&self, token: Token) -> bool {
        token >= END
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn control_text(&self, token: Token) -> String {
        let text = if token == END { "<end>" } else { "<s>" };
        text.to_owned()
    }

    fn first_token(&self) -> Option<Token> {
        self.has_first_token.then_some(FIRST)
    }

    fn controls(&self) -> &[String] {
        &self.controls
    }

    fn piece_bytes_max(&self) -> u32 {
        3
    }
}

/// What the next calls of `decode` do instead of succeeding.
pub(crate) enum Mishap {
    Fail,
    NoRoom,
    /// Runs in mid-decode, when this many entries are in the cache. What comes after them is
    /// computed only if the interrupt was not raised.
    At(usize, Box<dyn FnOnce() + Send>),
}

/// One call as the decoder saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub batch: Vec<Entry>,
    pub decoded: Decoded,
}

impl Seen {
    /// How many entries `sequence` had.
    pub(crate) fn count(&self, sequence: u32) -> usize {
        let entries = self.batch.iter();
        entries.filter(|entry| entry.sequence == sequence).count()
    }
}

pub(crate) type Script = Box<dyn Fn(&[Token]) -> Token + Send>;

/// Replies with what the prompt says before its `>`, then ends: a chat that got another's tokens
/// would say so.
pub(crate) fn echo(tokens: &[Token]) -> Token {
    let mark = tokens.iter().position(|token| *token == Token::from(b'>'));
    let said = mark.map_or(0, |mark| tokens.len() - mark - 1);
    match mark {
        Some(mark) if said < mark => tokens[said],
        _ => END,
    }
}

/// Anything may come next, what closes a JSON text a little sooner.
pub(crate) fn babble(tokens: &[Token]) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(tokens.len() as u64);
    let lean = |token| match u8::try_from(token) {
        Ok(byte) => b"\"}]".contains(&byte),
        Err(_) => true,
    };
    (0..SIZE)
        .map(|token| random.random_range(-2.0..2.0) + if lean(token) { 4.0 } else { 0.0 })
        .collect()
}

pub(crate) struct FakeDecoder {
    pub shape: Shape,
    pub script: Script,
    /// What is added to the script's one likely token, by the tokens before it.
    pub noise: fn(&[Token]) -> Vec<f32>,
    pub interrupt: Arc<Interrupt>,
    pub mishaps: Arc<Mutex<VecDeque<Mishap>>>,
    pub log: Arc<Mutex<Vec<Seen>>>,
    /// For a memory that cannot be cut.
    pub is_recurrent: bool,
    /// For a memory whose layers look this far back, with cells of each sequence's own: what is
    /// shared goes through a copy that has nothing behind the window. 0: cells are shared.
    pub copy_window: u32,
    /// What a share copies, whatever its length.
    pub share_bytes: usize,
    /// `A` to `Z` in a row are an image that is computed at one go.
    pub looks_ahead: bool,
    pub attention_block: Option<u32>,
    /// How many of the next shares fail though they should not.
    pub failing_shares: u32,
    /// How many states were saved.
    pub saves: Arc<AtomicUsize>,
    /// Adapters to choose from. Under any, what it says is in capitals.
    pub adapters: Vec<Fingerprint>,
    told: AdapterSet,
    /// What the tokens of each sequence were computed under.
    under: Vec<AdapterSet>,
    /// All sets that were ever saved under; a state ends with its place here.
    saved_under: Vec<AdapterSet>,
    sequences: Vec<Vec<Token>>,
    /// Which cell each of those tokens is in: shared ones are in the same.
    cells: Vec<Vec<usize>>,
    cells_used: usize,
    rows: Vec<Option<Vec<f32>>>,
}

impl FakeDecoder {
    pub(crate) fn new(shape: Shape, interrupt: Arc<Interrupt>) -> Self {
        Self {
            shape,
            script: Box::new(echo),
            noise: |_| vec![0.0; SIZE],
            interrupt,
            mishaps: Arc::default(),
            log: Arc::default(),
            is_recurrent: false,
            copy_window: 0,
            share_bytes: 0,
            looks_ahead: false,
            attention_block: None,
            failing_shares: 0,
            saves: Arc::default(),
            adapters: Vec::new(),
            told: AdapterSet::NONE,
            under: vec![AdapterSet::NONE; shape.sequences as usize],
            saved_under: Vec::new(),
            sequences: vec![Vec::new(); shape.sequences as usize],
            cells: vec![Vec::new(); shape.sequences as usize],
            cells_used: 0,
            rows: Vec::new(),
        }
    }

    fn check(&self, batch: &[Entry]) {
        assert!(!batch.is_empty(), "an empty batch");
        assert!(
            batch.len() <= self.shape.batch_tokens as usize,
            "a batch too long"
        );
        let mut next: Vec<usize> = self.sequences.iter().map(Vec::len).collect();
        for entry in batch {
            let at = &mut next[entry.sequence as usize];
            assert_eq!(
                entry.position as usize, *at,
                "a gap in sequence {}",
                entry.sequence
            );
            *at += 1;
        }
        for entry in batch {
            let sequence = entry.sequence as usize;
            assert!(
                self.sequences[sequence].is_empty() || self.under[sequence] == self.told,
                "sequence {sequence} goes on under other adapters"
            );
        }
        let rows = batch.iter().filter(|entry| entry.wants_logits).count();
        assert!(rows <= self.shape.rows_max() as usize, "too many rows");
        let longest = next.iter().max().copied().unwrap_or(0);
        assert!(
            longest <= self.shape.context_tokens as usize,
            "past the context"
        );
        let all = self.cells_taken() + batch.len();
        assert!(all <= self.shape.kv_tokens as usize, "past the cache");
    }

    /// Cells that any sequence holds, each counted once.
    fn cells_taken(&self) -> usize {
        let cells: BTreeSet<usize> = self.cells.iter().flatten().copied().collect();
        cells.len()
    }

    fn clear(&mut self, sequence: usize) {
        self.sequences[sequence].clear();
        self.cells[sequence].clear();
    }

    fn compute(&mut self, entry: &Entry) {
        let sequence = &mut self.sequences[entry.sequence as usize];
        self.under[entry.sequence as usize] = self.told.clone();
        sequence.push(entry.token);
        self.cells_used += 1;
        self.cells[entry.sequence as usize].push(self.cells_used);
        self.rows.push(entry.wants_logits.then(|| {
            let mut row = (self.noise)(sequence);
            let mut said = (self.script)(sequence);
            if let (Ok(byte), true) = (u8::try_from(said), self.told != AdapterSet::NONE) {
                said = Token::from(byte.to_ascii_uppercase());
            }
            row[usize::try_from(said).unwrap()] += 20.0;
            row
        }));
    }

    fn outcome(&mut self, batch: &[Entry]) -> Decoded {
        self.rows.clear();
        let (pause, act) = match self.mishaps.lock().unwrap().pop_front() {
            Some(Mishap::Fail) => return Decoded::Failed,
            Some(Mishap::NoRoom) => return Decoded::NoRoom,
            Some(Mishap::At(pause, act)) => (pause, Some(act)),
            None => (batch.len(), None),
        };
        let pause = pause.min(batch.len());
        for entry in &batch[..pause] {
            self.compute(entry);
        }
        if let Some(act) = act {
            act();
        }
        if self.interrupt.is_raised() {
            if self.is_recurrent {
                batch
                    .iter()
                    .for_each(|entry| self.clear(entry.sequence as usize));
            }
            self.rows.clear();
            return Decoded::Aborted;
        }
        for entry in &batch[pause..] {
            self.compute(entry);
        }
        Decoded::Done
    }
}

impl Decoder for FakeDecoder {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn can_cut(&self) -> bool {
        !self.is_recurrent && self.copy_window == 0
    }

    fn threads(&self) -> Threads {
        Threads {
            count: 1,
            adapts: true,
        }
    }

    fn set_threads(&mut self, count: u32) {
        panic!("{count} threads, where there is only one");
    }

    fn adapters(&self) -> &[Fingerprint] {
        &self.adapters
    }

    fn adapt(&mut self, adapters: &AdapterSet) {
        let known = adapters
            .iter()
            .all(|(index, _)| index < self.adapters.len());
        assert!(known, "no such adapter");
        self.told = adapters.clone();
    }

    fn attention_block(&self) -> Option<u32> {
        self.attention_block
    }

    fn decode(&mut self, batch: &[Entry]) -> Decoded {
        self.check(batch);
        let decoded = self.outcome(batch);
        self.log.lock().unwrap().push(Seen {
            batch: batch.to_vec(),
            decoded,
        });
        decoded
    }

    fn logits(&mut self, index: usize) -> Option<&[f32]> {
        self.rows.get(index)?.as_deref()
    }

    fn undivided(&self, token: Token) -> Option<(u32, u32)> {
        let letter = u8::try_from(token).ok().filter(u8::is_ascii_uppercase)?;
        self.looks_ahead
            .then(|| (u32::from(letter - b'A'), u32::from(b'Z' - letter)))
    }

    fn held(&self, sequence: u32) -> u32 {
        self.sequences[sequence as usize].len() as u32
    }

    fn truncate(&mut self, sequence: u32, keep: u32) -> u32 {
        let tokens = &mut self.sequences[sequence as usize];
        let keep = if self.is_recurrent && (keep as usize) < tokens.len() {
            0
        } else {
            keep
        };
        tokens.truncate(keep as usize);
        self.cells[sequence as usize].truncate(keep as usize);
        tokens.len() as u32
    }

    fn can_share(&self, from: u32, count: u32) -> bool {
        let (held, window) = (self.held(from), self.copy_window);
        let is_whole = window == 0 || held == count || held.max(count) <= window;
        !self.is_recurrent && is_whole
    }

    fn share_bytes(&mut self, _from: u32) -> usize {
        self.share_bytes
    }

    fn share(&mut self, from: u32, to: u32, count: u32) -> bool {
        assert!(
            self.sequences[to as usize].is_empty(),
            "sharing with a sequence in use"
        );
        assert!(self.held(from) >= count, "sharing what is not there");
        if self.failing_shares > 0 {
            self.failing_shares -= 1;
            return false;
        }
        if !self.can_share(from, count) {
            return false;
        }
        let shared = self.sequences[from as usize][..count as usize].to_vec();
        self.sequences[to as usize] = shared;
        self.under[to as usize] = self.under[from as usize].clone();
        self.cells[to as usize] = if self.copy_window > 0 {
            let first = self.cells_used + 1;
            self.cells_used += count as usize;
            (first..=self.cells_used).collect()
        } else {
            self.cells[from as usize][..count as usize].to_vec()
        };
        true
    }

    fn reset(&mut self) {
        (0..self.sequences.len()).for_each(|sequence| self.clear(sequence));
    }

    fn state_bytes(&mut self, sequence: u32) -> usize {
        let bytes = self.sequences[sequence as usize].len() * size_of::<Token>();
        match self.under[sequence as usize] == AdapterSet::NONE {
            true => bytes,
            false => bytes + size_of::<Token>(),
        }
    }

    fn save(&mut self, sequence: u32) -> Option<Vec<u8>> {
        self.saves.fetch_add(1, Ordering::Relaxed);
        let mut tokens = self.sequences[sequence as usize].clone();
        let under = self.under[sequence as usize].clone();
        if under != AdapterSet::NONE {
            self.saved_under.push(under);
            tokens.push((SIZE + self.saved_under.len()) as Token);
        }
        Some(
            tokens
                .iter()
                .flat_map(|token| token.to_le_bytes())
                .collect(),
        )
    }

    fn restore(&mut self, sequence: u32, state: &[u8], count: u32) -> bool {
        assert!(
            self.sequences[sequence as usize].is_empty(),
            "restoring into a sequence in use"
        );
        let (tokens, rest) = state.as_chunks();
        assert!(rest.is_empty(), "a state that was never saved");
        let mut tokens: Vec<Token> = tokens.iter().copied().map(Token::from_le_bytes).collect();
        let last = tokens.last().map_or(0, |last| *last as usize);
        self.under[sequence as usize] = match last.checked_sub(SIZE + 1) {
            Some(place) => {
                tokens.pop();
                self.saved_under[place].clone()
            }
            None => AdapterSet::NONE,
        };
        assert!(
            tokens
                .iter()
                .all(|token| (0..SIZE as Token).contains(token)),
            "a state that was never saved"
        );
        assert_eq!(tokens.len(), count as usize, "another state than was said");
        let first = self.cells_used + 1;
        self.cells_used += tokens.len();
        self.cells[sequence as usize] = (first..=self.cells_used).collect();
        self.sequences[sequence as usize] = tokens;
        assert!(
            self.cells_taken() <= self.shape.kv_tokens as usize,
            "past the cache"
        );
        true
    }

    fn fingerprint(&self) -> Fingerprint {
        [7; 32]
    }
}

/// Writes each message between two texts of its own, and `tail` at the end.
pub(crate) struct FakeTemplate {
    pub head: fn(Role) -> String,
    pub foot: &'static str,
    pub tail: &'static str,
    pub renders_tools: bool,
}

/// `text>`, which [`echo`] answers.
pub(crate) const ECHO: FakeTemplate = FakeTemplate {
    head: |_| String::new(),
    foot: "",
    tail: ">",
    renders_tools: true,
};

/// The form the bundled model was taught.
pub(crate) const CHATML: FakeTemplate = FakeTemplate {
    head: |role| format!("<|im_start|>{}\n", role.as_label()),
    foot: "<|im_end|>\n",
    tail: "<|im_start|>assistant\n",
    renders_tools: false,
};

impl ChatTemplate for FakeTemplate {
    fn render(&self, request: &ChatRequest) -> Result<Prompt, TemplateError> {
        let piece = |text: &str, has_controls| PromptPiece {
            text: text.to_owned(),
            has_controls,
        };
        let (mut pieces, mut images) = (Vec::new(), Vec::new());
        for message in &request.messages {
            if message.text() == "refuse" {
                let reason = "as asked".to_owned();
                return Err(TemplateError::Refused { reason });
            }
            pieces.push(piece(&(self.head)(message.role), true));
            for part in &message.content {
                match part {
                    Part::Text(text) => pieces.push(piece(text, false)),
                    Part::Image(_) => images.push(ImagePlace {
                        before: pieces.len(),
                        image: images.len(),
                    }),
                    Part::Audio(_)
                    | Part::File(_)
                    | Part::Thought(_)
                    | Part::Seal(_)
                    | Part::Other(_) => {}
                }
            }
            pieces.push(piece(self.foot, true));
        }
        pieces.push(piece(self.tail, true));
        Ok(Prompt { pieces, images })
    }

    fn renders_tools(&self) -> bool {
        self.renders_tools
    }
}

/// A request of one user message.
pub(crate) fn request(text: &str, change: impl FnOnce(&mut ChatRequest)) -> ChatRequest {
    let mut request = ChatRequest::new("local", vec![Message::new(Role::User, text)]);
    change(&mut request);
    request
}

pub(crate) fn sealed(request: ChatRequest) -> Outbound {
    let findings = Findings::default();
    Outbound::seal("r".into(), "m".into(), request, &findings, Trust::Device)
}
