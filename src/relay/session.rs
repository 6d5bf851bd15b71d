//! What spares a signature for each request: a key that both ends have of one request that was proven
//! by one.
//!
//! ```text
//! edge ─ signed request, relay-session: ?1 ─► relay      both: key = HMAC-SHA256(s, label, names)
//! edge ◄──────────── answer, relay-session: ?1 ─ relay   the relay keeps it under the request's digest
//! edge ─ next request, alg="session" ───────► relay      a MAC over that request's own secret
//! ```
//! `s` is the secret that the signature was made over (see [`crate::EdgeSecret::prove`]), which only the
//! two ends of that request have. A session is its edge's: it is gone with the edge's key, its policy or
//! the edge itself, after [`SESSION_KEEP`], and when the relay starts anew; the edge then signs again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hkdf::hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::proof::{Unproven, names};
use crate::sealed::{EncDigest, ProofSecret};

/// Asks for a session in a request, and grants it in an answer, as [`SESSION_YES`].
pub const SESSION_FIELD: &str = "relay-session";

/// A boolean of RFC 9651.
pub const SESSION_YES: &str = "?1";

/// How long a session counts, from the answer on that granted it.
pub const SESSION_KEEP: Duration = Duration::from_secs(600);

/// Sessions of one edge at once, as of so many processes with its key. Beyond, the oldest goes.
pub const SESSIONS_MAX: usize = 32;

const KEY_LABEL: &[u8] = b"relay/1 edge session";
const PROOF_LABEL: &[u8] = b"relay/1 edge session proof";

/// What a session is known by: the digest of the request that it was agreed in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId([u8; 16]);

impl SessionId {
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<EncDigest> for SessionId {
    fn from(digest: EncDigest) -> Self {
        Self(*digest.as_bytes())
    }
}

/// A session, as either end has it.
#[derive(Clone)]
pub struct Session {
    id: SessionId,
    key: Zeroizing<[u8; 32]>,
}

impl Session {
    /// Of a request that was proven by a signature.
    pub fn agreed(
        edge_id: &str,
        relay_id: &str,
        secret: &ProofSecret,
        digest: EncDigest,
    ) -> Option<Self> {
        let said = mac(&**secret, KEY_LABEL, edge_id, relay_id, &[])?.finalize();
        let key = Zeroizing::new(said.into_bytes().into());
        let id = digest.into();
        Some(Self { id, key })
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn prove(
        &self,
        edge_id: &str,
        relay_id: &str,
        secret: &ProofSecret,
    ) -> Option<[u8; 32]> {
        let mac = mac(&*self.key, PROOF_LABEL, edge_id, relay_id, &**secret)?;
        Some(mac.finalize().into_bytes().into())
    }

    pub(crate) fn verify(
        &self,
        edge_id: &str,
        relay_id: &str,
        secret: &ProofSecret,
        proof: &[u8],
    ) -> Result<(), Unproven> {
        let mac = mac(&*self.key, PROOF_LABEL, edge_id, relay_id, &**secret);
        let verified = mac.ok_or(Unproven)?.verify_slice(proof);
        verified.map_err(|_| Unproven)
    }
}

fn mac(
    key: &[u8],
    label: &[u8],
    edge_id: &str,
    relay_id: &str,
    secret: &[u8],
) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(label);
    mac.update(&names(edge_id, relay_id));
    mac.update(secret);
    Some(mac)
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?})", self.id)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:02x?})", &self.0[..4])
    }
}

/// The sessions of one edge, at the relay.
#[derive(Default)]
pub struct Sessions(Mutex<VecDeque<Kept>>);

struct Kept {
    session: Arc<Session>,
    /// The edge's key that it was agreed under: without that one it does not count.
    key_id: String,
    since: Instant,
}

fn forget_old(all: &mut VecDeque<Kept>, now: Instant) {
    let is_over = |kept: &Kept| now.saturating_duration_since(kept.since) >= SESSION_KEEP;
    while all.front().is_some_and(is_over) {
        all.pop_front();
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn keep(&self, session: Session, key_id: &str, now: Instant) {
        let mut all = self.lock();
        forget_old(&mut all, now);
        while all.len() >= SESSIONS_MAX {
            all.pop_front();
        }
        all.push_back(Kept {
            session: Arc::new(session),
            key_id: key_id.to_owned(),
            since: now,
        });
    }

    pub fn find(&self, id: SessionId, key_id: &str, now: Instant) -> Option<Arc<Session>> {
        let mut all = self.lock();
        forget_old(&mut all, now);
        // The youngest is most likely the one.
        let found = all.iter().rev().find(|kept| kept.session.id == id)?;
        (found.key_id == key_id).then(|| Arc::clone(&found.session))
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.len())
    }
}
