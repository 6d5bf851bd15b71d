//! Finds stop strings across the borders of tokens.

/// Passes text on until a stop string turns up. Holds back only what may be the beginning of one,
/// which is always shorter than the longest.
#[derive(Debug)]
pub(crate) struct StopFinder {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopFinder {
    pub(crate) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self {
            stops,
            held: String::new(),
            found: None,
        }
    }

    /// Appends to `passed` what is surely no part of a stop string. True when one was completed:
    /// the text ends before it.
    ///
    /// Of several, the one that ends first counts, so that it does not matter how the text was cut.
    pub(crate) fn push(&mut self, text: &str, passed: &mut String) -> bool {
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(at, stop)| {
                self.held
                    .find(stop)
                    .map(|start| (start + stop.len(), start, at))
            })
            .min();
        if let Some((_, start, at)) = found {
            self.found = Some(at);
            passed.push_str(&self.held[..start]);
            self.held.clear();
            return true;
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| partial_suffix(&self.held, stop))
            .max()
            .unwrap_or(0);
        passed.extend(self.held.drain(..self.held.len() - keep));
        false
    }

    /// The stop string that ended the text.
    pub(crate) fn found(&self) -> Option<&str> {
        self.stops.get(self.found?).map(String::as_str)
    }

    /// The text is over: what was held back was no stop string.
    pub(crate) fn finish(&mut self, passed: &mut String) {
        passed.push_str(&self.held);
        self.held.clear();
    }
}

/// How many bytes at the end of `text` are the beginning of `needle`, but not all of it.
pub(crate) fn partial_suffix(text: &str, needle: &str) -> usize {
    let longest = text.len().min(needle.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|length| text.as_bytes().ends_with(&needle.as_bytes()[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut finder = StopFinder::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let longest = stops.iter().map(|stop| stop.len()).max().unwrap_or(0);
        let mut passed = String::new();
        for piece in pieces {
            if finder.push(piece, &mut passed) {
                return (passed, true);
            }
            assert!(finder.held.len() < longest.max(1), "held {:?}", finder.held);
        }
        finder.finish(&mut passed);
        (passed, false)
    }

    #[test]
    fn stops_are_found_across_pieces_and_false_starts_pass() {
        let cases: [(&[&str], &[&str], &str, bool); 6] = [
            (&["END"], &["a E", "N", "D b"], "a ", true),
            (&["END"], &["a E", "N", "x"], "a ENx", false),
            (&["\n\n"], &["a\n", "\n", "b"], "a", true),
            (&["abc", "b"], &["abc"], "a", true),
            (&["aab"], &["aa", "ab"], "a", true),
            (&[], &["a", "b"], "ab", false),
        ];
        for (stops, pieces, passed, is_stopped) in cases {
            assert_eq!(
                run(stops, pieces),
                (passed.to_owned(), is_stopped),
                "{stops:?} {pieces:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 0..4), every in 1_usize..5) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<String> = letters.chunks(every).map(<[String]>::concat).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops, &pieces), run(&stops, &[&text]));
        }
    }
}
