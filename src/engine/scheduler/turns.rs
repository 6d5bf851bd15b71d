//! Whose turn it is, where chats are computed under different adapters.
//!
//! A batch is computed under one set of adapters, so chats under different sets take turns. Sets
//! wait in a line: the first has a turn of some steps, then goes behind the others that want
//! something, and one that comes new stands last. There are no more sets than slots, so none waits
//! for longer than a turn of each other slot.
//!
//! A turn is more than one step because llama.cpp lays out its memory anew after each change of
//! adapters.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Scheduler;
use crate::adapters::AdapterSet;
use crate::decoder::{Decoder, Fingerprint};

/// Steps of one turn while others wait.
const TURN_STEPS: u32 = 4;
/// A turn is over after this long too, whatever its steps: for prompts, whose steps are long.
const TURN_MAX: Duration = Duration::from_millis(100);

/// The sets that want something, whose turn it is first.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Of the decoder's adapters; empty where it has none, and then nobody takes turns.
    fingerprints: Vec<Fingerprint>,
    line: VecDeque<AdapterSet>,
    /// What the decoder was told last.
    told: AdapterSet,
    steps: u32,
    since: Option<Instant>,
    /// The batch is the first one after a change.
    has_changed: bool,
    /// Somebody is being answered who has no part in the batch.
    is_heard_elsewhere: bool,
}

impl Turns {
    pub(super) fn new(fingerprints: &[Fingerprint]) -> Self {
        Self {
            fingerprints: fingerprints.to_vec(),
            ..Self::default()
        }
    }

    pub(super) fn fingerprints(&self) -> &[Fingerprint] {
        &self.fingerprints
    }

    pub(super) fn are_taken(&self) -> bool {
        !self.fingerprints.is_empty()
    }

    pub(super) fn has_changed(&self) -> bool {
        self.has_changed
    }

    pub(super) fn is_heard_elsewhere(&self) -> bool {
        self.is_heard_elsewhere
    }

    /// Lets those of `wanting` stand in line, the new ones last and in their order, and nobody else.
    fn line_up<'a>(&mut self, wanting: impl Iterator<Item = &'a AdapterSet> + Clone) {
        self.line
            .retain(|set| wanting.clone().any(|wanting| wanting == set));
        for set in wanting {
            if !self.line.contains(set) {
                self.line.push_back(set.clone());
            }
        }
    }

    /// Ends the turn of the first where it has lasted long enough, or where another is first already.
    fn turn(&mut self, now: Instant) {
        let lasted = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let is_over = self.steps >= TURN_STEPS || lasted >= TURN_MAX;
        if self.line.front() == Some(&self.told) && is_over {
            self.line.rotate_left(1);
        }
    }

    /// Notes that the first has a step. True when that is another than had the last.
    fn count(&mut self, now: Instant) -> bool {
        let Some(first) = self.line.front() else {
            return false;
        };
        self.has_changed = *first != self.told;
        if self.has_changed {
            self.told = first.clone();
        }
        if self.has_changed || self.since.is_none() || self.steps >= TURN_STEPS {
            self.since = Some(now);
            self.steps = 0;
        }
        self.steps += 1;
        self.has_changed
    }
}

impl<D: Decoder> Scheduler<D> {
    /// Fills the batch for the set whose turn it is, from `order`, which is of all slots that are
    /// ready. Where that has no room or waits for others, the next in line has its turn: the oldest of
    /// all slots always gets on.
    pub(super) fn fill_in_turn(&mut self, order: &[usize], now: Instant) {
        let slots = &self.slots;
        self.turns
            .line_up(order.iter().map(|slot| slots[*slot].adapters()));
        self.turns.turn(now);
        let count = self.turns.line.len();
        // Once more where none had anything to compute: a saved state is then read at one go.
        for round in 0..2 * count {
            let Some(set) = self.turns.line.front().cloned() else {
                return;
            };
            let is_own = |slot: &usize| *self.slots[*slot].adapters() == set;
            let (own, others): (Vec<usize>, Vec<usize>) = order.iter().copied().partition(is_own);
            let is_heard = |slot: &usize| self.slots[*slot].pending() == 1;
            self.turns.is_heard_elsewhere = round < count && others.iter().any(is_heard);
            self.fill_from(own);
            if !self.batch.is_empty() {
                if self.turns.count(now) {
                    self.decoder.adapt(&set);
                }
                return;
            }
            self.turns.line.rotate_left(1);
        }
    }
}
