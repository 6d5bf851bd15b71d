//! What is kept around a question: whether the replies near it say what a candidate's does.
//!
//! One entry that is near may be near by chance. Where the others near the question were answered alike,
//! it is hardly chance; where they were answered otherwise, the question lies on a border.

use super::product::product;

/// Entries near a question that are looked at. More are left out.
pub const NEAR_MAX: usize = 16;

/// An entry near the question, as its neighbours see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near<'a> {
    /// A name of what its reply says: equal for those that were found to say the same.
    pub says: u64,
    /// The cosine of its vector and the question's.
    pub similarity: f32,
    /// Of length 1.
    pub vector: &'a [f32],
}

/// How a candidate's reply stands among those near the question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Company {
    /// Others whose replies say the same, and whose do not.
    pub alike: u8,
    pub other: u8,
    figures: [f32; COMPANY_FIGURES],
}

/// How many figures it gives.
pub const COMPANY_FIGURES: usize = 16;

/// Their names, in their order. A *mean* is the mean vector of those that say one thing; *other* is, of
/// other things, the one whose mean is nearest to the question.
pub const COMPANY_NAMES: [&str; COMPANY_FIGURES] = [
    // How many more say the same, and how many do not.
    "alike",
    "other",
    // The cosine of the nearest of each, and how much nearer the candidate is than the second.
    "alike_nearest",
    "other_nearest",
    "lead",
    // The part of all that is near that says the same, the nearer the more; from 0 to 1.
    "share",
    // The cosines of the question and the means, and their difference.
    "alike_mean",
    "other_mean",
    "mean_lead",
    // How many things are said, and how far away the farthest and the average are.
    "meanings",
    "farthest",
    "average",
    // How close together those lie that say one thing: the length of the mean.
    "alike_tight",
    "other_tight",
    // The cosines of the candidate and its mean, and of the two means.
    "typical",
    "means_apart",
];

impl Company {
    /// Nothing else is near, or nothing is known of it.
    pub const NOBODY: Self = Self {
        alike: 0,
        other: 0,
        figures: [
            0.0, 0.0, NONE, NONE, NO_LEAD, 1.0, NONE, NONE, NO_LEAD, 1.0, NONE, NONE, NONE, NONE,
            NONE, NONE,
        ],
    };

    /// Of the entry at `at` among those near; of another place, and of a cosine that is not finite, it is
    /// nobody's.
    #[must_use]
    pub fn of(at: usize, near: &[Near<'_>]) -> Self {
        let near = &near[..near.len().min(NEAR_MAX)];
        let Some(own) = near.get(at).filter(|own| own.similarity.is_finite()) else {
            return Self::NOBODY;
        };
        let others: Vec<&Near<'_>> = near
            .iter()
            .enumerate()
            .filter(|(place, it)| *place != at && it.similarity.is_finite())
            .map(|(_, it)| it)
            .collect();
        if others.is_empty() {
            return Self::NOBODY;
        }
        let near = || std::iter::once(own).chain(others.iter().copied());
        // The candidate's own is the first.
        let mut groups: Vec<Group> = Vec::new();
        for it in near() {
            match groups.iter_mut().find(|group| group.says == it.says) {
                Some(group) => group.take_in(it),
                None => groups.push(Group::new(it)),
            }
        }
        let Some((alike, rest)) = groups.split_first() else {
            return Self::NOBODY;
        };
        let other = rest.iter().max_by(|a, b| a.mean().total_cmp(&b.mean()));
        let count = others.len() + 1;
        let (alike_count, other_count) = (alike.count - 1, count - alike.count);
        let nearest = |is_alike: bool| {
            let those = others.iter().filter(|it| (it.says == own.says) == is_alike);
            those.map(|it| it.similarity).fold(NONE, f32::max)
        };
        let weight = |it: &Near<'_>| ((it.similarity - own.similarity) / FADE).exp();
        let alike_weight: f32 = near().filter(|it| it.says == own.says).map(weight).sum();
        let of_other = |what: fn(&Group) -> f32| other.map_or(NONE, what);
        let lead = |of: f32, than: f32| if other.is_some() { of - than } else { NO_LEAD };
        Self {
            alike: alike_count as u8,
            other: other_count as u8,
            figures: [
                alike_count as f32,
                other_count as f32,
                nearest(true),
                nearest(false),
                lead(own.similarity, nearest(false)),
                alike_weight / near().map(weight).sum::<f32>(),
                alike.mean(),
                of_other(Group::mean),
                lead(alike.mean(), of_other(Group::mean)),
                groups.len() as f32,
                near().map(|it| it.similarity).fold(1.0, f32::min),
                near().map(|it| it.similarity).sum::<f32>() / count as f32,
                alike.tight(),
                of_other(Group::tight),
                alike.cosine(own.vector),
                other.map_or(NONE, |other| alike.cosine(&other.sum) / other.length()),
            ],
        }
    }

    pub(super) fn figures(&self) -> [f32; COMPANY_FIGURES] {
        self.figures
    }
}

/// Those near that say one thing.
struct Group {
    says: u64,
    count: usize,
    /// The sum of their vectors, and the question's product with it: the sum of their cosines.
    sum: Vec<f32>,
    product: f32,
}

impl Group {
    fn new(it: &Near<'_>) -> Self {
        Self {
            says: it.says,
            count: 1,
            sum: it.vector.to_vec(),
            product: it.similarity,
        }
    }

    fn take_in(&mut self, it: &Near<'_>) {
        self.count += 1;
        self.sum
            .iter_mut()
            .zip(it.vector)
            .for_each(|(sum, x)| *sum += x);
        self.product += it.similarity;
    }

    /// At least [`LENGTH_MIN`], so that it divides.
    fn length(&self) -> f32 {
        let length = product(&self.sum, &self.sum).sqrt();
        if length.is_finite() {
            length.max(LENGTH_MIN)
        } else {
            f32::MAX
        }
    }

    /// The cosine of the question and their mean.
    fn mean(&self) -> f32 {
        if self.count < 2 {
            return self.product;
        }
        (self.product / self.length()).clamp(-1.0, 1.0)
    }

    /// The length of their mean: 1 where they are all one, less the wider they lie.
    fn tight(&self) -> f32 {
        if self.count < 2 {
            return NONE;
        }
        self.length() / self.count as f32
    }

    /// The cosine of their mean and a vector of length 1.
    fn cosine(&self, vector: &[f32]) -> f32 {
        product(&self.sum, vector) / self.length()
    }
}

/// A cosine that is this much less counts a share of 1/e.
const FADE: f32 = 0.05;

/// In place of a cosine, where there is none to be had.
const NONE: f32 = -1.0;

/// Where nothing says anything else: more than cosines can differ.
const NO_LEAD: f32 = 2.0;

/// Vectors whose sum is shorter have no mean to speak of.
const LENGTH_MIN: f32 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    fn near(entries: &[(u64, f32)]) -> Vec<Near<'static>> {
        let near = entries.iter();
        near.map(|&(says, similarity)| Near {
            says,
            similarity,
            vector: &[0.6, 0.8],
        })
        .collect()
    }

    fn figure(company: &Company, name: &str) -> f32 {
        let at = COMPANY_NAMES.iter().position(|it| *it == name);
        company.figures()[at.expect("it has that name")]
    }

    #[test]
    fn those_that_say_the_same_are_told_from_the_others() {
        let near = near(&[(1, 0.9), (1, 0.8), (2, 0.7), (1, 0.6)]);
        let first = Company::of(0, &near);
        assert_eq!((first.alike, first.other), (2, 1));
        assert_eq!(figure(&first, "alike_nearest"), 0.8);
        assert_eq!(figure(&first, "other_nearest"), 0.7);
        assert!((figure(&first, "lead") - 0.2).abs() < 1e-6);
        assert!(figure(&first, "share") > 0.97);
        assert_eq!(figure(&first, "meanings"), 2.0);
        assert_eq!(figure(&first, "farthest"), 0.6);
        let third = Company::of(2, &near);
        assert_eq!((third.alike, third.other), (0, 3));
        assert!((figure(&third, "lead") + 0.2).abs() < 1e-6);
        assert!(figure(&third, "share") < 0.02);
    }

    #[test]
    fn those_that_say_the_same_are_nearer_together_than_each() {
        // The question lies between two that say one thing, and as near to one that says another.
        let near = |says, similarity, vector| Near {
            says,
            similarity,
            vector,
        };
        let two = [
            near(1, 0.8, &[0.8, 0.6, 0.0][..]),
            near(2, 0.8, &[0.8, 0.0, 0.6]),
            near(1, 0.8, &[0.8, -0.6, 0.0]),
        ];
        let of_two = Company::of(0, &two);
        assert!((figure(&of_two, "alike_mean") - 1.0).abs() < 1e-6);
        assert_eq!(figure(&of_two, "other_mean"), 0.8);
        assert!((figure(&of_two, "mean_lead") - 0.2).abs() < 1e-6);
        assert!((figure(&of_two, "alike_tight") - 0.8).abs() < 1e-6);
        assert!((figure(&of_two, "typical") - 0.8).abs() < 1e-6);
        assert!((figure(&of_two, "means_apart") - 0.8).abs() < 1e-6);
        let of_one = Company::of(1, &two);
        assert_eq!(figure(&of_one, "alike_mean"), 0.8);
        assert!((figure(&of_one, "other_mean") - 1.0).abs() < 1e-6);
        // Opposites have no mean to speak of.
        let opposites = [near(1, 0.5, &[1.0][..]), near(1, -0.5, &[-1.0])];
        let figures = Company::of(0, &opposites).figures();
        assert!(figures.iter().all(|it| it.is_finite()));
    }

    #[test]
    fn alone_it_has_nobody() {
        assert_eq!(Company::of(0, &near(&[(1, 0.9)])), Company::NOBODY);
        assert_eq!(Company::of(3, &near(&[(1, 0.9)])), Company::NOBODY);
        assert_eq!(
            Company::of(0, &near(&[(1, f32::NAN), (1, 0.5)])),
            Company::NOBODY
        );
        let odd = Company::of(0, &near(&[(1, 0.5), (1, f32::INFINITY), (2, f32::NAN)]));
        assert_eq!(odd, Company::NOBODY);
    }

    #[test]
    fn no_more_are_looked_at_than_the_bound() {
        let many = near(&[(1, 0.5); 300]);
        let company = Company::of(0, &many);
        assert_eq!(usize::from(company.alike), NEAR_MAX - 1);
        assert!(company.figures().iter().all(|it| it.is_finite()));
        // Nor is one beyond the bound a candidate with company.
        assert_eq!(Company::of(NEAR_MAX, &many), Company::NOBODY);
    }
}
