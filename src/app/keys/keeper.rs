//! Whoever changes keys and teams: one at a time, whole, written before it is in force.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::{Changed, DeskFault, Expiry, KeyChange, KeyMadeView, Noun};
use arc_swap::ArcSwap;
use domain::{AdminChange, ChangeLog, KEY_BYTES, KeySecret};
use serde_json::{Map, Value};
use store::{
    KeptKey, KeptTeam, KeyFault, KeyFile, KeyFileError, KeyPlace, KeyRow, Rows, UnixClock,
    digest_key,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

use super::place::Place;
use super::standing::{Book, MadeKey, MadeTeam, Standing};
use super::{KEYS_MAX, OfFile, TEAMS_MAX};
use crate::config::ConfigFault;
use crate::quotas::Counts;

/// How often the days of use are written down where they changed.
const DAYS_EVERY: Duration = Duration::from_secs(60);
/// As of the door: a key that is to last longer is one that lasts for ever.
const EXPIRY_S_MAX: u64 = 10 * 366 * 86_400;

/// Before what was begun, in the audit log, where the place did not say that it was done.
const UNANSWERED: &str = "change.unanswered";

/// What the keeper is to do.
pub enum Order {
    Change {
        who: String,
        change: Box<KeyChange>,
        done: oneshot::Sender<Result<Changed, DeskFault>>,
    },
    Reload(Box<OfFile>, oneshot::Sender<Result<(), Vec<ConfigFault>>>),
    End,
}

/// The driver.
pub struct Keeper {
    pub(super) standing: Arc<ArcSwap<Standing>>,
    pub(super) clock: UnixClock,
    pub(super) inbox: mpsc::Receiver<Order>,
    pub(super) book: Book,
    pub(super) place: Place,
    /// Of what the book has; `None` where the place was not read yet.
    pub(super) generation: Option<u64>,
    pub(super) changes: Arc<dyn ChangeLog>,
    pub(super) counts: Arc<Counts>,
}

/// A change that may be made.
struct Step {
    what: &'static str,
    id: String,
    book: Book,
    row: KeyRow,
    outcome: Outcome,
}

/// A change that was not made; or, once it was begun, of which nobody knows.
struct Unmade {
    fault: DeskFault,
    begun: Option<(&'static str, String)>,
}

impl From<DeskFault> for Unmade {
    fn from(fault: DeskFault) -> Self {
        Self { fault, begun: None }
    }
}

/// What is answered, once it is in force.
enum Outcome {
    Secret(KeySecret),
    Key,
    Team,
    Removed,
}

impl Keeper {
    /// Does what is ordered until it is told to end.
    pub async fn run(mut self) {
        let mut ticks = interval(DAYS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                order = self.inbox.recv() => order,
                _ = ticks.tick() => {
                    self.write_days().await;
                    continue;
                }
                () = self.place.news() => {
                    self.hear().await;
                    continue;
                }
            };
            match order {
                Some(Order::Change { who, change, done }) => {
                    let changed = self.change(who, *change).await;
                    // Who asked may have left.
                    drop(done.send(changed));
                }
                Some(Order::Reload(of_file, done)) => {
                    drop(done.send(self.reload(*of_file).await));
                }
                Some(Order::End) | None => break,
            }
        }
        self.write_days().await;
        self.place.close().await;
    }

    async fn reload(&mut self, of_file: OfFile) -> Result<(), Vec<ConfigFault>> {
        let book = Book {
            of_file: Arc::new(of_file),
            ..self.book.clone()
        };
        let standing = stand(&book, &self.clock).await?;
        self.book = book;
        self.standing.store(Arc::new(standing));
        if let Place::Shared(shared) = &mut self.place {
            // What was left out may go with it now.
            shared.is_to_learn = true;
            shared.keys.forget();
        }
        Ok(())
    }

    async fn change(&mut self, who: String, change: KeyChange) -> Result<Changed, DeskFault> {
        if let Err(error) = self.changes.ready().await {
            error!(
                error = domain::chain(&error),
                "keys and teams stay as they are: the audit log cannot be had"
            );
            return Err(DeskFault::Unkept);
        }
        self.open().await?;
        self.begin().await?;
        match self.make(change).await {
            Ok((what, id, outcome)) => {
                self.note(who, what, id.clone()).await;
                Ok(self.outcome(&id, outcome))
            }
            Err(Unmade { fault, begun }) => {
                if let Some(place) = self.place.keys() {
                    place.abandon().await;
                }
                if let Some((what, id)) = begun {
                    // It may stand in the place all the same.
                    self.note(who, UNANSWERED, format!("{what} {id}")).await;
                }
                Err(fault)
            }
        }
    }

    async fn note(&self, who: String, what: &'static str, id: String) {
        let at = SystemTime::now();
        let noted = AdminChange { at, who, what, id };
        self.changes.note(noted).await;
    }

    /// Takes the turn, and goes on from what others did before.
    async fn begin(&mut self) -> Result<(), DeskFault> {
        let Some(place) = self.place.keys() else {
            return Err(DeskFault::Unkept);
        };
        match place.begin(self.generation).await {
            Ok(None) => Ok(()),
            Ok(Some(rows)) => {
                if self.learn(&rows).await {
                    return Ok(());
                }
                if let Some(place) = self.place.keys() {
                    place.abandon().await;
                }
                Err(DeskFault::Unkept)
            }
            Err(fault) => Err(self.place.failed(&fault)),
        }
    }

    /// Judges it, writes it, and has it in force.
    async fn make(&mut self, change: KeyChange) -> Result<(&'static str, String, Outcome), Unmade> {
        let step = self.step(change, (self.clock)())?;
        let standing = stand(&step.book, &self.clock).await.map_err(first)?;
        if step.book.has_limits() {
            self.open_counts().await?;
        }
        let Some(place) = self.place.keys() else {
            return Err(DeskFault::Unkept.into());
        };
        match place.commit(&step.row).await {
            Ok(generation) => self.generation = Some(generation),
            Err(fault) => {
                let fault = self.place.failed(&fault);
                let begun = Some((step.what, step.id));
                return Err(Unmade { fault, begun });
            }
        }
        self.book = step.book;
        self.standing.store(Arc::new(standing));
        if let Place::Shared(shared) = &mut self.place {
            shared.keep_row(&step.row).await;
        }
        Ok((step.what, step.id, step.outcome))
    }

    /// What other replicas did.
    async fn hear(&mut self) {
        let Place::Shared(shared) = &mut self.place else {
            return;
        };
        let heard = shared.heard.borrow_and_update().rows.clone();
        let Some(heard) = heard.filter(|it| shared.keys.takes(it)) else {
            return;
        };
        let is_known = self.generation == Some(heard.rows.generation);
        match is_known && !shared.is_to_learn {
            true => self.book.take_days(&heard.rows),
            false => {
                // Why it could not was said.
                self.learn(&heard.rows).await;
            }
        }
    }

    /// Puts what replicas share in force here, but for what does not go with the configuration. Gives
    /// whether it is.
    async fn learn(&mut self, rows: &Rows) -> bool {
        let (mut book, news) = (self.book.clone(), rows.clone());
        let clock = Arc::clone(&self.clock);
        // Aside, as a change of this node's own is.
        let learned = tokio::task::spawn_blocking(move || {
            book.take_what_goes(news);
            let standing = book.stand(&clock)?;
            Ok::<_, Vec<ConfigFault>>((book, standing))
        });
        let learned = learned.await.unwrap_or_else(|_| Err(ending()));
        let (book, standing) = match learned {
            Ok(learned) => learned,
            Err(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                let faults = faults.join("; ");
                error!(
                    faults,
                    "keys stay as they were: those of other replicas cannot be taken"
                );
                return false;
            }
        };
        if book.has_limits() {
            // That a key was taken away must be in force all the same; why was said.
            drop(self.open_counts().await);
        }
        self.book = book;
        self.standing.store(Arc::new(standing));
        self.generation = Some(rows.generation);
        if let Place::Shared(shared) = &mut self.place {
            shared.is_to_learn = false;
            shared.leave_out(&self.book.left_out);
            shared.keep(rows).await;
        }
        true
    }

    fn outcome(&self, name: &str, outcome: Outcome) -> Changed {
        let standing = self.standing.load();
        let key = || standing.key(name, (self.clock)()).unwrap_or_default();
        match outcome {
            Outcome::Secret(secret) => Changed::Secret(KeyMadeView {
                key: key(),
                secret: secret.expose().to_owned(),
            }),
            Outcome::Key => Changed::Key(key()),
            Outcome::Team => Changed::Team(standing.team(name).unwrap_or_default()),
            Outcome::Removed => Changed::Removed,
        }
    }

    /// What the change comes to, made to a copy.
    fn step(&self, change: KeyChange, now_s: u64) -> Result<Step, DeskFault> {
        match change {
            KeyChange::MakeKey {
                name,
                team,
                expiry,
                grants,
            } => self.make_key(name, team, expiry, grants, now_s),
            KeyChange::ChangeKey {
                name,
                is_enabled,
                expiry,
                grants,
            } => {
                let key = self.made_key(&name)?;
                let mut kept = key.kept.clone();
                kept.is_enabled = is_enabled.unwrap_or(kept.is_enabled);
                if let Some(expiry) = expiry {
                    kept.until_s = until(expiry, now_s)?;
                }
                let words = merged(&key.words, grants);
                let what = match is_enabled {
                    Some(false) => "key.disable",
                    Some(true) => "key.enable",
                    None => "key.change",
                };
                self.put_key(what, kept, words, Outcome::Key)
            }
            KeyChange::RotateKey { name, overlap } => self.rotate_key(&name, overlap, now_s),
            KeyChange::RemoveKey { name } => {
                self.made_key(&name)?;
                let mut book = self.book.clone();
                book.keys.remove(&name);
                book.days.remove(&name);
                Ok(Step {
                    what: "key.delete",
                    id: name.clone(),
                    book,
                    row: KeyRow::RemoveKey(name),
                    outcome: Outcome::Removed,
                })
            }
            KeyChange::MakeTeam { name, grants } => {
                if self.book.has_team(&name) {
                    return Err(DeskFault::Taken(Noun::Team));
                }
                let left_out = &self.book.left_out.teams;
                if left_out.contains(&name) {
                    return Err(DeskFault::LeftOut(Noun::Team));
                }
                if self.book.teams.len() + left_out.len() >= TEAMS_MAX {
                    let (noun, max) = (Noun::Team, TEAMS_MAX);
                    return Err(DeskFault::Full { noun, max });
                }
                let words = merged(&Map::new(), grants);
                self.put_team("team.create", name, now_s, words)
            }
            KeyChange::ChangeTeam { name, grants } => {
                let team = self.made_team(&name)?;
                let words = merged(&team.words, grants);
                self.put_team("team.change", name, team.kept.made_s, words)
            }
            KeyChange::RemoveTeam { name } => {
                self.made_team(&name)?;
                let count = self.book.keys_of_team(&name);
                if count > 0 {
                    return Err(DeskFault::TeamInUse(count));
                }
                let mut book = self.book.clone();
                book.teams.remove(&name);
                Ok(Step {
                    what: "team.delete",
                    id: name.clone(),
                    book,
                    row: KeyRow::RemoveTeam(name),
                    outcome: Outcome::Removed,
                })
            }
        }
    }

    fn make_key(
        &self,
        name: Option<String>,
        team: String,
        expiry: Expiry,
        grants: Map<String, Value>,
        now_s: u64,
    ) -> Result<Step, DeskFault> {
        let is_taken =
            |name: &str| self.book.keys.contains_key(name) || self.book.is_key_of_file(name);
        let left_out = &self.book.left_out.keys;
        let name = match name {
            Some(name) if is_taken(&name) => return Err(DeskFault::Taken(Noun::Key)),
            Some(name) if left_out.contains_key(&name) => {
                return Err(DeskFault::LeftOut(Noun::Key));
            }
            Some(name) => name,
            None => loop {
                let name = format!("key-{:08x}", rand::random::<u32>());
                if !is_taken(&name) && !left_out.contains_key(&name) {
                    break name;
                }
            },
        };
        if !self.book.has_team(&team) {
            return Err(DeskFault::Bad {
                path: "team".to_owned(),
                message:
                    "there is no such team; make it first, with `hedge teams create` or `POST \
                          /admin/v1/teams`"
                        .to_owned(),
            });
        }
        if self.book.keys.len() + left_out.len() >= KEYS_MAX {
            let (noun, max) = (Noun::Key, KEYS_MAX);
            return Err(DeskFault::Full { noun, max });
        }
        let secret = fresh_secret();
        let kept = KeptKey {
            name,
            team,
            made_s: now_s,
            until_s: until(expiry, now_s)?,
            is_enabled: true,
            grants: String::new(),
            tag: self.tag(&secret)?,
            before: None,
            used_day: None,
        };
        let words = merged(&Map::new(), grants);
        self.put_key("key.create", kept, words, Outcome::Secret(secret))
    }

    fn rotate_key(&self, name: &str, overlap: Duration, now_s: u64) -> Result<Step, DeskFault> {
        let key = self.made_key(name)?;
        let mut kept = key.kept.clone();
        let opens_still = |(_, until_s): &(_, u64)| now_s < *until_s;
        if !overlap.is_zero() && kept.before.as_ref().is_some_and(opens_still) {
            return Err(DeskFault::Rotating);
        }
        let secret = fresh_secret();
        let end = now_s.saturating_add(overlap.as_secs());
        kept.before = (!overlap.is_zero()).then_some((kept.tag, end));
        kept.tag = self.tag(&secret)?;
        self.put_key(
            "key.rotate",
            kept,
            key.words.clone(),
            Outcome::Secret(secret),
        )
    }

    fn put_key(
        &self,
        what: &'static str,
        mut kept: KeptKey,
        words: Map<String, Value>,
        outcome: Outcome,
    ) -> Result<Step, DeskFault> {
        kept.grants = Value::Object(words.clone()).to_string();
        let mut book = self.book.clone();
        let day = book.days.entry(kept.name.clone()).or_default();
        kept.used_day = day.day();
        let id = kept.name.clone();
        let row = KeyRow::PutKey(kept.clone());
        let key = Arc::new(MadeKey::of(kept, words).map_err(first)?);
        if let Some((at, message)) = book.unknown_route(&key.own) {
            let path = format!("routes[{at}]");
            return Err(DeskFault::Bad { path, message });
        }
        book.keys.insert(id.clone(), key);
        book.has_made = true;
        Ok(Step {
            what,
            id,
            book,
            row,
            outcome,
        })
    }

    fn put_team(
        &self,
        what: &'static str,
        name: String,
        made_s: u64,
        words: Map<String, Value>,
    ) -> Result<Step, DeskFault> {
        let kept = KeptTeam {
            limits: Value::Object(words.clone()).to_string(),
            name: name.clone(),
            made_s,
        };
        let row = KeyRow::PutTeam(kept.clone());
        let team = Arc::new(MadeTeam::of(kept, words).map_err(first)?);
        let mut book = self.book.clone();
        book.teams.insert(name.clone(), team);
        Ok(Step {
            what,
            id: name,
            book,
            row,
            outcome: Outcome::Team,
        })
    }

    fn made_key(&self, name: &str) -> Result<&Arc<MadeKey>, DeskFault> {
        match self.book.keys.get(name) {
            Some(key) => Ok(key),
            None if self.book.is_key_of_file(name) => Err(DeskFault::OfFile(Noun::Key)),
            None if self.book.left_out.keys.contains_key(name) => {
                Err(DeskFault::LeftOut(Noun::Key))
            }
            None => Err(DeskFault::Absent(Noun::Key)),
        }
    }

    fn made_team(&self, name: &str) -> Result<&Arc<MadeTeam>, DeskFault> {
        match self.book.teams.get(name) {
            Some(team) => Ok(team),
            None if self.book.is_team_of_file(name) => Err(DeskFault::OfFile(Noun::Team)),
            None if self.book.left_out.teams.contains(name) => Err(DeskFault::LeftOut(Noun::Team)),
            None => Err(DeskFault::Absent(Noun::Team)),
        }
    }

    fn tag(&self, secret: &KeySecret) -> Result<store::KeyTag, DeskFault> {
        let digest = digest_key(secret.expose());
        let hashing = self.book.secret.as_ref();
        hashing.map(|it| it.tag(&digest)).ok_or(DeskFault::Unkept)
    }

    /// Opens the file, where there is one and it is not open, and goes on from what stands in it.
    async fn open(&mut self) -> Result<(), DeskFault> {
        let Place::Own { dir, file: None } = &self.place else {
            return Ok(());
        };
        let dir = dir.clone();
        let opened = self.try_open(&dir).await;
        opened.map_err(|fault| self.place.failed(&fault))
    }

    async fn try_open(&mut self, dir: &Path) -> Result<(), KeyFault> {
        let mut opened = KeyFile::open(dir, rand::random()).await?;
        let rows = opened.load().await?;
        let generation = rows.generation;
        let mut book = self.book.clone();
        let standing = match book.take(rows) {
            Ok(()) => stand(&book, &self.clock).await,
            Err(faults) => Err(faults),
        };
        let standing = standing.map_err(|_| KeyFileError::Damaged)?;
        self.book = book;
        self.standing.store(Arc::new(standing));
        self.generation = Some(generation);
        if let Place::Own { file, .. } = &mut self.place {
            *file = Some(opened);
        }
        Ok(())
    }

    async fn open_counts(&self) -> Result<(), DeskFault> {
        let counts = Arc::clone(&self.counts);
        let opened = tokio::task::spawn_blocking(move || counts.open()).await;
        let opened = opened.unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
        opened.map_err(|error| {
            let path = self.counts.path().display();
            error!(%path, %error, "no limits can be made: what was used of them cannot be kept");
            DeskFault::Unkept
        })
    }

    /// Those that changed since they were last written.
    async fn write_days(&mut self) {
        let Some(place) = self.place.keys() else {
            return;
        };
        let mut days = Vec::new();
        for (name, key) in &self.book.keys {
            let day = self.book.days.get(name).and_then(|used| used.day());
            if let Some(day) = day.filter(|day| Some(*day) != key.kept.used_day) {
                days.push((name.clone(), day));
            }
        }
        if days.is_empty() {
            return;
        }
        match place.put_days(&days).await {
            Ok(()) => {}
            // That was said.
            Err(KeyFault::Away) => return,
            Err(error) => {
                warn!(
                    error = domain::chain(&error),
                    "the days on which keys were used cannot be written down"
                );
                return;
            }
        }
        for (name, day) in days {
            self.book.note_day(&name, day);
        }
    }
}

/// Aside: with thousands of keys it takes some milliseconds.
async fn stand(book: &Book, clock: &UnixClock) -> Result<Standing, Vec<ConfigFault>> {
    let (book, clock) = (book.clone(), Arc::clone(clock));
    let standing = tokio::task::spawn_blocking(move || book.stand(&clock)).await;
    standing.unwrap_or_else(|_| Err(ending()))
}

fn ending() -> Vec<ConfigFault> {
    let message = "the node is ending".to_owned();
    let path = String::new();
    vec![ConfigFault { path, message }]
}

fn fresh_secret() -> KeySecret {
    KeySecret::of(rand::random::<[u8; KEY_BYTES]>())
}

fn until(expiry: Expiry, now_s: u64) -> Result<Option<u64>, DeskFault> {
    match expiry {
        Expiry::Never => Ok(None),
        Expiry::In(span) => Ok(Some(now_s.saturating_add(span.as_secs()))),
        Expiry::At(at) if at > now_s && at - now_s <= EXPIRY_S_MAX => Ok(Some(at)),
        Expiry::At(_) => Err(DeskFault::Bad {
            path: "expires_at".to_owned(),
            message: "is to come, within ten years; to end a key at once, disable it".to_owned(),
        }),
    }
}

/// `more` over `words`. A `null` takes a word away.
fn merged(words: &Map<String, Value>, more: Map<String, Value>) -> Map<String, Value> {
    let mut words = words.clone();
    for (name, value) in more {
        match value {
            Value::Null => drop(words.shift_remove(&name)),
            value => drop(words.insert(name, value)),
        }
    }
    words
}

fn first(faults: Vec<ConfigFault>) -> DeskFault {
    match faults.into_iter().next() {
        Some(ConfigFault { path, message }) => DeskFault::Bad { path, message },
        None => DeskFault::Unkept,
    }
}
