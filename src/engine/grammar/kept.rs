//! Compiled grammars, kept for the next request with the same schema.

use std::collections::VecDeque;

use domain::{BadRequest, TeamId};

use crate::grammar::Grammar;

/// Grammars kept. One more, and the longest unused goes.
const GRAMMARS_MAX: usize = 16;

/// Bytes of all their schemas' texts. A compiled grammar is some hundred times as large.
const TEXT_BYTES_MAX: usize = 128 * 1024;

/// Whose schema, and its text. Another team's is none: how long a request took would tell that it
/// was there.
pub(super) type Key = (Option<TeamId>, String);

/// Refusals are kept as well, so that asking again costs nothing.
#[derive(Default)]
pub(super) struct Kept {
    /// The last used in front.
    made: VecDeque<(Key, Result<Grammar, BadRequest>)>,
    text_bytes: usize,
}

impl Kept {
    pub(super) fn find(&mut self, key: &Key) -> Option<Result<Grammar, BadRequest>> {
        let at = self.made.iter().position(|(known, _)| known == key)?;
        let found = self.made.remove(at)?;
        let copy = copy(&found.1);
        self.made.push_front(found);
        Some(copy)
    }

    pub(super) fn keep(&mut self, key: Key, made: &Result<Grammar, BadRequest>) {
        if key.1.len() > TEXT_BYTES_MAX || self.made.iter().any(|(known, _)| *known == key) {
            return;
        }
        self.text_bytes += key.1.len();
        self.made.push_front((key, copy(made)));
        while self.made.len() > GRAMMARS_MAX || self.text_bytes > TEXT_BYTES_MAX {
            if let Some(((_, text), _)) = self.made.pop_back() {
                self.text_bytes -= text.len();
            }
        }
    }
}

fn copy(made: &Result<Grammar, BadRequest>) -> Result<Grammar, BadRequest> {
    match made {
        Ok(grammar) => Ok(grammar.again()),
        Err(reason) => Err(reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Result<Grammar, BadRequest> {
        Err(BadRequest::at("a", text))
    }

    fn key(text: &str) -> Key {
        (None, text.to_owned())
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut kept = Kept::default();
        for n in 0..GRAMMARS_MAX {
            kept.keep(key(&n.to_string()), &refusal("no"));
        }
        assert!(kept.find(&key("0")).is_some());
        kept.keep(key("one more"), &refusal("no"));
        assert!(kept.find(&key("1")).is_none());
        assert!(kept.find(&key("0")).is_some());
        assert_eq!(kept.made.len(), GRAMMARS_MAX);
    }

    #[test]
    fn long_texts_push_others_out_and_too_long_ones_are_not_kept() {
        let mut kept = Kept::default();
        kept.keep(key("short"), &refusal("no"));
        kept.keep(key(&"x".repeat(TEXT_BYTES_MAX + 1)), &refusal("no"));
        assert!(kept.find(&key("short")).is_some());
        kept.keep(key(&"x".repeat(TEXT_BYTES_MAX)), &refusal("no"));
        assert!(kept.find(&key("short")).is_none());
        assert_eq!(kept.text_bytes, TEXT_BYTES_MAX);
    }

    #[test]
    fn a_schema_of_one_team_is_unknown_to_another() {
        let mut kept = Kept::default();
        kept.keep((Some("a".into()), "{}".into()), &refusal("no"));
        assert!(kept.find(&(Some("b".into()), "{}".into())).is_none());
        assert!(kept.find(&key("{}")).is_none());
        assert!(kept.find(&(Some("a".into()), "{}".into())).is_some());
    }
}
