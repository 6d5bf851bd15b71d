//! Trying the candidates: the commit point of an exchange.
//!
//! A candidate's stream is kept only when its first content arrives in time; `Started` is held back
//! until then. Before that, failure moves on to the next candidate; after it, an error goes to the
//! caller in-band. No reply is stitched from two backends.

use std::sync::Arc;
use std::time::Duration;

use domain::{
    Backend, BackendCard, BackendError, ChatEvent, ChatRequest, ChatStream, Classify, Delivery,
    Fault, Outbound, RouteTaken, Tier, TimeoutPhase, read_head,
};
use policy::Candidate;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::answer::{Refusal, RouteLabel};
use crate::snapshot::Snapshot;
use crate::stages::{Failed, Missed, Opened, Planned};
use crate::trunk::{SCAN_INLINE_BYTES_MAX, refuse};

/// For a remote reply asked for whole. Upstreams have limits of their own below this one.
const WHOLE_REPLY_MAX: Duration = Duration::from_secs(3600);

pub(crate) async fn open(planned: Planned) -> Result<Opened, Refusal> {
    let Planned {
        missed: Missed {
            mut admitted,
            findings,
            key,
        },
        plan,
    } = planned;
    let began = Instant::now();
    let snapshot = Arc::clone(&admitted.snapshot);
    let mut failed: Vec<Failed> = Vec::new();
    let mut request = Some(admitted.request);

    for (at, candidate) in plan.candidates.iter().enumerate() {
        let is_last = at + 1 == plan.candidates.len();
        let Some(backend) = snapshot.backends().get(candidate.backend) else {
            continue;
        };
        let Some(request) = take_or_clone(&mut request, is_last) else {
            break;
        };
        let card = backend.card();
        let seal = {
            let (id, model) = (admitted.context.request_id.clone(), candidate.model.clone());
            let (findings, trust) = (Arc::clone(&findings), card.trust);
            move || Outbound::seal(id, model, request, &findings, trust)
        };
        let body_bytes = admitted.context.body_bytes;
        let sealed = if body_bytes <= SCAN_INLINE_BYTES_MAX || findings.is_empty() {
            Ok(seal())
        } else {
            tokio::task::spawn_blocking(seal).await
        };
        let Ok(call) = sealed else {
            return Err(refuse(&mut admitted.receipt, Fault::Internal, None));
        };
        let call = call
            .of_body_bytes(body_bytes)
            .for_team(admitted.principal.team.clone())
            .with_priority(admitted.context.priority.max(admitted.principal.priority));
        let patience = patience(&snapshot, card, is_last, call.request().delivery);
        match first_content(backend, call, patience).await {
            Ok((head, rest)) => {
                admitted.timings.open = began.elapsed();
                let reason = reason(candidate, &plan.passed_over, &failed, &snapshot);
                admitted.receipt.note(|record| {
                    record.route = Some(RouteTaken {
                        backend: card.name.clone(),
                        model: if card.is_local() {
                            card.listed_name(&candidate.model)
                        } else {
                            candidate.model.clone()
                        },
                        is_local: card.is_local(),
                    });
                    record.reason.clone_from(&reason);
                });
                // A reply over raw findings, or by a stand-in, is not what the key promises.
                let saw_findings = findings
                    .iter()
                    .any(|finding| card.trust >= finding.trust_min);
                let is_stand_in = !failed.is_empty() || !plan.passed_over.is_empty();
                let key = key.filter(|_| !is_stand_in && !saw_findings);
                return Ok(Opened {
                    findings,
                    key,
                    route: label(card, &candidate.model),
                    reason,
                    head,
                    rest,
                    receipt: admitted.receipt,
                    timings: admitted.timings,
                    snapshot,
                });
            }
            Err(error) => {
                debug!(backend = %card.name, error = error.as_label(), "candidate failed");
                admitted.receipt.note(|record| {
                    record
                        .failed_candidates
                        .push((card.name.clone(), error.as_label()));
                });
                let may_try_next = error.may_try_next();
                failed.push(Failed {
                    backend: candidate.backend,
                    error,
                });
                if !may_try_next {
                    break;
                }
            }
        }
    }

    let fault = fault(&failed);
    admitted.receipt.note(|record| {
        record.reason.clone_from(&plan.rule);
        record.outcome = domain::Outcome::Refused(fault.as_label());
    });
    Err(Refusal {
        fault,
        reason: Some(plan.rule),
    })
}

/// The request, moved to the last candidate and copied for the ones before it.
fn take_or_clone(request: &mut Option<ChatRequest>, is_last: bool) -> Option<ChatRequest> {
    if is_last {
        request.take()
    } else {
        request.clone()
    }
}

fn patience(
    snapshot: &Snapshot,
    card: &BackendCard,
    is_last: bool,
    delivery: Delivery,
) -> Duration {
    let patience = snapshot.patience();
    match (card.tier, delivery, is_last) {
        // A remote whole reply shows nothing until it is there; its own driver bounds it.
        (Tier::Pool | Tier::Upstream, Delivery::Whole, _) => WHOLE_REPLY_MAX,
        // A pool bounds each of its tries: cut short in the first, it could neither try the next nor
        // learn which endpoint hangs.
        (Tier::Pool, Delivery::Streamed { .. }, _) | (_, _, true) => patience.last,
        (Tier::Engine, _, false) => patience.local,
        (Tier::Upstream, Delivery::Streamed { .. }, false) => patience.remote,
    }
}

fn label(card: &BackendCard, model: &str) -> RouteLabel {
    if card.is_local() {
        RouteLabel::Local {
            model: card.listed_name(model),
        }
    } else {
        RouteLabel::Cloud {
            backend: card.name.clone(),
        }
    }
}

/// The rule, and after it what failed on the way: `coding; fallback: fake unreachable`.
fn reason(
    candidate: &Candidate,
    passed_over: &[usize],
    failed: &[Failed],
    snapshot: &Snapshot,
) -> String {
    let down = passed_over.iter().map(|backend| (*backend, "down"));
    let failed = failed
        .iter()
        .map(|failed| (failed.backend, failed.error.as_label()));
    let mut reason = candidate.reason.clone();
    for (at, (backend, why)) in down.chain(failed).enumerate() {
        reason.push_str(if at == 0 { "; fallback: " } else { ", " });
        if let Some(backend) = snapshot.backends().get(backend) {
            reason.push_str(backend.card().name.as_str());
            reason.push(' ');
        }
        reason.push_str(why);
    }
    reason
}

/// What the caller learns when nobody answered. A rejection says what is wrong with the request;
/// else the first candidate's failure counts, for it was the one meant to answer.
fn fault(failed: &[Failed]) -> Fault {
    failed
        .iter()
        .find(|failed| !failed.error.may_try_next())
        .or(failed.first())
        .map_or(
            Fault::NoCandidate {
                reasons: Vec::new(),
            },
            |failed| failed.error.fault(),
        )
}

async fn first_content(
    backend: &Arc<dyn Backend>,
    call: Outbound,
    patience: Duration,
) -> Result<(Vec<ChatEvent>, ChatStream), BackendError> {
    timeout(patience, async {
        read_head(backend.chat(call).await?).await
    })
    .await
    .unwrap_or(Err(BackendError::TimedOut(TimeoutPhase::FirstEvent)))
}
