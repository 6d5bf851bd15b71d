//! One request on its way: to a member, and on to another where nothing was done for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use domain::{BackendError, Carrier, Delivered, Enough, Health, Parcel};
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};
use tokio::time::Instant;
use tracing::warn;

use super::Client;
use super::answer::{Incoming, Reader, body};
use super::choice::{Standpoint, choose};
use super::doubts::Doubt;
use super::figures::{add, count};
use super::journal::Journal;
use super::keys::{FetchFailed, Usable};
use super::member::{Relay, Seat};
use super::opening::{Head, Opening};
use super::outer::{self, Outer, PROBLEM_BYTES_MAX};
use super::posting::{PostFailed, post};
use super::sealing::{Agreed, Sealed, Terms, Unsealed, idempotency_key, seal};
use super::sparing::Proving;
use crate::problem::{OuterRefusal, names_date};
use crate::session::{SESSION_FIELD, SESSION_YES};

/// Requests up to this are sealed on the network's threads: 256 KiB take 0.1 ms at 2.6 GB/s, beside the
/// 0.15 ms of a fresh key.
const SEAL_INLINE_BYTES_MAX: usize = 256 << 10;

/// Fields that an answer has for the edge alone.
const OWN_FIELDS: &str = "relay-";

/// A request, and what became of it so far.
struct Errand {
    parcel: Arc<Parcel>,
    idempotency_key: String,
    /// It was sent before and turned away in the clear: it may have been done.
    is_doubtful: bool,
    /// The only member that it may go to.
    pinned: Option<usize>,
    /// Of members, by their index.
    tried: u32,
}

/// What came of a member.
enum Asked {
    Delivered(Delivered),
    Failed(BackendError),
    /// Nothing was done for it there, and another may.
    Undone(Undone),
}

enum Undone {
    Unsent(BackendError),
    /// The relay said so, sealed.
    Said(Delivered),
}

#[async_trait]
impl Carrier for Client {
    async fn carry(&self, parcel: Parcel) -> Result<Delivered, BackendError> {
        let now = Instant::now();
        let doubt = self.doubts.take(&parcel.request_id, now);
        let mut errand = match doubt {
            Some(Doubt {
                idempotency_key,
                member,
            }) => Errand {
                parcel: Arc::new(parcel),
                idempotency_key,
                is_doubtful: true,
                pinned: Some(member),
                tried: 0,
            },
            None => Errand {
                idempotency_key: idempotency_key(
                    std::time::SystemTime::now().into(),
                    &mut fresh()?,
                ),
                parcel: Arc::new(parcel),
                is_doubtful: false,
                pinned: None,
                tried: 0,
            },
        };
        let mut undone = Undone::Unsent(BackendError::Unreachable("no relay can be reached"));
        while let Some(member) = self.choose(&errand) {
            if errand.tried != 0 {
                count(&self.counts.failovers);
            }
            errand.tried |= 1 << member;
            match self.ask(member, &mut errand).await {
                Asked::Delivered(delivered) => return Ok(delivered),
                Asked::Failed(error) => return Err(error),
                Asked::Undone(there) => undone = there,
            }
        }
        match undone {
            Undone::Said(delivered) => Ok(delivered),
            Undone::Unsent(error) => Err(error),
        }
    }

    fn health(&self) -> Health {
        self.health_at(Instant::now())
    }
}

impl Client {
    fn choose(&self, errand: &Errand) -> Option<usize> {
        let is_tried = |member: usize| errand.tried & (1 << member) != 0;
        if let Some(member) = errand.pinned {
            return (!is_tried(member)).then_some(member);
        }
        let now = Instant::now();
        let members = self.relays.iter().enumerate();
        let members: Vec<Standpoint> = members
            .map(|(member, relay)| Standpoint {
                is_open: !is_tried(member) && relay.is_open(now),
                has_key: relay.has_key(),
                in_flight: relay.in_flight(),
            })
            .collect();
        choose(&members, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// One member, with one more try for each thing that it may set right.
    async fn ask(&self, member: usize, errand: &mut Errand) -> Asked {
        let relay = &self.relays[member];
        let seat = relay.seat();
        let (mut has_rekeyed, mut has_redated, mut has_resigned) = (false, false, false);
        loop {
            let usable = match key(relay).await {
                Ok(usable) => usable,
                Err(error) => return errand.unsent(error),
            };
            let fetches = usable.attempts;
            let sealed_at = Instant::now();
            // Where the keys are others, so are the sessions.
            let proving = if has_resigned || has_rekeyed {
                Proving::Signed { asks: false }
            } else {
                relay.proving(sealed_at)
            };
            let sealed = match self.sealed(relay, errand, usable, proving).await {
                Ok(sealed) => sealed,
                Err(error) => return Asked::Failed(error),
            };
            let mut journal =
                Journal::begin(relay, &errand.parcel, &sealed, &self.rules, &self.audit);
            count(&self.counts.sealed_requests);
            add(&self.counts.content_up_bytes, errand.parcel.body.len());
            add(&self.counts.sealed_up_bytes, sealed.bytes.len());
            let Sealed {
                bytes,
                opener,
                agreed,
                ..
            } = sealed;
            let posted = post(relay, Bytes::from(bytes), self.rules.connect_timeout).await;
            let response = match posted {
                Ok(response) => response,
                Err(PostFailed::Unsent(error)) => {
                    journal.forget();
                    relay.missed(Instant::now());
                    return errand.unsent(error);
                }
                Err(PostFailed::Broken) => {
                    journal.broken();
                    count(&self.counts.broken);
                    return Asked::Failed(BackendError::Interrupted);
                }
            };
            match outer::outer(response.status(), response.headers()) {
                Outer::Sealed => {}
                Outer::MaybeKey => {
                    journal.broken();
                    let names_key = OuterRefusal::names_key(&start_of(response).await);
                    errand.is_doubtful = true;
                    if names_key && !has_rekeyed && relay.fetched(fetches).await.is_ok() {
                        has_rekeyed = true;
                        count(&self.counts.rekeyed);
                        continue;
                    }
                    return Asked::Failed(BackendError::Failed { status: 400 });
                }
                Outer::TurnedAway { wait } => {
                    journal.broken();
                    let now = Instant::now();
                    relay.turned_away(now, wait);
                    self.doubt(member, errand, now);
                    return Asked::Failed(BackendError::Overloaded { retry_after: wait });
                }
                Outer::Failed { status } => {
                    journal.broken();
                    return Asked::Failed(BackendError::Failed { status });
                }
                Outer::Strange => {
                    journal.broken();
                    let words = "what came from the relay's address is not sealed";
                    return Asked::Failed(BackendError::Garbled(words));
                }
            }
            let takes_slim = self.rules.takes_slim && errand.parcel.is_streamed;
            let opening = Opening::new(opener, takes_slim);
            let mut incoming = Incoming::new(response, opening, journal, Arc::clone(&self.counts));
            let (head, has_ended) = match incoming.head().await {
                Ok(head) => head,
                Err(error) => return Asked::Failed(error),
            };
            relay.answered();
            match agreed {
                Agreed::Asked(session) if grants_session(&head) => {
                    relay.sparing.agreed(session, sealed_at);
                }
                Agreed::Used(session) if !has_resigned && is_unproven(&head) => {
                    relay.sparing.forget(session);
                    self.leave(incoming, has_ended);
                    has_resigned = true;
                    count(&self.counts.resigned);
                    continue;
                }
                Agreed::Asked(_) | Agreed::Used(_) | Agreed::Nothing => {}
            }
            match outer::sealed(&head) {
                outer::Sealed::OffTime { relay: theirs } => {
                    let body = match incoming.whole(has_ended, PROBLEM_BYTES_MAX).await {
                        Ok(body) => body,
                        Err(error) => return Asked::Failed(error),
                    };
                    self.leave(incoming, has_ended);
                    if !has_redated && names_date(&body) && relay.clock.correct(theirs) {
                        has_redated = true;
                        count(&self.counts.redated);
                        warn!(
                            relay = relay.id(),
                            "clock differs from the relay's: corrected"
                        );
                        continue;
                    }
                    return Asked::Failed(BackendError::Failed { status: 400 });
                }
                outer::Sealed::Passed { wait } => {
                    if head.status == 503 {
                        relay.turned_away(Instant::now(), wait);
                    }
                    let delivered = self.deliver(head, incoming, has_ended, seat, errand);
                    delivered.enough.tell();
                    if errand.is_doubtful {
                        self.doubt(member, errand, Instant::now());
                        return Asked::Delivered(delivered);
                    }
                    return Asked::Undone(Undone::Said(delivered));
                }
                outer::Sealed::Answer => {
                    if errand.is_doubtful && head.status == 409 {
                        // It was done the first time, and its answer is lost.
                        self.leave(incoming, has_ended);
                        return Asked::Failed(BackendError::Interrupted);
                    }
                    let delivered = self.deliver(head, incoming, has_ended, seat, errand);
                    return Asked::Delivered(delivered);
                }
            }
        }
    }

    /// Remembers that the request may have been done, for when it comes again.
    fn doubt(&self, member: usize, errand: &Errand, now: Instant) {
        let doubt = Doubt {
            idempotency_key: errand.idempotency_key.clone(),
            member,
        };
        self.doubts
            .keep(errand.parcel.request_id.clone(), doubt, now);
    }

    /// Has the rest read out of what nobody is to see.
    fn leave(&self, incoming: Incoming, has_ended: bool) {
        if !has_ended {
            self.tail_desk.leave(Box::new(incoming));
        }
    }

    async fn sealed(
        &self,
        relay: &Arc<Relay>,
        errand: &Errand,
        usable: Usable,
        proving: Proving,
    ) -> Result<Sealed, BackendError> {
        let is_long = errand.parcel.body.len() > SEAL_INLINE_BYTES_MAX;
        let (relay, rules) = (Arc::clone(relay), Arc::clone(&self.rules));
        let (parcel, key) = (Arc::clone(&errand.parcel), errand.idempotency_key.clone());
        let work = move || {
            let terms = Terms {
                edge_id: &relay.edge_id,
                key_id: &relay.key_id,
                secret: &relay.secret,
                proving: &proving,
                relay_id: relay.id(),
                idempotency_key: &key,
                date: relay.clock.now(),
            };
            seal(&parcel, &usable, &rules, &terms, &mut fresh()?).map_err(unsealed)
        };
        if is_long {
            const LOST: BackendError = BackendError::Unreachable("the request could not be sealed");
            tokio::task::spawn_blocking(work).await.unwrap_or(Err(LOST))
        } else {
            work()
        }
    }

    fn deliver(
        &self,
        head: Head,
        incoming: Incoming,
        has_ended: bool,
        seat: Seat,
        errand: &Errand,
    ) -> Delivered {
        let enough = Enough::default();
        let reader = Reader {
            enough: enough.clone(),
            tails: self.tail_desk.clone(),
            // A whole reply shows nothing before it is there.
            idle: errand.parcel.is_streamed.then_some(self.rules.idle_timeout),
            seat,
        };
        let headers = head.header.iter();
        let headers = headers.filter(|(name, _)| !name.starts_with(OWN_FIELDS));
        Delivered {
            status: head.status,
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_vec()))
                .collect(),
            body: body(incoming, has_ended, reader),
            enough,
        }
    }
}

impl Errand {
    /// Nothing was sent now. What was sent before may have been done.
    fn unsent(&self, error: BackendError) -> Asked {
        if self.is_doubtful {
            Asked::Failed(BackendError::Interrupted)
        } else {
            Asked::Undone(Undone::Unsent(error))
        }
    }
}

/// What to seal to. Fetched where there is nothing, unless that was tried just now.
async fn key(relay: &Relay) -> Result<Usable, BackendError> {
    if let Some(usable) = relay.keys.usable(relay.clock.now()) {
        return Ok(usable);
    }
    let now = Instant::now();
    if !relay.keys.is_fresh(now)
        && let Err(FetchFailed::Unreached) = relay.fetched(relay.keys.attempts()).await
    {
        relay.missed(now);
    }
    let usable = relay.keys.usable(relay.clock.now());
    usable.ok_or(BackendError::Unreachable(
        "the relay has no key that may be sealed to",
    ))
}

fn grants_session(head: &Head) -> bool {
    head.header.only(SESSION_FIELD) == Some(SESSION_YES.as_bytes())
}

/// The relay says, sealed, that it did nothing, because nothing was proven.
fn is_unproven(head: &Head) -> bool {
    head.status == 401 && outer::is_undone(head)
}

/// A generator for one request, from the system's own randomness: a machine that was copied, or set back,
/// draws anew.
fn fresh() -> Result<StdRng, BackendError> {
    const NONE: BackendError = BackendError::Unreachable("the system gives no randomness");
    StdRng::try_from_rng(&mut SysRng).map_err(|_| NONE)
}

fn unsealed(unsealed: Unsealed) -> BackendError {
    match unsealed {
        Unsealed::TooLong => {
            BackendError::declined("messages", "the request is longer than its relay takes")
        }
        Unsealed::Head(_) => BackendError::declined(
            "model",
            "what the request says cannot stand in a path or in a header",
        ),
        Unsealed::Key | Unsealed::Unproven(_) => {
            BackendError::Unreachable("nothing can be sealed to the relay's key")
        }
    }
}

/// The beginning of an answer in the clear. One that breaks off is judged by what came.
async fn start_of(mut response: reqwest::Response) -> Vec<u8> {
    let mut start = Vec::new();
    while let Ok(Some(more)) = response.chunk().await {
        let room = PROBLEM_BYTES_MAX - start.len();
        start.extend_from_slice(&more[..more.len().min(room)]);
        if start.len() == PROBLEM_BYTES_MAX {
            break;
        }
    }
    start
}
