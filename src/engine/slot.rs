//! One running sequence, and what is left of it in the cache afterwards.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{BackendError, ChatEvent, FinishReason, Started, TeamId, Tokens, Usage};

use crate::adapters::AdapterSet;
use crate::decoder::{Token, Vocabulary};
use crate::draft::{Credit, Drafter, Terms, Verdict};
use crate::gallery::Seen;
use crate::grammar::Grammar;
use crate::queue::Request;
use crate::reply::{ReplySender, Sent};
use crate::sampler::Sampler;
use crate::voice::Voice;

/// A place for one sequence. Its index is the sequence's number in the decoder.
///
/// `tokens[..held]` are in the decoder's cache. The rest, while there is a job, is still to be
/// computed: a whole prompt, the last drawn token, or everything again after the slot was set back.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub tokens: Vec<Token>,
    pub held: u32,
    /// Whose tokens they are.
    team: Option<TeamId>,
    /// What they are computed under.
    adapters: AdapterSet,
    /// Rises with each use; the lowest is the longest unused.
    pub used: u64,
    /// What it held was given up for an older slot, and is not being computed again yet.
    pub is_set_back: bool,
    /// Sharing for its job failed, and is not tried again.
    pub is_unshared: bool,
    /// What was saved of its beginning is being read from disk, and waited for.
    pub awaits_state: bool,
    /// It is being answered, and the step before was of prompts alone.
    pub gave_way: bool,
    pub job: Option<Job>,
}

/// The chat a slot works on.
#[derive(Debug)]
pub(crate) struct Job {
    pub reply: ReplySender,
    sampler: Sampler,
    grammar: Option<Grammar>,
    voice: Voice,
    drafter: Drafter,
    /// The prompt's, without which it could not be computed again.
    _images: Vec<Arc<Seen>>,
    /// Events the reader had no room for. Not empty: the slot is paused.
    outbox: VecDeque<ChatEvent>,
    /// The order of admission; the lowest is the oldest.
    pub admitted: u64,
    /// Tokens of other prompts that were computed while its own waited.
    pub passed_over: u32,
    /// Firsts of teams that were admitted while it was set back.
    pub overtaken: u32,
    admitted_at: Instant,
    stalled_since: Option<Instant>,
    output_max: u32,
    /// What the sequence may hold.
    context_tokens: u32,
    usage: Usage,
    /// All events are made; only the reader is awaited.
    is_done: bool,
}

impl Slot {
    /// Takes a job on, with `held` tokens of its prompt already in the cache.
    pub(crate) fn begin(
        &mut self,
        request: Request,
        held: u32,
        context_tokens: u32,
        admitted: u64,
        now: Instant,
    ) {
        let started = ChatEvent::Started(Started {
            model: String::from(&*request.model),
            reply_id: None,
            fingerprint: None,
        });
        self.held = held;
        self.used = admitted;
        self.is_set_back = false;
        self.is_unshared = false;
        self.awaits_state = false;
        self.gave_way = false;
        let prompt = request.prompt.len();
        let tokens_max = prompt.saturating_add(request.output_max as usize);
        self.job = Some(Job {
            drafter: Drafter::new(prompt, tokens_max, request.prediction),
            _images: request.images,
            reply: request.reply,
            sampler: request.sampler,
            grammar: request.grammar,
            voice: Voice::new(request.rules),
            outbox: VecDeque::from([started]),
            admitted,
            passed_over: 0,
            overtaken: 0,
            admitted_at: now,
            stalled_since: None,
            output_max: request.output_max,
            context_tokens,
            usage: Usage {
                prompt_tokens: Tokens(count(&request.prompt)),
                cached_tokens: Tokens(held),
                ..Usage::default()
            },
            is_done: false,
        });
        self.tokens = request.prompt;
        self.team = request.team;
        self.adapters = request.adapters;
    }

    /// Tokens still to be computed before the next can be drawn.
    pub(crate) fn pending(&self) -> u32 {
        count(&self.tokens).saturating_sub(self.held)
    }

    /// The position of the last token.
    pub(crate) fn last(&self) -> u32 {
        count(&self.tokens).saturating_sub(1)
    }

    /// True when there is something to compute and its reader keeps up.
    pub(crate) fn is_ready(&self) -> bool {
        let job = self.job.as_ref();
        job.is_some_and(|job| !job.is_done && job.outbox.is_empty())
    }

    /// True when it has more to compute once its reader keeps up.
    pub(crate) fn is_paused(&self) -> bool {
        let job = self.job.as_ref();
        job.is_some_and(|job| !job.is_done && !job.outbox.is_empty())
    }

    /// True when the tokens in the cache serve nobody at present.
    pub(crate) fn is_idle(&self) -> bool {
        self.job.as_ref().is_none_or(|job| job.is_done)
    }

    /// How many tokens the prompt begins with that the cache already holds. At least one token of a
    /// prompt is left to compute: its logits are what the reply begins from. `team` is whom the cache
    /// is shared with for its sake.
    ///
    /// Another team's tokens serve nobody: the count and the time saved would tell what it wrote.
    pub(crate) fn shared_prefix(&self, team: Option<&TeamId>, request: &Request) -> u32 {
        if !self.is_for(team, &request.adapters) {
            return 0;
        }
        let prompt = &request.prompt;
        let most = prompt.len().saturating_sub(1);
        common_prefix(self.held_tokens(), &prompt[..most])
    }

    /// How many tokens of this slot's prompt another one begins with too, of the same team. The
    /// last of this slot's is never counted: its logits are wanted.
    pub(crate) fn common_with(&self, other: &Slot) -> u32 {
        if !self.is_for(other.team(), &other.adapters) {
            return 0;
        }
        let own = &self.tokens[..self.tokens.len().saturating_sub(1)];
        common_prefix(own, &other.tokens)
    }

    /// Whom its tokens may be shared with.
    pub(crate) fn team(&self) -> Option<&TeamId> {
        self.team.as_ref()
    }

    /// What its tokens are computed under.
    pub(crate) fn adapters(&self) -> &AdapterSet {
        &self.adapters
    }

    /// Whether what it holds may serve `team` under `adapters`: what was computed under others is not
    /// what would be computed under these.
    fn is_for(&self, team: Option<&TeamId>, adapters: &AdapterSet) -> bool {
        self.team() == team && self.adapters == *adapters
    }

    /// What the cache holds.
    pub(crate) fn held_tokens(&self) -> &[Token] {
        &self.tokens[..(self.held as usize).min(self.tokens.len())]
    }

    /// How many of the tokens that `other` holds the cache holds here too, of the same team.
    pub(crate) fn holds_of(&self, other: &Slot) -> u32 {
        if !self.is_for(other.team(), &other.adapters) {
            return 0;
        }
        common_prefix(self.held_tokens(), other.held_tokens())
    }

    /// Notes that its job begins with what the cache holds now, before any is computed for it.
    pub(crate) fn start_from_held(&mut self) {
        if let Some(job) = &mut self.job {
            job.usage.cached_tokens = Tokens(self.held);
        }
    }

    /// True while its reply has not begun.
    pub(crate) fn has_said_nothing(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.drawn() == 0)
    }

    /// Notes that the cache holds `held` tokens that were not computed for this slot.
    pub(crate) fn adopt(&mut self, held: u32) {
        self.held = held;
        if let Some(job) = &mut self.job {
            // Not those of a reply that is computed again after it was set back.
            let prompt = match job.usage.dropped_tokens {
                Tokens(0) => job.usage.prompt_tokens.0,
                Tokens(_) => 0,
            };
            let cached = job.usage.cached_tokens.0.max(held.min(prompt));
            job.usage.cached_tokens = Tokens(cached);
        }
    }

    /// The tokens this slot may come to hold soon, for the question whether another has room.
    pub(crate) fn expected(&self, headroom: u32) -> u32 {
        let Some(job) = self.job.as_ref().filter(|job| !job.is_done) else {
            return 0;
        };
        let left = job.output_max.saturating_sub(job.usage.completion_tokens.0);
        let expected = count(&self.tokens).saturating_add(left.min(headroom));
        // A reply that goes beyond its context drops something first.
        expected.min(job.context_tokens)
    }

    /// What must be dropped before the last token can be computed; `None` while it has its place in the
    /// context. The prompt is kept, up to half of the context, and the newer half of what follows it.
    pub(crate) fn gap(&self, context_tokens: u32) -> Option<Gap> {
        let job = self.job.as_ref().filter(|job| !job.is_done)?;
        let length = count(&self.tokens);
        if length <= context_tokens {
            return None;
        }
        let from = job.usage.prompt_tokens.0.min(context_tokens / 2);
        Some(Gap {
            from,
            count: length.saturating_sub(from).div_ceil(2),
        })
    }

    /// Goes on without the tokens of `gap`, with `held` of what is left in the cache.
    pub(crate) fn drop_gap(&mut self, gap: Gap, held: u32) {
        let end = gap.from.saturating_add(gap.count);
        self.tokens.drain(gap.from as usize..end as usize);
        self.held = held;
        if let Some(job) = &mut self.job {
            job.usage.dropped_tokens.0 += gap.count;
            job.drafter
                .begin_anew(self.tokens.len(), job.context_tokens as usize);
        }
    }

    /// Appends to `draft` what may follow the last token, which is due. Not more than the reply may
    /// still be long.
    pub(crate) fn draft(
        &mut self,
        mut terms: Terms,
        vocabulary: &dyn Vocabulary,
        draft: &mut Vec<Token>,
    ) {
        let Some(job) = &mut self.job else {
            return;
        };
        // One token is drawn without a draft.
        let left = job.output_max.saturating_sub(job.usage.completion_tokens.0);
        terms.most = terms.most.min(left.saturating_sub(1));
        // All of the draft has its place in the context.
        let room = job.context_tokens.saturating_sub(count(&self.tokens));
        terms.most = terms.most.min(room);
        let is_end = |token| vocabulary.is_end(token);
        job.drafter.propose(&self.tokens, terms, is_end, draft);
    }

    /// Notes what became of the draft, and joins what its tokens said. `drawn` tokens were drawn.
    pub(crate) fn settle(&mut self, verdict: Verdict, drawn: u32, credit: &mut Credit) {
        let Some(job) = &mut self.job else {
            return;
        };
        job.drafter.settle(verdict, drawn, credit);
        if drawn > 1 {
            join_texts(&mut job.outbox);
        }
        if job.drafter.is_predicted() && verdict.drafted > 0 {
            job.usage.accepted_prediction_tokens.0 += verdict.accepted;
            job.usage.rejected_prediction_tokens.0 += verdict.drafted - verdict.accepted;
            // It was said already where the draft ended the reply.
            if let Some(ChatEvent::Usage(usage)) = job.outbox.back_mut() {
                *usage = job.usage;
            }
        }
    }

    /// Draws the next token from `logits` and says what it completes. `None` when that ended the reply
    /// and is no part of it.
    pub(crate) fn advance(
        &mut self,
        logits: &[f32],
        vocabulary: &dyn Vocabulary,
    ) -> Result<Option<Token>, BackendError> {
        let Some(job) = &mut self.job else {
            return Ok(None);
        };
        let allowed = job.grammar.as_mut().map(Grammar::allowed).transpose()?;
        let Some(token) = job.sampler.draw(logits, allowed.as_ref()) else {
            return Err(BackendError::Engine("the model gave no numbers"));
        };
        if vocabulary.is_end(token) || job.sampler.stops_at(token) {
            job.finish(FinishReason::Stop);
            return Ok(None);
        }
        let accepted = job.grammar.as_mut().map(|grammar| grammar.accept(token));
        let is_whole = accepted.transpose()?.unwrap_or(false);
        self.tokens.push(token);
        job.voice.weigh(logits, token, vocabulary);
        job.hear(token, is_whole, vocabulary);
        Ok(Some(token))
    }

    /// Ends the job. The cache keeps what it holds, for a prompt that begins alike.
    pub(crate) fn end(&mut self, error: Option<BackendError>) {
        self.tokens.truncate(self.held as usize);
        if let Some(job) = self.job.take() {
            job.reply.end(error);
        }
    }
}

/// Tokens in the midst of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub from: u32,
    pub count: u32,
}

/// What delivery found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Everything is with the reader.
    All,
    /// Everything, and it was the last. The job held its slot for so long.
    Last(Duration),
    /// The reader has more than it can hold; the slot pauses.
    Paused,
    /// The reader took nothing for too long.
    Stalled,
}

impl Job {
    /// `is_whole`: the grammar lets nothing follow.
    fn hear(&mut self, token: Token, is_whole: bool, vocabulary: &dyn Vocabulary) {
        self.usage.completion_tokens.0 += 1;
        let mut bytes = Vec::new();
        vocabulary.piece(token, &mut bytes);
        let is_over = self.voice.hear(&bytes, &mut self.outbox);
        if self.voice.is_thinking() {
            self.usage.reasoning_tokens.0 += 1;
        }
        if is_over || is_whole {
            self.finish(FinishReason::Stop);
        } else if self.usage.completion_tokens.0 >= self.output_max {
            self.finish(FinishReason::Length);
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        self.voice.finish(&mut self.outbox);
        let reason = match reason {
            FinishReason::Stop if self.voice.has_calls() => FinishReason::ToolCalls,
            other => other,
        };
        self.outbox
            .push_back(ChatEvent::ChoiceEnded { choice: 0, reason });
        self.outbox.push_back(ChatEvent::Usage(self.usage));
        self.is_done = true;
    }

    /// Hands over what the reader has room for.
    pub(crate) fn deliver(&mut self, now: Instant, stall_max: Duration) -> Delivered {
        while !self.outbox.is_empty() {
            match self.reply.send(|| self.outbox.pop_front()) {
                Sent::Taken => self.stalled_since = None,
                Sent::Full => {
                    let since = *self.stalled_since.get_or_insert(now);
                    let is_stalled = now.saturating_duration_since(since) >= stall_max;
                    return if is_stalled {
                        Delivered::Stalled
                    } else {
                        Delivered::Paused
                    };
                }
            }
        }
        if self.is_done {
            return Delivered::Last(now.saturating_duration_since(self.admitted_at));
        }
        Delivered::All
    }

    /// How many tokens of the reply there are.
    pub(crate) fn drawn(&self) -> u32 {
        self.usage.completion_tokens.0
    }

    pub(crate) fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }
}

/// One event for neighbours of a kind, so that a draft's tokens cost the reader's side no more than one.
fn join_texts(events: &mut VecDeque<ChatEvent>) {
    let mut joined: VecDeque<ChatEvent> = VecDeque::with_capacity(events.len());
    for event in events.drain(..) {
        match (joined.back_mut(), event) {
            (Some(ChatEvent::Text { text, .. }), ChatEvent::Text { text: more, .. })
            | (Some(ChatEvent::Thought { text, .. }), ChatEvent::Thought { text: more, .. }) => {
                text.push_str(&more);
            }
            (_, event) => joined.push_back(event),
        }
    }
    *events = joined;
}

pub(crate) fn common_prefix(one: &[Token], other: &[Token]) -> u32 {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b);
    u32::try_from(same.count()).unwrap_or(u32::MAX)
}

/// How many they are; no list of tokens comes near the bound.
pub(crate) fn count(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}
