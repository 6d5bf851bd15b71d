//! A stream of requests against an empty cache: a miss is kept, a hit is right when the two may share
//! an answer.

use domain::{EntryId, Evidence};
use policy::reuse::{
    Acceptance, AcceptanceRules, Company, Judgement, NEAR_MAX, Near, Pair, Question, Scorer,
    Verdict, judge, product,
};

use crate::Fault;
use crate::data::{Asked, Draws, Vectors};

/// Neighbours that are judged for one lookup, as the pipeline does.
pub const NEIGHBOURS: usize = 4;

/// What is kept, and what each of it was found to say.
struct Kept {
    places: Vec<usize>,
    /// By place in the stream: the place of the first that says so.
    says: Vec<usize>,
}

impl Kept {
    fn new(stream: &Stream<'_>) -> Self {
        Self {
            places: Vec::new(),
            says: (0..stream.asked.len()).collect(),
        }
    }

    /// Takes a request in whose fresh reply was compared with those near it.
    fn keep(&mut self, at: usize, near: &[(usize, f32)], stream: &Stream<'_>) {
        let alike = near.iter().find(|(other, _)| stream.is_same(at, *other));
        if let Some((other, _)) = alike {
            self.says[at] = self.says[*other];
        }
        self.places.push(at);
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub lookups: u32,
    pub right: u32,
    pub wrong: u32,
    pub shadows: u32,
    pub not_reusable: u32,
}

impl Tally {
    pub fn hits_share(&self) -> f64 {
        100.0 * f64::from(self.right + self.wrong) / f64::from(self.lookups.max(1))
    }
    pub fn wrong_share(&self) -> f64 {
        100.0 * f64::from(self.wrong) / f64::from(self.lookups.max(1))
    }
    pub fn precision(&self) -> f64 {
        100.0 * f64::from(self.right) / f64::from((self.right + self.wrong).max(1))
    }
}

/// A stream, with each request's nearest earlier ones found once.
pub struct Stream<'a> {
    pub asked: Vec<&'a Asked>,
    pub vectors: Vec<&'a [f32]>,
    /// Of each request to all before it.
    similarities: Vec<Vec<f32>>,
}

impl<'a> Stream<'a> {
    pub fn new(asked: Vec<&'a Asked>, vectors: &'a Vectors) -> Result<Self, Fault> {
        let vectors = asked
            .iter()
            .map(|asked| vectors.of(&asked.query))
            .collect::<Result<Vec<&[f32]>, _>>()?;
        let similarities = (0..vectors.len())
            .map(|at| {
                let before = vectors[..at].iter();
                before.map(|other| product(vectors[at], other)).collect()
            })
            .collect();
        Ok(Self {
            asked,
            vectors,
            similarities,
        })
    }

    pub fn is_same(&self, a: usize, b: usize) -> bool {
        self.asked[a].group == self.asked[b].group && self.asked[a].source == self.asked[b].source
    }

    /// The nearest kept ones, the nearest first.
    pub fn nearest(&self, of: usize, kept: &[usize], count: usize) -> Vec<(usize, f32)> {
        let mut best: Vec<(usize, f32)> = Vec::with_capacity(count + 1);
        for &other in kept {
            let similarity = self.similarities[of][other];
            if best.len() < count || best.last().is_some_and(|last| similarity > last.1) {
                let at = best.partition_point(|(_, s)| *s >= similarity);
                best.insert(at, (other, similarity));
                best.truncate(count);
            }
        }
        best
    }
}

/// What an upper bound on hits is: every request whose group was asked before.
pub fn oracle(stream: &Stream<'_>) -> Tally {
    let mut seen = std::collections::HashSet::new();
    let mut tally = Tally::default();
    for asked in &stream.asked {
        tally.lookups += 1;
        tally.right += u32::from(!seen.insert((&asked.group, &asked.source)));
    }
    tally
}

pub fn questions<'a>(stream: &Stream<'a>) -> Vec<Question> {
    stream
        .asked
        .iter()
        .map(|asked| Question::new(&asked.query))
        .collect()
}

/// The best neighbour by the scorer, and how likely it is meant.
fn best(
    stream: &Stream<'_>,
    questions: &[Question],
    scorer: &Scorer,
    at: usize,
    near: &[(usize, f32)],
    kept: &Kept,
) -> Option<(usize, Judgement)> {
    let says = near.iter().map(|&(other, similarity)| Near {
        says: kept.says[other] as u64,
        similarity,
        vector: stream.vectors[other],
    });
    let says: Vec<Near<'_>> = says.collect();
    near.iter()
        .enumerate()
        .take(NEIGHBOURS)
        .map(|(place, &(other, similarity))| {
            let pair = Pair {
                query: &questions[at],
                entry: &questions[other],
                similarity,
                query_vector: stream.vectors[at],
                entry_vector: stream.vectors[other],
                company: Company::of(place, &says),
            };
            (other, judge(&pair, scorer))
        })
        .max_by(|(_, a), (_, b)| a.probability_same.total_cmp(&b.probability_same))
}

/// By the score alone: what there is to be had with one threshold on it.
pub fn by_score(
    stream: &Stream<'_>,
    questions: &[Question],
    scorer: &Scorer,
    at_least: f32,
) -> Tally {
    let mut kept = Kept::new(stream);
    let mut tally = Tally::default();
    for at in 0..stream.asked.len() {
        tally.lookups += 1;
        if questions[at].reusable().is_err() {
            continue;
        }
        let near = stream.nearest(at, &kept.places, NEAR_MAX);
        let hit = best(stream, questions, scorer, at, &near, &kept)
            .filter(|(_, judgement)| judgement.probability_same >= at_least);
        match hit.map(|(other, _)| stream.is_same(at, other)) {
            Some(true) => tally.right += 1,
            Some(false) => tally.wrong += 1,
            None => kept.keep(at, &near, stream),
        }
    }
    tally
}

/// As the pipeline goes about it, with the draws that follow from `seed`.
pub fn ours(
    stream: &Stream<'_>,
    questions: &[Question],
    scorer: &Scorer,
    max_wrong_rate: f64,
    seed: u64,
) -> Tally {
    let rules = AcceptanceRules {
        max_wrong_rate,
        ..AcceptanceRules::default()
    };
    let mut acceptance = Acceptance::new();
    let mut evidence = vec![Evidence::default(); stream.asked.len()];
    let mut draws = Draws(seed);
    let mut kept = Kept::new(stream);
    let mut tally = Tally::default();
    for at in 0..stream.asked.len() {
        tally.lookups += 1;
        let Ok(class) = questions[at].reusable() else {
            tally.not_reusable += 1;
            continue;
        };
        let near = stream.nearest(at, &kept.places, NEAR_MAX);
        let best = best(stream, questions, scorer, at, &near, &kept);
        let Some((other, judgement)) = best else {
            acceptance.found_none();
            kept.keep(at, &near, stream);
            continue;
        };
        let is_right = stream.is_same(at, other);
        let entry = (EntryId(other as u64), &evidence[other]);
        match acceptance.decide(&rules, class, &judgement, entry, draws.next()) {
            Verdict::Serve => {
                tally.right += u32::from(is_right);
                tally.wrong += u32::from(!is_right);
                continue;
            }
            Verdict::Shadow => {
                tally.shadows += 1;
                acceptance.learn(class, &judgement, is_right);
                let known = &mut evidence[other];
                if is_right {
                    known.right += 1;
                } else {
                    known.wrong += 1;
                }
            }
            Verdict::Miss => {}
        }
        kept.keep(at, &near, stream);
    }
    tally
}
