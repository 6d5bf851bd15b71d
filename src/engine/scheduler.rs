//! Continuous batching: which tokens are computed next, and for whom.
//!
//! The scheduler is a value; its thread calls [`Scheduler::step`] in a loop, and a test calls it by
//! hand. One step: hand over what paused readers now take, free the slots of those who left, admit
//! from the queue, fill one batch, compute it, draw one token for each sequence that is up to date.
//!
//! **Room.** All sequences together hold at most `kv_tokens`: cells that they share, or where each has
//! its own, a whole context for every one, which is never used up. A chat is admitted when its prompt
//! and a little of its reply fit beside what the others have; it may then grow to a full context.
//! When the room is used up, first the leftovers of finished chats go, then the youngest running
//! chat is set back: it keeps its place and its text, and is computed again when there is room. The
//! oldest always gets on, so everything ends.
//!
//! **Turns.** Who waits is admitted in turn, by [`crate::waiting`] and [`admission`].
//!
//! **Prompts.** While somebody is being answered, prompts are computed in slices of a bounded time
//! (see [`crate::pacing`]), else a batch at a time. The shortest remaining prompt comes first; one
//! that was passed over counts as shorter with every time, so none waits for ever. What another
//! slot of the same team has in the cache is shared and not computed again, and a prompt that
//! begins like one under way waits for it. What a slot held and must give up is saved where that
//! is worth it, and restored for a prompt that begins alike (see [`aside`]). [`portions`] has the exceptions where several teams ask.
//!
//! **Adapters.** Chats under different adapters are not computed together: see [`turns`].
//!
//! **Drafts.** What a running reply may go on with is computed beside its token that is due (see
//! [`crate::draft`]), in what room the others leave. All of it that is not drawn is cut off again
//! before the next step.
//!
//! **Interruption.** A reader that leaves in mid-prompt cuts the whole batch short. What reached
//! the cache stays; everybody else's tokens that did not are simply still pending in the next step.

mod admission;
mod aside;
mod drafting;
mod overflow;
mod portions;
mod turns;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{BackendError, HealthState};
use tracing::{debug, error, trace, warn};

use crate::cells::Cells;
use crate::config::PrefixScope;
use crate::crew::{Crew, Work};
use crate::decoder::{Decoded, Decoder, Entry, Shape, Vocabulary};
use crate::draft::Drafting;
use crate::pacing::Pacing;
use crate::prefixes::{PrefixRules, Prefixes};
use crate::queue::{Request, Shared};
use crate::slot::{Delivered, Slot};
use crate::waiting::Seat;
use drafting::Drafts;
use turns::Turns;

/// Room kept free for each running reply when another chat asks to be admitted. More of it makes
/// setting back rarer, less of it admits sooner.
const HEADROOM_TOKENS: u32 = 64;

/// From this many tokens on, a share of a batch is worth interrupting when its reader leaves.
const WEIGHTY_TOKENS: u32 = 32;

/// This many failed computations in a row are no accident: the engine is down.
const FAILURES_MAX: u32 = 3;

/// How long it then counts as down. After that it counts as ready, so that the next chat is the
/// probe: nobody is sent to an engine that is down. One more failure puts it down again at once.
const COOL_OFF: Duration = Duration::from_secs(5);

/// The part of [`crate::EngineConfig`] that scheduling goes by.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub busy_prompt: BusyPrompt,
    pub stall_max: Duration,
    pub prefixes: PrefixRules,
    pub drafting: Drafting,
}

/// What one step may compute of prompts while somebody is being answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BusyPrompt {
    /// What is computed within so long, as measured.
    Within(Duration),
    /// A fixed count: for tests, whose time stands still.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    Tokens(u32),
}

/// A prefix shorter than this is computed again sooner than it is shared or waited for.
const SHARED_TOKENS_MIN: u32 = 16;

/// What the thread does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// There is more to do.
    Busy,
    /// Nothing until the bell rings, or until then.
    Idle(Option<Instant>),
    Stopped,
}

pub(crate) struct Scheduler<D> {
    decoder: D,
    vocabulary: Arc<dyn Vocabulary>,
    shared: Arc<Shared>,
    rules: Rules,
    pacing: Pacing,
    drafts: Drafts,
    crew: Crew,
    turns: Turns,
    shape: Shape,
    slots: Vec<Slot>,
    /// Which of them hold the same cells.
    cells: Cells,
    /// Of each slot's job; given back in the step after its end.
    seats: Vec<Option<Seat>>,
    batch: Vec<Entry>,
    shares: Vec<Share>,
    prefixes: Prefixes,
    /// Counts admissions; the clock of ages.
    admissions: u64,
    /// Steps in a row that began with the first of a team.
    firsts_in_a_row: u32,
    /// A step of prompts alone is being filled: replies keep their room as if they were in it.
    is_reading_apart: bool,
    failures: u32,
    /// Down because of them, and until when.
    down_until: Option<Instant>,
}

/// One slot's part of the batch.
#[derive(Clone, Copy, Debug)]
struct Share {
    slot: usize,
    count: u32,
    /// Where in the batch its logits come out, if it is up to date after it.
    logits: Option<usize>,
    /// Where in the batch the tokens drafted after it begin, and how many they are.
    drafts_at: usize,
    drafted: u32,
}

impl<D: Decoder> Scheduler<D> {
    pub(crate) fn new(
        decoder: D,
        vocabulary: Arc<dyn Vocabulary>,
        shared: Arc<Shared>,
        rules: Rules,
    ) -> Self {
        let shape = decoder.shape();
        let saved = rules.prefixes.clone();
        let delay = match rules.busy_prompt {
            BusyPrompt::Within(delay) => delay,
            BusyPrompt::Tokens(_) => Duration::ZERO,
        };
        Self {
            pacing: Pacing::new(delay),
            prefixes: Prefixes::open(saved, decoder.fingerprint(), decoder.can_cut()),
            drafts: Drafts::new(rules.drafting, decoder.can_cut()),
            crew: Crew::new(decoder.threads()),
            turns: Turns::new(decoder.adapters()),
            decoder,
            vocabulary,
            shared,
            rules,
            shape,
            slots: (0..shape.sequences).map(|_| Slot::default()).collect(),
            cells: Cells::new(shape.sequences),
            seats: (0..shape.sequences).map(|_| None).collect(),
            batch: Vec::new(),
            shares: Vec::new(),
            admissions: 0,
            firsts_in_a_row: 0,
            is_reading_apart: false,
            failures: 0,
            down_until: None,
        }
    }

    pub(crate) fn step(&mut self, now: Instant) -> Pace {
        if self.shared.is_stopping() {
            self.end_all();
            return Pace::Stopped;
        }
        if self.down_until.is_some_and(|until| now >= until) {
            self.rise();
        }
        self.free_cancelled();
        for slot in 0..self.slots.len() {
            self.deliver(slot, now);
        }
        self.admit(now);
        self.make_context();
        self.fill_batch(now);
        if self.batch.is_empty() {
            return self.rest();
        }
        let is_wanted = self.arm();
        let begun = Instant::now();
        if let Some(threads) = self.crew.change(self.work(), begun) {
            debug!(threads, "the number of threads changes");
            self.decoder.set_threads(threads);
        }
        let decoded = is_wanted.then(|| self.decoder.decode(&self.batch));
        let took = begun.elapsed();
        trace!(
            entries = self.batch.len(),
            replies = self.shares.iter().filter(|share| share.count == 1).count(),
            held = self.slots.iter().map(|slot| slot.held).sum::<u32>(),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "step"
        );
        if decoded == Some(Decoded::Done) && !self.turns.has_changed() {
            self.learn(took);
        }
        self.disarm();
        match decoded {
            // Somebody left, or the engine is to stop: the next step sees to it.
            None => {}
            Some(Decoded::Done) => self.advance(now),
            Some(Decoded::NoRoom) => self.make_any_room(),
            Some(Decoded::Aborted) => self.recount(),
            Some(Decoded::Failed) => self.fail_batch(now),
        }
        self.note_running();
        Pace::Busy
    }

    fn free_cancelled(&mut self) {
        for slot in &mut self.slots {
            if slot
                .job
                .as_ref()
                .is_some_and(|job| job.reply.is_cancelled())
            {
                debug!("reader left, slot freed");
                slot.end(None);
            }
        }
    }

    fn deliver(&mut self, slot: usize, now: Instant) {
        let slot = &mut self.slots[slot];
        let Some(job) = &mut slot.job else {
            return;
        };
        match job.deliver(now, self.rules.stall_max) {
            Delivered::All | Delivered::Paused => {}
            Delivered::Last(service) => {
                self.shared.pulse.learn(service);
                slot.end(None);
            }
            Delivered::Stalled => {
                warn!("reader stalled, slot freed");
                slot.end(Some(BackendError::Engine(
                    "the reply was not read for longer than the stall limit",
                )));
            }
        }
    }

    /// Gives `request` the free slot whose leftovers serve it best, else the longest unused.
    fn begin(&mut self, mut request: Request, seat: Seat, now: Instant) {
        if self.rules.prefixes.scope == PrefixScope::Global {
            // From here on the team is only whom the cache is shared with.
            request.team = None;
        }
        let free = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.job.is_none());
        let best = free.max_by_key(|(index, slot)| {
            (
                slot.shared_prefix(request.team.as_ref(), &request),
                Reverse((slot.used, *index)),
            )
        });
        let Some((index, slot)) = best else {
            self.shared.settle(seat);
            return request
                .reply
                .end(Some(BackendError::Engine("no slot was free")));
        };
        let shared = slot.shared_prefix(request.team.as_ref(), &request);
        self.set_aside(index, shared);
        let held = self.decoder.truncate(sequence(index), shared);
        self.cells.set(index, held);
        self.admissions += 1;
        if let Some(ended) = self.seats[index].replace(seat) {
            self.shared.settle(ended);
        }
        let context = self.shape.context_tokens;
        self.slots[index].begin(request, held, context, self.admissions, now);
        // The last step's batch takes no room any more.
        self.batch.clear();
        if self.recall(index, 0) {
            self.slots[index].start_from_held();
        }
        self.deliver(index, now);
    }

    fn learn(&mut self, took: Duration) {
        let replies = self.shares.iter().filter(|share| share.count == 1).count();
        let replies = u32::try_from(replies).unwrap_or(u32::MAX);
        let drafted: u32 = self.shares.iter().map(|share| share.drafted).sum();
        let prompt = self.batched().saturating_sub(replies + drafted);
        let is_on_trial = self.crew.is_on_trial(self.work());
        self.crew.learn(self.work(), self.batched(), took);
        if is_on_trial {
            // With another number of threads than the next steps.
            return;
        }
        self.drafts.learn(prompt, replies, drafted, took);
        if drafted == 0 {
            self.pacing.learn(prompt, replies, took);
        } else if prompt > 0 {
            // A drafted token takes what one of a prompt does.
            self.pacing.learn(prompt + drafted, replies, took);
        }
    }

    fn work(&self) -> Work {
        let reads = self.shares.iter().any(|share| share.count > 1);
        if reads { Work::Prompts } else { Work::Replies }
    }

    /// One token for every reply that is up to date, then slices of prompts, shortest first.
    fn fill_batch(&mut self, now: Instant) {
        self.batch.clear();
        self.shares.clear();
        let mut order: Vec<usize> = (0..self.slots.len())
            .filter(|slot| self.slots[*slot].is_ready())
            .collect();
        order.sort_by_key(|slot| self.age(*slot));
        if self.turns.are_taken() {
            self.fill_in_turn(&order, now);
        } else {
            self.fill_from(order);
        }
    }

    /// From `order`, which is of slots that may be computed together, by age.
    fn fill_from(&mut self, order: Vec<usize>) {
        let (talking, reading): (Vec<usize>, Vec<usize>) = order
            .into_iter()
            .partition(|slot| self.slots[*slot].pending() == 1);
        let budget = self.prompt_budget(talking.len(), &reading);
        let is_apart = self.are_apart(talking.len(), &reading, budget);
        if is_apart && !talking.iter().any(|slot| self.slots[*slot].gave_way) {
            self.is_reading_apart = true;
            self.read(reading.clone(), budget);
            self.is_reading_apart = false;
            if !self.batch.is_empty() {
                for slot in talking {
                    self.slots[slot].gave_way = true;
                }
                return;
            }
        }
        for slot in talking {
            self.slots[slot].gave_way = false;
            self.take(slot, 1);
        }
        self.add_drafts(&reading);
        // Without room for any reply, who is older takes it from them.
        if !is_apart || self.batch.is_empty() {
            self.read(reading, budget);
        }
    }

    /// Puts slices of prompts into the batch, `budget` tokens in all.
    fn read(&mut self, reading: Vec<usize>, mut budget: u32) {
        let mut is_first = true;
        let mut spent: u32 = 0;
        let reading = self.shortest_first(reading);
        for slot in self.firsts_first(reading) {
            if !self.may_resume(slot) || self.awaits(slot) || self.follows(slot) {
                continue;
            }
            let left = self.slots[slot].pending();
            let most = if is_first {
                self.portion(slot, budget)
            } else {
                budget
            };
            let taken = self.take(slot, most);
            budget = budget.saturating_sub(taken);
            if !is_first
                && taken < left
                && let Some(job) = &mut self.slots[slot].job
            {
                job.passed_over = job.passed_over.saturating_add(spent);
            }
            spent = spent.saturating_add(taken);
            is_first = false;
        }
    }

    /// `reading`, which is in order of age, by what is left of each prompt, less half of what was
    /// computed of others while it waited: with all of it, equal ones would take turns and end late.
    fn shortest_first(&self, mut reading: Vec<usize>) -> Vec<usize> {
        reading.sort_by_key(|slot| {
            let slot = &self.slots[*slot];
            let passed_over = slot.job.as_ref().map_or(0, |job| job.passed_over);
            slot.pending().saturating_sub(passed_over / 2)
        });
        reading
    }

    /// Shares what another slot holds of this slot's prompt. True when one that is being computed
    /// in this step will soon hold more of it: better to wait for that.
    fn follows(&mut self, slot: usize) -> bool {
        if self.slots[slot].is_unshared {
            return false;
        }
        let least = self.slots[slot].held.saturating_add(SHARED_TOKENS_MIN);
        let mut donor: Option<(u32, usize)> = None;
        let mut is_following = false;
        for other in (0..self.slots.len()).filter(|other| *other != slot) {
            let common = self.slots[slot].common_with(&self.slots[other]);
            if common < least {
                continue;
            }
            let held = common.min(self.slots[other].held);
            // Not one that talks, or its words would be waited for one by one.
            let is_reading = self.slots[other].pending() > 1
                && self.shares.iter().any(|share| share.slot == other);
            is_following |= is_reading && held < common && self.can_share(other, common);
            if held >= least
                && self.can_share(other, held)
                && donor.is_none_or(|(most, _)| held > most)
            {
                donor = Some((held, other));
            }
        }
        // Not a part now and the rest later: sharing begins anew each time.
        if let Some((held, donor)) = donor.filter(|_| !is_following)
            && self.pays_to_share(donor, slot, held)
        {
            self.share(donor, slot, held);
        }
        is_following
    }

    /// Lets `slot` hold the first `count` tokens of `donor` instead of what it holds. They are the
    /// same cells, so this takes none.
    fn share(&mut self, donor: usize, slot: usize, count: u32) {
        self.forget(slot);
        // What it held is lost. If it were tried again in every step, no long prompt would end.
        self.slots[slot].is_unshared = true;
        if self.decoder.share(sequence(donor), sequence(slot), count) {
            // What the donor computed since the last look is not yet in the books.
            self.cells.set(donor, self.slots[donor].held);
            self.cells.share(donor, slot, count);
            self.slots[slot].is_unshared = false;
            self.slots[slot].adopt(count);
        }
    }

    /// False where copying all that `donor` holds takes longer than computing what `slot` lacks of
    /// `count` tokens.
    fn pays_to_share(&mut self, donor: usize, slot: usize, count: u32) -> bool {
        let bytes = self.decoder.share_bytes(sequence(donor));
        let gain = count.saturating_sub(self.slots[slot].held);
        let token_s = self.pacing.prompt_s();
        self.prefixes.pays_to_copy(gain, bytes, token_s)
    }

    fn can_share(&self, donor: usize, count: u32) -> bool {
        self.decoder.can_share(sequence(donor), count)
    }

    /// A slot that was set back begins again only when all of it fits beside the others, or it would
    /// be set back again and again.
    fn may_resume(&mut self, slot: usize) -> bool {
        if !self.slots[slot].is_set_back {
            return true;
        }
        let is_oldest = self.is_oldest_ready(self.age(slot));
        let others = self.slots.iter().enumerate();
        let others = others.filter(|(other, held)| {
            let gives_way = is_oldest && held.is_paused();
            *other != slot && !held.is_idle() && !gives_way
        });
        // The first of a team shall not be set back in its turn. Two that were do not wait for each
        // other.
        let held = others.map(
            |(other, held)| match self.is_first(other) && !held.is_set_back {
                true => held.held.max(held.expected(HEADROOM_TOKENS)),
                false => held.held,
            },
        );
        let held = held.fold(0, u32::saturating_add);
        let expected = self.slots[slot].expected(HEADROOM_TOKENS);
        let fits = held.saturating_add(expected) <= self.shape.kv_tokens;
        self.slots[slot].is_set_back = !fits;
        if fits {
            self.recall(slot, 0);
        }
        fits
    }

    /// Puts up to `most` pending tokens of `slot` into the batch, and says how many.
    fn take(&mut self, slot: usize, most: u32) -> u32 {
        let wanted = self.slots[slot].pending().min(most);
        let left = self.shape.batch_tokens.saturating_sub(self.batched());
        let wanted = self.undivided(slot, wanted.min(left), left);
        // Another's need for room may have set this slot back.
        let count = wanted.min(self.make_room(wanted, self.age(slot)));
        let count = self.undivided(slot, count, count);
        if count == 0 {
            return 0;
        }
        let from = &self.slots[slot];
        let last = from.pending() == count;
        for offset in 0..count {
            let position = from.held + offset;
            self.batch.push(Entry {
                token: from.tokens[position as usize],
                position,
                sequence: sequence(slot),
                wants_logits: last && offset + 1 == count,
            });
        }
        let logits = last.then(|| self.batch.len() - 1);
        self.shares.push(Share {
            slot,
            count,
            logits,
            drafts_at: 0,
            drafted: 0,
        });
        count
    }

    /// `count` pending tokens of `slot`, or fewer, so that no image is cut apart that must not be. One
    /// that comes first is taken whole where that is no more than `most`.
    fn undivided(&self, slot: usize, count: u32, most: u32) -> u32 {
        let from = &self.slots[slot];
        let last = from.held.saturating_add(count).checked_sub(1);
        let Some(token) = last.and_then(|last| from.tokens.get(last as usize)) else {
            return count;
        };
        let undivided = self.decoder.undivided(*token);
        let Some((before, after)) = undivided.filter(|(_, after)| *after > 0 && count > 0) else {
            return count;
        };
        let without = count.saturating_sub(before.saturating_add(1));
        let whole = count.saturating_add(after);
        if whole > from.pending() {
            // Not of a prompt.
            return count;
        }
        match without {
            0 if whole <= most => whole,
            _ => without,
        }
    }

    /// Tries to have `wanted` free tokens for a slot of `age`, and says how many there are.
    fn make_room(&mut self, wanted: u32, age: u64) -> u32 {
        loop {
            let held = self.taken();
            let free = self
                .shape
                .kv_tokens
                .saturating_sub(held.saturating_add(self.batched()));
            if free >= wanted || !(self.drop_leftovers() || self.set_back_younger(age)) {
                return free;
            }
        }
    }

    /// Cells that hold something.
    fn taken(&mut self) -> u32 {
        for (index, slot) in self.slots.iter().enumerate() {
            self.cells.set(index, slot.held);
        }
        self.cells.taken(|_| true)
    }

    /// Forgets what the longest unused idle slot holds; false when none holds anything.
    fn drop_leftovers(&mut self) -> bool {
        let idle = (0..self.slots.len())
            .filter(|slot| self.slots[*slot].is_idle() && self.slots[*slot].held > 0);
        let Some(slot) = idle.min_by_key(|slot| self.slots[*slot].used) else {
            return false;
        };
        self.set_aside(slot, 0);
        self.forget(slot);
        true
    }

    /// Sets the youngest running slot back that is younger than `age` and not in the batch. The
    /// first of a team is spared for as long as can be: only the oldest of all may have its room.
    /// The oldest is who has something to compute: a paused reader keeps nobody from getting on,
    /// and gives up its room too where it must.
    fn set_back_younger(&mut self, age: u64) -> bool {
        let is_oldest = self.is_oldest_ready(age);
        let younger = (0..self.slots.len()).filter(|slot| {
            let held = &self.slots[*slot];
            (self.age(*slot) > age || (is_oldest && held.is_paused()))
                && held.held > 0
                && (is_oldest || !self.is_first(*slot))
                && !self.keeps_room(*slot)
        });
        let Some(slot) = younger.max_by_key(|slot| (!self.is_first(*slot), self.age(*slot))) else {
            return false;
        };
        self.set_back(slot);
        true
    }

    /// In the batch, or a reply that waits for a step of prompts alone.
    fn keeps_room(&self, slot: usize) -> bool {
        let held = &self.slots[slot];
        self.shares.iter().any(|share| share.slot == slot)
            || (self.is_reading_apart && held.is_ready() && held.pending() == 1)
    }

    /// Takes a running slot's room. What it held is saved where that is worth it.
    fn set_back(&mut self, slot: usize) {
        debug!("cache is full, slot set back");
        self.set_aside(slot, 0);
        self.forget(slot);
        self.slots[slot].is_set_back = true;
    }

    /// The age of the oldest chat that has something to compute and was not set back.
    fn oldest_ready(&self) -> Option<u64> {
        let ready = (0..self.slots.len()).filter(|slot| {
            let slot = &self.slots[*slot];
            slot.is_ready() && !slot.is_set_back
        });
        ready.map(|slot| self.age(slot)).min()
    }

    fn is_oldest_ready(&self, age: u64) -> bool {
        self.oldest_ready().is_none_or(|oldest| age <= oldest)
    }

    fn forget(&mut self, slot: usize) {
        self.decoder.truncate(sequence(slot), 0);
        self.slots[slot].held = 0;
        self.cells.set(slot, 0);
    }

    /// Marks who weighs in the batch; false when somebody in it has left or the engine is to stop.
    fn arm(&mut self) -> bool {
        self.shared.interrupt.lower();
        let is_alone = self.shares.len() == 1;
        let mut is_wanted = true;
        for share in &self.shares {
            if let Some(job) = &self.slots[share.slot].job {
                job.reply
                    .set_weighs_in_batch(is_alone || share.count >= WEIGHTY_TOKENS);
                is_wanted &= !job.reply.is_cancelled();
            }
        }
        is_wanted && !self.shared.is_stopping()
    }

    fn disarm(&mut self) {
        for share in &self.shares {
            if let Some(job) = &self.slots[share.slot].job {
                job.reply.set_weighs_in_batch(false);
            }
        }
    }

    /// The batch is computed: draws, and hands over what was said.
    fn advance(&mut self, now: Instant) {
        self.failures = 0;
        if self.down_until.is_some() {
            self.rise();
        }
        for share in std::mem::take(&mut self.shares) {
            self.slots[share.slot].held += share.count;
            if let Some(seat) = &mut self.seats[share.slot] {
                seat.count(share.count, share.logits.is_some());
            }
            let Some(row) = share.logits else {
                continue;
            };
            let drawn = self.draw(share, row);
            // What was drawn before a failure is said before it.
            self.deliver(share.slot, now);
            if let Err(error) = drawn {
                error!(%error, "slot failed");
                self.slots[share.slot].end(Some(error));
            }
        }
    }

    /// The decoder had less room than we counted. Nothing was computed; free something and go on.
    fn make_any_room(&mut self) {
        let oldest = self.shares.iter().map(|share| self.age(share.slot)).min();
        let had_drafts = self.shares.iter().any(|share| share.drafted > 0);
        self.shares.clear();
        if had_drafts {
            return self.drafts.withhold();
        }
        if self.drop_leftovers() || self.set_back_younger(oldest.unwrap_or(0)) {
            return;
        }
        // The batch may have been of the youngest alone.
        if self.set_back_younger(self.oldest_ready().unwrap_or(0)) {
            return;
        }
        let stuck = (0..self.slots.len()).filter(|slot| self.slots[*slot].is_ready());
        if let Some(slot) = stuck.min_by_key(|slot| self.age(*slot)) {
            error!("the cache has no room for a single chat");
            self.forget(slot);
            self.slots[slot].end(Some(BackendError::Engine("its cache has no room")));
        }
    }

    /// The batch was cut short: the decoder says what became of it. Logits are lost even of a token
    /// that reached the cache, so the last one is always computed again.
    fn recount(&mut self) {
        for share in std::mem::take(&mut self.shares) {
            let slot = &mut self.slots[share.slot];
            let held = self.decoder.held(sequence(share.slot));
            let most = (slot.held + share.count).min(slot.last());
            slot.held = if held > most {
                self.decoder.truncate(sequence(share.slot), most)
            } else {
                held
            };
            self.cells.set(share.slot, slot.held);
        }
    }

    /// The computation failed: its chats end, the others are computed again from the beginning.
    fn fail_batch(&mut self, now: Instant) {
        self.failures += 1;
        error!(failures = self.failures, "decode failed");
        self.decoder.reset();
        for share in std::mem::take(&mut self.shares) {
            self.slots[share.slot].end(Some(BackendError::Engine("the computation failed")));
        }
        self.cells = Cells::new(self.shape.sequences);
        for slot in &mut self.slots {
            slot.held = 0;
            if slot.job.is_none() {
                slot.tokens.clear();
            }
        }
        if self.failures >= FAILURES_MAX {
            self.down_until = Some(now + COOL_OFF);
            self.shared.pulse.set_state(HealthState::Down);
        }
    }

    fn rise(&mut self) {
        self.down_until = None;
        self.shared.pulse.set_state(HealthState::Ready);
    }

    /// Nothing can be computed now. Waits for readers, no longer than the first may stall or
    /// than being down lasts.
    fn rest(&mut self) -> Pace {
        let stalled = self
            .slots
            .iter()
            .filter_map(|slot| slot.job.as_ref()?.stalled_since());
        let stalled = stalled.map(|since| since + self.rules.stall_max);
        Pace::Idle(stalled.chain(self.down_until).min())
    }

    fn end_all(&mut self) {
        self.shared.close();
        for slot in &mut self.slots {
            slot.end(Some(BackendError::Engine("it has stopped")));
        }
        self.put_away();
        self.note_running();
        self.shared.pulse.set_state(HealthState::Down);
    }

    fn note_running(&self) {
        let running = self.slots.iter().filter(|slot| slot.job.is_some()).count();
        self.shared.pulse.set_running(running);
    }

    fn batched(&self) -> u32 {
        u32::try_from(self.batch.len()).unwrap_or(u32::MAX)
    }

    /// The order of admission; idle slots have none and count as oldest.
    fn age(&self, slot: usize) -> u64 {
        self.slots[slot].job.as_ref().map_or(0, |job| job.admitted)
    }
}

/// The decoder's number of a slot's sequence.
fn sequence(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
