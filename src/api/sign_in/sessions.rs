//! Who is signed in, by the digest of what his browser shows. Time is an argument.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use hashing::sha256;
use tokio::time::Instant;

use crate::operators::Operator;

/// Of all; of one person. One more ends the one that was used the longest ago.
const SESSIONS_MAX: usize = 1_024;
const SESSIONS_PER_PERSON_MAX: usize = 16;

/// How long a session is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRules {
    /// From the sign-in on, whatever is done with it.
    pub lasts: Duration,
    /// Without a request.
    pub idle: Duration,
}

pub(super) struct Sessions {
    rules: SessionRules,
    all: HashMap<[u8; 32], Session>,
}

struct Session {
    subject: String,
    operator: Operator,
    begun: Instant,
    used: Instant,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.all.len())
    }
}

impl Sessions {
    pub fn new(rules: SessionRules) -> Self {
        let all = HashMap::new();
        Self { rules, all }
    }

    pub fn open(&mut self, secret: &str, subject: String, operator: Operator, now: Instant) {
        let rules = self.rules;
        self.all.retain(|_, session| session.is_good(rules, now));
        self.make_room(SESSIONS_PER_PERSON_MAX, |it| it.subject == subject);
        self.make_room(SESSIONS_MAX, |_| true);
        let session = Session {
            subject,
            operator,
            begun: now,
            used: now,
        };
        self.all.insert(digest(secret), session);
    }

    pub fn find(&mut self, secret: &str, now: Instant) -> Option<Operator> {
        let digest = digest(secret);
        let session = self.all.get_mut(&digest)?;
        if !session.is_good(self.rules, now) {
            self.all.remove(&digest);
            return None;
        }
        session.used = now;
        Some(session.operator.clone())
    }

    pub fn close(&mut self, secret: &str) {
        self.all.remove(&digest(secret));
    }

    /// For one more among those that count.
    fn make_room(&mut self, max: usize, counts: impl Fn(&Session) -> bool) {
        let counted = || self.all.iter().filter(|(_, session)| counts(session));
        if counted().count() < max {
            return;
        }
        let oldest = counted().min_by_key(|(_, session)| session.used);
        if let Some(digest) = oldest.map(|(digest, _)| *digest) {
            self.all.remove(&digest);
        }
    }
}

impl Session {
    fn is_good(&self, rules: SessionRules, now: Instant) -> bool {
        let since = |then| now.saturating_duration_since(then);
        since(self.begun) < rules.lasts && since(self.used) < rules.idle
    }
}

fn digest(secret: &str) -> [u8; 32] {
    sha256(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::Role;

    const RULES: SessionRules = SessionRules {
        lasts: Duration::from_secs(1_000),
        idle: Duration::from_secs(100),
    };

    fn olga() -> Operator {
        Operator::of_session("oidc:olga".into(), Role::Operator)
    }

    fn after(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_in_any_case_after_its_time() {
        let now = Instant::now();
        let mut sessions = Sessions::new(RULES);
        sessions.open("a", "olga".into(), olga(), now);
        assert_eq!(&*sessions.find("a", now).unwrap().name, "oidc:olga");
        assert!(sessions.find("b", now).is_none());
        assert!(sessions.find("a", after(now, 99)).is_some());
        // Each use begins the wait anew.
        assert!(sessions.find("a", after(now, 198)).is_some());
        assert!(sessions.find("a", after(now, 298)).is_none());
        assert!(sessions.all.is_empty());

        sessions.open("a", "olga".into(), olga(), now);
        for at in (50..1_000).step_by(50) {
            assert!(sessions.find("a", after(now, at)).is_some(), "{at}");
        }
        assert!(sessions.find("a", after(now, 1_000)).is_none());
    }

    #[test]
    fn a_session_is_kept_by_its_digest_and_ends_when_it_is_closed() {
        let now = Instant::now();
        let mut sessions = Sessions::new(RULES);
        sessions.open("a-secret", "olga".into(), olga(), now);
        let kept: [u8; 32] = *sessions.all.keys().next().unwrap();
        assert_eq!(kept, sha256("a-secret"));
        assert_eq!(format!("{sessions:?}"), "Sessions(1)");
        sessions.close("another");
        assert!(sessions.find("a-secret", now).is_some());
        sessions.close("a-secret");
        assert!(sessions.find("a-secret", now).is_none());
    }

    #[test]
    fn there_are_no_more_than_so_many_of_one_person_and_in_all() {
        let now = Instant::now();
        let mut sessions = Sessions::new(RULES);
        sessions.open("other", "otto".into(), olga(), now);
        for at in 0..=SESSIONS_PER_PERSON_MAX {
            sessions.open(&format!("s{at}"), "olga".into(), olga(), after(now, 1));
            // The first is in use, so that another one goes.
            sessions.find("s0", after(now, 2));
        }
        assert_eq!(sessions.all.len(), SESSIONS_PER_PERSON_MAX + 1);
        assert!(sessions.find("s0", after(now, 3)).is_some());
        assert!(sessions.find("other", after(now, 3)).is_some());
        for at in 0..SESSIONS_MAX {
            let subject = format!("person {at}");
            sessions.open(&subject, subject.clone(), olga(), after(now, 4));
        }
        assert_eq!(sessions.all.len(), SESSIONS_MAX);
        assert!(sessions.find("other", after(now, 5)).is_none());
        // Those that are over make room first.
        sessions.open("late", "olga".into(), olga(), after(now, 500));
        assert_eq!(sessions.all.len(), 1);
    }
}
