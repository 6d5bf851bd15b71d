//! Requests that were sent and turned away in the clear. Whoever is on the way can do that and let the
//! request through all the same; so when the same request comes once more, it goes to the same relay
//! under the same key of idempotence, and is done once at most.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use domain::RequestId;
use tokio::time::Instant;

use crate::replay::IDEMPOTENCE_KEEP;

/// Requests remembered. Of more the oldest is forgotten, and is as a new one if it comes again.
const DOUBTS_MAX: usize = 1_024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) idempotency_key: String,
    pub(super) member: usize,
}

#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<VecDeque<(Instant, RequestId, Doubt)>>);

impl Doubts {
    /// What is remembered of a request, which is forgotten with it.
    pub(super) fn take(&self, id: &RequestId, now: Instant) -> Option<Doubt> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while all
            .front()
            .is_some_and(|(at, ..)| now - *at >= IDEMPOTENCE_KEEP)
        {
            all.pop_front();
        }
        let at = all.iter().position(|(_, known, _)| known == id)?;
        all.remove(at).map(|(_, _, doubt)| doubt)
    }

    pub(super) fn keep(&self, id: RequestId, doubt: Doubt, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == DOUBTS_MAX {
            all.pop_front();
        }
        all.push_back((now, id, doubt));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(member: usize) -> Doubt {
        Doubt {
            idempotency_key: format!("k-{member}"),
            member,
        }
    }

    #[test]
    fn a_doubt_is_taken_once_and_kept_as_long_as_relays_keep_keys() {
        let start = Instant::now();
        let doubts = Doubts::default();
        doubts.keep("a".into(), doubt(1), start);
        doubts.keep("b".into(), doubt(2), start);
        assert_eq!(doubts.take(&"a".into(), start), Some(doubt(1)));
        assert_eq!(doubts.take(&"a".into(), start), None);
        let late = start + IDEMPOTENCE_KEEP;
        assert_eq!(doubts.take(&"b".into(), late), None);
    }

    #[test]
    fn the_oldest_doubt_gives_way() {
        let start = Instant::now();
        let doubts = Doubts::default();
        for number in 0..=DOUBTS_MAX {
            let id = format!("r-{number}");
            doubts.keep(id.as_str().into(), doubt(number), start);
        }
        assert_eq!(doubts.take(&"r-0".into(), start), None);
        assert_eq!(doubts.take(&"r-1".into(), start), Some(doubt(1)));
    }
}
