//! Limits of a running node: counted in memory or with other replicas, and what was settled written down
//! every second.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use domain::{CountedUse, CountsAway, LimitWatch, Quotas, TeamId, UserCounts, UserId};
use store::{
    Calendar, LocalQuotas, Moment, Outbox, QuotaFile, Settled, SharedDriver, SharedQuotas,
    SharedRules,
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::RedisSettings;

/// In the data folder.
const FILE_NAME: &str = "quotas.json";
/// What a crash may lose at most.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The counts, and the file that they go on from. A node without limits has no file.
#[derive(Debug)]
pub struct Counts {
    counting: Counting,
    path: PathBuf,
    file: Mutex<Option<QuotaFile>>,
}

/// Who counts.
#[derive(Debug)]
enum Counting {
    Local(Arc<LocalQuotas>),
    Shared(Arc<SharedQuotas>),
}

impl Counting {
    fn restore(&self, settled: Vec<Settled>) {
        match self {
            Self::Local(quotas) => quotas.restore(settled),
            Self::Shared(quotas) => quotas.restore(settled),
        }
    }

    fn settled(&self) -> Vec<Settled> {
        match self {
            Self::Local(quotas) => quotas.settled(),
            Self::Shared(quotas) => quotas.settled(),
        }
    }
}

fn clock() -> impl Fn() -> Moment {
    let began = Instant::now();
    move || Moment {
        nanos: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        unix: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    }
}

impl Counts {
    /// Of a node that counts for itself.
    #[must_use]
    pub fn new(
        data_dir: &Path,
        calendar: Calendar,
        user_accounts_max: usize,
        watch: Arc<dyn LimitWatch>,
    ) -> Self {
        let quotas = LocalQuotas::new(calendar, clock())
            .with_user_accounts_max(user_accounts_max)
            .with_watch(watch);
        Self::counting(data_dir, Counting::Local(Arc::new(quotas)))
    }

    /// Of one that counts with others, and the driver that it needs for that. Records of what is counted are
    /// left in the outbox, where there is one.
    pub fn shared(
        data_dir: &Path,
        calendar: Calendar,
        redis: &RedisSettings,
        watch: Arc<dyn LimitWatch>,
        outbox: Option<Arc<Outbox>>,
    ) -> (Self, SharedDriver) {
        let rules = SharedRules {
            redis: redis.address.clone(),
            prefix: redis.prefix.clone(),
            replicas: redis.replicas,
            when_apart: redis.when_apart,
            answer_max: redis.answer_max,
            lease: redis.lease,
            replica: format!("{:032x}", rand::random::<u128>()),
        };
        let (quotas, driver) = SharedQuotas::new(rules, calendar, clock());
        let quotas = match outbox {
            Some(outbox) => quotas.with_outbox(outbox),
            None => quotas,
        };
        let quotas = Arc::new(quotas.with_watch(watch));
        let counts = Self::counting(data_dir, Counting::Shared(quotas));
        (counts, driver)
    }

    fn counting(data_dir: &Path, counting: Counting) -> Self {
        Self {
            counting,
            path: data_dir.join(FILE_NAME),
            file: Mutex::default(),
        }
    }

    #[must_use]
    pub fn quotas(&self) -> Arc<dyn Quotas> {
        match &self.counting {
            Counting::Local(quotas) => Arc::clone(quotas) as _,
            Counting::Shared(quotas) => Arc::clone(quotas) as _,
        }
    }

    /// `None` where this node counts for itself.
    #[must_use]
    pub fn with_others(&self) -> Option<&Arc<SharedQuotas>> {
        match &self.counting {
            Counting::Local(_) => None,
            Counting::Shared(quotas) => Some(quotas),
        }
    }

    /// Goes on from what was written down, once there are limits to go on with.
    ///
    /// # Errors
    /// The file cannot be read, or another node has it: budgets must not begin anew, or twice, unseen.
    pub fn open(&self) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            let (opened, settled) = QuotaFile::open(&self.path)?;
            self.counting.restore(settled);
            *file = Some(opened);
        }
        Ok(())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what changed since the last call.
    fn write(&self) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *file {
            Some(file) => file.write(&self.counting.settled()),
            None => Ok(()),
        }
    }

    /// Forgets what was written down of a user, in a file that nobody goes on from as well. Gives how many
    /// accounts it was.
    fn forget_written(&self, team: Option<&TeamId>, user: &UserId) -> io::Result<u64> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.counting.settled();
        if let Some(file) = &mut *file {
            let gone = file.forget(team, user);
            return file.write(&changed).map(|()| gone);
        }
        if !self.path.is_file() {
            return Ok(0);
        }
        let (mut file, _) = QuotaFile::open(&self.path)?;
        let gone = file.forget(team, user);
        file.write(&[]).map(|()| gone)
    }

    /// Writes what changed until `stop`, and once after it. A disk that fails is said once, tried again
    /// every second, and said again when it works.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            let is_over = tokio::select! {
                () = stop.cancelled() => true,
                _ = ticks.tick() => false,
            };
            let counts = Arc::clone(&self);
            let writing = tokio::task::spawn_blocking(move || counts.write());
            match writing
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
            {
                Ok(()) if is_failing => {
                    info!("what was used of limits is written down again");
                    is_failing = false;
                }
                Ok(()) => {}
                Err(error) => {
                    if !is_failing {
                        let path = self.path.display();
                        error!(%path, %error, "what was used of limits cannot be written down");
                    }
                    is_failing = true;
                }
            }
            if is_over {
                return;
            }
        }
    }
}

/// Finds and forgets users' counts.
#[derive(Debug)]
pub struct CountedUsers(pub Arc<Counts>);

fn away(error: impl std::error::Error + Send + Sync + 'static) -> CountsAway {
    CountsAway(Box::new(error))
}

#[async_trait]
impl UserCounts for CountedUsers {
    async fn of(
        &self,
        team: Option<&TeamId>,
        user: &UserId,
        count_max: usize,
    ) -> Result<Vec<CountedUse>, CountsAway> {
        Ok(match &self.0.counting {
            Counting::Local(quotas) => quotas.used_by(team, user, count_max),
            Counting::Shared(quotas) => quotas.used_by(team, user, count_max),
        })
    }

    async fn forget(&self, team: Option<&TeamId>, user: &UserId) -> Result<u64, CountsAway> {
        let counted = match &self.0.counting {
            Counting::Local(quotas) => quotas.forget(team, user),
            Counting::Shared(quotas) => quotas.forget(team, user).await.map_err(away)?,
        };
        let (counts, team, user) = (Arc::clone(&self.0), team.cloned(), user.clone());
        let writing =
            tokio::task::spawn_blocking(move || counts.forget_written(team.as_ref(), &user));
        let written = writing.await.map_err(away)?.map_err(away)?;
        Ok(counted.max(written))
    }
}

#[cfg(test)]
mod tests {
    use domain::{
        Limit, LimitWarning, Measure, MicroUsd, Period, Scope, Thresholds, Use, WhenSpent,
    };

    use super::*;

    fn watch() -> Arc<dyn LimitWatch> {
        struct Nobody;
        impl LimitWatch for Nobody {
            fn passed(&self, _: LimitWarning) {}
        }
        Arc::new(Nobody)
    }

    #[tokio::test]
    async fn what_was_used_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("made");
        let limits = [Limit {
            scope: Scope::Organisation,
            measure: Measure::Cost,
            amount: 1_000,
            per: Period::Ever,
            burst: 1_000,
            when_spent: WhenSpent::Refuse,
            warn_at: Thresholds::default(),
        }];
        for left in [1_000, 700, 400] {
            let counts = Arc::new(Counts::new(&data_dir, Calendar::utc(), 10, watch()));
            counts.open().unwrap();
            assert_eq!(counts.quotas().left(&limits)[0].amount, left);
            // Another node may not count from there too.
            assert!(
                Counts::new(&data_dir, Calendar::utc(), 10, watch())
                    .open()
                    .is_err()
            );
            let used = Use {
                requests: 1,
                cost: MicroUsd(300),
                ..Use::default()
            };
            let grant = counts.quotas().take(&limits, used).await.unwrap();
            grant.settle(used);
            let stop = CancellationToken::new();
            stop.cancel();
            Arc::clone(&counts).keep(stop).await;
            // Opened once is opened.
            counts.open().unwrap();
            assert_eq!(counts.quotas().left(&limits)[0].amount, left - 300);
        }
        std::fs::write(data_dir.join(FILE_NAME), "{").unwrap();
        assert!(
            Counts::new(&data_dir, Calendar::utc(), 10, watch())
                .open()
                .is_err()
        );
    }
}
