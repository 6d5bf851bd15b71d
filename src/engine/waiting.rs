//! Who waits, and who is next: interactive before batch, and fair between teams.
//!
//! **Between teams.** Each has a counter of the tokens that were computed for it, and whoever's is
//! lowest is next. It is a deficit round robin without rounds (the virtual token counter of Sheng
//! et al., "Fairness in Serving Large Language Models", OSDI 2024): teams that always want something
//! get equally many tokens, however long their requests are. A request is charged what it is
//! expected to take when it is taken, and what it really took when it ends. A team that comes back
//! begins beside those that are served then, so that a pause saves nothing up.
//!
//! **The first of a team.** While no interactive request of a team is being answered, its next one
//! may have a spare slot when all others are taken: whoever asks for little does not wait for the
//! long replies of others.
//!
//! **Room in the queue.** One team may fill it. Beyond that there is a reserve, for teams that have
//! less than their share of it. Nobody who was let in is put out again.

use std::collections::VecDeque;

use domain::{Priority, TeamId};

use crate::queue::Request;

/// Interactive requests that go before a batch one which waits. Then it is its turn.
const AHEAD_OF_BATCH_MAX: u32 = 8;

/// Requests that may pass the next in turn by a spare slot, while the cache has no room for it.
pub(crate) const OVERTAKERS_MAX: u32 = 16;

/// A team counts as present while it sent one of so many last requests.
const PRESENT_REQUESTS: u64 = 1_024;

/// The reserve of the queue is this part of it, and at least one place.
const RESERVE_PART: usize = 4;

/// What a reply is expected to take before one has come to its end.
const REPLY_TOKENS_GUESS: u32 = 256;

/// Which slot a request is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// For whoever is next.
    Regular,
    /// For the first of a team.
    Spare,
}

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    teams: Vec<Team>,
    count: usize,
    /// Requests that came so far; the clock of their order.
    arrivals: u64,
    /// The counter of the team that was served last; it never falls.
    served: u64,
    /// Interactive requests taken since a batch one began to wait, or was taken.
    ahead_of_batch: u32,
    /// How many passed the next in turn, which has no room.
    overtakers: Option<u32>,
    /// A moving mean; `None` before the first.
    reply_tokens: Option<u32>,
}

#[derive(Debug)]
struct Team {
    id: Option<TeamId>,
    /// By priority, each in the order they came.
    lines: [VecDeque<Waiter>; 2],
    served: u64,
    running_interactive: u32,
    running: u32,
    last_arrival: u64,
}

#[derive(Debug)]
struct Waiter {
    arrival: u64,
    request: Request,
}

/// A request's claim to a slot. To be given back by [`Waiting::settle`].
#[derive(Debug)]
pub(crate) struct Seat {
    team: Option<TeamId>,
    priority: Priority,
    place: Place,
    is_first: bool,
    charged: u64,
    computed: u64,
    drawn: u32,
}

impl Seat {
    pub(crate) fn team(&self) -> Option<&TeamId> {
        self.team.as_ref()
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Nobody of its team was being answered when it was taken; a batch request never is first.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Nothing was computed for it yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.computed == 0
    }

    /// Counts `computed` tokens for it, and a token of its reply if one came of them.
    pub(crate) fn count(&mut self, computed: u32, is_drawn: bool) {
        self.computed += u64::from(computed);
        self.drawn += u32::from(is_drawn);
    }
}

/// Tokens that those who wait are expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub prompt: u64,
    pub reply: u64,
}

impl Team {
    fn new(id: Option<TeamId>) -> Self {
        Self {
            id,
            lines: Default::default(),
            served: 0,
            running_interactive: 0,
            running: 0,
            last_arrival: 0,
        }
    }

    fn waiting(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    fn first_arrival(&self, priority: Priority) -> Option<u64> {
        Some(self.lines[line(priority)].front()?.arrival)
    }
}

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// True when more than one team sent one of the last requests.
    pub(crate) fn has_rivals(&self) -> bool {
        self.teams.len() > 1
    }

    /// True when so many more of `team` may wait, in a queue of `queue_max`.
    pub(crate) fn has_room(&self, team: Option<&TeamId>, more: usize, queue_max: usize) -> bool {
        if self.count + more <= queue_max {
            return true;
        }
        let reserve = (queue_max / RESERVE_PART).max(1);
        let (mut own, mut others) = (0, 0);
        for other in &self.teams {
            if other.id.as_ref() == team {
                own = other.waiting();
            } else {
                others += usize::from(other.waiting() > 0);
            }
        }
        let share = (reserve / (others + 1)).max(1);
        self.count + more <= queue_max + reserve && own + more <= share
    }

    /// Lets a request wait. True when its team was not present, and another is.
    pub(crate) fn push(&mut self, request: Request) -> bool {
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.teams.retain(|team| {
            let is_present = arrival - team.last_arrival < PRESENT_REQUESTS;
            is_present || team.running > 0 || team.waiting() > 0
        });
        let known = self.teams.iter().position(|team| team.id == request.team);
        let index = known.unwrap_or_else(|| {
            self.teams.push(Team::new(request.team.clone()));
            self.teams.len() - 1
        });
        let team = &mut self.teams[index];
        if team.waiting() == 0 {
            team.served = team.served.max(self.served);
        }
        team.last_arrival = arrival;
        let line = &mut team.lines[line(request.priority)];
        line.push_back(Waiter { arrival, request });
        self.count += 1;
        known.is_none() && self.teams.len() > 1
    }

    /// Those who left while waiting take no place from those who come.
    pub(crate) fn drop_cancelled(&mut self) {
        for line in self.teams.iter_mut().flat_map(|team| &mut team.lines) {
            line.retain(|waiter| !waiter.request.reply.is_cancelled());
        }
        self.count = self.teams.iter().map(Team::waiting).sum();
    }

    /// Takes the next for `place`, if `fits` it.
    pub(crate) fn take_if(
        &mut self,
        place: Place,
        fits: impl FnOnce(&Request) -> bool,
    ) -> Option<(Request, Seat)> {
        if self.count == 0 {
            self.overtakers = None;
            return None;
        }
        self.drop_cancelled();
        let (index, priority) = match place {
            Place::Regular => self.next()?,
            Place::Spare => (self.next_first()?, Priority::Interactive),
        };
        let line_index = line(priority);
        let is_fit = fits(&self.teams[index].lines[line_index].front()?.request);
        match place {
            Place::Regular if is_fit => self.overtakers = None,
            Place::Regular => _ = self.overtakers.get_or_insert(0),
            Place::Spare if is_fit => self.overtakers = self.overtakers.map(|passed| passed + 1),
            Place::Spare => {}
        }
        if !is_fit {
            return None;
        }
        let request = self.teams[index].lines[line_index].pop_front()?.request;
        self.count -= 1;
        self.note_priority(priority);
        Some(self.seat(index, priority, place, request))
    }

    fn note_priority(&mut self, taken: Priority) {
        let batch = line(Priority::Batch);
        let batch_waits = self.teams.iter().any(|team| !team.lines[batch].is_empty());
        self.ahead_of_batch = match taken {
            Priority::Interactive if batch_waits => self.ahead_of_batch.saturating_add(1),
            Priority::Interactive | Priority::Batch => 0,
        };
    }

    fn seat(
        &mut self,
        index: usize,
        priority: Priority,
        place: Place,
        request: Request,
    ) -> (Request, Seat) {
        let charged = count(&request) + u64::from(self.reply_tokens(request.output_max));
        let team = &mut self.teams[index];
        let is_interactive = priority == Priority::Interactive;
        let seat = Seat {
            team: request.team.clone(),
            priority,
            place,
            is_first: is_interactive && team.running_interactive == 0,
            charged,
            computed: 0,
            drawn: 0,
        };
        self.served = self.served.max(team.served);
        team.served = team.served.saturating_add(charged);
        team.running += 1;
        team.running_interactive += u32::from(is_interactive);
        (request, seat)
    }

    /// Takes a seat back, and charges what was computed on it instead of what was expected.
    pub(crate) fn settle(&mut self, seat: Seat) {
        if seat.drawn > 0 {
            let mean = self.reply_tokens.unwrap_or(seat.drawn);
            // An eighth of each new one goes into the mean.
            let mean = (u64::from(mean) * 7 + u64::from(seat.drawn)) / 8;
            self.reply_tokens = Some(u32::try_from(mean).unwrap_or(u32::MAX).max(1));
        }
        // Remembered for as long as one of its requests runs.
        let Some(team) = self.teams.iter_mut().find(|team| team.id == seat.team) else {
            return;
        };
        team.served = team.served.saturating_sub(seat.charged);
        team.served = team.served.saturating_add(seat.computed);
        team.running = team.running.saturating_sub(1);
        if seat.priority == Priority::Interactive {
            team.running_interactive = team.running_interactive.saturating_sub(1);
        }
    }

    /// How many tokens a reply bounded by `output_max` is expected to have.
    pub(crate) fn reply_tokens(&self, output_max: u32) -> u32 {
        output_max.min(self.reply_tokens.unwrap_or(REPLY_TOKENS_GUESS))
    }

    pub(crate) fn ahead(&self) -> Ahead {
        let waiters = self.teams.iter().flat_map(|team| &team.lines).flatten();
        waiters.fold(Ahead::default(), |ahead, waiter| Ahead {
            prompt: ahead.prompt + count(&waiter.request),
            reply: ahead.reply + u64::from(self.reply_tokens(waiter.request.output_max)),
        })
    }

    /// Everyone, for good.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Request> {
        self.count = 0;
        let teams = std::mem::take(&mut self.teams);
        let lines = teams.into_iter().flat_map(|team| team.lines);
        lines.flatten().map(|waiter| waiter.request)
    }

    /// Whose turn it is, and with which of its lines.
    fn next(&self) -> Option<(usize, Priority)> {
        let mut order = Priority::ALL;
        if self.ahead_of_batch >= AHEAD_OF_BATCH_MAX {
            order.reverse();
        }
        order.into_iter().find_map(|priority| {
            let index = self.least_served(priority, |_| true)?;
            Some((index, priority))
        })
    }

    /// The team whose first interactive request is next.
    fn next_first(&self) -> Option<usize> {
        if self.overtakers >= Some(OVERTAKERS_MAX) {
            return None;
        }
        self.least_served(Priority::Interactive, |team| team.running_interactive == 0)
    }

    fn least_served(&self, priority: Priority, may: impl Fn(&Team) -> bool) -> Option<usize> {
        let teams = self.teams.iter().enumerate();
        let waiting = teams
            .filter(|(_, team)| may(team))
            .filter_map(|(index, team)| {
                let arrival = team.first_arrival(priority)?;
                Some((team.served, arrival, index))
            });
        waiting.min().map(|(_, _, index)| index)
    }
}

fn line(priority: Priority) -> usize {
    match priority {
        Priority::Interactive => 0,
        Priority::Batch => 1,
    }
}

fn count(request: &Request) -> u64 {
    request.prompt.len() as u64
}

#[cfg(test)]
mod tests;
