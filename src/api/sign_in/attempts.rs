//! Sign-ins that are under way, of which nothing is kept: a ticket is random bytes and when it was made, and
//! all else follows from it and from a key that this process alone has. So nobody can fill up anything, and
//! what comes back is known to be of this browser and not too old.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use domain::Attempt;
use hashing::{HmacKey, sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// From the way to the provider until back: time for a password and a second factor.
pub(super) const ATTEMPT_MAX: Duration = Duration::from_secs(600);
/// Tickets remembered that have led to a session, for as long as they would be good; then the oldest goes.
const SPENT_MAX: usize = 1_024;

const RANDOM_BYTES: usize = 32;
const TICKET_BYTES: usize = RANDOM_BYTES + 8;

pub(super) struct Attempts {
    key: [u8; 32],
    began: Instant,
    spent: Mutex<VecDeque<(Instant, [u8; 32])>>,
}

impl Attempts {
    pub fn new(key: [u8; 32], now: Instant) -> Self {
        Self {
            key,
            began: now,
            spent: Mutex::default(),
        }
    }

    /// The ticket for the browser, and what is between this node and the provider.
    pub fn begin(&self, random: [u8; RANDOM_BYTES], now: Instant) -> (String, Attempt) {
        let age = now.saturating_duration_since(self.began).as_secs();
        let mut ticket = [0; TICKET_BYTES];
        ticket[..RANDOM_BYTES].copy_from_slice(&random);
        ticket[RANDOM_BYTES..].copy_from_slice(&age.to_be_bytes());
        (encode(&ticket), self.attempt(&ticket))
    }

    /// `None` for a state that is not this ticket's, or a ticket that is too old, spent, or no ticket.
    pub fn resume(&self, ticket: &str, state: &str, now: Instant) -> Option<Attempt> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(ticket).ok()?;
        let bytes: [u8; TICKET_BYTES] = bytes.try_into().ok()?;
        let attempt = self.attempt(&bytes);
        if !bool::from(attempt.state.as_bytes().ct_eq(state.as_bytes())) {
            return None;
        }
        // Ours, from here on.
        let age: [u8; 8] = bytes[RANDOM_BYTES..].try_into().ok()?;
        let begun = self.began + Duration::from_secs(u64::from_be_bytes(age));
        let is_fresh = now.saturating_duration_since(begun) < ATTEMPT_MAX;
        (is_fresh && !self.is_spent(ticket)).then_some(attempt)
    }

    /// The ticket is good no more.
    pub fn spend(&self, ticket: &str, now: Instant) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.retain(|(since, _)| now.saturating_duration_since(*since) < ATTEMPT_MAX);
        if spent.len() >= SPENT_MAX {
            spent.pop_front();
        }
        spent.push_back((now, digest(ticket)));
    }

    fn is_spent(&self, ticket: &str) -> bool {
        let ticket = digest(ticket);
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.iter().any(|(_, it)| *it == ticket)
    }

    fn attempt(&self, ticket: &[u8; TICKET_BYTES]) -> Attempt {
        let derived = |purpose: &str| {
            let mut mac = HmacKey::new(&self.key).begin();
            mac.update(purpose.as_bytes());
            mac.update(ticket);
            encode(&mac.finish())
        };
        Attempt {
            state: derived("state:"),
            nonce: derived("nonce:"),
            verifier: derived("verifier:"),
        }
    }
}

fn digest(ticket: &str) -> [u8; 32] {
    sha256(ticket)
}

/// As cookies and addresses can have it.
pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts() -> (Attempts, Instant) {
        let now = Instant::now();
        (Attempts::new([7; 32], now), now)
    }

    #[test]
    fn an_attempt_goes_on_with_its_own_state_and_no_other() {
        let (attempts, now) = attempts();
        let (ticket, attempt) = attempts.begin([1; 32], now);
        let (other, others) = attempts.begin([2; 32], now);
        assert_eq!(
            attempts.resume(&ticket, &attempt.state, now),
            Some(attempt.clone())
        );
        // Each has 256 bits, and what the browser and the provider's address show does not give the rest.
        for secret in [&attempt.state, &attempt.nonce, &attempt.verifier] {
            assert_eq!(secret.len(), 43);
            assert!(![&others.state, &others.nonce, &others.verifier, &ticket].contains(&secret));
        }
        assert_ne!(attempt.nonce, attempt.verifier);
        for (ticket, state) in [
            (ticket.as_str(), others.state.as_str()),
            (&other, &attempt.state),
            (&ticket, ""),
            (&ticket, &attempt.nonce),
            (&ticket, &attempt.state[..42]),
            ("", &attempt.state),
            ("!", &attempt.state),
            (&ticket[..40], &attempt.state),
        ] {
            assert_eq!(
                attempts.resume(ticket, state, now),
                None,
                "{ticket} {state}"
            );
        }
        let elsewhere = Attempts::new([8; 32], now);
        assert_eq!(elsewhere.resume(&ticket, &attempt.state, now), None);
    }

    #[test]
    fn an_attempt_is_over_after_its_time_and_the_browser_cannot_make_it_younger() {
        let (attempts, now) = attempts();
        let begun = now + Duration::from_secs(50);
        let (ticket, attempt) = attempts.begin([1; 32], begun);
        let last = begun + ATTEMPT_MAX - Duration::from_secs(1);
        assert!(attempts.resume(&ticket, &attempt.state, last).is_some());
        let over = begun + ATTEMPT_MAX;
        assert_eq!(attempts.resume(&ticket, &attempt.state, over), None);
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&ticket).unwrap();
        bytes[TICKET_BYTES - 1] += 9;
        let younger = encode(&bytes);
        assert_eq!(attempts.resume(&younger, &attempt.state, over), None);
        // A time beyond all clocks panics nowhere.
        bytes[RANDOM_BYTES..].fill(0xff);
        assert_eq!(attempts.resume(&encode(&bytes), &attempt.state, now), None);
    }

    #[test]
    fn a_spent_attempt_is_no_good_and_no_more_than_so_many_are_remembered() {
        let (attempts, now) = attempts();
        let (ticket, attempt) = attempts.begin([1; 32], now);
        attempts.spend(&ticket, now);
        assert_eq!(attempts.resume(&ticket, &attempt.state, now), None);
        for at in 0..=SPENT_MAX {
            attempts.spend(&at.to_string(), now);
        }
        assert_eq!(attempts.spent.lock().unwrap().len(), SPENT_MAX);
        attempts.spend("later", now + ATTEMPT_MAX);
        assert_eq!(attempts.spent.lock().unwrap().len(), 1);
    }
}
