//! The driver: asks an upstream what this machine has answered, and compares.

use std::sync::Arc;
use std::time::Duration;

use domain::{
    Agreement, BackendError, ChatEvent, ChatStream, FinishReason, HealthState, ModelAlias,
    Outbound, Outcome, Principal, Priority, RequestId, ShadowRecord, TimeoutPhase, Usage,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use policy::Unmasker;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::{Counts, Grain, REPLY_BYTES_MAX, Sown, count};
use crate::quota::{Share, worst_of};
use crate::receipt::Receipt;
use crate::reuse::{Likeness, has_equal_words, likeness};
use crate::walk::route_taken;

/// Asked at once.
pub(crate) const AT_ONCE: usize = 2;

/// How long one waits while callers' requests take more than half of the seats. Reached: it is not asked.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Between two looks whether they still do.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the upstream may take to its last event. Reached: it did not answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// How long comparing may take. Reached: it cannot be told.
const COMPARE_MAX: Duration = Duration::from_secs(10);

/// The rule that decides who is asked: there is one upstream.
const REASON: &str = "shadow";

/// Asks, compares and leaves records. Dropping it drops what is under way, which is paid for as far as it
/// went. Ends when the pipeline and every exchange are gone.
pub struct Shadower {
    inbox: mpsc::Receiver<Sown>,
    counts: Arc<Counts>,
    seats: Arc<Semaphore>,
}

impl Shadower {
    pub(super) fn new(inbox: mpsc::Receiver<Sown>, counts: Arc<Counts>) -> Self {
        Self {
            inbox,
            counts,
            seats: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Runs until nobody is left who could sow.
    pub async fn run(mut self) {
        let mut asking = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(()) = asking.next() => {}
                sown = self.inbox.recv(), if asking.len() < AT_ONCE => {
                    let Some(sown) = sown else { return };
                    let seats = Arc::clone(&self.seats);
                    asking.push(ask(sown, seats, Arc::clone(&self.counts)));
                }
            }
        }
    }
}

impl std::fmt::Debug for Shadower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadower").finish_non_exhaustive()
    }
}

/// One shadow, from the queue to its record.
async fn ask(sown: Sown, seats: Arc<Semaphore>, counts: Arc<Counts>) {
    let Sown {
        grain,
        said,
        beside,
        since,
    } = sown;
    while !grain.has_room() {
        if since.elapsed() >= WAIT_MAX {
            return count(&counts.busy);
        }
        sleep(LOOK_EVERY).await;
    }
    let Some(price) = grain.price().filter(|_| grain.can_be_asked()) else {
        return count(&counts.away);
    };
    let place = grain.office.records.clone().try_reserve_owned();
    let (Ok(place), Ok(seat)) = (place, seats.try_acquire_owned()) else {
        return count(&counts.busy);
    };
    let limits = Arc::clone(&grain.rules.limits);
    let mut share = Share::new(grain.office.keepers.clone(), None, limits);
    let worst = worst_of(&grain.request, price);
    if share.is_unlimited() || share.take(worst).await.is_err() {
        return count(&counts.spent);
    }
    let principal = Principal {
        key: grain.key.clone(),
        team: grain.team.clone(),
        marks: grain.marks.clone(),
        ..Principal::anyone()
    };
    let id = grain.request_id.clone();
    let model = ModelAlias::new(grain.request.model.as_str());
    let mut receipt = Receipt::of_share(id, &principal, model, place, seat, share);
    receipt.note_prompt(&grain.request);
    let masked_count = u32::try_from(grain.findings.iter().count()).unwrap_or(u32::MAX);
    let route = route_taken(grain.backend.card(), &grain.rules.model);
    receipt.note(|record| {
        record.route = Some(route);
        record.reason = REASON.to_owned();
        record.masked_count = masked_count;
        record.shadow = Some(ShadowRecord {
            beside,
            // What stands if it is cut off.
            agreement: Agreement::Failed,
            similarity_permille: None,
        });
    });
    receipt.note_price_of_route(&grain.snapshot);

    let answering = async { hear(grain.open().await?, &mut receipt).await };
    let answered = timeout(ANSWER_MAX, answering).await;
    let answered = answered.unwrap_or(Err(BackendError::TimedOut(TimeoutPhase::BetweenEvents)));
    let (agreement, similarity) = match answered {
        Ok(Heard::Whole(theirs)) => grain.compare(&said, &theirs).await,
        Ok(Heard::Other) => (Agreement::Unclear, None),
        Err(error) => {
            let has_spoken = receipt.has_heard();
            let is_doubtful =
                matches!(error, BackendError::TimedOut(_) | BackendError::Interrupted);
            receipt.note(|record| {
                record.outcome = Outcome::BrokenOff(error.as_label());
                if !is_doubtful && !has_spoken {
                    // It did nothing for it.
                    record.usage = Some(Usage::default());
                }
            });
            counts.note(Agreement::Failed);
            return;
        }
    };
    receipt.note(|record| {
        record.outcome = Outcome::Answered;
        if let Some(shadow) = &mut record.shadow {
            shadow.agreement = agreement;
            shadow.similarity_permille = similarity.map(permille);
        }
    });
    counts.note(agreement);
}

/// What the upstream said.
enum Heard {
    /// In words, to its end.
    Whole(String),
    /// It calls a tool, was cut off, is empty or too long: nothing to compare.
    Other,
}

async fn hear(mut events: ChatStream, receipt: &mut Receipt) -> Result<Heard, BackendError> {
    let mut theirs = String::new();
    let mut is_whole = false;
    let mut is_other = false;
    while let Some(event) = events.next().await {
        let event = event?;
        receipt.note_event(&event);
        match &event {
            ChatEvent::Text { text, .. } => theirs.push_str(text),
            ChatEvent::ToolCall { .. } => is_other = true,
            ChatEvent::ChoiceEnded { reason, .. } => {
                is_whole = true;
                is_other |= *reason != FinishReason::Stop;
            }
            ChatEvent::Started(_)
            | ChatEvent::Thought { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::Usage(_)
            | ChatEvent::Written(_) => {}
        }
        if theirs.len() > REPLY_BYTES_MAX {
            return Ok(Heard::Other);
        }
    }
    if !is_whole {
        return Err(BackendError::Interrupted);
    }
    Ok(match is_other || theirs.trim().is_empty() {
        true => Heard::Other,
        false => Heard::Whole(theirs),
    })
}

fn permille(similarity: f32) -> u16 {
    // Between 0 and 1,000, which fits.
    (similarity.clamp(0.0, 1.0) * 1_000.0).round() as u16
}

impl Grain {
    /// Callers' requests leave half of the seats free.
    fn has_room(&self) -> bool {
        self.office.seats.available_permits().saturating_mul(2) >= self.office.seats_max
    }

    fn price(&self) -> Option<domain::Price> {
        self.snapshot.price(&self.rules.backend, &self.rules.model)
    }

    /// Not under what a reload has replaced: that may be the budget, what is masked, or whether anything is
    /// asked at all.
    fn can_be_asked(&self) -> bool {
        let vitals = self.ward.vitals(self.backend.as_ref(), &self.rules.model);
        Arc::ptr_eq(&self.office.snapshot.load(), &self.snapshot)
            && !self.snapshot.offline().is_offline()
            && self.backend.health().state == HealthState::Ready
            && !vitals.rests_now()
    }

    /// Masked as the trunk masks.
    async fn open(&self) -> Result<ChatStream, BackendError> {
        let call = Outbound::seal(
            // Another exchange to whoever keeps an account of ids.
            RequestId::new(format!("{}-shadow", self.request_id)),
            self.rules.model.clone(),
            self.request.clone(),
            &self.findings,
            self.backend.card().trust,
        );
        let call = call
            .of_body_bytes(self.body_bytes)
            .for_team(self.team.clone())
            .with_priority(Priority::Batch);
        self.backend.chat(call).await
    }

    /// Both as their caller would read them.
    async fn compare(&self, ours: &str, theirs: &str) -> (Agreement, Option<f32>) {
        let view = |text: &str| {
            let mut unmasker = Unmasker::new(&self.findings);
            unmasker.push(text) + &unmasker.finish()
        };
        let (ours, theirs) = (view(ours), view(theirs));
        let found = match (self.snapshot.reuse(), &self.reuse) {
            (Some(rules), Some(reuse)) => {
                let scorer = &reuse.core().scorer;
                let alike_at = self.rules.alike_at;
                let comparing = likeness(&ours, &theirs, &rules.encoder, scorer, alike_at);
                timeout(COMPARE_MAX, comparing).await.ok().flatten()
            }
            _ => has_equal_words(&ours, &theirs).then_some(Likeness {
                is_alike: true,
                similarity: 1.0,
            }),
        };
        match found {
            Some(found) if found.is_alike => (Agreement::Agrees, Some(found.similarity)),
            Some(found) => (Agreement::Differs, Some(found.similarity)),
            None => (Agreement::Unclear, None),
        }
    }
}
