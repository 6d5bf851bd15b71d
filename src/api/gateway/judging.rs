//! Whether a request that was opened is to be answered: its time, whose it is, that it is the first of
//! its kind, and what its edge may.

use std::sync::Arc;

use domain::{
    Fault, KeyId, Limit, Measure, ModelAlias, Period, Principal, Priority, Scope, SealedResult,
    TeamId, Thresholds, Tokens, WhenSpent,
};
use http::StatusCode;
use relay::shape::{SHAPE_FIELD, Shape};
use relay::{
    DATE_WINDOW, EDGE_FIELD, Edge, EdgeClaim, EdgePolicy, IDEMPOTENCY_KEY_BYTES_MAX, ReplayRefused,
    SESSION_FIELD, SESSION_YES, Session, UnixTime, Unproven,
};
use tokio::time::Instant;

use super::Gateway;
use super::accounts::UnderWay;
use super::enrolment::PeerCertificate;
use super::inner::{Inner, off_time, refused, said};
use super::opening::Opened;
use super::outer::Peer;

/// What an inner request names its host by: nothing that could be reached.
const AUTHORITY: &str = "relay.invalid";

/// A request that is to be answered.
pub(super) struct Judged {
    pub edge: Arc<Edge>,
    pub shape: Shape,
    pub under_way: UnderWay,
    /// What the answer grants, where it is sealed in chunks.
    pub grant: Option<Grant>,
}

/// A session that an edge asked for and may have: from when it is told of it on.
pub(super) struct Grant {
    edge: Arc<Edge>,
    key_id: String,
    session: Session,
}

impl Grant {
    pub fn keep(self) {
        let now = Instant::now().into_std();
        self.edge.sessions.keep(self.session, &self.key_id, now);
    }
}

/// A request that is not, and what is said of it, sealed.
pub(super) struct Denied {
    pub edge: Option<Arc<Edge>>,
    pub result: SealedResult,
    pub inner: Inner,
}

impl Gateway {
    /// In this order: the time, the proof, that it is new, what the edge may, and its key of
    /// idempotence, which only a request takes that is going to be answered.
    ///
    /// # Errors
    /// Then nothing is done for it.
    pub(super) fn judge(&self, opened: &Opened, peer: &Peer) -> Result<Judged, Box<Denied>> {
        let now = self.books.now();
        let date = date(opened).ok_or_else(|| denied(SealedResult::OffTime, off_time()))?;
        if now.since(date).max(date.since(now)) > DATE_WINDOW {
            return Err(denied(SealedResult::OffTime, off_time()));
        }
        let proven = self.prove(opened, peer);
        let (edge, claim) =
            proven.map_err(|Unproven| denied(SealedResult::Unproven, unproven()))?;
        let of_edge = |denied: Box<Denied>| {
            let edge = Some(Arc::clone(&edge));
            Box::new(Denied { edge, ..*denied })
        };
        self.take(opened, date, now).map_err(of_edge)?;
        let shape = self.may(opened, peer, &edge).map_err(of_edge)?;
        let under_way = self.books.accounts.admit(&edge, now, Instant::now());
        let under_way = under_way
            .map_err(|fault| denied(SealedResult::Capped, refused(&fault, None)))
            .map_err(of_edge)?;
        self.take_key(opened, &edge, now).map_err(of_edge)?;
        Ok(Judged {
            grant: self.grant(opened, &edge, &claim),
            edge,
            shape,
            under_way,
        })
    }

    /// For an edge that asks for one and has signed.
    fn grant(&self, opened: &Opened, edge: &Arc<Edge>, claim: &EdgeClaim) -> Option<Grant> {
        let asks = opened.fields.only(SESSION_FIELD) == Some(SESSION_YES.as_bytes());
        if !asks || !claim.is_signed() {
            return None;
        }
        let relay_id = &self.rules.relay_id;
        let session = Session::agreed(&edge.id, relay_id, &opened.secret, opened.digest)?;
        Some(Grant {
            edge: Arc::clone(edge),
            key_id: claim.key_id().to_owned(),
            session,
        })
    }

    fn prove(&self, opened: &Opened, peer: &Peer) -> Result<(Arc<Edge>, EdgeClaim), Unproven> {
        let value = opened.fields.only(EDGE_FIELD).ok_or(Unproven)?;
        let claim = EdgeClaim::read(value)?;
        let edge = self.edges.find(claim.edge_id()).ok_or(Unproven)?;
        let key = edge.key(claim.key_id()).ok_or(Unproven)?;
        let relay_id = &self.rules.relay_id;
        match claim.session() {
            None => claim.verify(key, relay_id, &opened.secret)?,
            Some(id) => {
                let now = Instant::now().into_std();
                let session = edge.sessions.find(id, claim.key_id(), now);
                claim.verify_by(&*session.ok_or(Unproven)?, relay_id, &opened.secret)?;
            }
        }
        let shown = peer.certificate.as_ref();
        let is_its = |shown: &PeerCertificate| {
            shown.edge_id == edge.id && edge.may_show(shown.ed25519.as_ref())
        };
        let is_shown = shown.is_none_or(is_its);
        if is_shown && !edge.is_revoked() {
            Ok((edge, claim))
        } else {
            Err(Unproven)
        }
    }

    fn take(&self, opened: &Opened, date: UnixTime, now: UnixTime) -> Result<(), Box<Denied>> {
        let taken = self.replays().take(&opened.digest, date, now);
        taken.map_err(|refused| not_first(refused, SealedResult::Replayed))
    }

    fn take_key(&self, opened: &Opened, edge: &Edge, now: UnixTime) -> Result<(), Box<Denied>> {
        let Some(key) = opened.fields.all("idempotency-key").next() else {
            return Ok(());
        };
        let only = opened.fields.only("idempotency-key");
        let key = only.and_then(|_| std::str::from_utf8(key).ok());
        let key = key.filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()));
        let key = key.ok_or_else(|| bad("idempotency-key", "must be one key of 1 to 64 bytes"))?;
        let taken = self.repeats().take(&edge.id, key, now);
        taken.map_err(|refused| not_first(refused, SealedResult::Repeated))
    }

    /// What the edge's policy says of the request's head.
    fn may(&self, opened: &Opened, peer: &Peer, edge: &Edge) -> Result<Shape, Box<Denied>> {
        let policy = &edge.policy;
        if !["", AUTHORITY].contains(&opened.line.authority()) {
            return Err(bad(
                ":authority",
                "must be relay.invalid: which provider answers is not the edge's to say",
            ));
        }
        let path = opened.line.path();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        if !is_plain(path) {
            return Err(bad(
                ":path",
                "must be a path of the API, without dots or hosts",
            ));
        }
        if !policy.paths.iter().any(|granted| granted == path) {
            return Err(forbidden("this edge may not ask at this path"));
        }
        let networks = &policy.networks;
        let is_near = networks
            .iter()
            .any(|network| network.contains(peer.address));
        if !networks.is_empty() && !is_near {
            return Err(forbidden("this edge may not ask from this address"));
        }
        if let Some(shape) = policy.shape {
            return Ok(shape);
        }
        let asked = opened.fields.all(SHAPE_FIELD).next();
        let asked = asked.map(|value| std::str::from_utf8(value).ok()?.parse().ok());
        match asked {
            None => Ok(self.rules.shape),
            Some(Some(shape)) if self.rules.allows(shape) => Ok(shape),
            Some(Some(_) | None) => Err(bad(
                SHAPE_FIELD,
                "must be one of the shapes that the manifest lists",
            )),
        }
    }

    /// The shape of a refusal: what was asked for, where that may be.
    pub(super) fn shape_of_refusal(&self, opened: &Opened, edge: Option<&Edge>) -> Shape {
        if let Some(shape) = edge.and_then(|edge| edge.policy.shape) {
            return shape;
        }
        let asked = opened.fields.only(SHAPE_FIELD);
        let asked = asked.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        let allowed = asked.filter(|shape| self.rules.allows(*shape));
        allowed.unwrap_or(self.rules.shape)
    }
}

/// As the trunk knows an edge: a team of its own, with the models and tokens that it may.
pub(super) fn principal(edge: &Edge) -> Principal {
    let policy = &edge.policy;
    let name = format!("edge:{}", edge.id);
    let grants_any = policy.models.iter().any(|model| model == "*");
    let models = policy.models.iter().map(ModelAlias::new);
    Principal {
        key: Some(KeyId::new(&name)),
        team: TeamId::new(&name),
        models: (!grants_any).then(|| models.collect()),
        networks: None,
        priority: Priority::default(),
        output_tokens_max: policy.output_tokens_max.map(Tokens),
        limits: limits(policy, &name),
        ..Principal::anyone()
    }
}

/// What the trunk holds for each request before it asks anybody, so that those under way together keep
/// within them; what was used before this process began, the gateway knows.
fn limits(policy: &EdgePolicy, name: &str) -> Arc<[Limit]> {
    let tokens = policy.tokens_per_minute_max;
    let tokens = tokens.map(|amount| (Measure::Tokens, amount, Period::Minute));
    let budget = policy.budget_microusd;
    let budget = budget.map(|amount| (Measure::Cost, amount, Period::Month));
    let limits = tokens.into_iter().chain(budget);
    let limits = limits.map(|(measure, amount, per)| Limit {
        scope: Scope::Key(KeyId::new(name)),
        measure,
        amount,
        per,
        burst: amount,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    });
    limits.collect()
}

fn date(opened: &Opened) -> Option<UnixTime> {
    let value = opened.fields.only("date")?;
    UnixTime::from_http_date(std::str::from_utf8(value).ok()?)
}

/// Nothing in it could be taken for a host, or lead elsewhere, by whoever reads it next.
fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains("//")
        && !path.contains(['\\', '@'])
        && !path.to_ascii_lowercase().contains("%2e")
        && !path.to_ascii_lowercase().contains("%2f")
        && path.split('/').all(|part| part != "." && part != "..")
}

fn denied(result: SealedResult, inner: Inner) -> Box<Denied> {
    Box::new(Denied {
        edge: None,
        result,
        inner,
    })
}

fn forbidden(what: &'static str) -> Box<Denied> {
    denied(
        SealedResult::Denied,
        refused(&Fault::Forbidden { what }, None),
    )
}

fn bad(field: &str, message: &str) -> Box<Denied> {
    let fault = Fault::BadRequest(domain::BadRequest::at(field, message));
    denied(SealedResult::Denied, refused(&fault, None))
}

fn unproven() -> Inner {
    said(
        StatusCode::UNAUTHORIZED,
        "authentication_error",
        "unproven_edge",
        "the request proves no edge that is known here",
    )
}

fn not_first(why: ReplayRefused, result: SealedResult) -> Box<Denied> {
    match why {
        ReplayRefused::Date { .. } => denied(SealedResult::OffTime, off_time()),
        ReplayRefused::Seen => denied(
            result,
            said(
                StatusCode::CONFLICT,
                "invalid_request_error",
                "already_taken",
                "the request was taken before, and is not taken twice",
            ),
        ),
        ReplayRefused::Full { wait } => {
            let fault = Fault::Overloaded { retry_after: wait };
            denied(SealedResult::Capped, refused(&fault, None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_nowhere_else() {
        for path in [
            "/v1/chat/completions",
            "/v1/models/a:b",
            "/v1/models/cloud/a.b",
        ] {
            assert!(is_plain(path), "{path}");
        }
        for path in [
            "*",
            "",
            "//evil.example/v1",
            "/v1//evil.example",
            "/../admin",
            "/v1/..",
            "/v1/./chat",
            "/v1/%2e%2E/admin",
            "/v1%2F..%2fadmin",
            "/v1\\..\\admin",
            "/@evil.example/",
            "http://evil.example/",
        ] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn the_trunk_holds_what_an_edge_may_use() {
        let policy = EdgePolicy {
            tokens_per_minute_max: Some(600),
            budget_microusd: Some(50_000),
            ..EdgePolicy::default()
        };
        let edge = Edge {
            id: "branch-7".into(),
            keys: Vec::new(),
            policy,
            is_revoked: std::sync::atomic::AtomicBool::new(false),
            sessions: relay::Sessions::default(),
        };
        let limits = principal(&edge).limits;
        let seen: Vec<_> = limits
            .iter()
            .map(|limit| (limit.measure, limit.amount, limit.per))
            .collect();
        let expected = [
            (Measure::Tokens, 600, Period::Minute),
            (Measure::Cost, 50_000, Period::Month),
        ];
        assert_eq!(seen, expected);
        assert_eq!(limits[0].scope, Scope::Key("edge:branch-7".into()));
    }
}
