//! What happens to a stream on its way to the caller: kept, unmasked, measured.
//!
//! One wrapper does all three, in that order: the kept copy still has placeholders, what the caller
//! reads has not, and the receipt sees how it ended. Nothing is buffered beyond one event, the
//! unmasker's tail, and the copy for the cache, which is given up past its bound. Where the reply may
//! be rescued ([`crate::rescue`]), so is a copy of what the caller was sent.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use domain::{
    BackendError, CacheStore, ChatEvent, ChatStream, Findings, Grammar, GrammarError, Outcome,
    ToolCallPart,
};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, stream};
use policy::{Room, Unmasker};

use crate::answer::{Answer, CacheUse, RouteLabel};
use crate::keep::Tee;
use crate::receipt::Receipt;
use crate::rescue::{Lifeline, Lost, Tried, Verdict};
use crate::reuse::Reuse;
use crate::shadow::Seed;
use crate::snapshot::Snapshot;
use crate::stages::Opened;

/// Turns an opened candidate into the caller's answer.
pub(crate) fn wrap(
    opened: Opened,
    store: Arc<dyn CacheStore>,
    reuse: Option<&Reuse>,
    shadow: Option<Box<Seed>>,
) -> Answer {
    let Opened {
        snapshot,
        findings,
        keeping,
        lifeline,
        route,
        is_stand_in,
        reason,
        head,
        rest,
        mut receipt,
        timings,
        ..
    } = opened;
    receipt.note_first_content();
    receipt.note_price_of_route(&snapshot);
    let cost = receipt.cost();
    let allowance = receipt.share().allowance();
    let cache = match receipt.is_bypassing() {
        true => CacheUse::Bypassed,
        false => CacheUse::Missed,
    };
    let tee = keeping.map(|keeping| Tee::new(keeping, store, reuse, &snapshot));
    let model = head
        .iter()
        .find_map(|event| match event {
            ChatEvent::Started(started) => Some(started.model.clone()),
            _ => None,
        })
        .unwrap_or_default();
    let events = stream::iter(head.into_iter().map(Ok)).chain(rest).boxed();
    let mut wrapped = Wrapped::new(events, tee, &findings, receipt);
    let rescues = match &lifeline {
        Some(Lifeline::Ready(rescuer)) => Some(rescuer.rescues()),
        Some(Lifeline::Cut(_)) | None => None,
    };
    wrapped.lifeline = lifeline;
    wrapped.shadow = match &route {
        RouteLabel::Local { model } if !is_stand_in => shadow.map(|seed| (seed, model.clone())),
        _ => None,
    };
    wrapped.snapshot = Some(snapshot);
    let stream = wrapped.boxed();
    Answer {
        route,
        reason,
        model,
        cache,
        timings,
        made: cost.clone(),
        cost,
        allowance,
        rescues,
        trace: None,
        stream,
    }
}

/// A kept reply on its way out: unmasked with the present request's own findings.
pub(crate) fn wrap_hit(
    events: ChatStream,
    findings: &Arc<Findings>,
    mut receipt: Receipt,
) -> ChatStream {
    receipt.note_first_content();
    Wrapped::new(events, None, findings, receipt).boxed()
}

struct Wrapped {
    events: ChatStream,
    grammar: Grammar,
    tee: Option<Tee>,
    /// What is asked for again once it has ended, and by whom it is answered.
    shadow: Option<(Box<Seed>, String)>,
    unmask: Unmask,
    ready: VecDeque<Result<ChatEvent, BackendError>>,
    lifeline: Option<Lifeline>,
    /// While somebody to go on is looked for, with what broke the reply off.
    trying: Option<(BackendError, BoxFuture<'static, Tried>)>,
    /// For prices of whoever goes on.
    snapshot: Option<Arc<Snapshot>>,
    /// Taken when the stream ends, so that the record leaves at once.
    receipt: Option<Receipt>,
}

impl Wrapped {
    fn new(events: ChatStream, tee: Option<Tee>, findings: &Findings, receipt: Receipt) -> Self {
        Self {
            events,
            grammar: Grammar::default(),
            tee,
            shadow: None,
            unmask: Unmask::new(findings),
            ready: VecDeque::new(),
            lifeline: None,
            trying: None,
            snapshot: None,
            receipt: Some(receipt),
        }
    }

    fn pass(&mut self, mut event: ChatEvent) {
        if let ChatEvent::Written(_) = event {
            // Where a value is put back, or somebody else may go on, the events are no longer what was
            // written.
            if self.unmask.is_idle() && self.lifeline.is_none() {
                self.ready.push_back(Ok(event));
            }
            return;
        }
        if let Err(breach) = self.grammar.take(&event) {
            return self.break_off(malformed(breach));
        }
        if let Some(mut tee) = self.tee.take() {
            self.tee = tee.take(&event).then_some(tee);
        }
        if let Some((seed, _)) = &mut self.shadow
            && !seed.hear(&event)
        {
            self.shadow = None;
        }
        if let Some(receipt) = &mut self.receipt {
            receipt.note_event(&event);
            if let ChatEvent::Usage(usage) = &mut event {
                *usage = receipt.of_one_reply(*usage);
            }
        }
        self.unmask.take(event, &mut self.ready);
    }

    /// What the caller is sent next.
    fn sent(&mut self, event: Result<ChatEvent, BackendError>) -> Result<ChatEvent, BackendError> {
        if let (Ok(event), Some(Lifeline::Ready(rescuer))) = (&event, &mut self.lifeline) {
            rescuer.watch(event);
        }
        if let (Ok(event), Some(receipt)) = (&event, &mut self.receipt) {
            receipt.note_sent(event);
        }
        event
    }

    /// The backend is done with the reply, and the reply not with itself.
    fn broke(&mut self, error: BackendError) {
        let rescuer = match self.lifeline.take() {
            Some(Lifeline::Ready(rescuer)) => rescuer,
            Some(Lifeline::Cut(lost)) => return self.lose(lost, error),
            None => return self.break_off(error),
        };
        self.tee = None;
        self.shadow = None;
        match rescuer.judge(&error) {
            // All but the usage came.
            Verdict::Whole => self.end(),
            Verdict::Lost(lost) => self.lose(lost, error),
            Verdict::GoOn => {
                self.events = stream::empty().boxed();
                // It may be the beginning of what whoever goes on says anew.
                self.unmask.forget(Channel::Text { choice: 0 });
                self.unmask.flush(&mut self.ready, |channel| {
                    channel == Channel::Thought { choice: 0 }
                });
                self.trying = Some((error.clone(), rescuer.go_on(&error)));
            }
        }
    }

    fn tried(&mut self, broken_by: BackendError, tried: Tried) {
        let Tried {
            rescuer,
            failed,
            outcome,
        } = tried;
        if let Some(receipt) = &mut self.receipt {
            receipt.note(|record| record.failed_candidates.extend(failed));
        }
        match outcome {
            Ok(resumed) => {
                if let (Some(receipt), Some(snapshot)) = (&mut self.receipt, &self.snapshot) {
                    receipt.note_rescue(resumed.route, snapshot);
                }
                self.events = resumed.events;
                self.lifeline = Some(Lifeline::Ready(rescuer));
            }
            Err(lost) => self.lose(lost, broken_by),
        }
    }

    fn lose(&mut self, lost: Lost, error: BackendError) {
        if let Some(receipt) = &mut self.receipt {
            receipt.note(|record| record.unrescued = Some(lost.as_label()));
        }
        self.break_off(error);
    }

    fn end(&mut self) {
        if self.grammar.finish().is_err() {
            return self.broke(BackendError::Interrupted);
        }
        let cost = self.receipt.as_ref().map(Receipt::cost);
        if let Some(mut receipt) = self.receipt.take() {
            receipt.note(|record| record.outcome = Outcome::Answered);
        }
        // The receipt has settled by now what it cost.
        if let Some(tee) = self.tee.take() {
            tee.keep(cost.and_then(|cost| cost.known()));
        }
        if let Some((seed, beside)) = self.shadow.take() {
            seed.sow(beside);
        }
    }

    fn break_off(&mut self, error: BackendError) {
        self.tee = None;
        self.shadow = None;
        self.events = stream::empty().boxed();
        if let Some(mut receipt) = self.receipt.take() {
            receipt.note(|record| record.outcome = Outcome::BrokenOff(error.as_label()));
        }
        self.ready.push_back(Err(error));
    }
}

fn malformed(breach: GrammarError) -> BackendError {
    BackendError::Garbled(match breach {
        GrammarError::NotStarted | GrammarError::StartedTwice => "its stream starts oddly",
        GrammarError::AfterUsage | GrammarError::AfterEnd(_) => "its stream goes on after its end",
        GrammarError::NeverEnded(_) | GrammarError::NoChoice => "its stream has no end",
    })
}

impl Stream for Wrapped {
    type Item = Result<ChatEvent, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(self.sent(event)));
            }
            if self.receipt.is_none() {
                return Poll::Ready(None);
            }
            if let Some((_, trying)) = &mut self.trying {
                let tried = ready!(trying.poll_unpin(cx));
                if let Some((broken_by, _)) = self.trying.take() {
                    self.tried(broken_by, tried);
                }
                continue;
            }
            match self.events.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(event))) => self.pass(event),
                Poll::Ready(Some(Err(error))) => self.broke(error),
                Poll::Ready(None) => self.end(),
            }
        }
    }
}

/// Puts the caller's own values back, per choice and channel.
struct Unmask {
    /// `None` when there is nothing to put back.
    findings: Option<Findings>,
    room: Room,
    tails: Vec<(Channel, Unmasker)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Channel {
    Text { choice: u32 },
    Thought { choice: u32 },
    Arguments { choice: u32, index: u32 },
}

impl Channel {
    fn choice(self) -> u32 {
        match self {
            Channel::Text { choice }
            | Channel::Thought { choice }
            | Channel::Arguments { choice, .. } => choice,
        }
    }

    fn event(self, text: String) -> ChatEvent {
        match self {
            Channel::Text { choice } => ChatEvent::Text { choice, text },
            Channel::Thought { choice } => ChatEvent::Thought { choice, text },
            Channel::Arguments { choice, index } => ChatEvent::ToolCall {
                choice,
                index,
                part: ToolCallPart {
                    id: None,
                    name: None,
                    arguments: text,
                    seal: None,
                },
            },
        }
    }
}

impl Unmask {
    fn new(findings: &Findings) -> Self {
        let findings = (!findings.is_empty()).then(|| findings.clone());
        Self {
            findings,
            room: Room::default(),
            tails: Vec::new(),
        }
    }

    fn unmasker(&self, findings: &Findings, is_json: bool) -> Unmasker {
        let unmasker = match is_json {
            true => Unmasker::in_json(findings),
            false => Unmasker::new(findings),
        };
        unmasker.within(&self.room)
    }

    /// Every event passes as it is.
    fn is_idle(&self) -> bool {
        self.findings.is_none()
    }

    fn take(&mut self, event: ChatEvent, out: &mut VecDeque<Result<ChatEvent, BackendError>>) {
        let Some(findings) = &self.findings else {
            return out.push_back(Ok(event));
        };
        match event {
            ChatEvent::Text { choice, text } => self.text(Channel::Text { choice }, &text, out),
            ChatEvent::Thought { choice, text } => {
                self.text(Channel::Thought { choice }, &text, out);
            }
            ChatEvent::ToolCall {
                choice,
                index,
                mut part,
            } => {
                let arguments = std::mem::take(&mut part.arguments);
                // It comes whole.
                if let Some(name) = &mut part.name {
                    let mut unmasker = self.unmasker(findings, false);
                    *name = unmasker.push(name) + &unmasker.finish();
                }
                if part.id.is_some() || part.name.is_some() || part.seal.is_some() {
                    out.push_back(Ok(ChatEvent::ToolCall {
                        choice,
                        index,
                        part,
                    }));
                }
                self.text(Channel::Arguments { choice, index }, &arguments, out);
            }
            // What it vouches for comes whole before it.
            ChatEvent::Seal { choice, seal } => {
                self.flush(out, |channel| channel == Channel::Thought { choice });
                out.push_back(Ok(ChatEvent::Seal { choice, seal }));
            }
            ChatEvent::StopString { choice, text } => {
                let mut unmasker = self.unmasker(findings, false);
                let text = unmasker.push(&text) + &unmasker.finish();
                self.flush(out, |channel| channel.choice() == choice);
                out.push_back(Ok(ChatEvent::StopString { choice, text }));
            }
            ChatEvent::ChoiceEnded { choice, reason } => {
                self.flush(out, |channel| channel.choice() == choice);
                out.push_back(Ok(ChatEvent::ChoiceEnded { choice, reason }));
            }
            // Of the tokens as the model wrote them, placeholders included: a value put back is
            // made of none.
            ChatEvent::Started(_) | ChatEvent::Logprobs { .. } | ChatEvent::Usage(_) => {
                out.push_back(Ok(event));
            }
            ChatEvent::Written(_) => {}
        }
    }

    fn text(
        &mut self,
        channel: Channel,
        text: &str,
        out: &mut VecDeque<Result<ChatEvent, BackendError>>,
    ) {
        let Some(findings) = &self.findings else {
            return;
        };
        let at = match self.tails.iter().position(|(open, _)| *open == channel) {
            Some(at) => at,
            None => {
                let is_json = match channel {
                    Channel::Text { .. } => findings.is_reply_json(),
                    Channel::Thought { .. } => false,
                    Channel::Arguments { .. } => true,
                };
                let unmasker = self.unmasker(findings, is_json);
                self.tails.push((channel, unmasker));
                self.tails.len() - 1
            }
        };
        let text = self.tails[at].1.push(text);
        if !text.is_empty() {
            out.push_back(Ok(channel.event(text)));
        }
    }

    /// Drops what is held back of a channel.
    fn forget(&mut self, channel: Channel) {
        self.tails.retain(|(open, _)| *open != channel);
    }

    fn flush(
        &mut self,
        out: &mut VecDeque<Result<ChatEvent, BackendError>>,
        has_ended: impl Fn(Channel) -> bool,
    ) {
        let (ended, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.tails)
            .into_iter()
            .partition(|(channel, _)| has_ended(*channel));
        self.tails = open;
        for (channel, mut unmasker) in ended {
            let text = unmasker.finish();
            if !text.is_empty() {
                out.push_back(Ok(channel.event(text)));
            }
        }
    }
}
