//! What is done once a reply has ended: it is kept for other requests, or held against the one that might
//! have answered instead.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::{
    CacheKey, Compartment, Entry, EntryId, Evidence, FinishReason, Kept, MeaningId, Purge, Reply,
    WriterId,
};
use policy::Compared;
use policy::reuse::{Class, Judgement};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};

use super::agree::{by_vectors, has_equal_words, likeness};
use super::{CHECKS_MAX, CacheEncoder, Core, count, removed};

/// How often what was learned is saved, where something was.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// How long comparing a reply with those near it may take. Reached: nothing more is learned from it.
const COMPARE_MAX: Duration = Duration::from_secs(10);

/// The cosine from which on two replies say the same: two answers to one question by one model are mostly
/// above 0.9, those to questions that differ in one word below.
const AGREE_AT: f32 = 0.9;

/// Replies near a fresh one that the encoder compares it with. Those in the same words are found whatever
/// their number.
const COMPARED_MAX: usize = 3;

/// Places at the desk that are kept for replies that might have been answered from the cache: what is
/// learned of those bounds the error.
const PLACES_FOR_SHADOWS: usize = CHECKS_MAX / 2;

/// The cosine from which on a question that was answered alike adds nothing beside the one that is kept.
const DUPLICATE_AT: f32 = 0.98;

/// What an entry needs of the request.
pub(crate) struct Seed {
    pub compartment: Compartment,
    pub class: Class,
    text: String,
    vector: Arc<[f32]>,
}

impl Seed {
    pub fn new(compared: Compared, class: Class, vector: Arc<[f32]>) -> Self {
        Self {
            compartment: compared.compartment,
            class,
            text: compared.text,
            vector,
        }
    }
}

/// A neighbour that might have answered.
pub(crate) struct Shadow {
    pub entry: Arc<Entry>,
    pub judgement: Judgement,
    pub class: Class,
}

/// A fresh reply, to be compared with what is kept near its question.
pub(crate) struct Check {
    pub fresh: Entry,
    pub shadow: Option<Shadow>,
    /// One of those that say the same.
    pub near: Vec<Arc<Entry>>,
    pub encoder: Arc<CacheEncoder>,
    /// Whose fresh reply it is.
    pub writer: WriterId,
    /// Removals before it began to wait.
    pub since: u64,
}

/// What becomes of a finished reply beside the exact key.
pub(crate) struct Planting {
    pub core: Arc<Core>,
    pub desk: mpsc::Sender<Box<Check>>,
    pub encoder: Arc<CacheEncoder>,
    pub seed: Seed,
    pub shadow: Option<Shadow>,
    pub near: Vec<Arc<Entry>>,
    pub writer: WriterId,
}

/// The name of the entry that is made of the reply kept under `key`: guessed by nobody without the node's
/// secret, as the key is not.
pub(crate) fn entry_id(key: &CacheKey) -> EntryId {
    let mut first = [0; 8];
    first.copy_from_slice(&key.0[..8]);
    EntryId(u64::from_be_bytes(first))
}

impl Planting {
    /// Called where streams end: waits for nothing.
    pub fn plant(self, key: &CacheKey, kept: &Kept, ttl: Duration) {
        if !is_reusable(&kept.reply) {
            return;
        }
        let entry = Entry {
            id: entry_id(key),
            compartment: self.seed.compartment,
            class: self.seed.class.as_label().to_owned(),
            text: self.seed.text,
            vector: self.seed.vector.to_vec(),
            kept: kept.clone(),
            expires_at: SystemTime::now() + ttl,
            evidence: Evidence::default(),
            meaning: Some(MeaningId(rand::random())),
        };
        let is_spared = self.near.is_empty() || self.desk.capacity() <= PLACES_FOR_SHADOWS;
        if self.shadow.is_none() && is_spared {
            return self.core.index.keep(entry);
        }
        let check = Check {
            fresh: entry,
            shadow: self.shadow,
            near: self.near,
            encoder: self.encoder,
            writer: self.writer,
            since: self.core.removed().count(),
        };
        match self.desk.try_reserve() {
            Ok(place) => place.send(Box::new(check)),
            Err(_) => {
                if check.shadow.is_some() {
                    count(&self.core.counts.shadows_dropped);
                }
                self.core.index.keep(check.fresh);
            }
        }
    }
}

/// Whole, in words, and of one choice.
fn is_reusable(reply: &Reply) -> bool {
    let [choice] = &reply.choices[..] else {
        return false;
    };
    choice.reason == FinishReason::Stop
        && choice.tool_calls.is_empty()
        && !choice.text().trim().is_empty()
}

/// The driver that compares replies and saves what is learned. Ends when the pipeline and every exchange
/// are gone, having saved.
pub struct Learner {
    core: Arc<Core>,
    inbox: mpsc::Receiver<Box<Check>>,
}

impl Learner {
    pub(super) fn new(core: Arc<Core>, inbox: mpsc::Receiver<Box<Check>>) -> Self {
        Self { core, inbox }
    }

    /// Runs until nothing is left to compare.
    pub async fn run(mut self) {
        let mut saving = interval_at(Instant::now() + SAVE_EVERY, SAVE_EVERY);
        saving.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saved = self.core.acceptance().clone();
        loop {
            tokio::select! {
                check = self.inbox.recv() => match check {
                    Some(check) => self.compare(*check).await,
                    None => break,
                },
                _ = saving.tick() => {
                    let now = self.core.acceptance().clone();
                    if now != saved {
                        self.core.save();
                        saved = now;
                    }
                }
            }
        }
        self.core.save();
    }

    async fn compare(&self, check: Check) {
        let Check {
            mut fresh,
            shadow,
            near,
            encoder,
            writer,
            since,
        } = check;
        let until = Instant::now() + COMPARE_MAX;
        let mut differs_from = None;
        if let Some(Shadow {
            entry,
            judgement,
            class,
        }) = shadow
        {
            let agreeing = self.agree(&entry.kept.reply, &fresh.kept.reply, &encoder);
            let Ok(Some(was_right)) = timeout_at(until, agreeing).await else {
                count(&self.core.counts.failed);
                return self.core.keep_late(fresh, since);
            };
            let counts = &self.core.counts;
            count(match was_right {
                true => &counts.shadows_right,
                false => &counts.shadows_wrong,
            });
            self.core.acceptance().learn(class, &judgement, was_right);
            let is_others = fresh.kept.team != entry.kept.team;
            let confirms = Some(writer).filter(|_| was_right && is_others);
            let kept_at = Some(entry.kept.kept_at);
            self.core.note(entry.id, kept_at, was_right, confirms).await;
            if was_right {
                // Where the other went meanwhile, it takes its place.
                let is_new =
                    judgement.similarity < DUPLICATE_AT || self.core.index.find(entry.id).is_none();
                if is_new {
                    fresh.meaning = Some(entry.meaning());
                    self.core.keep_late(fresh, since);
                }
                return;
            }
            differs_from = Some(entry.meaning());
        }
        // What was removed or replaced meanwhile is compared with nothing.
        let is_there = |it: &Entry| {
            let now = self.core.index.find(it.id);
            now.is_some_and(|now| now.kept.kept_at == it.kept.kept_at)
        };
        let near = near
            .iter()
            .filter(|it| Some(it.meaning()) != differs_from && is_there(it));
        let near: Vec<&Entry> = near.map(Arc::as_ref).collect();
        let finding = self.find_alike(&fresh.kept.reply, &near, &encoder);
        // Where none is found it says something of its own.
        if let Ok(Some(meaning)) = timeout_at(until, finding).await {
            fresh.meaning = Some(meaning);
        }
        self.core.keep_late(fresh, since);
    }

    /// What the first of these entries says whose reply says the same.
    async fn find_alike(
        &self,
        fresh: &Reply,
        near: &[&Entry],
        encoder: &CacheEncoder,
    ) -> Option<MeaningId> {
        let fresh = said(fresh)?;
        let texts = near
            .iter()
            .filter_map(|it| Some((it.meaning(), said(&it.kept.reply)?)));
        let texts: Vec<(MeaningId, String)> = texts.collect();
        let equal = texts.iter().find(|(_, text)| has_equal_words(text, &fresh));
        if let Some((meaning, _)) = equal {
            return Some(*meaning);
        }
        if texts.is_empty() {
            return None;
        }
        let vector = encoder.vector(&fresh).await?;
        for (meaning, text) in texts.iter().take(COMPARED_MAX) {
            let Some(other) = encoder.vector(text).await else {
                continue;
            };
            let likeness = by_vectors(
                (text, &other),
                (&fresh, &vector),
                &self.core.scorer,
                AGREE_AT,
            );
            if likeness.is_alike {
                return Some(*meaning);
            }
        }
        None
    }

    /// Whether two replies say the same; `None` where that cannot be told.
    async fn agree(&self, kept: &Reply, fresh: &Reply, encoder: &CacheEncoder) -> Option<bool> {
        let (kept, fresh) = (said(kept)?, said(fresh)?);
        let comparing = likeness(&kept, &fresh, encoder, &self.core.scorer, AGREE_AT);
        Some(comparing.await?.is_alike)
    }
}

fn said(reply: &Reply) -> Option<String> {
    reply.choices.first().map(|choice| choice.text())
}

impl std::fmt::Debug for Learner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learner").finish_non_exhaustive()
    }
}

impl Core {
    /// Keeps what waited to be compared since there were so many removals, unless it was among those after
    /// it, or its request was answered anew.
    fn keep_late(&self, entry: Entry, since: u64) {
        // Until it is kept nothing is removed: a removal that comes then finds it.
        let removed = self.removed();
        let newer = self.index.find(entry.id);
        let is_replaced = newer.is_some_and(|it| it.kept.kept_at > entry.kept.kept_at);
        if !is_replaced && !removed.takes(&entry, since, SystemTime::now()) {
            self.index.keep(entry);
        }
    }

    /// Notes that an entry was right or wrong, and removes one that is wrong too often. True where it went.
    /// One that was kept at another moment than what was judged is left alone.
    pub async fn note(
        &self,
        id: EntryId,
        kept_at: Option<SystemTime>,
        was_right: bool,
        confirms: Option<WriterId>,
    ) -> bool {
        let entry = self.index.find(id);
        let is_meant = |it: &Arc<Entry>| kept_at.is_none_or(|at| it.kept.kept_at == at);
        let Some(entry) = entry.filter(is_meant) else {
            return false;
        };
        let mut evidence = entry.evidence.clone();
        if was_right {
            evidence.right = evidence.right.saturating_add(1);
        } else {
            evidence.wrong = evidence.wrong.saturating_add(1);
        }
        confirms.iter().for_each(|writer| evidence.confirm(*writer));
        if !was_right && is_condemned(&evidence) {
            return removed(self.index.purge(&Purge::Entry(id)).await);
        }
        self.index.learn(id, evidence);
        false
    }
}

/// Wrong once where it was not yet right four times, and so on.
fn is_condemned(evidence: &Evidence) -> bool {
    u64::from(evidence.wrong) * 4 > u64::from(evidence.right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_when_it_was_wrong_too_often() {
        let of = |right, wrong| {
            is_condemned(&Evidence {
                right,
                wrong,
                ..Evidence::default()
            })
        };
        assert!(of(0, 1) && of(3, 1) && of(7, 2));
        assert!(!of(4, 1) && !of(8, 2) && !of(0, 0));
    }
}
