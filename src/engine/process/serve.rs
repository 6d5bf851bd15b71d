//! The child's side: frames in, chats of the engine, frames out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{BackendError, ChatStream, Findings, Outbound, Trust};
use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use super::frame::{ASK_BYTES_MAX, FrameFault, FrameReader, Outbox, Pen, TELL_BYTES_MAX};
use super::tenant::{Loaded, Tenant, parse, parsed};
use super::words::{Ask, Failure, Job, Order, Pulse, Query, Word};
use crate::load::LoadError;
use crate::queue::{DraftCount, Stride, Vitals};

/// Chats in this process at once, waiting ones included. The proxy's own bound lies below.
const CHATS_MAX: usize = 8_192;
/// How old the proxy's picture of the engine may be. A pulse is sent only where it changed, and a
/// word of being alive only where there was progress.
const PULSE_EVERY: Duration = Duration::from_millis(250);
/// For the engine's thread to leave its step and write its states, for which it takes at most
/// 1.5 s. The proxy's patience lies above.
const LEAVE_MAX: Duration = Duration::from_secs(2);
/// A request with more JSON than this is not parsed between two events of the others.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// Why the child ended early. For its own log: the other end sees that it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the proxy's messages cannot be read")]
    Frames(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the connection to the proxy failed")]
    Io(#[from] std::io::Error),
    /// It panicked: nobody stopped it.
    #[error("the engine's thread ended by itself")]
    EngineEnded,
}

impl From<FrameFault> for ServeError {
    fn from(fault: FrameFault) -> Self {
        Self::Frames(Box::new(fault))
    }
}

/// Serves one model to the process at the other end of `stream`, until that says stop or is gone.
/// `load` blocks, and gets a thread of the blocking pool.
///
/// # Errors
/// The other end does not speak as it should, or the stream failed.
pub async fn serve<S>(
    stream: S,
    load: impl FnOnce(Job) -> Result<Loaded, LoadError> + Send + 'static,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(ASK_BYTES_MAX);
    let mut pen = Pen::new(write);
    let outbox = Arc::new(Outbox::default());
    let Some(Order::Load { mut job, window }) = reader.next(&mut read).await? else {
        return Err(FrameFault::Malformed.into());
    };
    if let Job::Chat(config) = &mut job {
        config.is_apart = true;
    }
    let loading = tokio::task::spawn_blocking(move || load(job));
    let loaded = tokio::select! {
        loaded = loading => loaded.unwrap_or(Err(LoadError::Panicked)),
        // Nothing is asked before the model is there: told to stop, or left alone.
        word = reader.next::<Order>(&mut read) => return word.map(|_| ()).map_err(Into::into),
    };
    let (tenant, driver) = match loaded {
        Ok(loaded) => loaded.settle(),
        Err(error) => {
            let words = domain::chain(&error);
            tell(&outbox, &Word::Refused { words });
            return Ok(pen.write_all(&outbox).await?);
        }
    };
    let card = tenant.card();
    let placement = tenant.placement();
    tell(&outbox, &Word::Ready { card, placement });
    let mut hall = Hall {
        tenant,
        outbox: Arc::clone(&outbox),
        window,
        guests: HashMap::new(),
        chats: FuturesUnordered::new(),
        told: None,
        stride: None,
        drafts: DraftCount::default(),
        vitals: Vitals::default(),
    };
    tokio::pin!(driver);
    let end = tokio::select! {
        end = hall.run(&mut reader, &mut read, &mut pen) => end,
        // Another process serves better than this one without its thread.
        _ = &mut driver => return Err(ServeError::EngineEnded),
    };
    hall.tenant.stop();
    drop(hall);
    // The thread may hang in a driver; this process ends with or without it.
    let _ = tokio::time::timeout(LEAVE_MAX, driver).await;
    end
}

/// One chat, as the proxy steers it.
struct Guest {
    credit: Arc<Semaphore>,
    leaving: AbortHandle,
}

struct Hall {
    tenant: Tenant,
    outbox: Arc<Outbox>,
    window: u32,
    guests: HashMap<u64, Guest>,
    /// Each ends with its id.
    chats: FuturesUnordered<BoxFuture<'static, u64>>,
    told: Option<Pulse>,
    /// Where the engine's thread was at the last beat.
    stride: Option<Stride>,
    /// As last told.
    drafts: DraftCount,
    vitals: Vitals,
}

impl Hall {
    async fn run(
        &mut self,
        reader: &mut FrameReader,
        read: &mut (impl AsyncRead + Unpin),
        pen: &mut Pen<impl AsyncWrite + Unpin>,
    ) -> Result<(), ServeError> {
        let mut beat = tokio::time::interval(PULSE_EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (tenant, outbox, told) = (&self.tenant, &self.outbox, &mut self.told);
            let stride = &mut self.stride;
            // Writing comes last, so that all that is ready goes in one write.
            tokio::select! {
                biased;
                order = reader.next(read) => match order? {
                    None | Some(Order::Stop) => return Ok(()),
                    Some(Order::Load { .. }) => return Err(FrameFault::Malformed.into()),
                    Some(Order::Ask(ask)) => self.begin(ask),
                    Some(Order::Query { id, query }) => self.begin_query(id, query),
                    Some(Order::Credit { id, count }) => self.credit(id, count),
                    Some(Order::Leave { id }) => {
                        if let Some(guest) = self.guests.remove(&id) {
                            guest.leaving.abort();
                        }
                    }
                },
                Some(id) = self.chats.next(), if !self.chats.is_empty() => {
                    self.guests.remove(&id);
                }
                _ = beat.tick() => {
                    // First, while nothing is there to be written but what nobody reads.
                    alive(tenant, outbox, stride);
                    pulse(tenant, outbox, told);
                    tell_drafts(tenant, outbox, &mut self.drafts);
                    tell_vitals(tenant, outbox, &mut self.vitals);
                }
                written = pen.write_some(outbox, || pulse(tenant, outbox, told)) => written?,
            }
        }
    }

    fn begin(&mut self, ask: Ask) {
        let (id, tenant, outbox) = (ask.id, self.tenant.clone(), Arc::clone(&self.outbox));
        self.admit(id, |credit| chat(tenant, ask, credit, outbox));
    }

    fn begin_query(&mut self, id: u64, query: Query) {
        let (tenant, outbox) = (self.tenant.clone(), Arc::clone(&self.outbox));
        self.admit(id, |credit| answer(tenant, id, query, credit, outbox));
    }

    fn admit<W: Future<Output = ()> + Send + 'static>(
        &mut self,
        id: u64,
        work: impl FnOnce(Arc<Semaphore>) -> W,
    ) {
        if self.guests.len() >= CHATS_MAX || self.guests.contains_key(&id) {
            let failure = Some(Failure::Overloaded {
                retry_after: Duration::from_secs(1),
            });
            return tell(&self.outbox, &Word::Ended { id, failure });
        }
        let credit = Arc::new(Semaphore::new(self.window as usize));
        let (leaving, registration) = AbortHandle::new_pair();
        let work = work(Arc::clone(&credit));
        self.guests.insert(id, Guest { credit, leaving });
        self.chats.push(Box::pin(async move {
            // Left or ended: the same from here on.
            let _ = Abortable::new(work, registration).await;
            id
        }));
    }

    /// Never more than the window, whatever the other side counts.
    fn credit(&self, id: u64, count: u32) {
        if let Some(guest) = self.guests.get(&id) {
            let room = (self.window as usize).saturating_sub(guest.credit.available_permits());
            guest.credit.add_permits(room.min(count as usize));
        }
    }
}

fn pulse(tenant: &Tenant, outbox: &Outbox, told: &mut Option<Pulse>) {
    let now = Pulse::from(tenant.health());
    if *told != Some(now) {
        *told = Some(now);
        tell(outbox, &Word::Pulse(now));
    }
}

/// Silent for an engine that hangs, and while nobody reads what waits to be written.
fn alive(tenant: &Tenant, outbox: &Outbox, last: &mut Option<Stride>) {
    let now = Some(tenant.stride());
    let has_moved = now == Some(Stride::Resting) || now != *last;
    *last = now;
    if has_moved && outbox.bytes() == 0 {
        tell(outbox, &Word::Alive);
    }
}

fn tell_drafts(tenant: &Tenant, outbox: &Outbox, told: &mut DraftCount) {
    let now = tenant.drafts();
    if *told != now {
        *told = now;
        tell(outbox, &Word::Drafts(now));
    }
}

fn tell_vitals(tenant: &Tenant, outbox: &Outbox, told: &mut Vitals) {
    let now = tenant.vitals();
    if *told != now {
        *told = now;
        tell(outbox, &Word::Vitals(now));
    }
}

fn tell(outbox: &Outbox, word: &Word) {
    if outbox.put(word, TELL_BYTES_MAX).is_err() {
        // Only these can be that long; the reply they belong to is cut off.
        let (Word::Event { id, .. } | Word::Part { id, .. }) = *word else {
            return;
        };
        let failure = Some(Failure::Interrupted);
        let _ = outbox.put(&Word::Ended { id, failure }, TELL_BYTES_MAX);
    }
}

async fn chat(tenant: Tenant, ask: Ask, credit: Arc<Semaphore>, outbox: Arc<Outbox>) {
    let id = ask.id;
    let ended = match open(&tenant, ask).await {
        Err(error) => Some(error),
        Ok(stream) => {
            tell(&outbox, &Word::Taken { id });
            forward(id, stream, &credit, &outbox).await
        }
    };
    let failure = ended.map(Failure::from);
    tell(&outbox, &Word::Ended { id, failure });
}

/// Answers what is no chat, a part at a time as they are read at the other end.
async fn answer(
    tenant: Tenant,
    id: u64,
    query: Query,
    credit: Arc<Semaphore>,
    outbox: Arc<Outbox>,
) {
    let ended = match tenant.answer(query).await {
        Err(error) => Some(error),
        Ok(parts) => {
            for part in parts {
                match credit.acquire().await {
                    Ok(permit) => permit.forget(),
                    // Never closed.
                    Err(_) => return,
                }
                tell(&outbox, &Word::Part { id, part });
            }
            None
        }
    };
    let failure = ended.map(Failure::from);
    tell(&outbox, &Word::Ended { id, failure });
}

async fn open(tenant: &Tenant, ask: Ask) -> Result<ChatStream, BackendError> {
    let request = if ask.request.len() > INLINE_BYTES_MAX {
        parsed(ask.request).await?
    } else {
        parse(&ask.request)?
    };
    // What this machine may not see was masked before it was sent here.
    let mut call = Outbound::seal(
        ask.request_id.as_str().into(),
        ask.model,
        request,
        &Findings::default(),
        Trust::Device,
    )
    .with_priority(ask.priority);
    if let Some(team) = ask.team {
        call = call.for_team(team.as_str().into());
    }
    tenant.chat(call).await
}

/// Sends events as they are read at the other end. Returns how the reply ended.
async fn forward(
    id: u64,
    mut stream: ChatStream,
    credit: &Semaphore,
    outbox: &Outbox,
) -> Option<BackendError> {
    loop {
        match credit.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return Some(BackendError::Interrupted),
        }
        match stream.next().await? {
            Ok(event) => tell(outbox, &Word::Event { id, event }),
            Err(error) => return Some(error),
        }
    }
}
