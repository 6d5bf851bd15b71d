//! One record per exchange, however it ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::{
    Basis, CacheOutcome, ChatEvent, ChatRequest, Counterfactual, ExchangeRecord, Findings,
    MicroUsd, ModelAlias, Outcome, Price, Principal, RecordSink, RequestId, RouteTaken, Share,
    Tokens, TraceContext, Traced, Usage, moment_us,
};
use policy::{Answered, Yardstick};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::answer::Timings;
use crate::cost::{Cost, Meter};
use crate::quota::{Keepers, Share as QuotaShare};
use crate::snapshot::Snapshot;
use crate::texts::Collected;

/// Leaves exactly one record, on drop. Its place in the recorder's queue was taken at admission, so
/// that leaving it cannot fail or wait.
pub(crate) struct Receipt {
    record: Option<ExchangeRecord>,
    meter: Meter,
    admitted_at: Instant,
    desk: Option<mpsc::OwnedPermit<ExchangeRecord>>,
    share: QuotaShare,
    /// Of the reply that is reused; known once that has ended.
    saved: Option<Cost>,
    /// Set once its caller has left, where others are answered with the same work.
    has_left: Option<Arc<AtomicBool>>,
    /// `None` for what is no chat.
    yardstick: Option<Yardstick>,
    /// What is said; `None` where nothing of it is kept.
    text: Option<Box<Collected>>,
    /// The exchange's seat, given back with the receipt.
    _seat: OwnedSemaphorePermit,
}

impl Receipt {
    pub(crate) fn new(
        request_id: RequestId,
        principal: &Principal,
        model_asked: ModelAlias,
        desk: mpsc::OwnedPermit<ExchangeRecord>,
        seat: OwnedSemaphorePermit,
        keepers: Keepers,
    ) -> Self {
        let limits = principal.limits_of(&model_asked);
        let share = QuotaShare::new(keepers, principal.key.clone(), limits);
        Self::of_share(request_id, principal, model_asked, desk, seat, share)
    }

    /// The same where it is known what is taken of which limits.
    pub(crate) fn of_share(
        request_id: RequestId,
        principal: &Principal,
        model_asked: ModelAlias,
        desk: mpsc::OwnedPermit<ExchangeRecord>,
        seat: OwnedSemaphorePermit,
        share: QuotaShare,
    ) -> Self {
        let record = ExchangeRecord {
            ended_us: 0,
            request_id,
            key: principal.key.clone(),
            team: principal.team.clone(),
            marks: principal.marks.clone(),
            model_asked,
            route: None,
            reason: String::new(),
            cache: CacheOutcome::Bypassed,
            // What stands if nobody says otherwise: the caller left.
            outcome: Outcome::Abandoned,
            usage: None,
            is_usage_counted: false,
            cost: None,
            saved: None,
            masked_count: 0,
            first_content_after: None,
            took: std::time::Duration::ZERO,
            retries_count: 0,
            hedge: None,
            failed_candidates: Vec::new(),
            rescued_by: Vec::new(),
            unrescued: None,
            shares: Vec::new(),
            counterfactual: None,
            shadow: None,
            trace: None,
        };
        Self {
            record: Some(record),
            meter: Meter::default(),
            admitted_at: Instant::now(),
            desk: Some(desk),
            share,
            saved: None,
            has_left: None,
            yardstick: None,
            text: None,
            _seat: seat,
        }
    }

    pub(crate) fn share(&self) -> &QuotaShare {
        &self.share
    }

    pub(crate) fn share_mut(&mut self) -> &mut QuotaShare {
        &mut self.share
    }

    /// Notes something. A no-op once the record has left, which only `Drop` does.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut ExchangeRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// Whether the record says that the cache has no part in it.
    pub(crate) fn is_bypassing(&self) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.cache == CacheOutcome::Bypassed)
    }

    /// Notes that a reply is reused, which cost what `saved` says when it was made.
    pub(crate) fn note_reuse(&mut self, outcome: CacheOutcome, saved: Cost) {
        self.note(|record| record.cache = outcome);
        self.saved = Some(saved);
    }

    /// Others are answered with the same work: it goes on when this caller has left, which `has_left`
    /// will say.
    pub(crate) fn share_work(&mut self, has_left: Arc<AtomicBool>) {
        self.has_left = Some(has_left);
    }

    /// Notes by what it is measured.
    pub(crate) fn note_yardstick(&mut self, yardstick: Yardstick) {
        self.yardstick = Some(yardstick);
    }

    /// Collects what is said from now on, where some of it is kept.
    pub(crate) fn keep_text(&mut self, text: Option<Box<Collected>>) {
        self.text = text;
    }

    /// Notes what is asked, and what of it is personal data.
    pub(crate) fn note_asked(
        &mut self,
        request: &ChatRequest,
        findings: &Arc<Findings>,
        snapshot: &Arc<Snapshot>,
    ) {
        if let Some(text) = &mut self.text {
            text.note_asked(request, findings, snapshot);
        }
    }

    /// Notes what the caller is sent.
    pub(crate) fn note_sent(&mut self, event: &ChatEvent) {
        if let Some(text) = &mut self.text {
            text.note_sent(event);
        }
    }

    /// Notes which trace it is of.
    pub(crate) fn note_trace(&mut self, traced: Box<Traced>) {
        self.note(|record| record.trace = Some(traced));
    }

    /// `None` where nobody traces it.
    pub(crate) fn trace(&self) -> Option<Arc<TraceContext>> {
        let traced = self.record.as_ref()?.trace.as_ref()?;
        Some(Arc::clone(&traced.context))
    }

    /// Notes how long its stages took, where somebody is told.
    pub(crate) fn note_times(&mut self, timings: Timings) {
        let record = self.record.as_mut();
        if let Some(traced) = record.and_then(|record| record.trace.as_mut()) {
            traced.times = timings.into();
        }
    }

    /// Notes what is asked, in case nobody else counts it; once, however often it is called.
    pub(crate) fn note_prompt(&mut self, request: &ChatRequest) {
        if !self.meter.has_read() {
            self.meter.read(request);
        }
    }

    /// Notes what is said, for the same.
    pub(crate) fn note_event(&mut self, event: &ChatEvent) {
        if let ChatEvent::Usage(usage) = event {
            let usage = *usage;
            self.note(|record| record.usage = Some(usage));
        }
        if let ChatEvent::ChoiceEnded { reason, .. } = event
            && let Some(traced) = self
                .record
                .as_mut()
                .and_then(|record| record.trace.as_mut())
        {
            traced.finished.push(*reason);
        }
        self.meter.hear(event);
    }

    /// Whether anything was said.
    pub(crate) fn has_heard(&self) -> bool {
        self.meter.has_heard()
    }

    /// Notes at what price the one works who was chosen. From here on it costs something, however it
    /// ends.
    pub(crate) fn note_price_of_route(&mut self, snapshot: &Snapshot) {
        let route = self
            .record
            .as_ref()
            .and_then(|record| record.route.as_ref());
        let price = route.and_then(|route| price(route, snapshot));
        self.meter.charge_by(price);
    }

    /// What the prompt alone costs.
    pub(crate) fn prompt_cost(&self, price: Option<Price>) -> Option<MicroUsd> {
        let prompt = Usage {
            prompt_tokens: self.meter.count().prompt_tokens,
            ..Usage::default()
        };
        Some(price?.cost(&prompt))
    }

    /// Notes that the reply broke off, and that `by` goes on with it, at its own price.
    pub(crate) fn note_rescue(&mut self, by: RouteTaken, snapshot: &Snapshot) {
        let Some(record) = &mut self.record else {
            return;
        };
        close_share(&mut self.meter, record, None);
        self.meter.charge_by(price(&by, snapshot));
        record.rescued_by.push(by);
    }

    /// What a backend that went on reports, as if it had written all of the reply: what was said before
    /// is not of its prompt.
    pub(crate) fn of_one_reply(&self, usage: Usage) -> Usage {
        let shares = self.record.iter().flat_map(|record| &record.shares);
        let before: u32 = shares
            .map(|share| share.usage.completion_tokens.0)
            .fold(0, u32::saturating_add);
        let prompt = usage.prompt_tokens.0.saturating_sub(before);
        Usage {
            prompt_tokens: Tokens(prompt),
            completion_tokens: Tokens(usage.completion_tokens.0.saturating_add(before)),
            cached_tokens: Tokens(usage.cached_tokens.0.min(prompt)),
            ..usage
        }
    }

    /// What will be known of the cost at the end.
    pub(crate) fn cost(&self) -> Cost {
        self.meter.cost.clone()
    }

    fn settle(&mut self, record: &mut ExchangeRecord) {
        if !record.shares.is_empty() {
            let reported = record.usage.take();
            close_share(&mut self.meter, record, reported);
            record.usage = Some(sum(&record.shares));
            record.is_usage_counted = record.shares.iter().any(|share| share.is_estimate);
            record.cost = self.meter.settle_all();
            return;
        }
        let is_upstream = record.route.as_ref().is_some_and(|route| !route.is_local);
        let is_answered = record.route.is_some() || record.cache.is_reuse();
        if !is_upstream {
            record.cost = is_answered.then_some(MicroUsd(0));
            // Its tokens count, also where the caller left before they were told, and where nobody told
            // them to whom the reply was made for.
            if is_answered && record.usage.is_none() {
                record.usage = Some(self.meter.count());
                record.is_usage_counted = true;
            }
            record
                .cost
                .iter()
                .for_each(|cost| self.meter.cost.settle(*cost));
            return;
        }
        let usage = *record.usage.get_or_insert_with(|| {
            record.is_usage_counted = true;
            self.meter.count()
        });
        record.cost = self.meter.settle(&usage);
    }

    /// What it would have cost elsewhere, once it is settled. Nothing where nobody worked for it.
    fn counterfactual(&self, record: &ExchangeRecord) -> Option<Counterfactual> {
        if record.shadow.is_some() {
            return record.cost.map(|_| Counterfactual {
                cost: MicroUsd(0),
                basis: Basis::Shadow,
            });
        }
        let usage = record.usage.as_ref()?;
        let answered = match &record.route {
            _ if record.cache.is_reuse() => Answered::Reused(record.saved),
            Some(first) => {
                let mut parts = record.rescued_by.iter().chain([first]);
                match parts.all(|route| route.is_local) {
                    true => Answered::Free,
                    false => Answered::Paid(record.cost),
                }
            }
            None => return None,
        };
        let usage = match record.shares.as_slice() {
            [] => *usage,
            shares => as_one(shares),
        };
        policy::counterfactual(&self.yardstick.unwrap_or_default(), answered, &usage)
    }

    /// Notes that content has begun to flow.
    pub(crate) fn note_first_content(&mut self) {
        let after = self.admitted_at.elapsed();
        self.note(|record| record.first_content_after = Some(after));
    }
}

/// At what price `route`'s backend works. What this machine answers, and machines that are paid for,
/// cost nothing.
fn price(route: &RouteTaken, snapshot: &Snapshot) -> Option<Price> {
    if route.is_local {
        return Some(Price::FREE);
    }
    snapshot.price(&route.backend, &route.model)
}

/// Ends the part of whoever spoke last; `reported` is what it said of it.
fn close_share(meter: &mut Meter, record: &mut ExchangeRecord, reported: Option<Usage>) {
    let counted = meter.close_share(reported);
    if let Some(route) = record.rescued_by.last().or(record.route.as_ref()) {
        record.shares.push(Share {
            route: route.clone(),
            usage: reported.unwrap_or(counted),
            is_estimate: reported.is_none(),
        });
    }
}

/// Of a reply that several had a part in, as if one had written all of it: the prompt is read once.
fn as_one(shares: &[Share]) -> Usage {
    let first = shares.first().map(|share| share.usage).unwrap_or_default();
    Usage {
        completion_tokens: sum(shares).completion_tokens,
        ..first
    }
}

fn sum(shares: &[Share]) -> Usage {
    let add = |a: Tokens, b: Tokens| Tokens(a.0.saturating_add(b.0));
    let usages = shares.iter().map(|share| share.usage);
    usages.fold(Usage::default(), |a, b| Usage {
        prompt_tokens: add(a.prompt_tokens, b.prompt_tokens),
        completion_tokens: add(a.completion_tokens, b.completion_tokens),
        cached_tokens: add(a.cached_tokens, b.cached_tokens),
        cache_write_tokens: add(a.cache_write_tokens, b.cache_write_tokens),
        reasoning_tokens: add(a.reasoning_tokens, b.reasoning_tokens),
        accepted_prediction_tokens: add(a.accepted_prediction_tokens, b.accepted_prediction_tokens),
        rejected_prediction_tokens: add(a.rejected_prediction_tokens, b.rejected_prediction_tokens),
        dropped_tokens: add(a.dropped_tokens, b.dropped_tokens),
    })
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let took = self.admitted_at.elapsed();
        if let (Some(desk), Some(mut record)) = (self.desk.take(), self.record.take()) {
            record.took = took;
            let has_left = self.has_left.as_ref();
            let has_left = has_left.is_some_and(|left| left.load(Ordering::Acquire));
            if has_left && record.outcome == Outcome::Answered {
                record.outcome = Outcome::Abandoned;
            }
            record.saved = self.saved.as_ref().and_then(Cost::known);
            self.settle(&mut record);
            record.counterfactual = self.counterfactual(&record);
            record.ended_us = moment_us();
            self.share.settle(&record);
            if let Some(text) = self.text.take() {
                text.end(&record);
            }
            desk.send(record);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

/// The driver that hands records to the sinks. Ends when the pipeline and every exchange are gone.
pub struct Recorder {
    inbox: mpsc::Receiver<ExchangeRecord>,
    sinks: Vec<Arc<dyn RecordSink>>,
}

impl Recorder {
    pub(crate) fn new(
        inbox: mpsc::Receiver<ExchangeRecord>,
        sinks: Vec<Arc<dyn RecordSink>>,
    ) -> Self {
        Self { inbox, sinks }
    }

    /// Runs until nothing is left to record.
    pub async fn run(mut self) {
        while let Some(record) = self.inbox.recv().await {
            for sink in &self.sinks {
                sink.append(&record);
            }
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} sinks)", self.sinks.len())
    }
}
