//! What is asked of Redis, and what it answers: the scripts beside this file, their keys and arguments.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use domain::{CacheKey, Kept};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script, ScriptInvocation};

use super::VALUE_BYTES_MAX;
use super::said::{Said, Traits, key_of, name_of};
use super::standing::{JOURNAL_MAX, News, Stamp};

/// For a connection, and for each answer.
pub const CALL_MAX: Duration = Duration::from_secs(1);

/// What a reply takes beside its text: its key's own, and its lines in the lists. An estimate, on the high
/// side.
pub const OVERHEAD_BYTES: usize = 768;

/// What is kept in Redis is kept no longer.
pub const TTL_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Lists that nobody asks for any more go after all that they list.
const LISTS_KEEP_S: u64 = 30 * 86_400;

/// Lines that are looked at in one call.
const SCAN_COUNT: usize = 500;

/// Begins the names of all keys. Change it with the form of the lists and of the journal alone: a purge reaches
/// what lies under one form, whichever version kept it.
const FORM: &str = "replies:1";

/// A reply is read by the version that wrote it: another may keep something else under the same name.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why Redis could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no answer in time")]
    TimedOut,
}

struct Scripts {
    find: Script,
    put: Script,
    sync: Script,
    say: Script,
    drop: Script,
    tidy: Script,
}

static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    let script = |body: &str| Script::new(&format!("{}{body}", include_str!("prelude.lua")));
    Scripts {
        find: Script::new(include_str!("find.lua")),
        put: script(include_str!("put.lua")),
        sync: Script::new(include_str!("sync.lua")),
        say: script(include_str!("say.lua")),
        drop: script(include_str!("drop.lua")),
        tidy: script(include_str!("tidy.lua")),
    }
});

/// The names of keys. All have one hash tag, so that one node of a cluster has them all; it is another than
/// that of the limits.
#[derive(Clone, Debug)]
pub struct Keys {
    tag: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self {
            tag: format!("{{{prefix}:{FORM}}}"),
        }
    }

    fn state(&self) -> String {
        format!("{}:state", self.tag)
    }

    fn journal(&self) -> String {
        format!("{}:journal", self.tag)
    }

    /// When each reply is over, what each is, and what all take.
    fn lists(&self) -> [String; 3] {
        ["over", "traits", "bytes"].map(|list| format!("{}:{list}", self.tag))
    }

    /// What the name of a reply's own key begins with.
    fn replies(&self) -> String {
        format!("{}:reply:", self.tag)
    }

    fn reply(&self, key: &CacheKey) -> String {
        self.replies() + &name_of(key)
    }
}

/// A reply that is to be kept.
pub struct Put {
    pub key: CacheKey,
    pub kept: Arc<Kept>,
    pub ttl: Duration,
    /// As of when it was kept.
    pub stamp: Stamp,
}

/// A reply as it is sent.
pub struct Written {
    pub value: Vec<u8>,
    pub traits: Vec<u8>,
}

impl Written {
    /// `None`: it cannot be written.
    pub fn of(kept: &Kept) -> Option<Self> {
        Some(Self {
            value: serde_json::to_vec(kept).ok()?,
            traits: serde_json::to_vec(&Traits::of(kept)).ok()?,
        })
    }
}

/// What became of a reply that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    Kept,
    /// A purge came before it.
    Stale,
    /// It is larger than all may be.
    Full,
}

/// A look's answer.
#[derive(Debug)]
pub struct Found {
    /// How purges stand at this moment.
    pub now: Stamp,
    pub kept_under: Stamp,
    /// Empty where there is none that can be read.
    pub value: Vec<u8>,
    pub rest: Duration,
}

/// How much memory a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub used: u64,
    /// Zero: no bound is set.
    pub most: u64,
}

/// A name, and what is known of it; `None` where that cannot be read.
pub type Listed = (CacheKey, Option<Traits>);

#[derive(Clone)]
pub struct Caller {
    connection: MultiplexedConnection,
    keys: Keys,
}

impl Caller {
    pub async fn connect(client: &Client, keys: Keys) -> Result<Self, Broken> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_MAX))
            .set_response_timeout(Some(CALL_MAX));
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(Self {
            connection: connection.await?,
            keys,
        })
    }

    /// A call of a script that knows the lists.
    fn listing<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        for list in self.keys.lists() {
            call.key(list);
        }
        call.arg(self.keys.replies());
        call
    }

    pub async fn find(&mut self, key: &CacheKey) -> Result<Found, Broken> {
        let mut call = SCRIPTS.find.prepare_invoke();
        call.key(self.keys.state()).key(self.keys.reply(key));
        call.arg(VERSION).arg(VALUE_BYTES_MAX);
        let answer = call.invoke_async(&mut self.connection).await?;
        let (generation, seq, kept_generation, kept_seq, value, rest_ms): (
            String,
            u64,
            String,
            u64,
            Vec<u8>,
            i64,
        ) = answer;
        Ok(Found {
            now: Stamp { generation, seq },
            kept_under: Stamp {
                generation: kept_generation,
                seq: kept_seq,
            },
            value,
            rest: Duration::from_millis(u64::try_from(rest_ms).unwrap_or(0)),
        })
    }

    pub async fn put(
        &mut self,
        put: &Put,
        written: &Written,
        bytes_max: u64,
    ) -> Result<Placed, Broken> {
        let ttl_ms = put.ttl.min(TTL_MAX).as_millis();
        if ttl_ms == 0 {
            self.drop(&[put.key]).await?;
            return Ok(Placed::Kept);
        }
        let mut call = self.listing(&SCRIPTS.put);
        call.key(self.keys.state()).key(self.keys.reply(&put.key));
        call.arg(&put.stamp.generation)
            .arg(put.stamp.seq)
            .arg(name_of(&put.key))
            .arg(&written.value)
            .arg(&written.traits)
            .arg(u64::try_from(ttl_ms).unwrap_or(u64::MAX))
            .arg(written.value.len() + written.traits.len() + OVERHEAD_BYTES)
            .arg(bytes_max)
            .arg(VERSION);
        let word: String = call.invoke_async(&mut self.connection).await?;
        Ok(match word.as_str() {
            "kept" => Placed::Kept,
            "stale" => Placed::Stale,
            _ => Placed::Full,
        })
    }

    /// What was said since. Should a generation begin, it is called `fresh`.
    pub async fn sync(
        &mut self,
        known: Option<Stamp>,
        fresh: &str,
        run: &str,
    ) -> Result<News, Broken> {
        let known = known.unwrap_or_default();
        let mut call = SCRIPTS.sync.prepare_invoke();
        call.key(self.keys.state()).key(self.keys.journal());
        call.arg(known.generation)
            .arg(known.seq)
            .arg(fresh)
            .arg(run);
        let (generation, seq, begins, lines): (String, u64, bool, Vec<String>) =
            call.invoke_async(&mut self.connection).await?;
        Ok(News {
            now: Stamp { generation, seq },
            begins,
            lines,
        })
    }

    /// Says what is to be removed; of one reply alone, removes it. Gives as of when that is said, and how many
    /// went.
    pub async fn say(&mut self, said: &Said, fresh: &str) -> Result<(Stamp, u64), Broken> {
        let mut call = self.listing(&SCRIPTS.say);
        call.key(self.keys.state()).key(self.keys.journal());
        let text = serde_json::to_string(said).expect("words and marks are JSON");
        call.arg(fresh).arg(text).arg(JOURNAL_MAX);
        if let Said::Key(key) = said {
            call.arg(name_of(key));
        }
        let (generation, seq, count) = call.invoke_async(&mut self.connection).await?;
        Ok((Stamp { generation, seq }, count))
    }

    /// Some of all replies, and where the next ones are: at zero there are none.
    pub async fn listed(&mut self, cursor: u64) -> Result<(u64, Vec<Listed>), Broken> {
        let [_, traits, _] = self.keys.lists();
        let mut scan = redis::cmd("HSCAN");
        scan.arg(traits).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
        let (next, fields): (u64, Vec<Vec<u8>>) = scan.query_async(&mut self.connection).await?;
        let read = |pair: &[Vec<u8>]| {
            let key = key_of(std::str::from_utf8(&pair[0]).ok()?)?;
            // Before it stands its size.
            let at = pair[1].iter().position(|byte| *byte == b' ');
            let traits = at.and_then(|at| serde_json::from_slice(&pair[1][at + 1..]).ok());
            Some((key, traits))
        };
        Ok((next, fields.chunks_exact(2).filter_map(read).collect()))
    }

    /// Removes replies, and gives those that were there.
    pub async fn drop(&mut self, keys: &[CacheKey]) -> Result<Vec<CacheKey>, Broken> {
        let mut call = self.listing(&SCRIPTS.drop);
        for key in keys {
            call.arg(name_of(key));
        }
        let gone: Vec<String> = call.invoke_async(&mut self.connection).await?;
        Ok(gone.iter().filter_map(|name| key_of(name)).collect())
    }

    /// Removes what is over, and so many of the rest. Gives how many replies there are, and what they take.
    pub async fn tidy(&mut self, less: usize) -> Result<(u64, u64), Broken> {
        let mut call = self.listing(&SCRIPTS.tidy);
        call.key(self.keys.state()).key(self.keys.journal());
        call.arg(less).arg(LISTS_KEEP_S);
        Ok(call.invoke_async(&mut self.connection).await?)
    }

    /// The name of the server's run, and nothing where it may not be asked.
    pub async fn run(&mut self) -> Result<String, Broken> {
        let told = self.told_of("server").await?;
        Ok(field(&told, "run_id:").unwrap_or_default().to_owned())
    }

    /// `None` where it may not be asked.
    pub async fn room(&mut self) -> Result<Option<Room>, Broken> {
        let told = self.told_of("memory").await?;
        let number = |name| field(&told, name)?.parse().ok();
        Ok(number("used_memory:")
            .zip(number("maxmemory:"))
            .map(|(used, most)| Room { used, most }))
    }

    async fn told_of(&mut self, section: &str) -> Result<String, Broken> {
        let mut ask = redis::cmd("INFO");
        ask.arg(section);
        match ask.query_async(&mut self.connection).await {
            Ok(told) => Ok(told),
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {
                Err(error.into())
            }
            Err(_) => Ok(String::new()),
        }
    }
}

fn field<'a>(told: &'a str, name: &str) -> Option<&'a str> {
    told.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
