//! What exchanges said, handed to whoever keeps it, where the operator's rules say so.
//!
//! ```text
//! admit: do the rules cover the team? ─► Collected, in the receipt: what is asked, and what the caller is sent
//! receipt drops ─try_send─► queue ─► TextWriter: the view that is kept ─► TextShelf
//! ```
//! Nobody waits for it. What has no room in the queue is counted and not kept; its record is as it would have
//! been. Masking comes here and not at the exchange's end: a backend of this machine's sees values as they
//! are and may repeat them, or make up others, so the whole of question and answer is looked through again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use domain::{
    ChatEvent, ChatRequest, ExchangeRecord, Fault, Findings, FinishReason, Image, KeptRecord,
    KeptText, Message, Outcome, Part, Role, Said, SaidCall, SaidMessage, TeamId, TextRules,
    TextShelf, TextView, ToolCall, Trust, chain,
};
use policy::ScanRules;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::snapshot::Snapshot;
use crate::trunk::SCAN_INLINE_BYTES_MAX;

/// Texts that wait to be written. One more is counted and not kept.
pub const TEXT_QUEUE_MAX: usize = 1_024;

/// Of all of them together: a request may have megabytes.
pub const TEXT_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of what is asked by all exchanges under way. Of one more nothing is kept, and that is counted.
pub const TEXTS_UNDER_WAY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Of one transaction.
const BATCH_MAX: usize = 32;

/// After a write that failed.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How long who erases waits for what is in the queue.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// What is collected of a reply beyond what is kept, and taken off again once it is masked: a value that the
/// end of what was collected cuts in two is not known for one.
const MARGIN_BYTES: usize = 16 * 1024;

/// Choices of a reply, and calls of a choice, that are collected.
const CHOICES_MAX: usize = 128;
const CALLS_MAX: usize = 128;

/// A shorter beginning of a value tells nothing of it.
const TORN_BYTES_MIN: usize = 3;

/// What a message takes in the queue beside its text: an estimate, on the high side.
const MESSAGE_BYTES: usize = 256;

/// The queue is counted in these.
const UNIT_BYTES: usize = 1024;

/// What became of texts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextCounts {
    pub written: u64,
    /// They found no room in the queue, or the node ended before they could be written.
    pub dropped: u64,
    /// They hold more personal data than can be masked.
    pub unmaskable: u64,
    pub queued: u64,
    /// They could not be written when that was last tried.
    pub is_failing: bool,
}

#[derive(Debug, Default)]
struct Tally {
    written: AtomicU64,
    dropped: AtomicU64,
    unmaskable: AtomicU64,
    is_failing: AtomicBool,
}

/// Takes texts for whoever keeps them.
pub struct Texts {
    /// `None`: nothing is kept.
    rules: Arc<ArcSwapOption<TextRules>>,
    desk: mpsc::Sender<Ended>,
    room: Arc<Semaphore>,
    room_under_way: Arc<Semaphore>,
    tally: Arc<Tally>,
    end: watch::Sender<bool>,
    /// Taken into the queue, and of these out of it.
    sent: AtomicU64,
    settled: watch::Receiver<u64>,
}

/// The driver.
pub struct TextWriter {
    inbox: mpsc::Receiver<Ended>,
    shelf: Arc<dyn TextShelf>,
    rules: Arc<ArcSwapOption<TextRules>>,
    tally: Arc<Tally>,
    end: watch::Receiver<bool>,
    settled: watch::Sender<u64>,
}

impl Texts {
    /// What takes texts, and what hands them to `shelf`. Nothing is kept before there are rules.
    #[must_use]
    pub fn new(shelf: Arc<dyn TextShelf>) -> (Arc<Self>, TextWriter) {
        let (desk, inbox) = mpsc::channel(TEXT_QUEUE_MAX);
        let (end, ends) = watch::channel(false);
        let (settles, settled) = watch::channel(0);
        let rules = Arc::<ArcSwapOption<TextRules>>::default();
        let tally = Arc::<Tally>::default();
        let writer = TextWriter {
            inbox,
            shelf,
            rules: Arc::clone(&rules),
            tally: Arc::clone(&tally),
            end: ends,
            settled: settles,
        };
        let texts = Self {
            rules,
            desk,
            room: Arc::new(Semaphore::new(TEXT_QUEUE_BYTES_MAX / UNIT_BYTES)),
            room_under_way: Arc::new(Semaphore::new(TEXTS_UNDER_WAY_BYTES_MAX / UNIT_BYTES)),
            tally,
            end,
            sent: AtomicU64::new(0),
            settled,
        };
        (Arc::new(texts), writer)
    }

    /// From now on these hold, also for what is in the queue: of two the stricter.
    pub fn set_rules(&self, rules: Option<TextRules>) {
        self.rules.store(rules.map(Arc::new));
    }

    #[must_use]
    pub fn counts(&self) -> TextCounts {
        TextCounts {
            written: self.tally.written.load(Ordering::Relaxed),
            dropped: self.tally.dropped.load(Ordering::Relaxed),
            unmaskable: self.tally.unmaskable.load(Ordering::Relaxed),
            queued: (TEXT_QUEUE_MAX - self.desk.capacity()) as u64,
            is_failing: self.tally.is_failing.load(Ordering::Relaxed),
        }
    }

    /// Ends the driver, once what was taken is written or cannot be.
    pub fn close(&self) {
        self.end.send_replace(true);
    }

    /// Returns once all that was taken before is written, or is not going to be. False where that does not
    /// come to pass.
    pub async fn until_settled(&self) -> bool {
        let sent = self.sent.load(Ordering::Acquire);
        let mut settled = self.settled.clone();
        let settling = settled.wait_for(|count| *count >= sent);
        matches!(timeout(SETTLE_MAX, settling).await, Ok(Ok(_)))
    }

    /// For an exchange of `team`; `None` where nothing of it is kept.
    pub(crate) fn begin(self: &Arc<Self>, team: &TeamId) -> Option<Box<Collected>> {
        let rules = self.rules.load_full().filter(|rules| rules.covers(team))?;
        Some(Box::new(Collected {
            texts: Arc::clone(self),
            rules,
            asked: None,
            choices: Vec::new(),
            bytes: 0,
            is_cut: false,
            is_torn: false,
            room: None,
        }))
    }

    fn take(&self, ended: Ended) {
        let room = room_of(&self.room, ended.bytes());
        let (Some(room), Ok(place)) = (room, self.desk.try_reserve()) else {
            return self.drop_one();
        };
        // Before it stands in the queue: who waits for one must not take another's end for it.
        self.sent.fetch_add(1, Ordering::Release);
        place.send(Ended {
            room: Some(room),
            ..ended
        });
    }

    fn drop_one(&self) {
        self.tally.dropped.fetch_add(1, Ordering::Release);
    }
}

fn room_of(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
    Arc::clone(room).try_acquire_many_owned(units).ok()
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Texts({:?})", self.counts())
    }
}

/// What an exchange says, as long as it is under way.
pub(crate) struct Collected {
    texts: Arc<Texts>,
    rules: Arc<TextRules>,
    /// `None` until it was looked through for personal data.
    asked: Option<Asked>,
    choices: Vec<(u32, Answered)>,
    /// Of what was collected of the reply.
    bytes: usize,
    is_cut: bool,
    /// A choice ended where its words did not.
    is_torn: bool,
    /// The place of what is asked among all that is under way.
    room: Option<OwnedSemaphorePermit>,
}

struct Asked {
    /// Text alone; a mark in the place of everything else.
    messages: Vec<Message>,
    findings: Arc<Findings>,
    /// By whose rules personal data is known.
    snapshot: Arc<Snapshot>,
}

#[derive(Default)]
struct Answered {
    text: String,
    thoughts: String,
    calls: Vec<(u32, SaidCall)>,
}

impl Collected {
    pub fn note_asked(
        &mut self,
        request: &ChatRequest,
        findings: &Arc<Findings>,
        snapshot: &Arc<Snapshot>,
    ) {
        let bytes = request.messages.iter().map(message_bytes).sum();
        self.room = room_of(&self.texts.room_under_way, bytes);
        if self.room.is_none() {
            return self.texts.drop_one();
        }
        self.asked = Some(Asked {
            messages: request.messages.iter().map(text_alone).collect(),
            findings: Arc::clone(findings),
            snapshot: Arc::clone(snapshot),
        });
    }

    /// Notes what the caller is sent, values put back.
    pub fn note_sent(&mut self, event: &ChatEvent) {
        match event {
            ChatEvent::Text { choice, text } => {
                let text = self.within(text);
                if let Some(answered) = self.choice(*choice) {
                    answered.text.push_str(text);
                }
            }
            ChatEvent::Thought { choice, text } => {
                let text = self.within(text);
                if let Some(answered) = self.choice(*choice) {
                    answered.thoughts.push_str(text);
                }
            }
            ChatEvent::ToolCall {
                choice,
                index,
                part,
            } => {
                let name = self.within(part.name.as_deref().unwrap_or_default());
                let arguments = self.within(&part.arguments);
                let call = self.choice(*choice).map(|it| it.call(*index));
                match call {
                    Some(Some(call)) => {
                        call.name.push_str(name);
                        call.arguments.push_str(arguments);
                    }
                    Some(None) => self.is_cut = true,
                    None => {}
                }
            }
            ChatEvent::StopString { .. } => self.is_torn = true,
            ChatEvent::ChoiceEnded { reason, .. } => {
                self.is_torn |=
                    matches!(reason, FinishReason::Length | FinishReason::ContentFilter);
            }
            ChatEvent::Started(_)
            | ChatEvent::Seal { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::Usage(_)
            | ChatEvent::Written(_) => {}
        }
    }

    /// As much of it as there is room for.
    fn within<'a>(&mut self, text: &'a str) -> &'a str {
        let room = (self.rules.text_bytes_max + MARGIN_BYTES).saturating_sub(self.bytes);
        // After a cut nothing follows: it would stand where something else was said.
        let end = match self.is_cut {
            true => 0,
            false => text.floor_char_boundary(room),
        };
        self.is_cut |= end < text.len();
        self.bytes += end;
        &text[..end]
    }

    /// `None` where there are too many.
    fn choice(&mut self, choice: u32) -> Option<&mut Answered> {
        let at = match self.choices.iter().position(|(known, _)| *known == choice) {
            Some(at) => at,
            None if self.choices.len() < CHOICES_MAX => {
                self.choices.push((choice, Answered::default()));
                self.choices.len() - 1
            }
            None => {
                self.is_cut = true;
                return None;
            }
        };
        Some(&mut self.choices[at].1)
    }

    /// The exchange is over. What was refused before it was looked through leaves nothing.
    pub fn end(self, record: &ExchangeRecord) {
        let Some(asked) = self.asked else {
            return;
        };
        let mut choices = self.choices;
        choices.sort_by_key(|(choice, _)| *choice);
        let named = KeptRecord::of(record, record.ended_us);
        self.texts.take(Ended {
            ended_us: named.ended_us,
            request_id: named.request_id,
            team: record.team.clone(),
            team_kept: named.team,
            marks: named.marks,
            rules: self.rules,
            asked,
            answered: choices.into_iter().map(|(_, it)| it.message()).collect(),
            is_whole: record.outcome == Outcome::Answered && !self.is_torn,
            is_cut: self.is_cut,
            room: None,
        });
    }
}

impl Answered {
    /// `None` where there are too many.
    fn call(&mut self, index: u32) -> Option<&mut SaidCall> {
        let at = match self.calls.iter().position(|(known, _)| *known == index) {
            Some(at) => at,
            None if self.calls.len() < CALLS_MAX => {
                self.calls.push((index, SaidCall::default()));
                self.calls.len() - 1
            }
            None => return None,
        };
        Some(&mut self.calls[at].1)
    }

    /// As it would stand in a later request.
    fn message(self) -> Message {
        let mut message = Message::new(Role::Assistant, self.text);
        if !self.thoughts.is_empty() {
            message.content.push(Part::Thought(self.thoughts));
        }
        let calls = self.calls.into_iter().map(|(_, call)| ToolCall {
            id: String::new(),
            name: call.name,
            arguments: call.arguments,
            seal: None,
        });
        message.tool_calls = calls.collect();
        message
    }
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collected({} bytes)", self.bytes)
    }
}

/// Text as it is; an image without an address for whatever else there is.
fn text_alone(message: &Message) -> Message {
    let parts = message.content.iter().filter_map(|part| match part {
        Part::Text(_) | Part::Thought(_) => Some(part.clone()),
        Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {
            Some(Part::Image(Image {
                url: String::new(),
                detail: None,
            }))
        }
        Part::Seal(_) => None,
    });
    let calls = message.tool_calls.iter().map(|call| ToolCall {
        id: String::new(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
        seal: None,
    });
    let mut alone = Message::new(message.role, "");
    alone.content = parts.collect();
    alone.tool_calls = calls.collect();
    alone
}

/// An exchange that is over, in the queue.
struct Ended {
    ended_us: i64,
    request_id: String,
    team: TeamId,
    /// As records have it.
    team_kept: String,
    marks: Option<String>,
    rules: Arc<TextRules>,
    asked: Asked,
    /// One for each choice.
    answered: Vec<Message>,
    /// The reply came to an end of its own.
    is_whole: bool,
    /// Less was collected of it than came.
    is_cut: bool,
    /// Its place among the bytes of the queue.
    room: Option<OwnedSemaphorePermit>,
}

impl Ended {
    fn bytes(&self) -> usize {
        let messages = self.asked.messages.iter().chain(&self.answered);
        messages.map(message_bytes).sum()
    }

    /// What is kept of it by `rules` and those that it began under; `None`: nothing.
    fn text(self, rules: &TextRules) -> Result<Option<KeptText>, Fault> {
        if !rules.covers(&self.team) {
            return Ok(None);
        }
        let rules = rules.and(&self.rules);
        let Asked {
            messages,
            findings,
            snapshot,
        } = self.asked;
        let mut is_cut = self.is_cut;
        let (asked, answered) = match rules.view {
            TextView::Raw => (said(&messages), said(&self.answered)),
            TextView::Masked => {
                let mut answered = self.answered;
                if !self.is_whole || self.is_cut {
                    answered
                        .iter_mut()
                        .for_each(|it| without_torn(it, &findings));
                }
                let count = messages.len();
                let all = messages.into_iter().chain(answered).collect();
                let all = masked(all, &findings, snapshot.scan())?;
                let (messages, answered) = all.split_at(count);
                let mut answered = said(answered);
                for message in &mut answered {
                    if self.is_cut {
                        without_margin(message);
                    }
                    is_cut |= without_opaque(message);
                }
                let mut asked = said(messages);
                for message in &mut asked {
                    is_cut |= without_opaque(message);
                }
                (asked, answered)
            }
        };
        let mut said = Said::of(rules.view, &asked, &answered, rules.text_bytes_max);
        said.is_cut |= is_cut;
        let keep_us = i64::try_from(rules.keep.as_micros()).unwrap_or(i64::MAX);
        Ok(Some(KeptText {
            ended_us: self.ended_us,
            request_id: self.request_id,
            team: self.team_kept,
            marks: self.marks,
            until_us: self.ended_us.saturating_add(keep_us),
            said,
        }))
    }
}

fn message_bytes(message: &Message) -> usize {
    let parts = message.content.iter().map(|part| match part {
        Part::Text(text) | Part::Thought(text) => text.len(),
        Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) | Part::Seal(_) => 0,
    });
    let calls = message.tool_calls.iter();
    let calls = calls.map(|call| call.name.len() + call.arguments.len() + MESSAGE_BYTES);
    MESSAGE_BYTES
        + MESSAGE_BYTES * message.content.len()
        + parts.sum::<usize>()
        + calls.sum::<usize>()
}

fn said(messages: &[Message]) -> Vec<SaidMessage> {
    messages.iter().map(SaidMessage::of).collect()
}

/// As anybody may see it: without what was found in the request, and without what is found now.
fn masked(
    messages: Vec<Message>,
    findings: &Findings,
    scan: &ScanRules,
) -> Result<Vec<Message>, Fault> {
    let request = ChatRequest::new("", messages);
    let once = findings.masked_view(request, Trust::Public);
    let more = scan.scan(&once)?;
    Ok(more.masked_view(once, Trust::Public).messages)
}

/// Without the beginning of a value that the end of the reply cuts in two.
fn without_torn(message: &mut Message, findings: &Findings) {
    for part in &mut message.content {
        if let Part::Text(text) | Part::Thought(text) = part {
            tear_off(text, findings);
        }
    }
    for call in &mut message.tool_calls {
        tear_off(&mut call.arguments, findings);
    }
}

fn tear_off(text: &mut String, findings: &Findings) {
    let longest = findings.iter().map(|finding| {
        let value = &finding.value;
        let ends = (TORN_BYTES_MIN..value.len())
            .rev()
            .filter(|end| value.is_char_boundary(*end));
        let mut torn = ends.filter(|end| text.ends_with(&value[..*end]));
        torn.next().unwrap_or(0)
    });
    let longest = longest.max().unwrap_or(0);
    text.truncate(text.len() - longest);
}

/// Without the end, in which a value may stand of which not all was collected.
fn without_margin(message: &mut SaidMessage) {
    let calls = message
        .tool_calls
        .iter_mut()
        .map(|call| &mut call.arguments);
    for text in [&mut message.text, &mut message.thoughts]
        .into_iter()
        .chain(calls)
    {
        let end = text.len().saturating_sub(MARGIN_BYTES);
        text.truncate(text.floor_char_boundary(end));
    }
}

/// Without arguments in which values may stand that nobody sees. True where there were some.
fn without_opaque(message: &mut SaidMessage) -> bool {
    let mut had = false;
    for call in &mut message.tool_calls {
        if call.is_opaque() {
            call.arguments.clear();
            had = true;
        }
    }
    had
}

impl TextWriter {
    /// Writes until it is closed, or nobody can hand it anything any more.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut dropped_before = 0;
        let mut is_over = false;
        loop {
            let count = tokio::select! {
                biased;
                count = self.inbox.recv_many(&mut batch, BATCH_MAX) => count,
                () = ended(&mut self.end), if !is_over => {
                    is_over = true;
                    self.inbox.close();
                    continue;
                }
            };
            if count == 0 {
                return;
            }
            self.write(&mut batch).await;
            self.settled.send_modify(|it| *it += count as u64);
            let dropped = self.tally.dropped.load(Ordering::Relaxed);
            if dropped > dropped_before {
                let count = dropped - dropped_before;
                warn!(
                    count,
                    "texts were not kept: they came faster than they could be written"
                );
                dropped_before = dropped;
            }
        }
    }

    /// Writes these, and tries again until it is written, or the node ends.
    async fn write(&mut self, batch: &mut Vec<Ended>) {
        let mut texts = Vec::with_capacity(batch.len());
        // They keep their places in the queue until they are written.
        let mut rooms = Vec::with_capacity(batch.len());
        for mut ended in batch.drain(..) {
            rooms.push(ended.room.take());
            texts.extend(self.text(ended).await);
        }
        if texts.is_empty() {
            return;
        }
        while let Err(fault) = self.shelf.keep(&texts).await {
            if !self.tally.is_failing.swap(true, Ordering::Relaxed) {
                let cause = chain(&fault);
                error!(cause, "texts cannot be kept; it is tried every second");
            }
            let is_over = tokio::select! {
                () = sleep(RETRY_EVERY) => *self.end.borrow(),
                () = ended(&mut self.end) => true,
            };
            // The rules may have become stricter in the meantime.
            let rules = self.rules.load_full();
            texts.retain(|text| rules.as_ref().is_some_and(|rules| may_be_kept(text, rules)));
            if texts.is_empty() {
                return;
            }
            let count = texts.len() as u64;
            if is_over {
                self.tally.dropped.fetch_add(count, Ordering::Relaxed);
                error!(count, "texts were lost: they could not be written");
                return;
            }
        }
        let count = texts.len() as u64;
        self.tally.written.fetch_add(count, Ordering::Relaxed);
        if self.tally.is_failing.swap(false, Ordering::Relaxed) {
            info!("texts are kept again");
        }
    }

    async fn text(&self, ended: Ended) -> Option<KeptText> {
        let rules = self.rules.load_full()?;
        let making = if ended.bytes() <= SCAN_INLINE_BYTES_MAX {
            ended.text(&rules)
        } else {
            let making = tokio::task::spawn_blocking(move || ended.text(&rules));
            making.await.unwrap_or(Err(Fault::Internal))
        };
        making.unwrap_or_else(|_| {
            self.tally.unmaskable.fetch_add(1, Ordering::Relaxed);
            None
        })
    }
}

impl fmt::Debug for TextWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextWriter")
    }
}

/// Whether a text that was made under other rules is no more than these have kept.
fn may_be_kept(text: &KeptText, rules: &TextRules) -> bool {
    let is_as_masked = text.said.view == TextView::Masked.as_label();
    rules.covers(&TeamId::new(&text.team)) && (rules.view == TextView::Raw || is_as_masked)
}

/// Returns once it is told to end.
async fn ended(end: &mut watch::Receiver<bool>) {
    // An error is that nobody is left to tell: nobody hands anything in either.
    drop(end.wait_for(|is_over| *is_over).await);
}
