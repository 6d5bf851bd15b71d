//! What an exchange takes of its caller's limits before anybody works for it, and what it leaves.
//!
//! The worst it may come to is taken, once: when the plan stands, or when a kept reply is found, which
//! costs a request and no more. What it came to is known when its receipt is dropped, and the rest goes
//! back then, however it ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::{
    ChatRequest, EmbedInput, ExchangeRecord, Exhausted, Fault, Grant, KeyId, Left, Limit, Measure,
    MicroUsd, Price, Quotas, RouteTaken, Shortage, Tokens, Usage, Use, WhenSpent,
};
use policy::Candidate;
use tokio::time::{Instant, timeout_at};

use crate::answer::Refusal;
use crate::cost::media_tokens;
use crate::queue::{Lines, Place};
use crate::receipt::Receipt;
use crate::snapshot::Snapshot;
use crate::stages::Planned;
use crate::trunk::refuse;

/// Bytes of text that count as one token where a limit must hold: English has 4.2, code 3.3, Chinese
/// about 3. Where money must hold, one token has these.
const TOKEN_BYTES: u64 = 3;
const PAID_TOKEN_BYTES: u64 = 2;

/// What a message has beside its text, in tokens.
const MESSAGE_TOKENS: u64 = 16;

/// A reply whose caller names no bound is bounded by this where a limit counts what it writes, or by
/// what is left of the limit where that is less.
const OUTPUT_TOKENS_UNSAID: u32 = 16_384;

/// A reply is not bounded to fewer than this: then there is nothing left.
const OUTPUT_TOKENS_MIN: u32 = 256;

/// How often a bound is made anew of what is left, while others take of it.
const TRIES_MAX: usize = 4;

/// The reason of an answer that costs nothing because a budget is spent.
pub(crate) const SPENT: &str = "budget spent";

/// How soon a place among those at once may be free, as far as anybody knows.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// Between two tries of whoever's turn it is, at least, where it is told of no wait.
const TRIES_APART: Duration = Duration::from_millis(10);

/// Who keeps count of limits, and who waits for them.
#[derive(Clone)]
pub(crate) struct Keepers {
    /// `None`: nobody counts.
    pub quotas: Option<Arc<dyn Quotas>>,
    pub lines: Arc<Lines>,
}

/// One exchange's part of its caller's limits.
pub(crate) struct Share {
    quotas: Option<Arc<dyn Quotas>>,
    lines: Arc<Lines>,
    /// Whose turn it takes where it waits.
    key: Option<KeyId>,
    limits: Arc<[Limit]>,
    grant: Option<Grant>,
    /// A kept reply's tokens were paid for by whoever asked first.
    is_replayed: bool,
}

impl Share {
    pub fn new(keepers: Keepers, key: Option<KeyId>, limits: Arc<[Limit]>) -> Self {
        Self {
            quotas: keepers.quotas,
            lines: keepers.lines,
            key,
            limits,
            grant: None,
            is_replayed: false,
        }
    }

    /// Without limits everything below is nothing.
    pub fn is_unlimited(&self) -> bool {
        self.quotas.is_none() || self.limits.is_empty()
    }

    pub fn counts(&self, measures: &[Measure]) -> bool {
        let mut limits = self.limits.iter();
        !self.is_unlimited() && limits.any(|limit| measures.contains(&limit.measure))
    }

    /// Takes the worst that is to come, unless something was taken already.
    pub async fn take(&mut self, worst: Use) -> Result<(), Exhausted> {
        let Some(quotas) = self.quotas.as_ref().filter(|_| self.grant.is_none()) else {
            return Ok(());
        };
        if !self.limits.is_empty() {
            self.grant = Some(quotas.take(&self.limits, worst).await?);
        }
        Ok(())
    }

    /// The same, after a wait where the limit that is short says so.
    pub async fn take_in_turn(&mut self, worst: Use) -> Result<(), Exhausted> {
        let mut patience = Patience::default();
        loop {
            self.fall_in(&mut patience, worst).await?;
            match self.take(worst).await {
                Ok(()) => return Ok(()),
                Err(exhausted) => self.wait(&mut patience, exhausted, worst).await?,
            }
        }
    }

    /// Takes what a kept reply comes to.
    pub async fn take_replay(&mut self) -> Result<(), Exhausted> {
        self.is_replayed = true;
        self.take_in_turn(ONE_REQUEST).await
    }

    /// Behind those who wait already for a limit that is waited for; returns when it may try.
    async fn fall_in(&self, patience: &mut Patience, worst: Use) -> Result<(), Exhausted> {
        if patience.place.is_some() || self.lines.waiting_count() == 0 || self.grant.is_some() {
            return Ok(());
        }
        let mut queues = self.limits.iter();
        let others = queues.find(|limit| {
            let units = worst.of(limit.measure);
            limit.when_spent == WhenSpent::Queue
                && (1..=limit.whole()).contains(&units)
                && self.lines.is_waited_for(&limit.account())
        });
        let Some(limit) = others else {
            return Ok(());
        };
        let refused = || Exhausted {
            limit: limit.clone(),
            retry_after: self.foretold(limit, worst),
            why: Shortage::Amount,
        };
        let account = limit.account();
        patience.place = self.lines.fall_in(account, self.key.as_ref());
        let Some(place) = &patience.place else {
            return Err(refused());
        };
        let until = *patience
            .until
            .get_or_insert_with(|| Instant::now() + self.lines.wait_max());
        while !place.has_its_turn() {
            if timeout_at(until, place.rung()).await.is_err() {
                return Err(refused());
            }
        }
        Ok(())
    }

    /// Waits until it is worth trying again after `exhausted`, which is given back where it is not.
    async fn wait(
        &self,
        patience: &mut Patience,
        exhausted: Exhausted,
        worst: Use,
    ) -> Result<(), Exhausted> {
        let Some(retry_after) = waits(&exhausted) else {
            return Err(exhausted);
        };
        let now = Instant::now();
        let until = *patience
            .until
            .get_or_insert_with(|| now + self.lines.wait_max());
        // Of requests nothing ever comes back before it is foretold to.
        let is_sure = exhausted.limit.measure == Measure::Requests;
        if is_sure && now + retry_after > until {
            return Err(exhausted);
        }
        let account = exhausted.limit.account();
        let known = patience.place.as_ref();
        let is_new = known.is_none_or(|place| !place.is_in_line_of(&account));
        if is_new {
            patience.place = None;
            patience.place = self.lines.fall_in(account, self.key.as_ref());
        }
        let Some(place) = &patience.place else {
            return Err(exhausted);
        };
        // What came back before it had its place, nobody rang it for.
        if is_new && place.has_its_turn() {
            return Ok(());
        }
        loop {
            // Whoever's turn it is waits for what is foretold, others for their turn.
            let wake_at = match place.has_its_turn() {
                true => until.min(now + retry_after.max(TRIES_APART)),
                false => until,
            };
            let is_rung = timeout_at(wake_at, place.rung()).await.is_ok();
            if !is_rung && wake_at == until {
                return Err(Exhausted {
                    retry_after: self.foretold(&exhausted.limit, worst),
                    ..exhausted
                });
            }
            if place.has_its_turn() {
                return Ok(());
            }
        }
    }

    /// When `worst` would pass `limit`, if nobody else asked; `None` where it never does.
    fn foretold(&self, limit: &Limit, worst: Use) -> Option<Duration> {
        let units = worst.of(limit.measure);
        if units > limit.whole() {
            return None;
        }
        let left = self.quotas.as_ref()?.left(std::slice::from_ref(limit));
        let missing = units.saturating_sub(left.first()?.amount);
        let Some(period) = limit.per.refills_in() else {
            return Some(PLACE_WAIT);
        };
        let nanos = u128::from(missing) * period.as_nanos();
        let nanos = nanos.div_ceil(u128::from(limit.amount.max(1)));
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }

    /// What of `measure` is left in the limit that has the least.
    fn left(&self, measure: Measure) -> Option<u64> {
        let quotas = self.quotas.as_ref()?;
        let left = quotas.left(&self.limits).into_iter();
        let left = self.limits.iter().zip(left);
        let left = left.filter(|(limit, _)| limit.measure == measure);
        left.map(|(_, left)| left.amount).min()
    }

    pub fn allowance(&self) -> Allowance {
        let left = self.grant.iter().flat_map(|grant| &grant.left);
        Allowance::of(self.limits.iter().zip(left))
    }

    /// Says what it came to, and gives the rest back.
    pub fn settle(&mut self, record: &ExchangeRecord) {
        let Some(grant) = self.grant.take() else {
            return;
        };
        if self.is_replayed {
            grant.settle_with(ONE_REQUEST, record);
        } else {
            grant.settle_with(came_to(record), record);
        }
        let queues = self.limits.iter();
        let queues = queues.filter(|limit| limit.when_spent == WhenSpent::Queue);
        self.lines.ring(queues);
    }
}

/// How long an exchange has waited, and where.
#[derive(Default)]
struct Patience {
    /// When it is at its end; `None` before it began to wait.
    until: Option<Instant>,
    place: Option<Place>,
}

/// When it is worth trying again, where the limit is one that is waited for.
fn waits(exhausted: &Exhausted) -> Option<Duration> {
    let is_waited_for =
        exhausted.limit.when_spent == WhenSpent::Queue && exhausted.why == Shortage::Amount;
    exhausted.retry_after.filter(|_| is_waited_for)
}

fn came_to(record: &ExchangeRecord) -> Use {
    let usage = record.usage.unwrap_or_default();
    let loser = record.hedge.as_ref().and_then(|hedge| hedge.loser_cost);
    let costs = record.cost.into_iter().chain(loser);
    Use {
        requests: 1,
        input_tokens: usage.prompt_tokens.0.into(),
        output_tokens: usage.completion_tokens.0.into(),
        cost: costs.fold(MicroUsd(0), add),
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("limits", &self.limits.len())
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

const ONE_REQUEST: Use = Use {
    requests: 1,
    input_tokens: 0,
    output_tokens: 0,
    cost: MicroUsd(0),
};

fn add(a: MicroUsd, b: MicroUsd) -> MicroUsd {
    MicroUsd(a.0.saturating_add(b.0))
}

/// What is left to a caller, as OpenAI's headers say it: of the limit that is nearest to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    pub requests: Option<Standing>,
    /// In, out or both.
    pub tokens: Option<Standing>,
}

/// One limit's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub limit: u64,
    pub remaining: u64,
    /// Until all of it is there again.
    pub reset: Option<Duration>,
}

impl Allowance {
    fn of<'a>(limits: impl Iterator<Item = (&'a Limit, &'a Left)>) -> Self {
        let mut allowance = Self::default();
        for (limit, left) in limits {
            let place = match limit.measure {
                Measure::Requests => &mut allowance.requests,
                Measure::InputTokens | Measure::OutputTokens | Measure::Tokens => {
                    &mut allowance.tokens
                }
                Measure::Cost | Measure::Concurrency => continue,
            };
            // Of what refills, what may be had at one moment is what a caller runs into.
            let whole = limit.whole();
            let remaining = left.amount;
            let is_nearer = |known: &Standing| {
                let share = |part: u64, whole: u64| u128::from(part) * u128::from(whole.max(1));
                share(remaining, known.limit) < share(known.remaining, whole)
            };
            if place.as_ref().is_none_or(is_nearer) {
                *place = Some(Standing {
                    limit: whole,
                    remaining,
                    reset: left.whole_after,
                });
            }
        }
        allowance
    }
}

/// How long texts are, and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub bytes: u64,
    pub texts: u64,
}

impl Extent {
    pub fn of(request: &ChatRequest) -> Self {
        let mut bytes = 0_u64;
        request.texts(&mut |text| bytes = bytes.saturating_add(text.len() as u64));
        Self {
            bytes,
            texts: request.messages.len() as u64,
        }
    }

    pub fn of_inputs(inputs: &[EmbedInput]) -> Self {
        let bytes = inputs.iter().map(|input| match input {
            EmbedInput::Text(text) => text.len() as u64,
            EmbedInput::Tokens(tokens) => tokens.len() as u64 * TOKEN_BYTES,
        });
        Self {
            bytes: bytes.sum(),
            texts: inputs.len() as u64,
        }
    }

    /// In tokens of so many bytes, at most.
    fn tokens(self, token_bytes: u64) -> u64 {
        self.bytes.div_ceil(token_bytes) + MESSAGE_TOKENS * (self.texts + 1)
    }
}

/// What a prompt comes to at most, in tokens of so many bytes.
fn prompt_tokens(request: &ChatRequest, token_bytes: u64) -> u64 {
    Extent::of(request).tokens(token_bytes) + media_tokens(request)
}

/// What a prompt and a reply cost at most.
fn cost(price: Price, input: u64, output: u64) -> MicroUsd {
    let tokens = |count: u64| Tokens(u32::try_from(count).unwrap_or(u32::MAX));
    let usage = Usage {
        prompt_tokens: tokens(input),
        completion_tokens: tokens(output),
        ..Usage::default()
    };
    // What a provider writes into its cache may cost more.
    let written = Usage {
        cache_write_tokens: usage.prompt_tokens,
        ..usage
    };
    price.cost(&usage).max(price.cost(&written))
}

/// A chat's plan as its caller's limits leave it, and its worst taken from them.
///
/// # Errors
/// A limit has not enough left, and nothing that costs nothing may stand in.
pub(crate) async fn afford(mut planned: Planned) -> Result<Planned, Refusal> {
    let receipt = &planned.missed.admitted.receipt;
    if receipt.share().is_unlimited() {
        return Ok(planned);
    }
    if receipt.share().counts(&[Measure::Cost]) {
        keep_priced(&mut planned)?;
    }
    let mut estimate = Estimate::of(&planned);
    let share = planned.missed.admitted.receipt.share();
    let counts_output = share.counts(&[Measure::OutputTokens, Measure::Tokens])
        || estimate.cost(1) > MicroUsd(0) && share.counts(&[Measure::Cost]);
    let is_unsaid = planned.missed.admitted.request.output_tokens_max.is_none();
    let mut tries = 0;
    let mut patience = Patience::default();
    loop {
        tries += 1;
        if is_unsaid && counts_output {
            bound_by_left(&mut planned, &estimate);
        }
        let admitted = &mut planned.missed.admitted;
        let worst = estimate.worst(admitted.request.output_tokens_max);
        let share = admitted.receipt.share_mut();
        let taken = match share.fall_in(&mut patience, worst).await {
            Ok(()) => share.take(worst).await,
            Err(exhausted) => Err(exhausted),
        };
        let Err(exhausted) = taken else {
            return Ok(planned);
        };
        let is_cost = exhausted.limit.measure == Measure::Cost;
        if is_cost && exhausted.limit.when_spent == WhenSpent::Free && keep_free(&mut planned) {
            estimate.prices = prices(&planned);
            continue;
        }
        // Others may have taken meanwhile of what the bound was made of.
        if is_unsaid && counts_output && tries < TRIES_MAX && may_shrink(&planned) {
            continue;
        }
        let share = planned.missed.admitted.receipt.share();
        let Err(exhausted) = share.wait(&mut patience, exhausted, worst).await else {
            tries = 0;
            continue;
        };
        let rule = planned.plan.rule.clone();
        let receipt = &mut planned.missed.admitted.receipt;
        return Err(refuse(receipt, fault(&exhausted), Some(rule)));
    }
}

/// What the caller learns of a limit that has not enough left.
pub(crate) fn fault(exhausted: &Exhausted) -> Fault {
    if exhausted.why == Shortage::Accounts {
        return Fault::AccountsFull {
            retry_after: exhausted.retry_after.unwrap_or(PLACE_WAIT),
        };
    }
    match (exhausted.limit.measure, exhausted.retry_after) {
        (Measure::Cost, _) => Fault::BudgetSpent,
        (_, Some(retry_after)) => Fault::RateLimited { retry_after },
        (_, None) => Fault::Forbidden {
            what: "this one request is more than the key's limit ever grants; ask for less, or for \
                   fewer output tokens",
        },
    }
}

fn price_of(candidate: &Candidate, snapshot: &Snapshot) -> Option<Price> {
    let card = snapshot.backends().get(candidate.backend)?.card();
    if card.is_local() {
        return Some(Price::FREE);
    }
    snapshot.price(&card.name, &candidate.model)
}

/// Who works at no known price may cost anything.
fn keep_priced(planned: &mut Planned) -> Result<(), Refusal> {
    let snapshot = Arc::clone(&planned.missed.admitted.snapshot);
    let count = planned.plan.candidates.len();
    let mut reasons = Vec::new();
    planned.plan.candidates.retain(|candidate| {
        let is_priced = price_of(candidate, &snapshot).is_some();
        if !is_priced && let Some(backend) = snapshot.backends().get(candidate.backend) {
            let (name, model) = (&backend.card().name, &candidate.model);
            reasons.push(format!(
                "{name}/{model}: no price is known, and the caller has a budget"
            ));
        }
        is_priced
    });
    if planned.plan.candidates.is_empty() {
        let receipt = &mut planned.missed.admitted.receipt;
        return Err(refuse(receipt, Fault::NoCandidate { reasons }, None));
    }
    planned.missed.is_for_all &= planned.plan.candidates.len() == count;
    Ok(())
}

/// Leaves those that cost nothing. False where there are none, or no others.
fn keep_free(planned: &mut Planned) -> bool {
    let snapshot = Arc::clone(&planned.missed.admitted.snapshot);
    let is_free = |candidate: &Candidate| price_of(candidate, &snapshot) == Some(Price::FREE);
    let candidates = &mut planned.plan.candidates;
    if candidates.iter().all(is_free) || !candidates.iter().any(is_free) {
        return false;
    }
    candidates.retain(is_free);
    // A stand-in's answer is not kept as the others' would have been.
    planned.missed.keeping = None;
    planned.missed.is_for_all = false;
    for candidate in candidates {
        candidate.reason = format!("{}; {SPENT}", candidate.reason);
    }
    true
}

/// Bounds the reply by what is left of the limits that it counts to.
fn bound_by_left(planned: &mut Planned, estimate: &Estimate) {
    let share = planned.missed.admitted.receipt.share();
    let mut all = u64::from(OUTPUT_TOKENS_UNSAID) * estimate.choices;
    if let Some(left) = share.left(Measure::OutputTokens) {
        all = all.min(left);
    }
    if let Some(left) = share.left(Measure::Tokens) {
        all = all.min(left.saturating_sub(estimate.input));
    }
    if let Some(left) = share.left(Measure::Cost) {
        all = all.min(affordable(estimate, left, all));
    }
    let each = u32::try_from(all / estimate.choices).unwrap_or(u32::MAX);
    let bound = each.clamp(OUTPUT_TOKENS_MIN, OUTPUT_TOKENS_UNSAID);
    if bound < OUTPUT_TOKENS_UNSAID {
        // Others of the team may have more left than this reply was given.
        planned.missed.keeping = None;
        planned.missed.is_for_all = false;
    }
    let request = &mut planned.missed.admitted.request;
    request.output_tokens_max = Some(Tokens(bound));
    // The body as received does not say so.
    request.source = None;
}

/// How many tokens of a reply, up to `all`, `left` millionths of a dollar pay for.
fn affordable(estimate: &Estimate, left: u64, all: u64) -> u64 {
    let is_paid = |output: u64| {
        let cost = estimate.cost(output);
        u64::try_from(cost.0).is_ok_and(|cost| cost <= left)
    };
    if is_paid(all) {
        return all;
    }
    // The price is no function to turn round: rates change with the prompt's length.
    let (mut paid, mut unpaid) = (0, all);
    while unpaid - paid > 1 {
        let middle = paid + (unpaid - paid) / 2;
        if is_paid(middle) {
            paid = middle;
        } else {
            unpaid = middle;
        }
    }
    paid
}

fn may_shrink(planned: &Planned) -> bool {
    let bound = planned.missed.admitted.request.output_tokens_max;
    bound.is_some_and(|bound| bound > Tokens(OUTPUT_TOKENS_MIN))
}

/// What is known of a plan's worst before the reply's bound is: the prompt is read over once.
struct Estimate {
    /// In tokens, where a limit must hold and where money must.
    input: u64,
    paid_input: u64,
    choices: u64,
    /// The candidates'.
    prices: Vec<Price>,
    /// Whether two may be asked at once.
    hedges: bool,
    /// How often somebody else may go on with a reply.
    rescues_max: u64,
}

impl Estimate {
    fn of(planned: &Planned) -> Self {
        let admitted = &planned.missed.admitted;
        let request = &admitted.request;
        Self {
            input: prompt_tokens(request, TOKEN_BYTES),
            paid_input: prompt_tokens(request, PAID_TOKEN_BYTES),
            choices: request.choices.max(1).into(),
            prices: prices(planned),
            hedges: planned.plan.manners.hedges,
            rescues_max: match planned.plan.trouble.rescue {
                policy::Rescue::Off => 0,
                policy::Rescue::SameModel | policy::Rescue::Any => {
                    admitted.snapshot.rescue().attempts_max.into()
                }
            },
        }
    }

    /// With each choice bounded so.
    fn worst(&self, bound: Option<Tokens>) -> Use {
        let output = u64::from(bound.map_or(0, |tokens| tokens.0)) * self.choices;
        // Whoever goes on with a reply reads the prompt, and what was said.
        let again = self
            .rescues_max
            .saturating_mul(self.input.saturating_add(output));
        Use {
            requests: 1,
            input_tokens: self.input.saturating_add(again),
            output_tokens: output,
            cost: self.cost(output),
        }
    }

    /// Of the dearest candidate, a second one beside it where two are asked at once, and whoever goes on
    /// with a reply that breaks off, each time with all that was said before it.
    fn cost(&self, output: u64) -> MicroUsd {
        let dearest = |input: u64| {
            let costs = self.prices.iter().map(|price| cost(*price, input, output));
            costs.max().unwrap_or(MicroUsd(0))
        };
        let mut worst = dearest(self.paid_input);
        if self.hedges {
            worst = add(worst, dearest(self.paid_input));
        }
        for _ in 0..self.rescues_max {
            worst = add(worst, dearest(self.paid_input.saturating_add(output)));
        }
        worst
    }
}

/// Of the candidates, where they are known.
fn prices(planned: &Planned) -> Vec<Price> {
    let snapshot = &planned.missed.admitted.snapshot;
    let candidates = planned.plan.candidates.iter();
    candidates
        .filter_map(|candidate| price_of(candidate, snapshot))
        .collect()
}

/// The worst that a request for one choice, with its reply bounded, comes to at this price.
pub(crate) fn worst_of(request: &ChatRequest, price: Price) -> Use {
    let output = request
        .output_tokens_max
        .map_or(0, |tokens| tokens.0)
        .into();
    Use {
        requests: 1,
        input_tokens: prompt_tokens(request, TOKEN_BYTES),
        output_tokens: output,
        cost: cost(price, prompt_tokens(request, PAID_TOKEN_BYTES), output),
    }
}

/// Takes for work that is no chat: `texts` go to one of `routes`.
///
/// # Errors
/// A limit has not enough left, or nobody's price is known and the caller has a budget.
pub(crate) async fn take_for(
    receipt: &mut Receipt,
    texts: Extent,
    routes: &[RouteTaken],
    snapshot: &Snapshot,
) -> Result<(), Fault> {
    if receipt.share().is_unlimited() {
        return Ok(());
    }
    let input = texts.tokens(PAID_TOKEN_BYTES);
    let mut worst = MicroUsd(0);
    if receipt.share().counts(&[Measure::Cost]) {
        for route in routes.iter().filter(|route| !route.is_local) {
            let price = snapshot.price(&route.backend, &route.model);
            let price = price.ok_or(Fault::Forbidden {
                what: "no price is known of this model, and the key has a budget",
            })?;
            worst = worst.max(cost(price, input, 0));
        }
    }
    let taken = receipt.share_mut().take_in_turn(Use {
        requests: 1,
        input_tokens: texts.tokens(TOKEN_BYTES),
        output_tokens: 0,
        cost: worst,
    });
    taken.await.map_err(|exhausted| fault(&exhausted))
}
