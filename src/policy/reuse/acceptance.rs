//! How often the cache may be wrong, and keeping to it.
//!
//! *Wrong rate* is wrong hits per request looked up; that is what the operator bounds. A judgement
//! gives each hit an expected error. Three things are learned of it:
//!
//! - per class and band of error, what was found wrong against what was expected: the error that is
//!   believed is the expected one times an upper bound on that ratio;
//! - per entry, its evidence: one that was wrong answers less, one that was confirmed more, and a cold
//!   one is shy;
//! - over all, how much expected error the traffic offers: the threshold is where what is served comes
//!   to what the operator allows, so traffic with few good hits takes doubtful ones no sooner than the
//!   bound lets it.
//!
//! Evidence comes from shadows: where the request is answered afresh anyway, a near miss costs nothing
//! to compare; of would-be hits a share is drawn, the sooner the more doubt gathered on the entry since it
//! was last looked at.

use domain::{EntryId, Evidence};
use serde::{Deserialize, Serialize};

use super::judge::Judgement;
use super::question::Class;
use super::unchecked::Unchecked;

/// What the operator sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AcceptanceRules {
    /// Wrong hits per request looked up, from 0 to 1.
    pub max_wrong_rate: f64,
    /// Of would-be hits, how many are answered afresh and compared, from 0 to 1: of entries that are sure
    /// and seldom asked two fifths of it, of doubtful ones that answer often up to four times as many.
    pub shadow_share: f64,
}

impl Default for AcceptanceRules {
    fn default() -> Self {
        Self {
            max_wrong_rate: 0.01,
            shadow_share: 0.05,
        }
    }
}

/// What is done with a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its reply answers.
    Serve,
    /// The request is answered afresh, and the two replies are compared: [`Acceptance::learn`].
    Shadow,
    /// The request is answered afresh.
    Miss,
}

/// Bounds of the bands of expected error, rising. What is above the last is neither served nor learned
/// from.
const BANDS: [f64; 4] = [0.01, 0.04, 0.12, 0.4];

/// Bins of the error that traffic offers: each half as wide again as the one before.
const BINS: usize = 32;

/// The least error that is told from none.
const ERROR_MIN: f64 = 1.0 / 65_536.0;

/// Errors that a band is taken to have made, and to have been expected to make, before any was seen:
/// how slowly it is swayed.
const BAND_WEIGHT: f64 = 5.0;

/// Most of what is learned comes from near misses. Surer scores are off by more than those are, the same
/// way: by what near misses were off, to this power.
const SURER: f64 = 1.5;

/// However seldom near misses were wrong, an error is not believed to be less than this much of what was
/// expected: what is served is hardly looked at again, so a mistake about it would not be noticed.
const RATIO_MIN: f64 = 0.8;

/// How many deviations above what was found the believed ratio is.
const CAUTION: f64 = 0.35;

/// Evidence of a band is halved when it comes to this many expected errors, so that it follows the
/// traffic.
const BAND_MAX: f64 = 400.0;

/// Lookups after which what traffic offered is forgotten by half.
const LOOKUPS_MAX: f64 = 8_192.0;

/// Lookups at the beginning that are taken to have spent all that was allowed them on hits with more
/// than [`FIRST`] times the bound as their error: so at first only better ones are served, as if one
/// lookup in that many found one.
const LOOKUPS_FIRST: f64 = 100.0;
const FIRST: f64 = 3.0;

/// Of what the operator allows, how much is aimed at: the rest is for what the estimates do not know.
const AIM: f64 = 0.65;

/// How many deviations of a count of wrong hits must fit between what is aimed at and what is allowed: so
/// a young cache, of whose few lookups one wrong hit is a large share, is careful.
const DEVIATIONS: f64 = 1.2;

/// No hit is served that is this many times as likely to be wrong as the bound, nor one beyond
/// [`ERROR_MAX`], whatever the bound leaves room for.
const ERROR_TIMES_MAX: f64 = 10.0;
const ERROR_MAX: f64 = 0.15;

/// Odds of being wrong, of an entry that nobody confirmed and of one that was: times as much.
const COLD: f64 = 1.15;
const CONFIRMED: f64 = 0.9;

/// Of an entry that was wrong, for each time more than it was right.
const WRONG: f64 = 2.0;

/// How often a would-be hit is drawn for a shadow, in times of the share, whatever it is. To it comes the
/// doubt that gathered on the entry.
const DRAWN: f64 = 0.4;

/// Confirmations beyond this add nothing.
const CONFIRMED_MAX: u32 = 3;

/// Expected and found errors of one band.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Band {
    expected: f64,
    found: f64,
}

impl Band {
    fn sum(bands: &[Self]) -> Self {
        Self {
            expected: bands.iter().map(|band| band.expected).sum(),
            found: bands.iter().map(|band| band.found).sum(),
        }
    }

    fn add(&mut self, expected: f64, found: f64) {
        self.expected += expected;
        self.found += found;
        if self.expected > BAND_MAX || self.found > BAND_MAX {
            self.expected /= 2.0;
            self.found /= 2.0;
        }
    }

    /// Found per expected: the mean, with this much weight at `prior`.
    fn ratio(&self, prior: f64) -> f64 {
        (self.found + BAND_WEIGHT * prior) / (self.expected + BAND_WEIGHT)
    }

    /// An upper bound on it.
    fn upper(&self, prior: f64) -> f64 {
        let found = self.found + BAND_WEIGHT * prior;
        (found + CAUTION * found.sqrt()) / (self.expected + BAND_WEIGHT)
    }
}

/// Which scores it was learned of. Another number each time they come to mean something else, as after a
/// new fit: what was learned of others would mislead.
const LEARNED_OF: u32 = 5;

/// What is learned of answers, of all entries together. Small, of a fixed size, and kept over a restart
/// as [`Acceptance::to_bytes`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// [`LEARNED_OF`]; 0 of what earlier versions saved.
    #[serde(default)]
    learned_of: u32,
    /// By class, then band.
    classes: Vec<[Band; BANDS.len()]>,
    all: [Band; BANDS.len()],
    /// Lookups, and of them how many offered an error of each bin; forgotten by and by.
    lookups: f64,
    offered: [f64; BINS],
    #[serde(skip)]
    unchecked: Unchecked,
}

impl Default for Acceptance {
    fn default() -> Self {
        Self {
            learned_of: LEARNED_OF,
            classes: vec![[Band::default(); BANDS.len()]; Class::COUNT],
            all: [Band::default(); BANDS.len()],
            lookups: 0.0,
            offered: [0.0; BINS],
            unchecked: Unchecked::default(),
        }
    }
}

impl Acceptance {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// To be given to [`Acceptance::from_bytes`] by a later process.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What was saved; `None` where it is not as this version writes it, and learning begins anew.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(bytes).ok()?;
        let is_count = |x: f64| x.is_finite() && x >= 0.0;
        let is_part = |x: f64| (0.0..=BAND_MAX).contains(&x);
        let is_sound = read.learned_of == LEARNED_OF
            && read.classes.len() == Class::COUNT
            && read
                .classes
                .iter()
                .flatten()
                .chain(&read.all)
                .all(|band| is_part(band.expected) && is_part(band.found))
            && is_count(read.lookups)
            && read.offered.iter().all(|count| is_count(*count));
        is_sound.then_some(read)
    }

    /// Notes a lookup that found no neighbour: it is one of the requests that the rate is of.
    pub fn found_none(&mut self) {
        self.look(None);
    }

    /// What to do with the best neighbour of one lookup. `draw` is uniform in [0, 1).
    pub fn decide(
        &mut self,
        rules: &AcceptanceRules,
        class: Class,
        judgement: &Judgement,
        (entry, evidence): (EntryId, &Evidence),
        draw: f64,
    ) -> Verdict {
        if judgement.refusal.is_some() {
            self.look(None);
            return Verdict::Miss;
        }
        let error = self.error(class, judgement, evidence);
        self.look(Some(error));
        let expected = expected_error(judgement);
        let threshold = self.threshold(rules);
        if error <= threshold {
            let doubt = self.unchecked.gather(entry, error);
            if draw >= drawn(rules, doubt / threshold) {
                return Verdict::Serve;
            }
            // A near miss is compared too, and says nothing of what the entry answers.
            self.unchecked.look_at(entry);
            return Verdict::Shadow;
        }
        if band(expected).is_some() {
            Verdict::Shadow
        } else {
            Verdict::Miss
        }
    }

    /// What would be decided, with nothing noted: for a dry run.
    #[must_use]
    pub fn would_serve(
        &self,
        rules: &AcceptanceRules,
        class: Class,
        judgement: &Judgement,
        evidence: &Evidence,
    ) -> bool {
        judgement.refusal.is_none()
            && self.error(class, judgement, evidence) <= self.threshold(rules)
    }

    /// Notes whether an answer was right: of a shadow, or by the caller's word.
    pub fn learn(&mut self, class: Class, judgement: &Judgement, was_right: bool) {
        let expected = expected_error(judgement);
        let Some(band) = band(expected).filter(|_| judgement.refusal.is_none()) else {
            return;
        };
        let found = if was_right { 0.0 } else { 1.0 };
        self.all[band].add(expected, found);
        self.classes[class.index()][band].add(expected, found);
    }

    /// The error that is believed of a hit, from 0 to 1.
    #[must_use]
    pub fn error(&self, class: Class, judgement: &Judgement, evidence: &Evidence) -> f64 {
        let expected = expected_error(judgement);
        let Some(band) = band(expected) else {
            return expected;
        };
        let bands = &self.classes[class.index()];
        let prior = Band::sum(bands).ratio(Band::sum(&self.all).ratio(1.0));
        let ratio = bands[band].upper(prior.powf(SURER)).max(RATIO_MIN);
        let odds = expected / (1.0 - expected) * ratio * of_entry(evidence);
        odds / (1.0 + odds)
    }

    /// The largest error that is served now.
    #[must_use]
    pub fn threshold(&self, rules: &AcceptanceRules) -> f64 {
        let bound = rules.max_wrong_rate.clamp(0.0, 1.0);
        let error_max = (bound * ERROR_TIMES_MAX).min(ERROR_MAX);
        let allowed = bound * AIM;
        let lookups = self.lookups + LOOKUPS_FIRST;
        // The count whose mean and deviations come to what is allowed.
        let count = bound * lookups;
        let root = ((DEVIATIONS * DEVIATIONS + 4.0 * count).sqrt() - DEVIATIONS) / 2.0;
        let may_spend = (root * root).min(allowed * lookups);
        let mut spent = 0.0;
        let first = bin((allowed * FIRST).min(error_max));
        for bin in 0..BINS {
            let (from, until) = (bin_start(bin), bin_start(bin + 1));
            let middle = (from * until).sqrt();
            let at_first = if bin == first {
                allowed * LOOKUPS_FIRST
            } else {
                0.0
            };
            let most = self.offered[bin] * middle + at_first;
            if spent + most > may_spend {
                // As much of the bin as there is room for.
                let share = (may_spend - spent) / most;
                return (from + share * (until - from)).min(error_max);
            }
            spent += most;
        }
        error_max
    }

    fn look(&mut self, offered: Option<f64>) {
        self.lookups += 1.0;
        if let Some(error) = offered {
            self.offered[bin(error)] += 1.0;
        }
        if self.lookups > LOOKUPS_MAX {
            self.lookups /= 2.0;
            self.offered.iter_mut().for_each(|count| *count /= 2.0);
        }
    }
}

fn expected_error(judgement: &Judgement) -> f64 {
    let error = 1.0 - f64::from(judgement.probability_same);
    if error.is_finite() {
        error.clamp(ERROR_MIN, 1.0 - ERROR_MIN)
    } else {
        1.0 - ERROR_MIN
    }
}

fn band(error: f64) -> Option<usize> {
    BANDS.iter().position(|most| error <= *most)
}

fn bin_start(bin: usize) -> f64 {
    if bin == 0 {
        return ERROR_MIN / 2.0;
    }
    ERROR_MIN * 2f64.powf((bin - 1) as f64 / 2.0)
}

fn bin(error: f64) -> usize {
    (1..BINS)
        .rev()
        .find(|bin| bin_start(*bin) <= error)
        .unwrap_or(0)
}

/// How likely a would-be hit is drawn for a shadow, where so much doubt has gathered on the entry, in parts
/// of the largest error that is served.
fn drawn(rules: &AcceptanceRules, doubt: f64) -> f64 {
    // Of so many draws with the share, that one of them hits: so a share of 1 draws all.
    let times = DRAWN + doubt;
    1.0 - (1.0 - rules.shadow_share.clamp(0.0, 1.0)).powf(times)
}

/// How much an entry's own record changes the odds of its being wrong.
fn of_entry(evidence: &Evidence) -> f64 {
    let more_wrong = evidence.wrong.saturating_sub(evidence.right / 4).min(16);
    let factor = match evidence.right.min(CONFIRMED_MAX) {
        0 => COLD,
        right => CONFIRMED.powi(right as i32),
    };
    factor * WRONG.powi(more_wrong as i32)
}
