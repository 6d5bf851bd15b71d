//! Whether a request is signed, or proven by the session that an earlier one agreed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::session::{SESSION_KEEP, Session, SessionId};

/// From when on a session is replaced: the relay's half of the time is left for that.
const RENEW_AFTER: Duration = Duration::from_secs(SESSION_KEEP.as_secs() / 2);

/// From when on a session is not used: the relay may have forgotten it by the time the request is there.
const SPENT_AFTER: Duration = Duration::from_secs(SESSION_KEEP.as_secs() - 60);

/// From one request that asks for a session to the next: many that begin at once are to agree on one.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How one request is proven.
#[derive(Debug, Clone)]
pub(super) enum Proving {
    Signed { asks: bool },
    By(Arc<Session>),
}

/// The session with one relay.
#[derive(Debug, Default)]
pub(super) struct Sparing(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    session: Option<(Arc<Session>, Instant)>,
    asked_at: Option<Instant>,
}

impl Sparing {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plan(&self, now: Instant) -> Proving {
        let mut held = self.lock();
        let session = held.session.as_ref();
        let age = session.map(|(_, since)| now.saturating_duration_since(*since));
        let is_young = age.is_some_and(|age| age < RENEW_AFTER);
        let was_asked = held
            .asked_at
            .is_some_and(|at| now.saturating_duration_since(at) < ASK_EVERY);
        let is_spent = age.is_none_or(|age| age >= SPENT_AFTER);
        match &held.session {
            Some((session, _)) if is_young || (was_asked && !is_spent) => {
                Proving::By(Arc::clone(session))
            }
            Some(_) | None => {
                if !was_asked {
                    held.asked_at = Some(now);
                }
                Proving::Signed { asks: !was_asked }
            }
        }
    }

    /// The relay granted what was asked for in a request that was sealed at `since`.
    pub(super) fn agreed(&self, session: Session, since: Instant) {
        let mut held = self.lock();
        let is_newer = held
            .session
            .as_ref()
            .is_none_or(|(_, before)| since >= *before);
        if is_newer {
            held.session = Some((Arc::new(session), since));
        }
    }

    /// The relay does not know it.
    pub(super) fn forget(&self, id: SessionId) {
        let mut held = self.lock();
        if held
            .session
            .as_ref()
            .is_some_and(|(held, _)| held.id() == id)
        {
            held.session = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::EncDigest;

    fn session(of: u8) -> Session {
        let digest = EncDigest::of(&[of]);
        Session::agreed("e", "r", &Zeroizing::new([of; 32]), digest).unwrap()
    }

    fn is_by(plan: &Proving, of: u8) -> bool {
        matches!(plan, Proving::By(held) if held.id() == session(of).id())
    }

    #[test]
    fn one_request_asks_and_the_others_go_on() {
        let sparing = Sparing::default();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        assert!(matches!(
            sparing.plan(at(0)),
            Proving::Signed { asks: true }
        ));
        assert!(matches!(
            sparing.plan(at(0)),
            Proving::Signed { asks: false }
        ));
        // The first was lost.
        assert!(matches!(
            sparing.plan(at(1)),
            Proving::Signed { asks: true }
        ));
        sparing.agreed(session(1), at(1));
        assert!(is_by(&sparing.plan(at(300)), 1));
        assert!(matches!(
            sparing.plan(at(301)),
            Proving::Signed { asks: true }
        ));
        assert!(is_by(&sparing.plan(at(301)), 1));
        sparing.agreed(session(2), at(301));
        sparing.agreed(session(1), at(1));
        assert!(is_by(&sparing.plan(at(302)), 2));
        // Nobody asked for so long that it may be gone.
        assert!(matches!(
            sparing.plan(at(841)),
            Proving::Signed { asks: true }
        ));
        assert!(matches!(
            sparing.plan(at(841)),
            Proving::Signed { asks: false }
        ));
    }

    #[test]
    fn what_the_relay_does_not_know_is_forgotten() {
        let sparing = Sparing::default();
        let now = Instant::now();
        assert!(matches!(sparing.plan(now), Proving::Signed { asks: true }));
        sparing.agreed(session(1), now);
        sparing.forget(session(2).id());
        assert!(is_by(&sparing.plan(now), 1));
        sparing.forget(session(1).id());
        // However often it is forgotten, it is asked for once a second.
        assert!(matches!(sparing.plan(now), Proving::Signed { asks: false }));
        let later = now + ASK_EVERY;
        assert!(matches!(
            sparing.plan(later),
            Proving::Signed { asks: true }
        ));
    }
}
