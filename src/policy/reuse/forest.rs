//! Boosted trees, as the training scripts write them.

use std::ops::Range;

use serde::Deserialize;

use super::compared::FEATURES;

/// Nodes of one tree; one of more is not taken.
const NODES_MAX: usize = 255;

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
    /// True when every walk ends at a leaf that is there: children come after their parents, and no two
    /// share one.
    pub fn is_sound(&self) -> bool {
        let nodes = self.feature.len();
        let mut inner: Vec<i16> = self.left.iter().chain(&self.right).copied().collect();
        inner.retain(|child| *child >= 0);
        let count = inner.len();
        inner.sort_unstable();
        inner.dedup();
        let is_child = |at: usize, child: i16| match usize::try_from(child) {
            Ok(child) => child > at && child < nodes,
            Err(_) => ((!child) as usize) < self.leaf.len(),
        };
        nodes <= NODES_MAX
            && inner.len() == count
            && self.threshold.len() == nodes
            && self.left.len() == nodes
            && self.right.len() == nodes
            && !self.leaf.is_empty()
            && self.leaf.iter().all(|value| value.is_finite())
            && self.feature.iter().all(|at| usize::from(*at) < FEATURES)
            && (0..nodes).all(|at| is_child(at, self.left[at]) && is_child(at, self.right[at]))
    }
}

/// One node.
#[derive(Debug)]
struct Node {
    /// A leaf's value, where the feature is [`LEAF`].
    bound: f32,
    feature: u16,
    /// How many places further on the node is that figures above the bound go to; others go to the next.
    above: u16,
}

const LEAF: u16 = u16::MAX;

/// Trees in one array, each from its root on, whoever is below a node right after it: a walk goes mostly
/// from one node to the next.
#[derive(Debug)]
pub struct Forest {
    roots: Vec<u32>,
    nodes: Vec<Node>,
}

impl Forest {
    /// Of trees that are sound.
    pub fn of(trees: &[Tree]) -> Self {
        let mut forest = Self {
            roots: Vec::with_capacity(trees.len()),
            nodes: Vec::new(),
        };
        for tree in trees {
            forest.roots.push(forest.nodes.len() as u32);
            forest.plant(tree, if tree.feature.is_empty() { -1 } else { 0 });
        }
        forest
    }

    /// What is at `child` and below.
    fn plant(&mut self, tree: &Tree, child: i16) {
        let Ok(at) = usize::try_from(child) else {
            self.nodes.push(Node {
                bound: tree.leaf[(!child) as usize],
                feature: LEAF,
                above: 0,
            });
            return;
        };
        let place = self.nodes.len();
        self.nodes.push(Node {
            bound: tree.threshold[at],
            feature: tree.feature[at],
            above: 0,
        });
        self.plant(tree, tree.left[at]);
        self.nodes[place].above = (self.nodes.len() - place) as u16;
        self.plant(tree, tree.right[at]);
    }

    pub fn trees(&self) -> usize {
        self.roots.len()
    }

    /// The log odds that those of the trees give together.
    pub fn log_odds(&self, trees: Range<usize>, figures: &[f32; FEATURES]) -> f32 {
        let value = |root: &u32| {
            let mut at = *root as usize;
            loop {
                let node = &self.nodes[at];
                if node.feature == LEAF {
                    return node.bound;
                }
                let is_up_to = figures[usize::from(node.feature)] <= node.bound;
                at += if is_up_to { 1 } else { usize::from(node.above) };
            }
        };
        self.roots[trees].iter().map(value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figure 0 up to 1 or not, then the figure 1 up to 2 or not, or the figure 2 up to 3 or not.
    fn tree() -> Tree {
        Tree {
            feature: vec![0, 1, 2],
            threshold: vec![1.0, 2.0, 3.0],
            left: vec![1, -1, -3],
            right: vec![2, -2, -4],
            leaf: vec![0.25, 0.5, 4.0, 8.0],
        }
    }

    fn chain(nodes: usize) -> Tree {
        Tree {
            feature: vec![0; nodes],
            threshold: vec![0.0; nodes],
            left: vec![-1; nodes],
            right: (1..nodes as i16).chain([-2]).collect(),
            leaf: vec![1.0, 2.0],
        }
    }

    fn single(leaf: f32) -> Tree {
        Tree {
            feature: Vec::new(),
            threshold: Vec::new(),
            left: Vec::new(),
            right: Vec::new(),
            leaf: vec![leaf],
        }
    }

    #[test]
    fn each_walk_ends_at_the_leaf_that_the_figures_lead_to() {
        let trees = [single(10.0), tree(), single(100.0)];
        assert!(trees.iter().all(Tree::is_sound));
        let forest = Forest::of(&trees);
        let of = |first: f32, second: f32, third: f32| {
            let mut figures = [0.0; FEATURES];
            figures[..3].copy_from_slice(&[first, second, third]);
            forest.log_odds(0..3, &figures) - 110.0
        };
        assert_eq!((of(1.0, 2.0, 9.0), of(0.0, 2.5, 0.0)), (0.25, 0.5));
        assert_eq!((of(1.5, 0.0, 3.0), of(1.5, 0.0, 3.5)), (4.0, 8.0));
        // What is no number is not up to any bound.
        assert_eq!(of(f32::NAN, 0.0, f32::NAN), 8.0);
        let longest = chain(NODES_MAX);
        assert!(longest.is_sound());
        assert_eq!(Forest::of(&[longest]).log_odds(0..1, &[1.0; FEATURES]), 2.0);
        assert_eq!(Forest::of(&[]).log_odds(0..0, &[0.0; FEATURES]), 0.0);
        assert_eq!(forest.log_odds(2..3, &[0.0; FEATURES]), 100.0);
    }

    #[test]
    fn walks_that_lead_astray_are_unsound() {
        let changes: [fn(&mut Tree); 8] = [
            |it| it.right[0] = 1,
            |it| it.right[0] = 0,
            |it| *it = chain(NODES_MAX + 1),
            |it| it.right[0] = 3,
            |it| it.left[1] = -5,
            |it| it.feature[0] = FEATURES as u16,
            |it| it.leaf[0] = f32::NAN,
            |it| it.threshold.truncate(1),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut tree = tree();
            change(&mut tree);
            assert!(!tree.is_sound(), "change {at}");
        }
    }
}
