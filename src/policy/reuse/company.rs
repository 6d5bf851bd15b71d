//! What is kept around a question: whether the replies near it say what a candidate's does.
//!
//! One entry that is near may be near by chance. Where the others near the question were answered alike,
//! it is hardly chance; where they were answered otherwise, the question lies on a border.

/// Entries near a question that are looked at. More are left out.
pub const NEAR_MAX: usize = 8;

/// An entry near the question, as its neighbours see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// A name of what its reply says: equal for those that were found to say the same.
    pub says: u64,
    /// The cosine of its vector and the question's.
    pub similarity: f32,
}

/// A cosine that is this much less counts a share of 1/e.
const FADE: f32 = 0.05;

/// In place of a cosine, where there is none to be had.
const NONE: f32 = -1.0;

/// How a candidate's reply stands among those near the question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Company {
    /// Others whose replies say the same, and whose do not.
    pub alike: u8,
    pub other: u8,
    /// The cosine of the nearest of each.
    alike_nearest: f32,
    other_nearest: f32,
    /// How much nearer the candidate is than the nearest that says something else.
    lead: f32,
    /// The part of all that is near that says the same, the nearer the more; from 0 to 1.
    share: f32,
}

impl Company {
    /// Nothing else is near, or nothing is known of it.
    pub const NOBODY: Self = Self {
        alike: 0,
        other: 0,
        alike_nearest: NONE,
        other_nearest: NONE,
        lead: 2.0,
        share: 1.0,
    };

    /// Of the entry at `at` among those near; of another place, and of a cosine that is not finite, it is
    /// nobody's.
    #[must_use]
    pub fn of(at: usize, near: &[Near]) -> Self {
        let near = &near[..near.len().min(NEAR_MAX)];
        let Some(own) = near.get(at).filter(|own| own.similarity.is_finite()) else {
            return Self::NOBODY;
        };
        let mut company = Self::NOBODY;
        let (mut alike, mut all) = (1.0, 1.0);
        let others = near.iter().enumerate().filter(|(place, _)| *place != at);
        for (_, it) in others.filter(|(_, it)| it.similarity.is_finite()) {
            let weight = ((it.similarity - own.similarity) / FADE).exp();
            all += weight;
            if it.says == own.says {
                alike += weight;
                company.alike += 1;
                company.alike_nearest = company.alike_nearest.max(it.similarity);
            } else {
                company.other += 1;
                company.other_nearest = company.other_nearest.max(it.similarity);
            }
        }
        if company.other > 0 {
            company.lead = own.similarity - company.other_nearest;
        }
        company.share = alike / all;
        company
    }

    pub(super) fn figures(&self) -> [f32; COMPANY_FIGURES] {
        [
            f32::from(self.alike),
            f32::from(self.other),
            self.alike_nearest,
            self.other_nearest,
            self.lead,
            self.share,
        ]
    }
}

/// How many figures it gives.
pub(super) const COMPANY_FIGURES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn near(entries: &[(u64, f32)]) -> Vec<Near> {
        let near = entries.iter();
        near.map(|&(says, similarity)| Near { says, similarity })
            .collect()
    }

    #[test]
    fn those_that_say_the_same_are_told_from_the_others() {
        let near = near(&[(1, 0.9), (1, 0.8), (2, 0.7), (1, 0.6)]);
        let first = Company::of(0, &near);
        assert_eq!((first.alike, first.other), (2, 1));
        assert_eq!((first.alike_nearest, first.other_nearest), (0.8, 0.7));
        assert!((first.lead - 0.2).abs() < 1e-6 && first.share > 0.97);
        let third = Company::of(2, &near);
        assert_eq!((third.alike, third.other), (0, 3));
        assert!((third.lead + 0.2).abs() < 1e-6 && third.share < 0.02);
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
    }
}
