//! Which of several equal candidates is asked first.
//!
//! A conversation sticks to one of them, so that what its provider keeps of a prompt is of use again:
//! the one that highest random weight gives it (D. Thaler and C. Ravishankar, "A Name-Based Mapping
//! Scheme for Rendezvous", 1996), in proportion to the weights (the logarithmic method of J. Resch,
//! "New Hashing Algorithms for Data Storage", 2015). It leaves that one while it is unwell or much more
//! loaded than another. Then, and where nothing sticks, two are drawn by weight and the less loaded is
//! asked (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use domain::{ChatRequest, Part, Role, TeamId};

/// Of a conversation's beginning, what tells it from others.
const BEGINNING_BYTES_MAX: usize = 4 * 1024;

/// A conversation leaves the one it sticks to when that costs this many times what the best does,
const LEAVE_FACTOR: f64 = 4.0;
/// and more than this: short waits are no reason to lose what was kept.
const LEAVE_COST_MIN: Duration = Duration::from_secs(1);

/// What one who was never asked is thought to take.
const UNKNOWN_TAKES: Duration = Duration::from_millis(1);

/// One of the equals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Equal {
    /// Its share of the conversations, beside the others'. Not 0.
    pub weight: u32,
    /// How long its chats take to their first event, peaks first.
    pub takes: Duration,
    /// Chats it has under way.
    pub in_flight: u32,
    /// Of its latest chats, those that it failed; 0 to 1.
    pub failed_share: f64,
    /// Whether it may be asked now.
    pub is_well: bool,
    /// Tells it from the others; the same for all nodes and for good.
    pub name_hash: u64,
}

impl Equal {
    /// What asking it costs, in seconds: a failure costs a whole further try.
    fn cost(&self) -> f64 {
        let takes = self.takes.max(UNKNOWN_TAKES).as_secs_f64();
        let chance = (1.0 - self.failed_share).max(0.05);
        takes * f64::from(self.in_flight + 1) / (chance * chance)
    }

    fn preference(&self, conversation: u64) -> f64 {
        let mut hasher = DefaultHasher::new();
        (conversation, self.name_hash).hash(&mut hasher);
        // From just above 0 to just below 1.
        let draw = ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(self.weight.max(1)) / draw.ln()
    }
}

/// The order in which to ask `equals`, as indices. `conversation` says to whom it sticks; `random` are
/// two numbers from 0 to 1.
#[must_use]
pub fn order(equals: &[Equal], conversation: Option<u64>, random: [f64; 2]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..equals.len()).collect();
    // Whoever is not first follows by cost.
    order.sort_by(|one, other| {
        let (one, other) = (&equals[*one], &equals[*other]);
        let unwell = (!one.is_well).cmp(&!other.is_well);
        unwell.then(one.cost().total_cmp(&other.cost()))
    });
    let Some(best) = order.first().map(|at| equals[*at].cost()) else {
        return order;
    };
    let sticky = conversation.and_then(|conversation| preferred(equals, conversation));
    let stays = |at: &usize| {
        let cost = equals[*at].cost();
        cost <= (best * LEAVE_FACTOR).max(LEAVE_COST_MIN.as_secs_f64())
            && equals[*at].failed_share < LEAVE_FAILED_SHARE
    };
    let first = sticky.filter(stays).or_else(|| of_two(equals, random));
    if let Some(first) = first {
        order.retain(|at| *at != first);
        order.insert(0, first);
    }
    order
}

/// A conversation leaves one that fails as many of its chats.
const LEAVE_FAILED_SHARE: f64 = 0.2;

/// Whom the conversation sticks to, among those that are well.
fn preferred(equals: &[Equal], conversation: u64) -> Option<usize> {
    let well = (0..equals.len()).filter(|at| equals[*at].is_well);
    well.max_by(|one, other| {
        let preference = |at: &usize| equals[*at].preference(conversation);
        preference(one).total_cmp(&preference(other))
    })
}

/// The less costly of two that are well, drawn by weight.
fn of_two(equals: &[Equal], random: [f64; 2]) -> Option<usize> {
    let first = drawn(equals, None, random[0])?;
    let Some(second) = drawn(equals, Some(first), random[1]) else {
        return Some(first);
    };
    let is_less = equals[second].cost() < equals[first].cost();
    Some(if is_less { second } else { first })
}

fn drawn(equals: &[Equal], beside: Option<usize>, random: f64) -> Option<usize> {
    let left = || {
        let all = equals.iter().enumerate();
        all.filter(move |(at, equal)| equal.is_well && Some(*at) != beside)
    };
    let total: f64 = left()
        .map(|(_, equal)| f64::from(equal.weight.max(1)))
        .sum();
    let mut rest = total * random.clamp(0.0, 1.0);
    for (at, equal) in left() {
        rest -= f64::from(equal.weight.max(1));
        if rest < 0.0 {
            return Some(at);
        }
    }
    left().next_back().map(|(at, _)| at)
}

/// What a conversation's requests have in common: the team, whose prompts are not another's to share,
/// the instructions and the first words of the user. The same in every process of one build, so that
/// several nodes agree.
#[must_use]
pub fn conversation(team: &TeamId, request: &ChatRequest) -> u64 {
    let mut hasher = DefaultHasher::new();
    team.as_str().hash(&mut hasher);
    let mut room = BEGINNING_BYTES_MAX;
    for message in &request.messages {
        message.role.as_label().hash(&mut hasher);
        for part in &message.content {
            let Part::Text(text) = part else {
                continue;
            };
            let taken = &text.as_bytes()[..text.len().min(room)];
            hasher.write(taken);
            room -= taken.len();
        }
        if room == 0 || message.role == Role::User {
            break;
        }
    }
    hasher.finish()
}

/// A name as [`Equal::name_hash`].
#[must_use]
pub fn name_hash(backend: &str, model: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (backend, model).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use domain::Message;

    use super::*;

    fn equal(name: &str, takes_ms: u64) -> Equal {
        Equal {
            weight: 1,
            takes: Duration::from_millis(takes_ms),
            in_flight: 0,
            failed_share: 0.0,
            is_well: true,
            name_hash: name_hash(name, "m"),
        }
    }

    fn first(equals: &[Equal], conversation: u64) -> usize {
        order(equals, Some(conversation), [0.0, 0.0])[0]
    }

    #[test]
    fn conversations_spread_by_weight_and_one_that_goes_moves_only_its_own() {
        let mut equals = [equal("a", 100), equal("b", 100), equal("c", 100)];
        equals[0].weight = 2;
        let mut shares = [0; 3];
        for conversation in 0..4_000 {
            let before = first(&equals, conversation);
            shares[before] += 1;
            let mut without = equals;
            without[2].is_well = false;
            let after = first(&without, conversation);
            assert!(before == 2 || before == after, "{conversation}");
        }
        assert!((1_850..2_150).contains(&shares[0]), "{shares:?}");
        assert!((880..1_120).contains(&shares[1]), "{shares:?}");
    }

    #[test]
    fn a_conversation_leaves_one_that_is_unwell_failing_or_much_more_loaded() {
        let well = [equal("a", 500), equal("b", 500)];
        let sticky = first(&well, 7);
        let other = 1 - sticky;
        let check = |change: fn(&mut Equal), wanted: usize| {
            let mut equals = well;
            change(&mut equals[sticky]);
            assert_eq!(first(&equals, 7), wanted, "{equals:?}");
        };
        check(|_| {}, sticky);
        check(|it| it.in_flight = 2, sticky);
        check(|it| it.in_flight = 20, other);
        check(|it| it.takes = Duration::from_secs(30), other);
        check(|it| it.failed_share = 0.3, other);
        check(|it| it.is_well = false, other);
    }

    #[test]
    fn a_quick_provider_is_not_left_for_a_quicker_one() {
        let mut equals = [equal("a", 1), equal("b", 1)];
        let sticky = first(&equals, 3);
        equals[sticky].takes = Duration::from_millis(300);
        assert_eq!(first(&equals, 3), sticky, "what it keeps is worth more");
    }

    #[test]
    fn of_two_drawn_by_weight_the_less_loaded_is_asked() {
        let mut equals = [equal("a", 100), equal("b", 100), equal("c", 100)];
        equals[0].in_flight = 3;
        let first = |random| order(&equals, None, random)[0];
        assert_eq!(first([0.0, 0.0]), 1, "a and b are drawn");
        assert_eq!(first([0.0, 0.9]), 2, "a and c are drawn");
        assert_eq!(first([0.5, 0.0]), 1, "b and a are drawn");
        equals[1].is_well = false;
        equals[2].is_well = false;
        assert_eq!(order(&equals, None, [0.9, 0.9])[0], 0, "one is left");
        equals[0].is_well = false;
        assert_eq!(order(&equals, None, [0.9, 0.9]).len(), 3, "all are tried");
        assert!(order(&[], None, [0.0, 0.0]).is_empty());
    }

    #[test]
    fn a_conversation_keeps_its_beginning_and_teams_do_not_share_one() {
        let of = |team: &str, texts: &[(Role, &str)]| {
            let messages = texts.iter().map(|(role, text)| Message::new(*role, *text));
            conversation(&team.into(), &ChatRequest::new("m", messages.collect()))
        };
        let begun = [(Role::System, "In verse."), (Role::User, "Why is it blue?")];
        let later = [
            begun[0],
            begun[1],
            (Role::Assistant, "So."),
            (Role::User, "And red?"),
        ];
        let base = of("a", &begun);
        assert_eq!(base, of("a", &later));
        assert_ne!(base, of("b", &begun));
        assert_ne!(base, of("a", &[begun[0], (Role::User, "Why?")]));
    }
}
