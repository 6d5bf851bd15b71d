//! Where the rest of a reply meets what was said of it.
//!
//! ```text
//! said        "The quick bro" ▏      "One. \n" ▏
//! the rest                    "wn fox"         "\nTwo."
//! passed on                   "wn fox"         "Two."
//! ```
//! What is passed on joins what was sent, letter by letter. White space at the end of what was said is
//! not shown to whoever goes on; where the rest begins with it, it is left out. Words are left out
//! only where the other side is known to say them again.

use domain::Resume;

/// How far back words are looked for that the rest says again.
const REPEATED_BYTES_MAX: usize = 512;

/// A repetition shorter than this counts only where it begins and ends with a word.
const REPEATED_BYTES_SURE: usize = 12;

/// What has been said, without white space at its end.
#[must_use]
pub(crate) fn shown(said: &str) -> &str {
    said.trim_end()
}

/// Takes the rest of a reply piece by piece and gives what is to be passed on.
#[derive(Debug)]
pub(crate) struct Seam {
    state: State,
    /// White space that was sent and not shown, as far as it was not said again.
    white: String,
}

#[derive(Debug)]
enum State {
    /// All that was shown comes first; so much of it has not come yet.
    Repeating {
        shown: String,
        matched: usize,
    },
    /// The end of what was shown may come first. `held` may be such an end's beginning.
    Perhaps {
        tail: String,
        held: String,
    },
    /// At white space, if there is any.
    White,
    Joined,
}

impl Seam {
    pub fn new(said: &str, resume: Resume) -> Self {
        let shown = shown(said);
        let state = match resume {
            _ if shown.is_empty() => State::White,
            Resume::Never | Resume::Exact => State::White,
            Resume::Repeating => State::Repeating {
                shown: shown.to_owned(),
                matched: 0,
            },
            Resume::Told => {
                let from = shown.len().saturating_sub(REPEATED_BYTES_MAX);
                State::Perhaps {
                    tail: shown[shown.ceil_char_boundary(from)..].to_owned(),
                    held: String::new(),
                }
            }
        };
        Self {
            state,
            white: said[shown.len()..].to_owned(),
        }
    }

    /// Takes the next piece. What is given may be empty.
    pub fn push(&mut self, piece: &str) -> String {
        if piece.is_empty() {
            return String::new();
        }
        match &mut self.state {
            State::Joined => piece.to_owned(),
            State::White => self.after_white(piece),
            State::Repeating { shown, matched } => {
                let due = &shown[*matched..];
                if let Some(rest) = piece.strip_prefix(due) {
                    let rest = rest.to_owned();
                    self.state = State::White;
                    self.push(&rest)
                } else if due.starts_with(piece) {
                    *matched += piece.len();
                    String::new()
                } else {
                    // It does not say it again after all.
                    let came = shown[..*matched].to_owned() + piece;
                    self.state = State::White;
                    self.push(&came)
                }
            }
            State::Perhaps { tail, held } => {
                held.push_str(piece);
                if may_still_repeat(tail, held) {
                    return String::new();
                }
                let rest = held[repeated(tail, held)..].to_owned();
                self.state = State::White;
                self.push(&rest)
            }
        }
    }

    /// Gives what was held back. No more text follows.
    pub fn finish(&mut self) -> String {
        match std::mem::replace(&mut self.state, State::Joined) {
            State::Joined | State::White => String::new(),
            State::Repeating { shown, matched } => {
                self.state = State::White;
                self.push(&shown[..matched])
            }
            State::Perhaps { tail, held } => {
                self.state = State::White;
                self.push(&held[repeated(&tail, &held)..])
            }
        }
    }

    fn after_white(&mut self, piece: &str) -> String {
        let mut sent = self.white.chars();
        let mut rest = piece.chars();
        loop {
            let before = (sent.clone(), rest.clone());
            match (sent.next(), rest.next()) {
                (Some(sent), Some(said)) if sent == said => {}
                // The piece is over, and white space may still be due.
                (Some(_), None) => {
                    self.white = before.0.as_str().to_owned();
                    return String::new();
                }
                (Some(_) | None, _) => {
                    self.state = State::Joined;
                    return before.1.as_str().to_owned();
                }
            }
        }
    }
}

/// True while `held`, all there is of the rest, is an end of `tail` or the beginning of one. Of a whole
/// end the next letter still has to show whether it ends a word.
fn may_still_repeat(tail: &str, held: &str) -> bool {
    let ends = tail.char_indices().map(|(at, _)| &tail[at..]);
    ends.take_while(|end| end.len() >= held.len())
        .any(|end| end.starts_with(held))
}

/// How many bytes of `rest` say the end of `tail` again.
fn repeated(tail: &str, rest: &str) -> usize {
    let ends = tail.char_indices().map(|(at, _)| at);
    let found = ends.filter(|at| rest.starts_with(&tail[*at..])).find(|at| {
        let length = tail.len() - at;
        length >= REPEATED_BYTES_SURE || is_of_words(tail, *at, rest, length)
    });
    found.map_or(0, |at| tail.len() - at)
}

/// True when the end of `tail` from `at`, which `rest` begins with, is made of whole words.
fn is_of_words(tail: &str, at: usize, rest: &str, length: usize) -> bool {
    let before = tail[..at].chars().next_back();
    let after = rest[length..].chars().next();
    let is_border = |letter: Option<char>| letter.is_none_or(|letter| !letter.is_alphanumeric());
    is_border(before) && is_border(after) && tail[at..].starts_with(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the caller reads, with the rest cut into pieces of so many characters.
    fn joined(said: &str, rest: &str, resume: Resume, piece_chars: usize) -> String {
        let mut seam = Seam::new(said, resume);
        let letters: Vec<char> = rest.chars().collect();
        let mut text = said.to_owned();
        for piece in letters.chunks(piece_chars) {
            text += &seam.push(&piece.iter().collect::<String>());
        }
        text + &seam.finish()
    }

    #[track_caller]
    fn check(said: &str, rest: &str, resume: Resume, expected: &str) {
        for piece_chars in [1, 2, 3, 1000] {
            let found = joined(said, rest, resume, piece_chars);
            assert_eq!(
                found, expected,
                "{resume:?} {said:?} {rest:?} {piece_chars}"
            );
        }
    }

    /// The deterministic model: whatever was shown, it says what follows that.
    #[test]
    fn the_same_model_goes_on_without_a_word_lost_or_repeated_wherever_it_broke_off() {
        let whole = "One  two,\n\n\tthree. Über uns ist 天気 — a aa aaa\u{a0}end.\n";
        for at in (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)) {
            let said = &whole[..at];
            let rest = &whole[shown(said).len()..];
            check(said, rest, Resume::Exact, whole);
            check(said, whole, Resume::Repeating, whole);
        }
    }

    #[test]
    fn words_are_never_left_out_where_the_answer_goes_on_exactly() {
        check("ha ha", " ha ha", Resume::Exact, "ha ha ha ha");
        check(
            "the quick bro",
            "wn fox",
            Resume::Exact,
            "the quick brown fox",
        );
        check("aaa", "aaa", Resume::Exact, "aaaaaa");
    }

    #[test]
    fn white_space_is_said_once_and_none_is_made_up() {
        check("a ", " b", Resume::Exact, "a b");
        check("a ", "b", Resume::Exact, "a b");
        check("a\n", "\n\nb", Resume::Exact, "a\n\nb");
        check(
            "if x:\n    ",
            "\n    return",
            Resume::Exact,
            "if x:\n    return",
        );
        check("a \n", "", Resume::Exact, "a \n");
        check(" ", " b", Resume::Exact, " b");
    }

    #[test]
    fn one_that_should_repeat_and_does_not_loses_nothing() {
        check("half a", " word", Resume::Repeating, "half a word");
        check("half a", "half a", Resume::Repeating, "half a");
        check("half a", "half", Resume::Repeating, "half ahalf");
    }

    #[test]
    fn of_one_that_was_told_the_repeated_end_is_left_out() {
        check(
            "so it is",
            "it is what it is",
            Resume::Told,
            "so it is what it is",
        );
        check("so it is ", "it is what", Resume::Told, "so it is what");
        check("so it is", "it island", Resume::Told, "so it isit island");
        check("a ban", "ana", Resume::Told, "a banana");
        check(
            "an unbeliev",
            "ably long",
            Resume::Told,
            "an unbelievably long",
        );
        check(
            "and the letters go",
            "tters go on",
            Resume::Told,
            "and the letters gotters go on",
        );
        check(
            "and the letters go there",
            "etters go there now",
            Resume::Told,
            "and the letters go there now",
        );
        check("it is", "it is", Resume::Told, "it is");
    }

    #[test]
    fn what_is_looked_back_at_is_bounded() {
        let long = "é".repeat(REPEATED_BYTES_MAX);
        let seam = Seam::new(&long, Resume::Told);
        let State::Perhaps { tail, .. } = seam.state else {
            panic!("{seam:?}");
        };
        assert!(tail.len() <= REPEATED_BYTES_MAX);
    }
}
