//! What is written down of sealed exchanges: one entry each, once it is known what it took.
//!
//! What an exchange took in tokens and money the pipeline records, and when its stream ended the
//! gateway knows. Whichever comes second writes the entry.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use domain::{AuditLog, ExchangeRecord, MicroUsd, RecordSink, RequestId, SealedEntry};
use relay::UnixTime;
use tokio::time::Instant;

use super::accounts::{Accounts, Spending};

/// How long an entry waits for its record. What never came to the pipeline has none.
const RECORD_WAIT: Duration = Duration::from_secs(2);

/// Tells the time that dates are compared with.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Both what edges may still spend and what is audited of them. It is a sink of the pipeline, too.
pub struct GatewayBooks {
    audit: Arc<dyn AuditLog>,
    clock: Clock,
    pub(super) accounts: Accounts,
    /// As many as are under way or ended within [`RECORD_WAIT`].
    pages: Mutex<HashMap<RequestId, Page>>,
}

#[derive(Debug)]
struct Page {
    edge: String,
    figures: Option<Figures>,
    /// From its stream's end on.
    ended: Option<(SealedEntry, Instant)>,
}

#[derive(Debug)]
struct Figures {
    model: String,
    tokens_in: Option<u64>,
    tokens_out: Option<u64>,
    cost: Option<MicroUsd>,
}

impl Figures {
    fn of(record: &ExchangeRecord) -> Self {
        let usage = record.usage;
        Self {
            model: record.model_asked.as_str().to_owned(),
            tokens_in: usage.map(|usage| usage.prompt_tokens.0.into()),
            tokens_out: usage.map(|usage| usage.completion_tokens.0.into()),
            cost: record.cost,
        }
    }

    fn tokens(&self) -> u64 {
        let parts = self.tokens_in.into_iter().chain(self.tokens_out);
        parts.sum()
    }

    fn join(self, entry: SealedEntry) -> SealedEntry {
        SealedEntry {
            model: Some(self.model),
            tokens_in: self.tokens_in,
            tokens_out: self.tokens_out,
            cost: self.cost,
            ..entry
        }
    }
}

impl GatewayBooks {
    /// To be given to the pipeline as a sink, and to the gateway.
    #[must_use]
    pub fn new(audit: Arc<dyn AuditLog>) -> Arc<Self> {
        Self::with_clock(audit, Arc::new(SystemTime::now))
    }

    /// By a clock that is not the machine's.
    #[must_use]
    pub fn with_clock(audit: Arc<dyn AuditLog>, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            audit,
            clock,
            accounts: Accounts::default(),
            pages: Mutex::default(),
        })
    }

    /// What each edge has spent this month. To be kept, now and then and at the end.
    pub fn spending(&self) -> Vec<Spending> {
        self.accounts.spending(self.now())
    }

    /// What was kept of a process that ran before. To be called before the first request.
    pub fn restore(&self, kept: Vec<Spending>) {
        self.accounts.restore(kept);
    }

    pub(super) fn time(&self) -> SystemTime {
        (self.clock)()
    }

    pub(super) fn now(&self) -> UnixTime {
        self.time().into()
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<RequestId, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An exchange that the pipeline may record begins.
    pub(super) fn open(&self, id: RequestId, edge: &str) {
        let page = Page {
            edge: edge.to_owned(),
            figures: None,
            ended: None,
        };
        self.pages().insert(id, page);
    }

    /// Its stream has ended.
    pub(super) fn close(&self, id: &RequestId, entry: SealedEntry) {
        let mut pages = self.pages();
        let figures = match pages.get_mut(id) {
            Some(page) if page.figures.is_none() => {
                page.ended = Some((entry, Instant::now()));
                return;
            }
            Some(page) => page.figures.take(),
            None => None,
        };
        pages.remove(id);
        drop(pages);
        let joined = match figures {
            Some(figures) => figures.join(entry),
            None => entry,
        };
        self.audit.append(joined);
    }

    /// What went no further than the gateway.
    pub(super) fn refuse(&self, entry: SealedEntry) {
        self.audit.append(entry);
    }

    /// Writes what has waited for its record for too long. To be called every second or so.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let is_over = |page: &Page| {
            let ended = page.ended.as_ref();
            ended.is_some_and(|(_, at)| now.saturating_duration_since(*at) >= RECORD_WAIT)
        };
        self.write_where(|page| is_over(page));
    }

    fn write_where(&self, is_due: impl Fn(&Page) -> bool) {
        let mut pages = self.pages();
        let due = pages.extract_if(|_, page| is_due(page));
        let due: Vec<Page> = due.map(|(_, page)| page).collect();
        drop(pages);
        for (entry, _) in due.into_iter().filter_map(|page| page.ended) {
            self.audit.append(entry);
        }
    }
}

impl RecordSink for GatewayBooks {
    fn append(&self, record: &ExchangeRecord) {
        let figures = Figures::of(record);
        let mut pages = self.pages();
        let Some(page) = pages.get_mut(&record.request_id) else {
            return;
        };
        let edge = page.edge.clone();
        let (tokens, cost) = (figures.tokens(), figures.cost.unwrap_or_default());
        let joined = match page.ended.take() {
            None => {
                page.figures = Some(figures);
                None
            }
            Some((entry, _)) => {
                pages.remove(&record.request_id);
                Some(figures.join(entry))
            }
        };
        drop(pages);
        self.accounts.charge(&edge, tokens, cost, self.now());
        joined
            .into_iter()
            .for_each(|entry| self.audit.append(entry));
    }
}

impl Drop for GatewayBooks {
    fn drop(&mut self) {
        self.write_where(|_| true);
    }
}

impl fmt::Debug for GatewayBooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayBooks")
            .field("open", &self.pages().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use domain::{
        CacheOutcome, KeyId, ModelAlias, Outcome, SealedResult, SealedSide, TeamId, Tokens, Usage,
    };

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<SealedEntry>>);

    impl AuditLog for Kept {
        fn append(&self, entry: SealedEntry) {
            self.0.lock().unwrap().push(entry);
        }
    }

    fn entry() -> SealedEntry {
        SealedEntry {
            at: UNIX_EPOCH,
            side: SealedSide::Relay,
            edge: Some("branch-7".to_owned()),
            relay: "relay-1".to_owned(),
            certificate: None,
            key_id: 7,
            enc: String::new(),
            path: None,
            model: None,
            tokens_in: None,
            tokens_out: None,
            shape: None,
            bytes_up: 0,
            bytes_down: 0,
            status: Some(200),
            took: Duration::ZERO,
            cost: None,
            result: SealedResult::Answered,
        }
    }

    fn record(id: &str) -> ExchangeRecord {
        ExchangeRecord {
            request_id: RequestId::new(id),
            key: Some(KeyId::new("edge:branch-7")),
            team: TeamId::new("edge:branch-7"),
            ended_us: 0,
            marks: domain::Marks::default(),
            model_asked: ModelAlias::new("auto"),
            route: None,
            reason: String::new(),
            cache: CacheOutcome::Missed,
            outcome: Outcome::Answered,
            usage: Some(Usage {
                prompt_tokens: Tokens(30),
                completion_tokens: Tokens(4),
                ..Usage::default()
            }),
            is_usage_counted: false,
            cost: Some(MicroUsd(500)),
            saved: None,
            masked_count: 0,
            first_content_after: None,
            took: Duration::ZERO,
            retries_count: 0,
            hedge: None,
            failed_candidates: Vec::new(),
            rescued_by: Vec::new(),
            unrescued: None,
            shares: Vec::new(),
            counterfactual: None,
            shadow: None,
            trace: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_exchange_has_one_entry_with_what_it_took() {
        let kept: Arc<Kept> = Arc::default();
        let books = GatewayBooks::new(Arc::clone(&kept) as _);
        let id = |text: &str| RequestId::new(text);
        for name in ["first", "second", "never"] {
            books.open(id(name), "branch-7");
        }
        books.append(&record("first"));
        books.append(&record("another's"));
        assert!(kept.0.lock().unwrap().is_empty());
        books.close(&id("first"), entry());
        books.close(&id("second"), entry());
        books.append(&record("second"));
        let both = kept.0.lock().unwrap().clone();
        for entry in &both {
            assert_eq!(entry.model.as_deref(), Some("auto"));
            assert_eq!((entry.tokens_in, entry.tokens_out), (Some(30), Some(4)));
            assert_eq!(entry.cost, Some(MicroUsd(500)));
        }
        assert_eq!(both.len(), 2);
        assert_eq!(books.spending()[0].microusd, 1_000);
        // One that the pipeline never had.
        books.close(&id("never"), entry());
        books.sweep();
        assert_eq!(kept.0.lock().unwrap().len(), 2);
        tokio::time::advance(RECORD_WAIT).await;
        books.sweep();
        assert_eq!(kept.0.lock().unwrap().len(), 3);
        assert!(books.pages().is_empty());
    }

    #[test]
    fn what_waits_is_written_at_the_end() {
        let kept: Arc<Kept> = Arc::default();
        let books = GatewayBooks::new(Arc::clone(&kept) as _);
        books.open(RequestId::new("last"), "branch-7");
        books.close(&RequestId::new("last"), entry());
        drop(books);
        assert_eq!(kept.0.lock().unwrap().len(), 1);
    }
}
