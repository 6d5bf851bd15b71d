//! The edge's end of the sealed path: brings requests to relays, and their answers back.
//!
//! ```text
//! Parcel ─choose a member─► its key ─► seal ─► POST ─► open, chunk by chunk ─► Delivered
//!             ▲                │ unknown there                 │ its clock is another
//!             │                └─► fetch the manifest, once    └─► correct, once
//!             └── nothing was sent, or the relay says, sealed, that nothing was done
//! ```
//! What comes in the clear is a hint: the edge may wait or fetch keys, and nothing of it is shown to
//! anybody. What was sent and not answered is sent again under the same key of idempotence, to the
//! same relay, or not at all: so whoever forges an answer on the way buys no second reply. There is no
//! way around the seal, and no weaker one than the policy has.
//!
//! The parts that decide are values without a clock of their own; [`Client::tend`] is what has to be
//! done beside the requests.

mod answer;
mod carry;
mod choice;
mod clock;
mod doubts;
mod figures;
mod journal;
mod keys;
mod member;
mod opening;
mod outer;
mod posting;
mod rules;
mod sealing;
mod sparing;
mod standing;
mod tails;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use domain::{AuditLog, Health, HealthState};
use tokio::time::Instant;

pub use figures::ClientFigures;
pub use member::{ManifestMemory, Member, MemberView};
pub use rules::{CARRIED_FIELDS, ClientFault, ClientRules, MEMBERS_MAX};

use doubts::Doubts;
use figures::Counts;
use member::Relay;
use tails::{TailDesk, Tails};

/// Whatever was sent sealed says so, and nothing about who sent it.
pub const USER_AGENT: &str = "hedge-relay/1";

/// Where requests go, after a member's address.
pub const GATEWAY_PATH: &str = "/.well-known/ohttp-gateway";

/// Where a relay's manifest is, after its address.
pub const MANIFEST_PATH: &str = "/relay/v1/manifest";

/// One or more relays that answer alike, as one [`domain::Carrier`].
pub struct Client {
    rules: Arc<ClientRules>,
    relays: Vec<Arc<Relay>>,
    doubts: Doubts,
    counts: Arc<Counts>,
    /// Of requests, so that members that are alike take turns.
    turn: AtomicUsize,
    audit: Arc<dyn AuditLog>,
    tail_desk: TailDesk,
    tails: Tails,
}

impl Client {
    /// Asks nothing of the network yet, and reads what the members' memories have.
    ///
    /// # Errors
    /// What is wrong with the members.
    pub fn new(
        members: Vec<Member>,
        rules: ClientRules,
        audit: Arc<dyn AuditLog>,
    ) -> Result<Self, ClientFault> {
        if members.is_empty() {
            return Err(ClientFault::NoMember);
        }
        if members.len() > MEMBERS_MAX {
            return Err(ClientFault::TooMany);
        }
        let rules = Arc::new(rules);
        let counts = Arc::new(Counts::default());
        let now = Instant::now();
        let relays = members
            .into_iter()
            .map(|member| Relay::new(member, &rules, &counts, now).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let (tail_desk, tails) = tails::desk(&counts);
        Ok(Self {
            rules,
            relays,
            doubts: Doubts::default(),
            counts,
            turn: AtomicUsize::new(0),
            audit,
            tail_desk,
            tails,
        })
    }

    /// Keeps manifests fresh, looks after members that are down or stopping, and reads out what answers
    /// have left, for as long as it is polled. One at a time.
    pub async fn tend(&self) {
        let keeping = self.relays.iter().map(|relay| relay.tend());
        futures::future::join(futures::future::join_all(keeping), self.tails.run()).await;
    }

    /// What was counted since the start.
    #[must_use]
    pub fn figures(&self) -> ClientFigures {
        self.counts.figures()
    }

    /// Each member as it stands, in the order they were given in.
    #[must_use]
    pub fn members(&self) -> Vec<MemberView> {
        let now = Instant::now();
        self.relays.iter().map(|relay| relay.view(now)).collect()
    }

    fn health_at(&self, now: Instant) -> Health {
        let views: Vec<MemberView> = self.relays.iter().map(|relay| relay.view(now)).collect();
        if views
            .iter()
            .any(|view| view.health.state == HealthState::Ready)
        {
            return Health::READY;
        }
        if views
            .iter()
            .any(|view| view.health.state == HealthState::Starting)
        {
            return Health::of(HealthState::Starting, None);
        }
        let wait = views.iter().filter_map(|view| view.health.wait).min();
        let mut health = Health::of(HealthState::Down, wait);
        health.reason = views.iter().find_map(|view| view.health.reason);
        health
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("relays", &self.relays)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
