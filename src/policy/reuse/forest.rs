//! Boosted trees, as the training scripts write them.

use serde::Deserialize;

use super::compared::FEATURES;

/// One tree: nodes in arrays. A child below zero is the leaf `!child`.
#[derive(Debug, Deserialize)]
pub struct Tree {
    /// Which figure each node looks at.
    #[serde(rename = "f")]
    feature: Vec<u16>,
    /// At most this goes left.
    #[serde(rename = "t")]
    threshold: Vec<f32>,
    #[serde(rename = "l")]
    left: Vec<i16>,
    #[serde(rename = "r")]
    right: Vec<i16>,
    #[serde(rename = "v")]
    leaf: Vec<f32>,
}

impl Tree {
    /// True when every walk ends at a leaf that is there: children come after their parents.
    pub fn is_sound(&self) -> bool {
        let nodes = self.feature.len();
        let is_child = |at: usize, child: i16| match usize::try_from(child) {
            Ok(child) => child > at && child < nodes,
            Err(_) => ((!child) as usize) < self.leaf.len(),
        };
        self.threshold.len() == nodes
            && self.left.len() == nodes
            && self.right.len() == nodes
            && !self.leaf.is_empty()
            && self.leaf.iter().all(|value| value.is_finite())
            && self.feature.iter().all(|at| usize::from(*at) < FEATURES)
            && (0..nodes).all(|at| is_child(at, self.left[at]) && is_child(at, self.right[at]))
    }

    fn value(&self, figures: &[f32; FEATURES]) -> f32 {
        if self.feature.is_empty() {
            return self.leaf[0];
        }
        let mut at = 0usize;
        loop {
            let child = if figures[usize::from(self.feature[at])] <= self.threshold[at] {
                self.left[at]
            } else {
                self.right[at]
            };
            match usize::try_from(child) {
                Ok(child) => at = child,
                Err(_) => return self.leaf[(!child) as usize],
            }
        }
    }
}

/// The log odds that the trees give together.
pub fn log_odds(trees: &[Tree], figures: &[f32; FEATURES]) -> f32 {
    trees.iter().map(|tree| tree.value(figures)).sum()
}
