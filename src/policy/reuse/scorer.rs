//! What was learned of pairs of questions: how much a word weighs, trees over what was compared, and
//! how often a score of theirs is right.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde::Deserialize;

use super::compared::FEATURES;
use super::forest::{Forest, Tree};
use super::words::hash;

/// Bytes of a scorer's file; a larger one is refused.
const FILE_BYTES_MAX: usize = 4 << 20;

/// The scorer that was trained with the bundled encoder.
const BUNDLED: &[u8] = include_bytes!("../../../models/reuse.json");

#[derive(Debug, thiserror::Error)]
pub enum ScorerFault {
    #[error("the scorer's file is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the scorer's file is not as training writes it")]
    Malformed(#[source] serde_json::Error),
    #[error("the scorer's {part} does not hold together")]
    Unsound { part: &'static str },
}

/// How a pair is scored.
#[derive(Debug)]
pub struct Scorer {
    vocabulary: Vocabulary,
    head: Option<Head>,
    /// With the encoder's figures, and by the words alone.
    encoder: Judge,
    lexical: Judge,
    knows_encoder: bool,
}

#[derive(Debug)]
struct Judge {
    forest: Forest,
    /// Log odds of the trees, rising, and the log odds that were found for them.
    raw: Vec<f32>,
    calibrated: Vec<f32>,
}

/// The same as it is written.
#[derive(Deserialize)]
struct WrittenJudge {
    trees: Vec<Tree>,
    raw: Vec<f32>,
    calibrated: Vec<f32>,
}

impl WrittenJudge {
    fn read(self) -> Result<Judge, ScorerFault> {
        if !self.is_sound() {
            return Err(ScorerFault::Unsound { part: "trees" });
        }
        Ok(Judge {
            forest: Forest::of(&self.trees),
            raw: self.raw,
            calibrated: self.calibrated,
        })
    }

    fn is_sound(&self) -> bool {
        self.trees.iter().all(Tree::is_sound)
            && self.raw.len() == self.calibrated.len()
            && !self.raw.is_empty()
            && self
                .raw
                .iter()
                .chain(&self.calibrated)
                .all(|x| x.is_finite())
            && self.raw.is_sorted()
            && self.calibrated.is_sorted()
    }
}

impl Judge {
    /// From 0 to 1.
    fn probability(&self, figures: &[f32; FEATURES]) -> f32 {
        let raw = self.forest.log_odds(figures);
        let at = self.raw.partition_point(|x| *x <= raw);
        let last = self.raw.len() - 1;
        let odds = if at == 0 {
            self.calibrated[0]
        } else if at > last {
            self.calibrated[last]
        } else {
            let (x, y) = (self.raw[at - 1], self.raw[at]);
            let share = if y > x { (raw - x) / (y - x) } else { 0.0 };
            self.calibrated[at - 1] + share * (self.calibrated[at] - self.calibrated[at - 1])
        };
        1.0 / (1.0 + (-odds).exp())
    }
}

/// A small network over two vectors, trained with the encoder: [u*v, |u-v|, cosine], one hidden layer
/// with a ramp, one figure.
#[derive(Debug, Deserialize)]
struct Head {
    dimensions: usize,
    hidden: usize,
    /// f32[hidden, 2 * dimensions + 1], row-major, as whole numbers times `scale` of the row.
    weights: Vec<i16>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    out: Vec<f32>,
    out_bias: f32,
}

impl Head {
    fn is_sound(&self) -> bool {
        let inputs = 2 * self.dimensions + 1;
        self.dimensions > 0
            && self.weights.len() == self.hidden * inputs
            && [&self.scales, &self.bias, &self.out]
                .iter()
                .all(|part| part.len() == self.hidden && part.iter().all(|x| x.is_finite()))
            && self.out_bias.is_finite()
    }

    fn figure(&self, u: &[f32], v: &[f32], similarity: f32) -> f32 {
        let n = self.dimensions;
        let mut inputs = Vec::with_capacity(2 * n + 1);
        inputs.extend(u.iter().zip(v).map(|(x, y)| x * y));
        inputs.extend(u.iter().zip(v).map(|(x, y)| (x - y).abs()));
        inputs.push(similarity);
        let rows = self.weights.chunks_exact(2 * n + 1);
        let mut sum = self.out_bias;
        for (at, row) in rows.enumerate() {
            let dot: f32 = row
                .iter()
                .zip(&inputs)
                .map(|(w, x)| f32::from(*w) * x)
                .sum();
            sum += (dot * self.scales[at] + self.bias[at]).max(0.0) * self.out[at];
        }
        sum
    }
}

/// Words by how rare they are.
#[derive(Debug, Default)]
pub struct Vocabulary {
    weights: HashMap<u64, u8, BuildHasherDefault<Same>>,
}

/// The key is a hash already.
#[derive(Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Weights are kept in sixteenths.
const WEIGHT_STEP: f32 = 1.0 / 16.0;

/// Of a word that was never seen: as rare as the rarest that was.
const WEIGHT_UNSEEN: f32 = 11.0;

/// A word as rare as this, or rarer, may be a slip of the pen that somebody made before.
const WEIGHT_COMMON_MAX: u8 = 136;

impl Vocabulary {
    /// How rare it is: from 0, the logarithm of texts per text that has it.
    pub fn weight(&self, word: u64) -> f32 {
        self.weights
            .get(&word)
            .map_or(WEIGHT_UNSEEN, |weight| f32::from(*weight) * WEIGHT_STEP)
    }

    pub fn has(&self, word: u64) -> bool {
        self.weights.contains_key(&word)
    }

    pub fn is_common(&self, word: u64) -> bool {
        self.weights
            .get(&word)
            .is_some_and(|weight| *weight < WEIGHT_COMMON_MAX)
    }
}

#[derive(Deserialize)]
struct File {
    /// Words by weight in sixteenths: each key holds words apart by a space.
    vocabulary: HashMap<u8, String>,
    head: Option<Head>,
    encoder: WrittenJudge,
    lexical: WrittenJudge,
}

impl Scorer {
    /// Reads what training wrote.
    ///
    /// # Errors
    /// When it is too large, not in the form, or its parts do not fit each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, ScorerFault> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(ScorerFault::TooLarge);
        }
        let file: File = serde_json::from_slice(bytes).map_err(ScorerFault::Malformed)?;
        let (encoder, lexical) = (file.encoder.read()?, file.lexical.read()?);
        if file.head.as_ref().is_some_and(|head| !head.is_sound()) {
            return Err(ScorerFault::Unsound { part: "head" });
        }
        let mut vocabulary = Vocabulary::default();
        for (weight, words) in &file.vocabulary {
            for word in words.split(' ').filter(|word| !word.is_empty()) {
                vocabulary.weights.insert(hash(word), *weight);
            }
        }
        Ok(Self {
            vocabulary,
            head: file.head,
            encoder,
            lexical,
            knows_encoder: true,
        })
    }

    /// The one that was trained with the bundled encoder.
    ///
    /// # Panics
    /// Never: a test reads the same bytes.
    #[must_use]
    pub fn bundled() -> Self {
        Self::parse(BUNDLED).expect("the bundled scorer is read in a test")
    }

    /// For vectors of another encoder than it was trained with: it goes by the words alone.
    #[must_use]
    pub fn without_encoder(mut self) -> Self {
        self.knows_encoder = false;
        self
    }

    /// Whether what else is near has a say in its scores.
    #[must_use]
    pub fn hears_company(&self) -> bool {
        self.knows_encoder
    }

    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The pair head's figure; 0 where there is no head for vectors of this length.
    pub(super) fn head(&self, u: &[f32], v: &[f32], similarity: f32) -> f32 {
        match &self.head {
            Some(head) if head.dimensions == u.len() && u.len() == v.len() => {
                head.figure(u, v, similarity)
            }
            Some(_) | None => 0.0,
        }
    }

    /// That the two may share an answer, from 0 to 1.
    pub(super) fn probability(&self, figures: &[f32; FEATURES]) -> f32 {
        if self.knows_encoder {
            self.encoder.probability(figures)
        } else {
            self.lexical.probability(figures)
        }
    }
}
