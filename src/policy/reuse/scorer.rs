//! What was learned of pairs of questions: how much a word weighs, trees over what was compared, and
//! how often a score of theirs is right.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde::Deserialize;

use super::compared::FEATURES;
use super::forest::{Forest, TREES_MAX, Tree};
use super::product::product;
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
    /// The trees that are asked first, and the others. Where the first give less than `least` together, the
    /// others are not asked, for pairs that come to anything do not begin so.
    first: Forest,
    rest: Forest,
    least: f32,
    /// Log odds of the trees, rising, and the log odds that were found for them.
    raw: Vec<f32>,
    calibrated: Vec<f32>,
}

/// How many trees are asked first, and what they come to at least where the others are asked.
#[derive(Debug, Default, Deserialize)]
struct First {
    trees: usize,
    least: f32,
}

/// The same as it is written.
#[derive(Deserialize)]
struct WrittenJudge {
    trees: Vec<Tree>,
    #[serde(default)]
    first: First,
    raw: Vec<f32>,
    calibrated: Vec<f32>,
}

impl WrittenJudge {
    fn read(self) -> Result<Judge, ScorerFault> {
        if !self.is_sound() {
            return Err(ScorerFault::Unsound { part: "trees" });
        }
        let (first, rest) = self.trees.split_at(self.first.trees);
        Ok(Judge {
            first: Forest::of(first),
            rest: Forest::of(rest),
            least: self.first.least,
            raw: self.raw,
            calibrated: self.calibrated,
        })
    }

    fn is_sound(&self) -> bool {
        self.trees.len() <= TREES_MAX
            && self.trees.iter().all(Tree::is_sound)
            && self.first.trees <= self.trees.len()
            && self.first.least.is_finite()
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
    /// From 0 to 1; the least there is, where the first trees leave no hope.
    fn probability(&self, figures: &[f32; FEATURES]) -> f32 {
        let first = self.first.log_odds(figures);
        if first < self.least {
            return share(self.calibrated[0]);
        }
        let raw = first + self.rest.log_odds(figures);
        let at = self.raw.partition_point(|x| *x <= raw);
        let last = self.raw.len() - 1;
        let odds = if at == 0 {
            self.calibrated[0]
        } else if at > last {
            self.calibrated[last]
        } else {
            let (x, y) = (self.raw[at - 1], self.raw[at]);
            let part = if y > x { (raw - x) / (y - x) } else { 0.0 };
            self.calibrated[at - 1] + part * (self.calibrated[at] - self.calibrated[at - 1])
        };
        share(odds)
    }
}

/// The part of one that log odds stand for.
fn share(log_odds: f32) -> f32 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// A small network over two vectors, trained with the encoder: [u*v, |u-v|, cosine], one hidden layer
/// with a ramp, one figure.
#[derive(Debug)]
struct Head {
    dimensions: usize,
    /// f32[hidden, 2 * dimensions + 1], row-major.
    weights: Vec<f32>,
    bias: Vec<f32>,
    out: Vec<f32>,
    out_bias: f32,
}

/// The same as it is written.
#[derive(Deserialize)]
struct WrittenHead {
    dimensions: usize,
    hidden: usize,
    /// As whole numbers times `scale` of the row.
    weights: Vec<i16>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    out: Vec<f32>,
    out_bias: f32,
}

impl WrittenHead {
    fn read(self) -> Result<Head, ScorerFault> {
        if !self.is_sound() {
            return Err(ScorerFault::Unsound { part: "head" });
        }
        let rows = self.weights.chunks_exact(inputs(self.dimensions));
        let weights = rows.zip(&self.scales).flat_map(|(row, scale)| {
            let weights = row.iter();
            weights.map(move |weight| f32::from(*weight) * scale)
        });
        Ok(Head {
            dimensions: self.dimensions,
            weights: weights.collect(),
            bias: self.bias,
            out: self.out,
            out_bias: self.out_bias,
        })
    }

    fn is_sound(&self) -> bool {
        self.dimensions > 0
            && self.weights.len() == self.hidden * inputs(self.dimensions)
            && [&self.scales, &self.bias, &self.out]
                .iter()
                .all(|part| part.len() == self.hidden && part.iter().all(|x| x.is_finite()))
            && self.out_bias.is_finite()
    }
}

/// What the head looks at, of vectors of so many dimensions.
fn inputs(dimensions: usize) -> usize {
    2 * dimensions + 1
}

impl Head {
    fn figure(&self, u: &[f32], v: &[f32], similarity: f32) -> f32 {
        let mut looked_at = Vec::with_capacity(inputs(self.dimensions));
        looked_at.extend(u.iter().zip(v).map(|(x, y)| x * y));
        looked_at.extend(u.iter().zip(v).map(|(x, y)| (x - y).abs()));
        looked_at.push(similarity);
        let rows = self.weights.chunks_exact(looked_at.len());
        let hidden = rows.zip(&self.bias).zip(&self.out);
        let sum = hidden.map(|((row, bias), out)| (product(row, &looked_at) + bias).max(0.0) * out);
        self.out_bias + sum.sum::<f32>()
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
    head: Option<WrittenHead>,
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
        let head = file.head.map(WrittenHead::read).transpose()?;
        let mut vocabulary = Vocabulary::default();
        for (weight, words) in &file.vocabulary {
            for word in words.split(' ').filter(|word| !word.is_empty()) {
                vocabulary.weights.insert(hash(word), *weight);
            }
        }
        Ok(Self {
            vocabulary,
            head,
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Of two trees the first gives 1 or -1, as the figure 0 is above 0 or not, and the other 8.
    fn written(first: Option<Value>) -> Value {
        let trees = json!([
            {"f": [0], "t": [0.0], "l": [-1], "r": [-2], "v": [-1.0, 1.0]},
            {"f": [], "t": [], "l": [], "r": [], "v": [8.0]},
        ]);
        let mut judge = json!({"trees": trees, "raw": [-20.0, 20.0], "calibrated": [-20.0, 20.0]});
        if let Some(first) = first {
            judge["first"] = first;
        }
        json!({"vocabulary": {}, "head": null, "encoder": judge, "lexical": judge})
    }

    fn read(written: &Value) -> Result<Scorer, ScorerFault> {
        Scorer::parse(written.to_string().as_bytes())
    }

    #[test]
    fn where_the_first_trees_leave_no_hope_the_others_are_not_asked() {
        let of = |first, figure| {
            let mut figures = [0.0; FEATURES];
            figures[0] = figure;
            let scorer = read(&written(first)).expect("it is sound");
            let walked = scorer.probability(&figures);
            assert_eq!(scorer.without_encoder().probability(&figures), walked);
            walked
        };
        let first = |least: f32| Some(json!({"trees": 1, "least": least}));
        let least = share(-20.0);
        for first in [None, first(-1.0)] {
            assert_eq!(of(first.clone(), 0.0), share(7.0));
            assert_eq!(of(first, 1.0), share(9.0));
        }
        assert_eq!(of(first(0.5), 0.0), least);
        assert_eq!(of(first(0.5), 1.0), share(9.0));
        assert_eq!(of(first(1.5), 1.0), least);
    }

    #[test]
    fn first_trees_that_are_not_there_are_unsound() {
        for first in [
            json!({"trees": 3, "least": 0.0}),
            json!({"trees": 1, "least": 1e39}),
        ] {
            let read = read(&written(Some(first.clone())));
            let is_refused = matches!(
                read,
                Err(ScorerFault::Unsound { .. } | ScorerFault::Malformed(_))
            );
            assert!(is_refused, "{first}");
        }
        assert!(read(&written(Some(json!({"trees": 2, "least": 0.0})))).is_ok());
    }
}
