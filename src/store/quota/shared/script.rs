//! What is asked of Redis, and what it answers: the scripts beside this file, their keys and arguments.

use domain::{TeamId, UserId};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script, ScriptInvocation, Value};

use super::super::bucket::Rate;
use super::super::calendar::Window;
use super::super::local::Counter;
use super::book::Batch;

/// Times between two instants in a script are no longer than this, in nanoseconds: 52 days.
pub const LONGEST: u64 = 1 << 52;
/// Amounts in a script are no more than this: a double holds them exactly.
pub const MOST: u64 = 1 << 53;

/// Records of replicas that died, of one look.
const ORPHANS_MAX: usize = 100;

/// Why the shared counts could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no answer in time")]
    TimedOut,
    /// Its memory of this replica is gone: it was emptied, or this replica was silent for too long.
    #[error("it does not know this replica any more")]
    Lost,
    #[error("an answer of another form than was expected")]
    Odd,
}

/// All that is sent, once for a process.
#[derive(Debug)]
pub struct Scripts {
    pub take: Script,
    pub settle: Script,
    pub hello: Script,
    pub restate: Script,
    pub renew: Script,
    pub orphans: Script,
    pub users: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        let script = |body: &str| Script::new(&format!("{}{body}", include_str!("prelude.lua")));
        Self {
            take: script(include_str!("take.lua")),
            settle: script(include_str!("settle.lua")),
            hello: script(include_str!("hello.lua")),
            restate: script(include_str!("restate.lua")),
            renew: script(include_str!("renew.lua")),
            orphans: script(include_str!("orphans.lua")),
            users: script(include_str!("users.lua")),
        }
    }
}

/// The names of keys. All have one hash tag, so that one node of a cluster has them all.
#[derive(Clone, Debug)]
pub struct Keys {
    tag: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self {
            tag: format!("{{{prefix}}}"),
        }
    }

    pub fn state(&self) -> String {
        format!("{}:state", self.tag)
    }

    pub fn leases(&self) -> String {
        format!("{}:leases", self.tag)
    }

    /// Where the number of a replica's last batch is.
    pub fn batch(&self, replica: &str) -> String {
        format!("{}:batch:{replica}", self.tag)
    }

    /// Records that are on no disk yet, by name, and when they came.
    pub fn records(&self) -> [String; 2] {
        [
            format!("{}:records", self.tag),
            format!("{}:records:at", self.tag),
        ]
    }

    /// Users' limits that are nearest to their end: how much is left of each, until when that says something,
    /// and the limits.
    pub fn users(&self) -> [String; 3] {
        ["shares", "untils", "limits"].map(|it| format!("{}:users:{it}", self.tag))
    }

    pub fn counter(&self, counter: &Counter) -> String {
        format!(
            "{}:limit:{}:{}:{}",
            self.tag,
            counter.measure.as_label(),
            counter.period.as_label(),
            counter.scope.key()
        )
    }

    /// A pattern that all keys of users have, in Redis's words, and perhaps others.
    pub fn of_users(&self) -> String {
        let mut pattern = String::new();
        for letter in self.tag.chars() {
            if "*?[]^\\".contains(letter) {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern + ":limit:*:user:*"
    }

    /// Whether `key` is where something of that user is counted, of one team or of any.
    pub fn is_of_user(&self, key: &str, team: Option<&TeamId>, user: &UserId) -> bool {
        let read = || {
            let rest = key.strip_prefix(&self.tag)?.strip_prefix(":limit:")?;
            let (_measure, rest) = rest.split_once(':')?;
            let (_period, rest) = rest.split_once(':')?;
            // As `Scope::key` writes it.
            let (length, rest) = rest.strip_prefix("user:")?.split_once(':')?;
            let (of, rest) = rest.split_at_checked(length.parse().ok()?)?;
            Some((of, rest.strip_prefix(':')?))
        };
        read().is_some_and(|(of, who)| {
            who == user.as_str() && team.is_none_or(|team| team.as_str() == of)
        })
    }
}

/// What is wanted of one limit.
#[derive(Clone, Debug)]
pub struct Want {
    pub counter: Counter,
    pub units: u64,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Refills(Rate),
    Account { amount: u64, window: Window },
}

/// How one limit stands, after what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Refills {
        /// Nanoseconds until it is full.
        missing: u64,
        /// The instant of that, by Redis's clock.
        full_at: (u64, u64),
    },
    Account {
        window_begin: u64,
        settled: u64,
        held: u64,
    },
}

/// One entry of a batch.
#[derive(Clone, Debug)]
pub enum Entry {
    Account {
        counter: Counter,
        window: Window,
        released: u64,
        used: u64,
    },
    Back {
        counter: Counter,
        nanos: u64,
        until: (u64, u64),
    },
    Charge {
        counter: Counter,
        nanos: u64,
    },
}

impl Entry {
    pub fn counter(&self) -> &Counter {
        match self {
            Entry::Account { counter, .. }
            | Entry::Back { counter, .. }
            | Entry::Charge { counter, .. } => counter,
        }
    }
}

/// One account as this replica knows it.
#[derive(Clone, Debug)]
pub struct Stated {
    pub counter: Counter,
    pub window: Window,
    pub held: u64,
    pub settled: u64,
}

/// A user's limit, and how it stands.
pub struct UserLine {
    pub counter: Counter,
    /// What is left, in millionths.
    pub share: u64,
    /// For how many seconds that says something.
    pub after_s: u64,
    /// As text.
    pub limit: String,
}

/// An answer that is a word, the time on the server's wall, and numbers.
#[derive(Debug)]
pub struct Reply {
    pub word: String,
    pub unix: u64,
    numbers: Vec<u64>,
}

/// The answer to a greeting.
#[derive(Debug)]
pub struct Welcome {
    pub unix: u64,
    pub generation: String,
    /// Since it began.
    pub age_ms: u64,
    /// There was nothing before it.
    pub was_empty: bool,
    /// The number of the last batch of ours that was counted.
    pub batch: u64,
}

/// Calls as one lease.
#[derive(Clone, Debug)]
pub struct Caller {
    pub connection: MultiplexedConnection,
    pub keys: Keys,
    pub replica: String,
    pub lease: String,
    /// Those of ours that it takes over from.
    pub last_leases: Vec<String>,
    pub lease_micros: u64,
}

impl Caller {
    fn call<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        call.key(self.keys.state()).key(self.keys.leases());
        call
    }

    pub async fn take(&mut self, scripts: &Scripts, wants: &[Want]) -> Result<Reply, Broken> {
        let mut call = self.call(&scripts.take);
        call.arg(&self.lease);
        for want in wants {
            call.key(self.keys.counter(&want.counter));
            match want.kind {
                Kind::Refills(rate) => {
                    let time = rate.time_of(want.units).min(LONGEST);
                    let depth = rate.time_of(rate.burst).min(LONGEST);
                    call.arg("refills").arg(time).arg(depth);
                }
                Kind::Account { amount, window } => {
                    call.arg("account")
                        .arg(want.units.min(MOST))
                        .arg(amount.min(MOST))
                        .arg(window.begin)
                        .arg(window.end.unwrap_or(0));
                }
            }
        }
        reply(call.invoke_async(&mut self.connection).await?)
    }

    pub async fn settle(&mut self, scripts: &Scripts, batch: &Batch) -> Result<Reply, Broken> {
        let mut call = self.call(&scripts.settle);
        let [records, at] = self.keys.records();
        call.key(self.keys.batch(&self.replica))
            .key(records)
            .key(at);
        call.arg(&self.lease)
            .arg(batch.number)
            .arg(batch.records.len());
        for record in &batch.records {
            call.arg(&record.name).arg(&record.text);
        }
        for entry in &batch.entries {
            match entry {
                Entry::Account {
                    counter,
                    window,
                    released,
                    used,
                } => {
                    call.key(self.keys.counter(counter))
                        .arg("account")
                        .arg((*released).min(MOST))
                        .arg((*used).min(MOST))
                        .arg(window.begin)
                        .arg(window.end.unwrap_or(0));
                }
                Entry::Back {
                    counter,
                    nanos,
                    until: (seconds, rest),
                } => {
                    call.key(self.keys.counter(counter))
                        .arg("back")
                        .arg((*nanos).min(LONGEST))
                        .arg(*seconds)
                        .arg(*rest);
                }
                Entry::Charge { counter, nanos } => {
                    call.key(self.keys.counter(counter))
                        .arg("charge")
                        .arg((*nanos).min(LONGEST));
                }
            }
        }
        reply(call.invoke_async(&mut self.connection).await?)
    }

    pub async fn restate(&mut self, scripts: &Scripts, stated: &[Stated]) -> Result<Reply, Broken> {
        let mut call = self.call(&scripts.restate);
        call.arg(&self.lease)
            .arg(self.last_leases.len())
            .arg(&self.last_leases);
        for account in stated {
            call.key(self.keys.counter(&account.counter))
                .arg(account.held.min(MOST))
                .arg(account.settled.min(MOST))
                .arg(account.window.begin)
                .arg(account.window.end.unwrap_or(0));
        }
        reply(call.invoke_async(&mut self.connection).await?)
    }

    /// Once all is stated that is held.
    pub async fn renew(&mut self, scripts: &Scripts) -> Result<Reply, Broken> {
        let mut call = self.call(&scripts.renew);
        call.arg(&self.lease)
            .arg(self.lease_micros)
            .arg(&self.last_leases);
        reply(call.invoke_async(&mut self.connection).await?)
    }

    /// Removes records that are on a disk.
    pub async fn forget(&mut self, names: &[String]) -> Result<(), Broken> {
        let [records, at] = self.keys.records();
        let mut both = redis::pipe();
        both.hdel(records, names).ignore();
        both.zrem(at, names).ignore();
        let () = both.query_async(&mut self.connection).await?;
        Ok(())
    }

    /// Tells of users' limits; Redis keeps `kept_max` of all.
    pub async fn tell_users(
        &mut self,
        scripts: &Scripts,
        lines: &[UserLine],
        kept_max: usize,
    ) -> Result<(), Broken> {
        let mut call = self.call(&scripts.users);
        for key in self.keys.users() {
            call.key(key);
        }
        call.arg(&self.lease).arg(kept_max);
        for line in lines {
            call.key(self.keys.counter(&line.counter))
                .arg(line.share)
                .arg(line.after_s)
                .arg(&line.limit);
        }
        reply(call.invoke_async(&mut self.connection).await?).map(drop)
    }

    /// Users' limits, nearest to their end first.
    pub async fn users(&mut self, count: usize) -> Result<Vec<String>, Broken> {
        let [shares, _, limits] = self.keys.users();
        let mut names = redis::cmd("ZRANGE");
        names.arg(shares).arg(0).arg(count.saturating_sub(1));
        let names: Vec<String> = names.query_async(&mut self.connection).await?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut texts = redis::cmd("HMGET");
        texts.arg(limits).arg(names);
        let texts: Vec<Option<String>> = texts.query_async(&mut self.connection).await?;
        Ok(texts.into_iter().flatten().collect())
    }

    /// Records that came longer than a lease ago, by name: some of them.
    pub async fn orphans(&mut self, scripts: &Scripts) -> Result<Vec<(String, String)>, Broken> {
        let mut call = self.call(&scripts.orphans);
        let [records, at] = self.keys.records();
        call.key(records).key(at);
        call.arg(&self.lease)
            .arg(self.lease_micros)
            .arg(ORPHANS_MAX);
        let (_, values) = parts(call.invoke_async(&mut self.connection).await?)?;
        let texts: Vec<String> = values.map(word).collect::<Result<_, _>>()?;
        let pairs = texts.chunks_exact(2);
        Ok(pairs
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect())
    }

    /// Begins this lease in place of the last ones.
    pub async fn hello(&mut self, scripts: &Scripts) -> Result<Welcome, Broken> {
        let mut call = self.call(&scripts.hello);
        call.key(self.keys.batch(&self.replica));
        call.arg(&self.lease)
            .arg(self.lease_micros)
            .arg(self.run().await?)
            .arg(&self.lease)
            .arg(&self.last_leases);
        welcome(call.invoke_async(&mut self.connection).await?)
    }

    /// The name of the server's run: another one may remember less. Nothing where it may not be asked.
    async fn run(&mut self) -> Result<String, Broken> {
        let mut ask = redis::cmd("INFO");
        ask.arg("server");
        let told: String = match ask.query_async(&mut self.connection).await {
            Ok(told) => told,
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                return Err(error.into());
            }
            Err(_) => String::new(),
        };
        let mut lines = told.lines();
        let run = lines.find_map(|line| line.strip_prefix("run_id:"));
        Ok(run.unwrap_or_default().trim().to_owned())
    }

    /// Gives the lease back, and with it whatever is held under it.
    pub async fn leave(&mut self) -> Result<(), Broken> {
        let mut end = redis::cmd("ZREM");
        end.arg(self.keys.leases()).arg(&self.lease);
        let _: Value = end.query_async(&mut self.connection).await?;
        Ok(())
    }
}

impl Reply {
    /// How each limit stands, in the order in which they were asked for; `is_account` tells of each
    /// what it is.
    pub fn seen(&self, is_account: impl Iterator<Item = bool>) -> Result<Vec<Seen>, Broken> {
        let mut numbers = self.numbers.chunks_exact(3);
        let seen: Option<Vec<Seen>> = is_account
            .map(|is_account| {
                let [first, second, third] = numbers.next()?.try_into().ok()?;
                Some(if is_account {
                    Seen::Account {
                        window_begin: first,
                        settled: second,
                        held: third,
                    }
                } else {
                    Seen::Refills {
                        missing: first,
                        full_at: (second, third),
                    }
                })
            })
            .collect();
        seen.filter(|_| numbers.next().is_none()).ok_or(Broken::Odd)
    }
}

fn word(value: Value) -> Result<String, Broken> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| Broken::Odd),
        Value::SimpleString(text) => Ok(text),
        _ => Err(Broken::Odd),
    }
}

fn number(value: Value) -> Result<u64, Broken> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| Broken::Odd),
        value => word(value)?.parse().map_err(|_| Broken::Odd),
    }
}

/// What follows the word that begins an answer.
fn parts(value: Value) -> Result<(String, std::vec::IntoIter<Value>), Broken> {
    let Value::Array(values) = value else {
        return Err(Broken::Odd);
    };
    let mut values = values.into_iter();
    let first = word(values.next().ok_or(Broken::Odd)?)?;
    if first == "lost" {
        return Err(Broken::Lost);
    }
    Ok((first, values))
}

fn reply(value: Value) -> Result<Reply, Broken> {
    let (word, mut values) = parts(value)?;
    let unix = number(values.next().ok_or(Broken::Odd)?)?;
    let numbers = values.map(number).collect::<Result<_, _>>()?;
    Ok(Reply {
        word,
        unix,
        numbers,
    })
}

fn welcome(value: Value) -> Result<Welcome, Broken> {
    let (_, mut values) = parts(value)?;
    let mut next = || values.next().ok_or(Broken::Odd);
    Ok(Welcome {
        unix: number(next()?)?,
        generation: word(next()?)?,
        age_ms: number(next()?)?,
        was_empty: number(next()?)? == 1,
        batch: number(next()?)?,
    })
}

#[cfg(test)]
mod tests {
    use domain::{Measure, Period, Scope};

    use super::*;

    #[test]
    fn a_user_is_known_by_his_key_whatever_his_name_is() {
        let keys = Keys::new("a*");
        assert_eq!(keys.of_users(), "{a\\*}:limit:*:user:*");
        let (team, user) = (TeamId::new("r:e"), UserId::new("user:1:b:*"));
        let key = |team: &TeamId, user: &UserId| {
            keys.counter(&Counter {
                scope: Scope::User(team.clone(), user.clone()),
                measure: Measure::Cost,
                period: Period::Day,
            })
        };
        let own = key(&team, &user);
        assert!(keys.is_of_user(&own, None, &user));
        assert!(keys.is_of_user(&own, Some(&team), &user));
        assert!(!keys.is_of_user(&own, Some(&"r".into()), &user));
        assert!(!keys.is_of_user(&own, None, &"b:*".into()));
        assert!(!keys.is_of_user(
            &key(&"r".into(), &"e:user:1:b:*".into()),
            Some(&team),
            &user
        ));
        for odd in ["", "{a*}:limit:", "{a*}:limit:x:y:user:9:a:b", "{a*}:state"] {
            assert!(!keys.is_of_user(odd, None, &"b".into()), "{odd}");
        }
    }
}
