//! Forgetting what a user used, here and in Redis.

use std::time::Duration;

use domain::{CountedUse, TeamId, UserId};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};
use tokio::time::{sleep, timeout};

use super::SharedQuotas;
use super::script::Keys;

/// For all of it: Redis may have many keys of others.
const FORGET_MAX: Duration = Duration::from_secs(120);

/// Keys that are looked at in one call.
const SCAN_COUNT: usize = 1_000;

/// How often it is looked whether what was on its way has arrived, and how long after each.
const LOOKS_MAX: u32 = 100;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why it was not, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ForgetFault {
    #[error("Redis cannot be asked to forget")]
    Redis(#[from] RedisError),
    #[error("Redis did not forget in time")]
    Late,
}

impl SharedQuotas {
    /// As far as this replica knows: no more than `count_max`.
    #[must_use]
    pub fn used_by(
        &self,
        team: Option<&TeamId>,
        user: &UserId,
        count_max: usize,
    ) -> Vec<CountedUse> {
        self.desk.book().used_by(team, user, count_max)
    }

    /// Forgets what was counted of a user, in Redis and here. What other replicas remember they forget when
    /// they are asked to. Gives how many counts Redis had.
    ///
    /// # Errors
    /// Redis cannot be asked. It may be called again.
    pub async fn forget(&self, team: Option<&TeamId>, user: &UserId) -> Result<u64, ForgetFault> {
        let forgetting = async {
            for _ in 0..LOOKS_MAX {
                if self.desk.book().forget(team, user) {
                    break;
                }
                sleep(LOOK_EVERY).await;
            }
            let client = self.desk.client().clone();
            let mut connection = client.get_multiplexed_async_connection().await?;
            let count = forget(&mut connection, &self.keys, team, user).await?;
            // What was seen of it meanwhile.
            self.desk.book().forget(team, user);
            Ok(count)
        };
        let forgotten = timeout(FORGET_MAX, forgetting).await;
        forgotten.map_err(|_| ForgetFault::Late)?
    }
}

/// From those that the operator is told of.
async fn forget_names(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    team: Option<&TeamId>,
    user: &UserId,
) -> Result<(), RedisError> {
    let [shares, untils, limits] = keys.users();
    let names: Vec<Vec<u8>> = redis::cmd("HKEYS")
        .arg(&limits)
        .query_async(connection)
        .await?;
    let theirs: Vec<Vec<u8>> = names
        .into_iter()
        .filter(|name| {
            let text = std::str::from_utf8(name).unwrap_or_default();
            keys.is_of_user(text, team, user)
        })
        .collect();
    if theirs.is_empty() {
        return Ok(());
    }
    let mut all = redis::pipe();
    all.atomic();
    all.hdel(limits, &theirs).ignore();
    all.zrem(shares, &theirs).ignore();
    all.zrem(untils, &theirs).ignore();
    all.query_async(connection).await
}

async fn forget(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    team: Option<&TeamId>,
    user: &UserId,
) -> Result<u64, RedisError> {
    let script = Script::new(include_str!("forget.lua"));
    let mut cursor = 0_u64;
    let mut count = 0;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(keys.of_users())
            .arg("COUNT")
            .arg(SCAN_COUNT);
        let (next, found): (u64, Vec<Vec<u8>>) = scan.query_async(connection).await?;
        for key in found {
            let text = std::str::from_utf8(&key).unwrap_or_default();
            if !keys.is_of_user(text, team, user) {
                continue;
            }
            let mut call = script.prepare_invoke();
            let gone: u64 = call.key(&key).invoke_async(connection).await?;
            count += gone;
        }
        if next == 0 {
            forget_names(connection, keys, team, user).await?;
            return Ok(count);
        }
        cursor = next;
    }
}
