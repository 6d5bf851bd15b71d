//! Who gets a slot: the regular ones in turn, the spare ones for the first of a team.
//!
//! A chat is admitted when its prompt and a little of its reply fit beside what the others have.
//! The first of a team may have the youngest chat of the busiest other team set back for it, never
//! the oldest of all: that one always gets on.

use super::{Decoder, HEADROOM_TOKENS, Instant, Request, SHARED_TOKENS_MIN, Scheduler};
use crate::config::PrefixScope;
use crate::forecast::{Outlook, tokens_left};
use crate::waiting::{OVERTAKERS_MAX, Place, Seat};

impl<D: Decoder> Scheduler<D> {
    pub(super) fn admit(&mut self, now: Instant) {
        self.settle();
        self.taken();
        while self.admit_next(now) || self.admit_first(now) {}
        self.note_running();
        self.shared.pulse.set_outlook(self.outlook());
    }

    /// Gives back the seats of those who have ended.
    fn settle(&mut self) {
        for (slot, seat) in self.slots.iter().zip(&mut self.seats) {
            if slot.job.is_none()
                && let Some(seat) = seat.take()
            {
                self.shared.settle(seat);
            }
        }
    }

    /// Admits whoever is next, if a regular slot is free and there is room.
    fn admit_next(&mut self, now: Instant) -> bool {
        let seats = self.seats.iter().flatten();
        let regular = seats.filter(|seat| seat.place() == Place::Regular).count();
        if regular >= self.shared.slots() as usize || !self.has_free_slot() {
            return false;
        }
        let fits = |request: &Request| {
            let expected = self.expected(|_| true);
            let room = self.shape.kv_tokens.saturating_sub(expected);
            // Alone, every chat fits: the cache holds a context.
            expected == 0 || self.need(request) <= room
        };
        let Some((request, seat)) = self.shared.take_if(Place::Regular, fits) else {
            return false;
        };
        self.begin(request, seat, now);
        true
    }

    /// Admits the first of a team, if any slot is free and room can be made.
    fn admit_first(&mut self, now: Instant) -> bool {
        if !self.has_free_slot() || self.shared.waiting() == 0 {
            return false;
        }
        // Those set back wait for room anyway, but not for ever.
        let expected = self.expected(|slot| {
            let slot = &self.slots[slot];
            let overtaken = slot.job.as_ref().map_or(0, |job| job.overtaken);
            !slot.is_set_back || overtaken >= OVERTAKERS_MAX
        });
        let room = self.shape.kv_tokens.saturating_sub(expected);
        let yielding = self.yielding();
        let gain = yielding.map_or(0, |slot| self.slots[slot].expected(HEADROOM_TOKENS));
        let mut is_short = false;
        let fits = |request: &Request| {
            let need = self.need(request);
            is_short = expected > 0 && need > room;
            !is_short || need <= room.saturating_add(gain)
        };
        let Some((request, seat)) = self.shared.take_if(Place::Spare, fits) else {
            return false;
        };
        if let Some(slot) = yielding.filter(|_| is_short) {
            self.set_back(slot);
        }
        let set_back = self.slots.iter_mut().filter(|slot| slot.is_set_back);
        for job in set_back.filter_map(|slot| slot.job.as_mut()) {
            job.overtaken = job.overtaken.saturating_add(1);
        }
        self.begin(request, seat, now);
        true
    }

    /// Nobody of its team was being answered when it was admitted.
    pub(super) fn is_first(&self, slot: usize) -> bool {
        self.seats[slot].as_ref().is_some_and(Seat::is_first)
    }

    fn has_free_slot(&self) -> bool {
        self.slots.iter().any(|slot| slot.job.is_none())
    }

    /// The tokens that those of the slots which count may come to hold soon.
    fn expected(&self, counts: impl Fn(usize) -> bool) -> u32 {
        let counts = |slot: &usize| counts(*slot) && !self.slots[*slot].is_idle();
        let slots = (0..self.slots.len()).filter(counts);
        let (expected, held) = slots.fold((0_u32, 0_u32), |(expected, held), slot| {
            let slot = &self.slots[slot];
            let more = slot.expected(HEADROOM_TOKENS);
            (
                expected.saturating_add(more),
                held.saturating_add(slot.held),
            )
        });
        // What they hold in common was counted for each.
        let taken = self.cells.taken(|slot| counts(&slot));
        expected.saturating_sub(held.saturating_sub(taken))
    }

    /// The tokens that `request` is admitted for: what it begins like a running chat with is there,
    /// where that can be shared.
    fn need(&self, request: &Request) -> u32 {
        let prompt = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
        // As its slot will have it.
        let team = match self.rules.prefixes.scope {
            PrefixScope::Team => request.team.as_ref(),
            PrefixScope::Global => None,
        };
        let running = self.slots.iter().enumerate();
        let running = running.filter(|(_, slot)| !slot.is_idle());
        let shared = running.map(|(index, slot)| (index, slot.shared_prefix(team, request)));
        let shared = shared.filter(|(index, shared)| {
            *shared >= SHARED_TOKENS_MIN && self.can_share(*index, *shared)
        });
        let shared = shared.map(|(_, shared)| shared).max();
        let own = prompt.saturating_sub(shared.unwrap_or(0));
        let need = own.saturating_add(request.output_max.min(HEADROOM_TOKENS));
        need.min(self.shape.context_tokens)
    }

    /// The youngest chat of the team that has the most of them, and more than one; itself no first.
    fn yielding(&self) -> Option<usize> {
        let oldest = self.oldest_ready();
        let running = |seat: &Seat| {
            let seats = self.seats.iter().flatten();
            seats.filter(|other| other.team() == seat.team()).count()
        };
        let may_yield = (0..self.slots.len()).filter(|slot| {
            let held = &self.slots[*slot];
            let is_spared = Some(self.age(*slot)) == oldest || self.is_first(*slot);
            !is_spared && !held.is_idle() && !held.is_set_back && held.held > 0
        });
        let counted = may_yield.filter_map(|slot| {
            let count = running(self.seats[slot].as_ref()?);
            (count > 1).then_some((count, self.age(slot), slot))
        });
        counted.max().map(|(_, _, slot)| slot)
    }

    /// What is known of the time until a slot is free.
    fn outlook(&self) -> Outlook {
        let usual = self.shared.reply_tokens(u32::MAX);
        let running = self.slots.iter().filter(|slot| !slot.is_idle());
        let left = running.clone().filter_map(|slot| {
            let so_far = u32::try_from(slot.tokens.len()).unwrap_or(u32::MAX);
            let left = slot.expected(u32::MAX).saturating_sub(so_far);
            Some(tokens_left(slot.job.as_ref()?.drawn(), left, usual))
        });
        Outlook {
            prompt_s: self.pacing.prompt_s(),
            step_s: self.pacing.step_s(),
            reading: running.map(|slot| u64::from(slot.pending())).sum(),
            steps: left.min().unwrap_or(0),
        }
    }
}
