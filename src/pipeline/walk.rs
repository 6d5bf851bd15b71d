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
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use domain::{
    BackendCard, BackendError, ChatEvent, ChatRequest, ChatStream, Classify, Fault, Findings,
    HedgeOutcome, HedgeRecord, MicroUsd, Outbound, Priority, RequestId, Resume, RouteTaken, TeamId,
    Tokens, TraceContext,
};
use policy::{ANY_MODEL, Candidate, Equal, Plan, Roster, conversation, name_hash, order};
use tokio::sync::OnceCell;
use tracing::debug;

use crate::answer::RouteLabel;
use crate::attempt::{Attempt, Head};
use crate::hedge::{LATE_PERCENT, Race, SAMPLES_MIN, race};
use crate::images::{Fetched, Wanted, wanted};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;
use crate::trunk::SCAN_INLINE_BYTES_MAX;
use crate::vitals::{Vitals, Ward};

/// The code of a rejection that says only that the prompt is too long.
const CONTEXT_CODE: &str = "context_length_exceeded";

/// What every candidate is told of the caller.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub request_id: RequestId,
    pub team: TeamId,
    pub priority: Priority,
    /// Of the body the request came in.
    pub body_bytes: usize,
    /// `None` where nobody traces it.
    pub trace: Option<Arc<TraceContext>>,
}

/// A candidate that answers: `head` is everything up to its first content, `rest` what follows.
pub(crate) struct Begun {
    pub candidate: Candidate,
    pub head: Vec<ChatEvent>,
    pub rest: ChatStream,
}

impl Begun {
    fn new(candidate: Candidate, (head, rest): Head) -> Self {
        Self {
            candidate,
            head,
            rest,
        }
    }
}

/// A candidate that did not answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub backend: usize,
    pub model: String,
    pub error: BackendError,
}

impl Failed {
    fn new(candidate: &Candidate, error: BackendError) -> Self {
        Self {
            backend: candidate.backend,
            model: candidate.model.clone(),
            error,
        }
    }
}

/// What one step along the plan came to: whoever failed in it, in order, and whoever answers.
struct Step {
    failed: Vec<Failed>,
    begun: Option<Begun>,
    hedge: Option<Hedged>,
}

/// Two were asked at once.
struct Hedged {
    outcome: HedgeOutcome,
    loser: Candidate,
    /// It was at work when it was cancelled.
    is_cancelled: bool,
}

pub(crate) struct Walk {
    caller: Caller,
    snapshot: Arc<Snapshot>,
    ward: Arc<Ward>,
    findings: Arc<Findings>,
    plan: Plan,
    /// Index into the plan's candidates: the first that was not tried.
    next: usize,
    failed: Vec<Failed>,
    /// The backend of one who was late, and was not waited for.
    late: Option<usize>,
    /// Index into `failed`: after whom nobody else is asked.
    ended_by: Option<usize>,
    /// Who follows must have a longer context than this.
    context_above: Option<Tokens>,
    /// Who follows must be none of these, whose filters did not let the content pass.
    refused_by: Vec<usize>,
    retries: AtomicU32,
    /// Images at addresses, once the first candidate needed them.
    images: OnceCell<Result<Fetched, BackendError>>,
}

impl Walk {
    /// Equals of the plan are put into the order in which they are to be asked.
    pub fn new(
        caller: Caller,
        snapshot: Arc<Snapshot>,
        ward: Arc<Ward>,
        findings: Arc<Findings>,
        plan: Plan,
        request: &ChatRequest,
    ) -> Self {
        ward.count_chat();
        let mut walk = Self {
            caller,
            snapshot,
            ward,
            findings,
            plan,
            next: 0,
            failed: Vec::new(),
            late: None,
            ended_by: None,
            context_above: None,
            refused_by: Vec::new(),
            retries: AtomicU32::new(0),
            images: OnceCell::new(),
        };
        walk.balance(request);
        walk
    }

    fn balance(&mut self, request: &ChatRequest) {
        let mut from = 0;
        while from < self.plan.candidates.len() {
            let group = |candidate: &Candidate| candidate.share.map(|share| share.group);
            let Some(first) = group(&self.plan.candidates[from]) else {
                from += 1;
                continue;
            };
            let rest = &self.plan.candidates[from..];
            let count = rest
                .iter()
                .take_while(|it| group(it) == Some(first))
                .count();
            let equals: Vec<Equal> = rest[..count]
                .iter()
                .map(|it| self.equal(it, request))
                .collect();
            let conversation = conversation(&self.caller.team, request);
            let random = [self.ward.random(), self.ward.random()];
            let order = order(&equals, Some(conversation), random);
            let ordered: Vec<Candidate> = order.iter().map(|at| rest[*at].clone()).collect();
            self.plan.candidates.splice(from..from + count, ordered);
            from += count;
        }
    }

    fn equal(&self, candidate: &Candidate, request: &ChatRequest) -> Equal {
        let card = self.snapshot.backends()[candidate.backend].card();
        let load = self.vitals(candidate).load(request.delivery);
        Equal {
            weight: candidate.share.map_or(1, |share| share.weight),
            takes: load.takes,
            in_flight: load.in_flight,
            failed_share: load.failed_share,
            is_well: load.is_well,
            name_hash: name_hash(card.name.as_str(), &candidate.model),
        }
    }

    fn vitals(&self, candidate: &Candidate) -> Arc<Vitals> {
        let backend = &self.snapshot.backends()[candidate.backend];
        self.ward.vitals(backend.as_ref(), &candidate.model)
    }

    /// Opens the first candidate left that answers `request`, and leaves those after it for another
    /// call. The request is copied, but moved to the last candidate: whoever wants to go on with it
    /// keeps a copy.
    ///
    /// # Errors
    /// What the caller learns when nobody answers.
    pub async fn open_next(
        &mut self,
        request: &mut Option<Box<ChatRequest>>,
        receipt: &mut Receipt,
    ) -> Result<Begun, Fault> {
        while let Some(at) = self.fit_from(self.next) {
            self.next = at + 1;
            let beside = self.beside(at, request.as_deref());
            if let Some(request) = request.as_ref() {
                receipt.note_prompt(request);
            }
            // Whoever leaves while it works has to pay for what it was asked.
            let candidate = &self.plan.candidates[at];
            let route = route_taken(self.card_of(candidate), &candidate.model);
            receipt.note(|record| record.route = Some(route));
            receipt.note_price_of_route(&self.snapshot);
            let step = match beside {
                Some((beside, late)) => {
                    let Some(request) = request else { break };
                    Box::pin(self.open_hedged(at, beside, late, request, receipt)).await?
                }
                None => {
                    let is_last = self.fit_from(self.next).is_none();
                    let Some(request) = take_or_clone(request, is_last) else {
                        break;
                    };
                    let candidate = self.plan.candidates[at].clone();
                    match self.open_one(candidate, request, is_last).await? {
                        Ok(begun) => Step::begun(begun),
                        Err(failed) => Step::failed(failed),
                    }
                }
            };
            if step.begun.is_none() {
                receipt.note(|record| record.route = None);
            }
            let may_go_on = self.take(step.failed, receipt);
            self.note_hedge(step.hedge, receipt);
            if let Some(begun) = step.begun {
                return Ok(begun);
            }
            if !may_go_on {
                break;
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
        request: Box<ChatRequest>,
        is_last: bool,
    ) -> Result<Result<Begun, Failed>, Fault> {
        let body_bytes = self.caller.body_bytes;
        match self.seal(&candidate, request, body_bytes).await? {
            Ok(call) => Ok(self.ask(candidate, call, is_last).await),
            Err(error) => Ok(Err(Failed::new(&candidate, error))),
        }
    }

    /// The same for a request that goes on with an answer; `resume` says how.
    ///
    /// # Errors
    /// As of [`Walk::open_one`].
    pub async fn resume_one(
        &self,
        candidate: Candidate,
        request: Box<ChatRequest>,
        resume: Resume,
        is_last: bool,
    ) -> Result<Result<Begun, Failed>, Fault> {
        let said: usize = request.messages.last().map_or(0, |said| said.text().len());
        let body_bytes = self.caller.body_bytes + said;
        let mut call = match self.seal(&candidate, request, body_bytes).await? {
            Ok(call) => call,
            Err(error) => return Ok(Err(Failed::new(&candidate, error))),
        };
        if matches!(resume, Resume::Exact | Resume::Repeating) {
            call = call.resuming();
        }
        Ok(self.ask(candidate, call, is_last).await)
    }

    async fn ask(
        &self,
        candidate: Candidate,
        call: Outbound,
        is_last: bool,
    ) -> Result<Begun, Failed> {
        match self.attempt(&candidate, is_last).run(call).await {
            Ok(head) => Ok(Begun::new(candidate, head)),
            Err(error) => Err(Failed::new(&candidate, error)),
        }
    }

    fn attempt(&self, candidate: &Candidate, is_last: bool) -> Attempt<'_> {
        Attempt {
            backend: &self.snapshot.backends()[candidate.backend],
            vitals: self.vitals(candidate),
            ward: &self.ward,
            patience: self.snapshot.patience(),
            is_last,
            retries: &self.retries,
        }
    }

    /// Who may be started beside the candidate, and after how long: where its outcome hedges, somebody
    /// is left, and it is known what is late for this one.
    fn beside(&self, at: usize, request: Option<&ChatRequest>) -> Option<(usize, Duration)> {
        if !self.plan.manners.hedges {
            return None;
        }
        let beside = self.fit_from(at + 1)?;
        let vitals = self.vitals(&self.plan.candidates[at]);
        let late = vitals.begins_within(LATE_PERCENT, SAMPLES_MIN, request?.delivery)?;
        Some((beside, late))
    }

    async fn open_hedged(
        &mut self,
        at: usize,
        beside: usize,
        late: Duration,
        request: &ChatRequest,
        receipt: &mut Receipt,
    ) -> Result<Step, Fault> {
        let (first, second) = {
            let candidates = &self.plan.candidates;
            (candidates[at].clone(), candidates[beside].clone())
        };
        let body_bytes = self.caller.body_bytes;
        let call = match self
            .seal(&first, Box::new(request.clone()), body_bytes)
            .await?
        {
            Ok(call) => call,
            Err(error) => {
                self.next = at + 1;
                return Ok(Step::failed(Failed::new(&first, error)));
            }
        };
        let one = self.attempt(&first, false);
        let other = self.attempt(&second, self.fit_from(beside + 1).is_none());
        let start = async || {
            if !self.ward.take_retry() {
                return None;
            }
            let call = self
                .seal(&second, Box::new(request.clone()), body_bytes)
                .await;
            let call = call.ok()?.ok()?;
            // Whoever leaves while both work has to pay for what both were asked.
            let begun = Hedged {
                outcome: HedgeOutcome::Lost,
                loser: second.clone(),
                is_cancelled: true,
            };
            self.note_hedge(Some(begun), receipt);
            Some(other.run(call))
        };
        let race = race(one.run(call), late, start).await;
        let failed = |candidate: &Candidate, error: Option<BackendError>| -> Vec<Failed> {
            error
                .map(|error| Failed::new(candidate, error))
                .into_iter()
                .collect()
        };
        let hedged = |outcome, loser: &Candidate, error: &Option<BackendError>| Hedged {
            outcome,
            loser: loser.clone(),
            is_cancelled: error.is_none(),
        };
        let (step, next) = match race {
            Race::First(Ok(head)) => (Step::begun(Begun::new(first, head)), at + 1),
            Race::First(Err(error)) => (Step::failed(Failed::new(&first, error)), at + 1),
            Race::FirstWon(head, error) => {
                // Cancelled, it may still go on where the first breaks off.
                let next = if error.is_some() { beside + 1 } else { at + 1 };
                let step = Step {
                    hedge: Some(hedged(HedgeOutcome::Lost, &second, &error)),
                    failed: failed(&second, error),
                    begun: Some(Begun::new(first, head)),
                };
                (step, next)
            }
            Race::SecondWon(head, error) => {
                let step = Step {
                    hedge: Some(hedged(HedgeOutcome::Won, &first, &error)),
                    failed: failed(&first, error),
                    begun: Some(Begun::new(second, head)),
                };
                (step, beside + 1)
            }
            Race::BothFailed(error, other) => {
                // None was cancelled.
                receipt.note(|record| record.hedge = None);
                let step = Step {
                    failed: vec![Failed::new(&first, error), Failed::new(&second, other)],
                    begun: None,
                    hedge: None,
                };
                (step, beside + 1)
            }
        };
        self.next = next;
        if let Some(hedge) = &step.hedge
            && hedge.outcome == HedgeOutcome::Won
            && hedge.is_cancelled
        {
            self.late = Some(hedge.loser.backend);
        }
        Ok(step)
    }

    /// The request as the candidate gets it. Long ones are masked where they hold up nobody.
    ///
    /// # Errors
    /// The outer one ends the exchange; the inner one is the candidate's.
    async fn seal(
        &self,
        candidate: &Candidate,
        request: Box<ChatRequest>,
        body_bytes: usize,
    ) -> Result<Result<Outbound, BackendError>, Fault> {
        let (request, body_bytes) = if request.has_image_addresses() {
            match Box::pin(self.with_images(candidate, request)).await {
                Ok((request, bytes)) => (request, body_bytes + bytes),
                Err(error) => return Ok(Err(error)),
            }
        } else {
            (request, body_bytes)
        };
        let seal = {
            let id = self.caller.request_id.clone();
            let model = candidate.model.clone();
            let trust = self.snapshot.backends()[candidate.backend].card().trust;
            let findings = Arc::clone(&self.findings);
            move || Outbound::seal(id, model, *request, &findings, trust)
        };
        let sealed = if body_bytes <= SCAN_INLINE_BYTES_MAX || self.findings.is_empty() {
            seal()
        } else {
            let sealing = tokio::task::spawn_blocking(seal).await;
            sealing.map_err(|_| Fault::Internal)?
        };
        Ok(Ok(sealed
            .of_body_bytes(body_bytes)
            .for_team(self.caller.team.clone())
            .in_trace(self.caller.trace.clone())
            .with_priority(self.caller.priority)))
    }

    /// Images in the places of their addresses, where the candidate takes bytes alone; and how much
    /// longer that made the request.
    async fn with_images(
        &self,
        candidate: &Candidate,
        request: Box<ChatRequest>,
    ) -> Result<(Box<ChatRequest>, usize), BackendError> {
        let takes = self.snapshot.backends()[candidate.backend].image_addresses(&request);
        let rules = match wanted(&request, takes, self.snapshot.images())? {
            Wanted::Addresses => return Ok((request, 0)),
            Wanted::Fetched(rules) => rules,
        };
        let fetching = || rules.fetch(&request, &self.findings);
        match self.images.get_or_init(fetching).await {
            Ok(fetched) => Ok((Box::new(fetched.put_into(*request)), fetched.bytes)),
            Err(error) => Err(error.clone()),
        }
    }

    /// The first candidate from there on who may do better than those that failed.
    fn fit_from(&self, from: usize) -> Option<usize> {
        let candidates = self.plan.candidates.iter().enumerate().skip(from);
        let mut fit = candidates.filter(|(_, candidate)| {
            let is_refused = self.refused_by.contains(&candidate.backend);
            // One whose context nobody knows counts as longer.
            let is_longer = self.context_above.is_none_or(|limit| {
                self.context(candidate)
                    .is_none_or(|context| context > limit)
            });
            !is_refused && is_longer
        });
        fit.next().map(|(at, _)| at)
    }

    fn context(&self, candidate: &Candidate) -> Option<Tokens> {
        let card = self.snapshot.backends()[candidate.backend].card();
        let model = card
            .model(&candidate.model)
            .or_else(|| card.model(ANY_MODEL));
        model?.context_tokens_max
    }

    /// Takes note of who failed, and of what that means for those who follow. False when nobody may.
    fn take(&mut self, failed: Vec<Failed>, receipt: &mut Receipt) -> bool {
        let retries = self.retries.load(Ordering::Relaxed);
        receipt.note(|record| record.retries_count = retries);
        let mut may_go_on = true;
        for failed in failed {
            let name = self.snapshot.backends()[failed.backend].card().name.clone();
            let label = failed.error.as_label();
            debug!(backend = %name, error = label, "candidate failed");
            self.ward.note_credentials(&name, &failed.error);
            receipt.note(|record| record.failed_candidates.push((name, label)));
            if !self.learn(&failed) {
                may_go_on = false;
                self.ended_by.get_or_insert(self.failed.len());
            }
            self.failed.push(failed);
        }
        may_go_on
    }

    /// The way on, by cause. What is not named here goes on to whoever is next.
    fn learn(&mut self, failed: &Failed) -> bool {
        match &failed.error {
            BackendError::ContextExceeded { limit, .. } => {
                self.context_above = self.context_above.max(Some(*limit));
                true
            }
            // It says no number; its card may.
            BackendError::Rejected { reason, .. } if is_too_long(reason.code.as_deref()) => {
                let card = self.snapshot.backends()[failed.backend].card();
                let model = card.model(&failed.model);
                let limit = model.and_then(|model| model.context_tokens_max);
                self.context_above = self.context_above.max(Some(limit.unwrap_or(Tokens(0))));
                true
            }
            BackendError::Rejected { .. } => false,
            BackendError::ContentRefused { .. } => {
                self.refused_by.push(failed.backend);
                self.plan.manners.falls_back_on_refusal
            }
            BackendError::Declined { .. }
            | BackendError::ModelUnknown { .. }
            | BackendError::Unable(_)
            | BackendError::Overloaded { .. }
            | BackendError::Resting { .. }
            | BackendError::RateLimited { .. }
            | BackendError::Credentials { .. }
            | BackendError::Unreachable(_)
            | BackendError::TimedOut(_)
            | BackendError::Failed { .. }
            | BackendError::Garbled(_)
            | BackendError::Interrupted
            | BackendError::Engine(_) => true,
        }
    }

    fn note_hedge(&self, hedge: Option<Hedged>, receipt: &mut Receipt) {
        let Some(hedge) = hedge else {
            return;
        };
        let card = self.snapshot.backends()[hedge.loser.backend].card();
        let loser = route_taken(card, &hedge.loser.model);
        let loser_cost = if hedge.is_cancelled && !loser.is_local {
            let price = self.snapshot.price(&loser.backend, &loser.model);
            receipt.prompt_cost(price)
        } else {
            Some(MicroUsd(0))
        };
        receipt.note(|record| {
            record.hedge = Some(HedgeRecord {
                outcome: hedge.outcome,
                loser,
                loser_cost,
            });
        });
    }

    /// The rule that decided.
    pub fn rule(&self) -> &str {
        &self.plan.rule
    }

    pub fn findings(&self) -> &Arc<Findings> {
        &self.findings
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The backends as they are now, and those left alone.
    pub fn roster(&self) -> Roster {
        let mut roster = self.snapshot.roster();
        roster.resting = self.ward.resting(self.snapshot.backends());
        roster
    }

    pub fn card(&self, begun: &Begun) -> &BackendCard {
        self.card_of(&begun.candidate)
    }

    pub fn card_of(&self, candidate: &Candidate) -> &BackendCard {
        self.snapshot.backends()[candidate.backend].card()
    }

    /// How the candidate goes on with an answer.
    pub fn resume_of(&self, candidate: &Candidate) -> Resume {
        self.snapshot.backends()[candidate.backend].resume(&candidate.model)
    }

    /// Whether somebody else was meant to answer.
    pub fn is_stand_in(&self) -> bool {
        !self.failed.is_empty() || !self.plan.passed_over.is_empty() || self.late.is_some()
    }

    /// Whether the one that answers read personal data as it is.
    pub fn sees_findings(&self, begun: &Begun) -> bool {
        let trust = self.card(begun).trust;
        let mut findings = self.findings.iter();
        findings.any(|finding| trust >= finding.trust_min)
    }

    pub fn label(&self, begun: &Begun) -> RouteLabel {
        label_of(self.card(begun), &begun.candidate.model)
    }

    /// The rule, and after it what failed on the way: `coding; fallback: fake unreachable`.
    pub fn reason(&self, begun: &Begun) -> String {
        let passed_over = self.plan.passed_over.iter();
        let down = passed_over.map(|backend| (*backend, "down"));
        let failed = self.failed.iter();
        let failed = failed.map(|failed| (failed.backend, failed.error.as_label()));
        let mut reason = begun.candidate.reason.clone();
        let late = self.late.map(|backend| (backend, "late"));
        for (at, (backend, why)) in down.chain(failed).chain(late).enumerate() {
            reason.push_str(if at == 0 { "; fallback: " } else { ", " });
            if let Some(backend) = self.snapshot.backends().get(backend) {
                reason.push_str(backend.card().name.as_str());
                reason.push(' ');
            }
            reason.push_str(why);
        }
        reason
    }

    /// What the caller learns when nobody answered. Whoever ended the walk says what is wrong with the
    /// request; else the first candidate's failure counts, for it was the one meant to answer.
    fn fault(&self) -> Fault {
        let ended = self.ended_by.and_then(|at| self.failed.get(at));
        ended.or(self.failed.first()).map_or(
            Fault::NoCandidate {
                reasons: Vec::new(),
            },
            |failed| failed.error.fault(),
        )
    }
}

impl Step {
    fn begun(begun: Begun) -> Self {
        Self {
            failed: Vec::new(),
            begun: Some(begun),
            hedge: None,
        }
    }

    fn failed(failed: Failed) -> Self {
        Self {
            failed: vec![failed],
            begun: None,
            hedge: None,
        }
    }
}

fn is_too_long(code: Option<&str>) -> bool {
    code == Some(CONTEXT_CODE)
}

/// A candidate as records name it.
pub(crate) fn route_taken(card: &BackendCard, model: &str) -> RouteTaken {
    RouteTaken {
        backend: card.name.clone(),
        model: if card.is_local() {
            card.listed_name(model)
        } else {
            model.to_owned()
        },
        is_local: card.is_local(),
    }
}

pub(crate) fn label_of(card: &BackendCard, model: &str) -> RouteLabel {
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

/// The request, moved to the last candidate and copied for the ones before it.
fn take_or_clone(
    request: &mut Option<Box<ChatRequest>>,
    is_last: bool,
) -> Option<Box<ChatRequest>> {
    if is_last {
        request.take()
    } else {
        request.clone()
    }
}
