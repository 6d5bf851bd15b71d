//! What an exchange would have cost without this node's choices.

use domain::{Basis, Counterfactual, MicroUsd, Price, Usage};

/// By what an exchange is measured, known when it is admitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Yardstick {
    /// Of the model that was asked for, where an upstream has it and its price is known.
    pub asked: Option<Price>,
    /// Of the operator's reference model.
    pub reference: Option<Price>,
}

/// What became of the exchange.
#[derive(Clone, Copy, Debug)]
pub enum Answered {
    /// By this machine, or one that is paid for already.
    Free,
    /// By an upstream, for that much; `None` where its price is not known.
    Paid(Option<MicroUsd>),
    /// With a reply that was made for another request and had cost that much; `None` where that is not
    /// known.
    Reused(Option<MicroUsd>),
}

/// What it would have cost. `usage` is of one reply, whoever had a part in it: tokens that were read from
/// a prefix cache count as such elsewhere too, so that the figure is rather too low than too high.
#[must_use]
pub fn counterfactual(
    yardstick: &Yardstick,
    answered: Answered,
    usage: &Usage,
) -> Option<Counterfactual> {
    let by = |basis| move |cost| Counterfactual { cost, basis };
    let at = |price: Option<Price>| price.map(|price| price.cost(usage));
    let asked = at(yardstick.asked).map(by(Basis::Asked));
    let known = match answered {
        Answered::Free => None,
        Answered::Paid(cost) => return asked.or(cost.map(by(Basis::Answered))),
        // What cost nothing when it was made saves what it would have cost elsewhere.
        Answered::Reused(made) => made.filter(|cost| *cost > MicroUsd(0)).map(by(Basis::Made)),
    };
    asked
        .or(known)
        .or_else(|| at(yardstick.reference).map(by(Basis::Reference)))
}

#[cfg(test)]
mod tests {
    use domain::{Rates, Tokens};

    use super::*;

    const fn price(input: u64, output: u64) -> Price {
        let rates = Rates {
            input,
            cached_input: input / 10,
            cache_write: input,
            output,
        };
        Price { rates, long: None }
    }

    const ASKED: Price = price(2_000_000, 8_000_000);
    const REFERENCE: Price = price(1_000_000, 4_000_000);

    fn usage() -> Usage {
        Usage {
            prompt_tokens: Tokens(1_000),
            completion_tokens: Tokens(100),
            cached_tokens: Tokens(500),
            ..Usage::default()
        }
    }

    /// Cost and basis; `None` is unknown.
    fn check(
        yardstick: (Option<Price>, Option<Price>),
        answered: Answered,
        wanted: Option<(i64, Basis)>,
    ) {
        let (asked, reference) = yardstick;
        let found = counterfactual(&Yardstick { asked, reference }, answered, &usage());
        let found = found.map(|it| (it.cost.0, it.basis));
        assert_eq!(found, wanted, "{yardstick:?} {answered:?}");
    }

    #[test]
    fn the_model_that_was_asked_for_is_the_measure_of_all_that_came_otherwise() {
        let all = (Some(ASKED), Some(REFERENCE));
        for answered in [
            Answered::Free,
            Answered::Paid(Some(MicroUsd(7))),
            Answered::Paid(None),
            Answered::Reused(Some(MicroUsd(7))),
            Answered::Reused(None),
        ] {
            check(all, answered, Some((1_900, Basis::Asked)));
        }
    }

    #[test]
    fn without_one_what_is_known_counts_before_what_is_assumed() {
        let reference = (None, Some(REFERENCE));
        for (answered, wanted) in [
            (Answered::Free, Some((950, Basis::Reference))),
            (
                Answered::Paid(Some(MicroUsd(7))),
                Some((7, Basis::Answered)),
            ),
            // A reference says nothing of what an upstream charges.
            (Answered::Paid(None), None),
            (Answered::Reused(Some(MicroUsd(7))), Some((7, Basis::Made))),
            (
                Answered::Reused(Some(MicroUsd(0))),
                Some((950, Basis::Reference)),
            ),
            (Answered::Reused(None), Some((950, Basis::Reference))),
        ] {
            check(reference, answered, wanted);
        }
        check((None, None), Answered::Free, None);
        check((None, None), Answered::Reused(None), None);
    }
}
