//! Which member a request goes to: among those that may take it, whichever has the fewest under way.

/// One member, as far as a choice goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standpoint {
    /// Requests may go to it, and this one did not yet.
    pub(super) is_open: bool,
    /// Something can be sealed to it without asking it first.
    pub(super) has_key: bool,
    pub(super) in_flight: usize,
}

/// An index, where there is one to choose. Of those that are alike, `turn` says which.
pub(super) fn choose(members: &[Standpoint], turn: usize) -> Option<usize> {
    let count = members.len();
    let in_turn = (0..count).map(|step| (turn.wrapping_add(step)) % count);
    let open = in_turn.filter(|index| members[*index].is_open);
    open.min_by_key(|index| (!members[*index].has_key, members[*index].in_flight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(is_open: bool, has_key: bool, in_flight: usize) -> Standpoint {
        Standpoint {
            is_open,
            has_key,
            in_flight,
        }
    }

    #[test]
    fn the_least_loaded_that_may_take_it_is_chosen() {
        for (members, chosen) in [
            (vec![], None),
            (vec![at(false, true, 0)], None),
            (vec![at(true, true, 3), at(true, true, 2)], Some(1)),
            (vec![at(true, true, 3), at(false, true, 0)], Some(0)),
            (vec![at(true, true, 9), at(true, false, 0)], Some(0)),
            (vec![at(true, false, 0)], Some(0)),
        ] {
            assert_eq!(choose(&members, 0), chosen, "{members:?}");
        }
    }

    #[test]
    fn those_that_are_alike_take_turns() {
        let members = [at(true, true, 0); 3];
        let chosen: Vec<_> = (0..6).map(|turn| choose(&members, turn).unwrap()).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
    }
}
