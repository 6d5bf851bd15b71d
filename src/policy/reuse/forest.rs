//! Boosted trees, as the training scripts write them.

use serde::Deserialize;

use super::compared::FEATURES;

/// Places where one tree parts; one with more is not taken. It has one leaf more, and each has a bit.
const SPLITS_MAX: usize = 15;

/// Trees of one forest.
pub const TREES_MAX: usize = 1 << 16;

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
        nodes <= SPLITS_MAX
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

/// Where a tree parts, among all places where trees part by one figure.
#[derive(Debug)]
struct Split {
    /// A figure above this leaves the tree with `right` alone.
    bound: f32,
    tree: u16,
    /// One bit for each of the tree's leaves, from left to right, but those on the left below the split.
    right: u16,
}

/// Trees by what they ask, and not by how they grew: for each figure all bounds, rising. Whoever has a figure
/// reads bounds up to it and no further, in the order in which they stand in memory, and strikes out of each
/// tree what it does not come to; of what is left of a tree, the leftmost leaf is where a walk would end. So
/// there is nothing to guess for a processor, where each step of a walk is a guess (QuickScorer: Lucchese and
/// others, SIGIR 2015).
#[derive(Debug)]
pub struct Forest {
    splits: Vec<Split>,
    /// Where each figure's splits begin, and the last one's end.
    begins: [u32; FEATURES + 1],
    /// Each tree's leaves, from left to right.
    leaves: Vec<f32>,
    /// Where each tree's leaves begin.
    trees: Vec<u32>,
}

impl Forest {
    /// Of at most [`TREES_MAX`] trees that are sound.
    pub fn of(trees: &[Tree]) -> Self {
        let mut splits: Vec<(u16, Split)> = Vec::new();
        let mut leaves = Vec::new();
        let mut begins_at = Vec::with_capacity(trees.len());
        for (at, tree) in trees.iter().enumerate() {
            begins_at.push(leaves.len() as u32);
            let root = if tree.feature.is_empty() { -1 } else { 0 };
            let mut planting = Planting {
                tree,
                at: at as u16,
                splits: &mut splits,
                leaves: &mut leaves,
                count: 0,
            };
            planting.plant(root);
        }
        splits.sort_by(|(x, one), (y, other)| x.cmp(y).then(one.bound.total_cmp(&other.bound)));
        let mut begins = [0; FEATURES + 1];
        for (figure, begin) in begins.iter_mut().enumerate() {
            *begin = splits.partition_point(|(at, _)| usize::from(*at) < figure) as u32;
        }
        Self {
            splits: splits.into_iter().map(|(_, split)| split).collect(),
            begins,
            leaves,
            trees: begins_at,
        }
    }

    /// The log odds that the trees give together.
    pub fn log_odds(&self, figures: &[f32; FEATURES]) -> f32 {
        let mut left = vec![u16::MAX; self.trees.len()];
        for (ends, figure) in self.begins.windows(2).zip(figures) {
            let splits = &self.splits[ends[0] as usize..ends[1] as usize];
            // What is no number is not up to any bound.
            let is_above = |split: &&Split| *figure > split.bound || figure.is_nan();
            for split in splits.iter().take_while(is_above) {
                left[usize::from(split.tree)] &= split.right;
            }
        }
        let leaf = |(at, left): (&u32, u16)| self.leaves[(at + left.trailing_zeros()) as usize];
        self.trees.iter().zip(left).map(leaf).sum()
    }
}

/// A tree that is being taken apart.
struct Planting<'a> {
    tree: &'a Tree,
    at: u16,
    splits: &'a mut Vec<(u16, Split)>,
    leaves: &'a mut Vec<f32>,
    /// Its leaves so far.
    count: u32,
}

impl Planting<'_> {
    /// Takes what is at `child` and below.
    fn plant(&mut self, child: i16) {
        let Ok(at) = usize::try_from(child) else {
            self.leaves.push(self.tree.leaf[(!child) as usize]);
            self.count += 1;
            return;
        };
        let before = self.count;
        self.plant(self.tree.left[at]);
        let on_the_left = ((1u32 << self.count) - (1 << before)) as u16;
        let split = Split {
            bound: self.tree.threshold[at],
            tree: self.at,
            right: !on_the_left,
        };
        self.splits.push((self.tree.feature[at], split));
        self.plant(self.tree.right[at]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            forest.log_odds(&figures) - 110.0
        };
        assert_eq!((of(1.0, 2.0, 9.0), of(0.0, 2.5, 0.0)), (0.25, 0.5));
        assert_eq!((of(1.5, 0.0, 3.0), of(1.5, 0.0, 3.5)), (4.0, 8.0));
        // What is no number is not up to any bound.
        assert_eq!(of(f32::NAN, 0.0, f32::NAN), 8.0);
        let longest = chain(SPLITS_MAX);
        assert!(longest.is_sound());
        assert_eq!(Forest::of(&[longest]).log_odds(&[1.0; FEATURES]), 2.0);
        assert_eq!(Forest::of(&[]).log_odds(&[0.0; FEATURES]), 0.0);
    }

    /// Where a walk from the root ends.
    fn walked(tree: &Tree, figures: &[f32; FEATURES]) -> f32 {
        let mut at = if tree.feature.is_empty() { -1 } else { 0 };
        while let Ok(place) = usize::try_from(at) {
            let is_up_to = figures[usize::from(tree.feature[place])] <= tree.threshold[place];
            at = if is_up_to {
                tree.left[place]
            } else {
                tree.right[place]
            };
        }
        tree.leaf[(!at) as usize]
    }

    prop_compose! {
        /// Grown as training grows them: a leaf after the other is parted in two.
        fn grown()(
            partings in prop::collection::vec((any::<u16>(), 0..4_u16, -2..=2_i8), 0..=SPLITS_MAX),
        ) -> Tree {
            let mut tree = single(0.0);
            // Of each leaf, the place that names it.
            let mut named: Vec<Option<(bool, usize)>> = vec![None];
            for (which, feature, threshold) in partings {
                let (leaf, place) = (usize::from(which) % named.len(), tree.feature.len());
                match named[leaf] {
                    Some((true, parent)) => tree.left[parent] = place as i16,
                    Some((false, parent)) => tree.right[parent] = place as i16,
                    None => {}
                }
                tree.feature.push(feature);
                tree.threshold.push(f32::from(threshold));
                tree.left.push(!(leaf as i16));
                tree.right.push(!(named.len() as i16));
                named[leaf] = Some((true, place));
                named.push(Some((false, place)));
                tree.leaf.push(named.len() as f32);
            }
            tree
        }
    }

    proptest! {
        #[test]
        fn it_gives_what_walks_give(
            trees in prop::collection::vec(grown(), 0..4),
            looked_at in prop::collection::vec(prop_oneof![
                (-3..=3_i8).prop_map(f32::from),
                Just(f32::NAN),
            ], 4),
        ) {
            prop_assert!(trees.iter().all(Tree::is_sound));
            let mut figures = [0.0; FEATURES];
            figures[..4].copy_from_slice(&looked_at);
            let walks: f32 = trees.iter().map(|tree| walked(tree, &figures)).sum();
            prop_assert_eq!(Forest::of(&trees).log_odds(&figures), walks);
        }
    }

    #[test]
    fn walks_that_lead_astray_are_unsound() {
        let changes: [fn(&mut Tree); 8] = [
            |it| it.right[0] = 1,
            |it| it.right[0] = 0,
            |it| *it = chain(SPLITS_MAX + 1),
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
