//! What a slot held when it is given up: saved, and restored for a prompt that begins alike.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::{BusyPrompt, Scheduler, sequence};
use crate::decoder::Decoder;
use crate::prefixes::{Owner, PREFIX_TOKENS_MIN, READ_BYTE_S, Sought, Wanted};

/// What a stop may take for saving states and writing them to disk. A child that takes 2 s to
/// leave its thread ends without it, and one that takes 3 s is killed.
const WRITE_MAX: Duration = Duration::from_millis(1_500);

impl<D: Decoder> Scheduler<D> {
    /// Saves what `slot` holds, of which all but `keep` tokens is about to be lost, where that is
    /// worth it.
    pub(super) fn set_aside(&mut self, slot: usize, keep: u32) {
        self.save(slot, keep, self.pacing.prompt_s());
    }

    fn save(&mut self, slot: usize, keep: u32, token_s: Option<f64>) {
        let from = &self.slots[slot];
        if !self.prefixes.is_on() || from.held < PREFIX_TOKENS_MIN {
            return;
        }
        let keep = if self.decoder.can_cut() { keep } else { 0 };
        let tokens = from.held_tokens();
        let elsewhere = self.slots.iter().enumerate();
        let elsewhere = elsewhere
            .filter(|(other, _)| *other != slot)
            .map(|(_, other)| other.holds_of(from));
        let kept = elsewhere.max().unwrap_or(0).max(keep);
        let owner = self.owner(slot);
        let gain = self.prefixes.uncovered(owner, tokens);
        let gain = gain.min(from.held.saturating_sub(kept));
        if gain < PREFIX_TOKENS_MIN || self.decoder.held(sequence(slot)) != from.held {
            return;
        }
        let bytes = self.decoder.state_bytes(sequence(slot));
        if !self.prefixes.admits(gain, bytes, token_s) {
            return;
        }
        let begun = Instant::now();
        if let Some(state) = self.decoder.save(sequence(slot)) {
            self.prefixes.learn(bytes, begun.elapsed());
            self.prefixes.put(owner, tokens, state);
            debug!(tokens = self.slots[slot].held, bytes, "prefix saved");
        }
    }

    /// Whom a state of `slot` may serve.
    fn owner(&self, slot: usize) -> Owner {
        let slot = &self.slots[slot];
        let meaning = slot.adapters().meaning(self.turns.fingerprints());
        self.prefixes
            .under(self.prefixes.owner(slot.team()), &meaning)
    }

    /// Restores what was saved of the beginning of `slot`'s tokens, where that is more than any
    /// slot holds. False when nothing changed, or when it is on disk and so many bytes are not all of
    /// it: then the slot waits for it.
    pub(super) fn recall(&mut self, slot: usize, read_bytes_max: usize) -> bool {
        let own = &self.slots[slot];
        if !self.prefixes.is_on() || own.last() < PREFIX_TOKENS_MIN {
            return false;
        }
        let others = self.slots.iter().enumerate();
        let others = others
            .filter(|(other, _)| *other != slot)
            .map(|(_, other)| own.common_with(other).min(other.held));
        let sought = self.prefixes.find(Wanted {
            owner: self.owner(slot),
            prompt: &own.tokens[..own.last() as usize],
            held: others.max().unwrap_or(0).max(own.held),
            count_max: self.shape.context_tokens,
            token_s: self.pacing.prompt_s(),
            read_bytes_max,
        });
        self.slots[slot].awaits_state = matches!(sought, Some(Sought::BeingRead));
        let Some(Sought::Found(found)) = sought else {
            return false;
        };
        // All of it comes back first, whatever is cut off then. Nobody's room is taken for it but
        // what would be enough.
        if !self.may_hold(slot, found.count) {
            self.prefixes.restored(&found, true);
            return false;
        }
        let wanted = found.count.saturating_sub(self.freed_by(slot));
        if self.make_room(wanted, self.age(slot)) < wanted {
            self.prefixes.restored(&found, true);
            return false;
        }
        self.forget(slot);
        let begun = Instant::now();
        let is_sound = self
            .decoder
            .restore(sequence(slot), &found.state, found.count);
        self.prefixes.learn(found.state.len(), begun.elapsed());
        self.prefixes.restored(&found, is_sound);
        let held = if is_sound {
            self.decoder.truncate(sequence(slot), found.common)
        } else {
            warn!("a saved prefix could not be restored");
            0
        };
        debug!(tokens = held, bytes = found.state.len(), "prefix restored");
        self.cells.set(slot, held);
        self.slots[slot].held = held;
        true
    }

    /// Reads on for a slot whose state is on disk, as much as may be beside what the batch has; true
    /// when that was not the rest of it. With nothing else to do, under whatever adapters, it is read at
    /// one go.
    pub(super) fn awaits(&mut self, slot: usize) -> bool {
        if !self.slots[slot].awaits_state {
            return false;
        }
        let is_heard = self.is_reading_apart || self.turns.is_heard_elsewhere();
        let bytes_max = if self.batch.is_empty() && !is_heard {
            usize::MAX
        } else {
            self.read_bytes_max()
        };
        if self.recall(slot, bytes_max) && self.slots[slot].has_said_nothing() {
            self.slots[slot].start_from_held();
        }
        self.slots[slot].awaits_state
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts of floats saturate"
    )]
    fn read_bytes_max(&self) -> usize {
        match self.rules.busy_prompt {
            BusyPrompt::Within(delay) => (delay.as_secs_f64() / READ_BYTE_S) as usize,
            BusyPrompt::Tokens(tokens) => tokens as usize,
        }
    }

    /// The cells that nobody holds when `slot` has forgotten what it does: not those that it shares.
    fn freed_by(&mut self, slot: usize) -> u32 {
        let taken = self.taken();
        taken - self.cells.taken(|other| other != slot)
    }

    /// Whether `slot` could hold `count` tokens if all gave way to it that would.
    fn may_hold(&mut self, slot: usize, count: u32) -> bool {
        self.taken();
        let age = self.age(slot);
        let stays = |other: usize| {
            let is_running = !self.slots[other].is_idle();
            other != slot && (self.keeps_room(other) || (is_running && self.age(other) < age))
        };
        let left = self.shape.kv_tokens.saturating_sub(self.batched());
        self.cells.taken(stays).saturating_add(count) <= left
    }

    /// Saves what all slots hold and writes it to disk, most first, as far as there is time.
    pub(super) fn put_away(&mut self) {
        if !self.prefixes.has_disk() {
            return;
        }
        let until = Instant::now() + WRITE_MAX;
        let is_late = || Instant::now() >= until;
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        order.sort_by_key(|slot| std::cmp::Reverse(self.slots[*slot].held));
        for slot in order {
            if is_late() {
                break;
            }
            // Whatever it costs: the work would be lost for good.
            self.save(slot, 0, None);
            // So that no slot is spared for the sake of another that holds as much.
            self.forget(slot);
        }
        self.prefixes.write(&is_late);
    }
}
