//! One exchange's way through its plan: who is next, who failed, and how the one that answers is
//! called.
//!
//! ```text
//! Walk ─open_next─► seal ─► attempt ─► first content ─► Begun
//!          ▲                   │
//!          └── next candidate ─┴─ failed, and another may do better
//! ```
//! A walk outlives the candidate that answers: [`Walk::open_next`] goes on behind it, with whatever
//! request it is given.

use std::sync::Arc;

use domain::{
    BackendCard, BackendError, ChatEvent, ChatRequest, ChatStream, Classify, Fault, Findings,
    Outbound, Priority, RequestId, TeamId,
};
use policy::{Candidate, Plan};
use tracing::debug;

use crate::answer::RouteLabel;
use crate::attempt::attempt;
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;
use crate::trunk::SCAN_INLINE_BYTES_MAX;

/// What every candidate is told of the caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub request_id: RequestId,
    pub team: TeamId,
    pub priority: Priority,
    /// Of the body the request came in.
    pub body_bytes: usize,
}

/// A candidate that answers: `head` is everything up to its first content, `rest` what follows.
pub(crate) struct Begun {
    pub candidate: Candidate,
    pub head: Vec<ChatEvent>,
    pub rest: ChatStream,
}

/// A candidate that did not answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub backend: usize,
    pub error: BackendError,
}

pub(crate) struct Walk {
    caller: Caller,
    snapshot: Arc<Snapshot>,
    findings: Arc<Findings>,
    plan: Plan,
    /// Index into the plan's candidates: the first that was not tried.
    next: usize,
    failed: Vec<Failed>,
}

impl Walk {
    pub fn new(
        caller: Caller,
        snapshot: Arc<Snapshot>,
        findings: Arc<Findings>,
        plan: Plan,
    ) -> Self {
        Self {
            caller,
            snapshot,
            findings,
            plan,
            next: 0,
            failed: Vec::new(),
        }
    }

    /// Opens the first candidate left that answers `request`, and leaves those after it for another
    /// call. The request is copied, but moved to the last candidate: whoever wants to go on with it
    /// keeps a copy.
    ///
    /// # Errors
    /// What the caller learns when nobody answers.
    pub async fn open_next(
        &mut self,
        request: &mut Option<ChatRequest>,
        receipt: &mut Receipt,
    ) -> Result<Begun, Fault> {
        while let Some(candidate) = self.plan.candidates.get(self.next).cloned() {
            self.next += 1;
            let is_last = self.next == self.plan.candidates.len();
            let Some(request) = take_or_clone(request, is_last) else {
                break;
            };
            match self.open_one(candidate, request, is_last).await? {
                Ok(begun) => return Ok(begun),
                Err(failed) => {
                    let may_try_next = failed.error.may_try_next();
                    self.note_failed(failed, receipt);
                    if !may_try_next {
                        break;
                    }
                }
            }
        }
        Err(self.fault())
    }

    /// Opens this candidate and no other.
    ///
    /// # Errors
    /// The outer one ends the exchange; the inner one is the candidate's.
    pub async fn open_one(
        &self,
        candidate: Candidate,
        request: ChatRequest,
        is_last: bool,
    ) -> Result<Result<Begun, Failed>, Fault> {
        let Some(backend) = self.snapshot.backends().get(candidate.backend) else {
            return Err(Fault::Internal);
        };
        let call = self.seal(&candidate, backend.card(), request).await?;
        let patience = self.snapshot.patience();
        Ok(match attempt(backend, call, patience, is_last).await {
            Ok((head, rest)) => Ok(Begun {
                candidate,
                head,
                rest,
            }),
            Err(error) => Err(Failed {
                backend: candidate.backend,
                error,
            }),
        })
    }

    /// Long requests are masked where they hold up nobody.
    async fn seal(
        &self,
        candidate: &Candidate,
        card: &BackendCard,
        request: ChatRequest,
    ) -> Result<Outbound, Fault> {
        let seal = {
            let id = self.caller.request_id.clone();
            let model = candidate.model.clone();
            let (findings, trust) = (Arc::clone(&self.findings), card.trust);
            move || Outbound::seal(id, model, request, &findings, trust)
        };
        let body_bytes = self.caller.body_bytes;
        let sealed = if body_bytes <= SCAN_INLINE_BYTES_MAX || self.findings.is_empty() {
            seal()
        } else {
            let sealing = tokio::task::spawn_blocking(seal).await;
            sealing.map_err(|_| Fault::Internal)?
        };
        Ok(sealed
            .of_body_bytes(body_bytes)
            .for_team(self.caller.team.clone())
            .with_priority(self.caller.priority))
    }

    fn note_failed(&mut self, failed: Failed, receipt: &mut Receipt) {
        let label = failed.error.as_label();
        if let Some(backend) = self.snapshot.backends().get(failed.backend) {
            let name = &backend.card().name;
            debug!(backend = %name, error = label, "candidate failed");
            receipt.note(|record| record.failed_candidates.push((name.clone(), label)));
        }
        self.failed.push(failed);
    }

    /// The rule that decided.
    pub fn rule(&self) -> &str {
        &self.plan.rule
    }

    pub fn findings(&self) -> &Arc<Findings> {
        &self.findings
    }

    pub fn card(&self, begun: &Begun) -> &BackendCard {
        self.snapshot.backends()[begun.candidate.backend].card()
    }

    /// Whether somebody else was meant to answer.
    pub fn is_stand_in(&self) -> bool {
        !self.failed.is_empty() || !self.plan.passed_over.is_empty()
    }

    /// Whether the one that answers read personal data as it is.
    pub fn sees_findings(&self, begun: &Begun) -> bool {
        let trust = self.card(begun).trust;
        let mut findings = self.findings.iter();
        findings.any(|finding| trust >= finding.trust_min)
    }

    pub fn label(&self, begun: &Begun) -> RouteLabel {
        let card = self.card(begun);
        if card.is_local() {
            RouteLabel::Local {
                model: card.listed_name(&begun.candidate.model),
            }
        } else {
            RouteLabel::Cloud {
                backend: card.name.clone(),
            }
        }
    }

    /// The rule, and after it what failed on the way: `coding; fallback: fake unreachable`.
    pub fn reason(&self, begun: &Begun) -> String {
        let passed_over = self.plan.passed_over.iter();
        let down = passed_over.map(|backend| (*backend, "down"));
        let failed = self.failed.iter();
        let failed = failed.map(|failed| (failed.backend, failed.error.as_label()));
        let mut reason = begun.candidate.reason.clone();
        for (at, (backend, why)) in down.chain(failed).enumerate() {
            reason.push_str(if at == 0 { "; fallback: " } else { ", " });
            if let Some(backend) = self.snapshot.backends().get(backend) {
                reason.push_str(backend.card().name.as_str());
                reason.push(' ');
            }
            reason.push_str(why);
        }
        reason
    }

    /// What the caller learns when nobody answered. A rejection says what is wrong with the request;
    /// else the first candidate's failure counts, for it was the one meant to answer.
    fn fault(&self) -> Fault {
        let mut failed = self.failed.iter();
        failed
            .find(|failed| !failed.error.may_try_next())
            .or(self.failed.first())
            .map_or(
                Fault::NoCandidate {
                    reasons: Vec::new(),
                },
                |failed| failed.error.fault(),
            )
    }
}

/// The request, moved to the last candidate and copied for the ones before it.
fn take_or_clone(request: &mut Option<ChatRequest>, is_last: bool) -> Option<ChatRequest> {
    if is_last {
        request.take()
    } else {
        request.clone()
    }
}
