//! What each edge has under way and has spent, against what it may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{Fault, MicroUsd};
use relay::{Edge, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::bucket::{Bucket, Flowing};

/// What a caller is told to wait when as much as it may have is under way.
const UNDER_WAY_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// What one edge spent in one calendar month, UTC. To be kept across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    pub edge: String,
    /// As `2026-11`.
    pub month: String,
    pub microusd: u64,
}

/// By the names of edges, of which there are as many as the operator let in.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts(Arc<Mutex<HashMap<String, Account>>>);

#[derive(Debug, Default)]
struct Account {
    under_way: u32,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    month: String,
    spent_microusd: u64,
}

impl Account {
    fn turn(&mut self, month: &str) {
        if self.month != month {
            self.month = month.to_owned();
            self.spent_microusd = 0;
        }
    }
}

fn month_of(now: UnixTime) -> String {
    let (year, month, _) = now.day();
    format!("{year:04}-{month:02}")
}

impl Accounts {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one request in, until what comes back is dropped.
    ///
    /// # Errors
    /// `RateLimited` or `BudgetSpent`; then nothing was taken.
    pub fn admit(&self, edge: &Edge, now: UnixTime, at: Instant) -> Result<UnderWay, Fault> {
        let policy = &edge.policy;
        let mut accounts = self.lock();
        let account = accounts.entry(edge.id.clone()).or_default();
        account.turn(&month_of(now));
        if let Some(budget) = policy.budget_microusd
            && account.spent_microusd >= budget
        {
            return Err(Fault::BudgetSpent);
        }
        if let Some(max) = policy.concurrent_max
            && account.under_way >= max
        {
            return Err(Fault::RateLimited {
                retry_after: UNDER_WAY_WAIT,
            });
        }
        let limited = |retry_after| Fault::RateLimited { retry_after };
        if let Some(max) = policy.tokens_per_minute_max {
            let flow = tokens_flow(max);
            let bucket = account.tokens.get_or_insert(Bucket::full(flow, at));
            // What a request will take is known afterwards: it begins where there is a token left.
            bucket.take(1.0, flow, at).map_err(limited)?;
            bucket.spend(-1.0);
        }
        if let Some(max) = policy.requests_per_s_max {
            let flow = Flowing {
                per_s: max.into(),
                room: max.into(),
            };
            let bucket = account.requests.get_or_insert(Bucket::full(flow, at));
            bucket.take(1.0, flow, at).map_err(limited)?;
        }
        account.under_way += 1;
        Ok(UnderWay {
            accounts: self.clone(),
            edge: edge.id.clone(),
        })
    }

    /// What an exchange took, when it is over.
    pub fn charge(&self, edge: &str, tokens: u64, cost: MicroUsd, now: UnixTime) {
        let mut accounts = self.lock();
        let account = accounts.entry(edge.to_owned()).or_default();
        account.turn(&month_of(now));
        let cost = u64::try_from(cost.0).unwrap_or_default();
        account.spent_microusd = account.spent_microusd.saturating_add(cost);
        if let Some(bucket) = &mut account.tokens {
            bucket.spend(tokens as f64);
        }
    }

    /// In this month: of others nobody asks any more.
    pub fn spending(&self, now: UnixTime) -> Vec<Spending> {
        let accounts = self.lock();
        let month = month_of(now);
        let spent = accounts
            .iter()
            .filter(|(_, account)| account.spent_microusd > 0 && account.month == month);
        let spending = spent.map(|(edge, account)| Spending {
            edge: edge.clone(),
            month: account.month.clone(),
            microusd: account.spent_microusd,
        });
        let mut all: Vec<Spending> = spending.collect();
        all.sort_by(|a, b| a.edge.cmp(&b.edge));
        all
    }

    /// What was spent before this process began.
    pub fn restore(&self, kept: Vec<Spending>) {
        let mut accounts = self.lock();
        for Spending {
            edge,
            month,
            microusd,
        } in kept
        {
            let account = accounts.entry(edge).or_default();
            account.turn(&month);
            account.spent_microusd = account.spent_microusd.saturating_add(microusd);
        }
    }
}

fn tokens_flow(per_minute: u64) -> Flowing {
    let room = per_minute as f64;
    Flowing {
        per_s: room / 60.0,
        room,
    }
}

/// One request of an edge.
#[derive(Debug)]
pub(super) struct UnderWay {
    accounts: Accounts,
    edge: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(account) = self.accounts.lock().get_mut(&self.edge) {
            account.under_way = account.under_way.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use relay::EdgePolicy;

    use super::*;

    const NOVEMBER: UnixTime = UnixTime(1_795_000_000);
    const DECEMBER: UnixTime = UnixTime(NOVEMBER.0 + 30 * 24 * 60 * 60);

    fn edge(policy: EdgePolicy) -> Edge {
        Edge {
            id: "branch-7".to_owned(),
            keys: Vec::new(),
            policy,
            is_revoked: AtomicBool::new(false),
            sessions: relay::Sessions::default(),
        }
    }

    #[test]
    fn an_edge_has_so_much_under_way() {
        let accounts = Accounts::default();
        let edge = edge(EdgePolicy {
            concurrent_max: Some(2),
            ..EdgePolicy::default()
        });
        let admit = || accounts.admit(&edge, NOVEMBER, Instant::now());
        let (first, _second) = (admit().unwrap(), admit().unwrap());
        assert!(matches!(admit(), Err(Fault::RateLimited { .. })));
        drop(first);
        assert!(admit().is_ok());
    }

    #[test]
    fn requests_and_tokens_come_back_in_time() {
        let accounts = Accounts::default();
        let edge = edge(EdgePolicy {
            requests_per_s_max: Some(2),
            tokens_per_minute_max: Some(600),
            ..EdgePolicy::default()
        });
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let admit = |at| accounts.admit(&edge, NOVEMBER, at).map(drop);
        let wait = |ms| {
            Err(Fault::RateLimited {
                retry_after: Duration::from_millis(ms),
            })
        };
        assert_eq!(admit(at(0)), Ok(()));
        assert_eq!(admit(at(0)), Ok(()));
        assert_eq!(admit(at(0)), wait(500));
        // Ten tokens come back in a second: for 610 that were taken it has to wait for eleven.
        accounts.charge("branch-7", 610, MicroUsd(0), NOVEMBER);
        assert_eq!(admit(at(0)), wait(1_100));
        assert_eq!(admit(at(1_100)), Ok(()));
    }

    #[test]
    fn a_budget_is_of_a_month_and_survives_a_restart() {
        let accounts = Accounts::default();
        let edge = edge(EdgePolicy {
            budget_microusd: Some(100),
            ..EdgePolicy::default()
        });
        let admit = |accounts: &Accounts, now| {
            let admitted = accounts.admit(&edge, now, Instant::now());
            admitted.map(drop)
        };
        accounts.charge("branch-7", 1, MicroUsd(99), NOVEMBER);
        assert_eq!(admit(&accounts, NOVEMBER), Ok(()));
        accounts.charge("branch-7", 1, MicroUsd(1), NOVEMBER);
        assert_eq!(admit(&accounts, NOVEMBER), Err(Fault::BudgetSpent));
        let kept = accounts.spending(NOVEMBER);
        assert_eq!(kept.len(), 1);
        assert_eq!(accounts.spending(DECEMBER), []);
        let after = Accounts::default();
        after.restore(kept);
        assert_eq!(admit(&after, NOVEMBER), Err(Fault::BudgetSpent));
        assert_eq!(admit(&after, DECEMBER), Ok(()));
    }
}
