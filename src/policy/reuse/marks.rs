//! What a text says beside its words: how its numbers are written, its symbols, and what was taken off it as
//! courtesy. Texts of the same words that differ here are different.

use super::words::hash;

/// Digests, in no order: words tell the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// With signs and points: `-5`, `.5`, `1,5`. A well-formed thousands' comma says nothing.
    pub numbers: u64,
    /// Operators and pictures. Punctuation is none.
    pub symbols: u64,
}

impl Marks {
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut marks = Self::default();
        let mut before = [None; 2];
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let length = if letter.is_ascii_digit() {
                let length = number_length(rest);
                marks.add_number(&rest[..length], before);
                length
            } else {
                if is_symbol(letter, before, &rest[letter.len_utf8()..]) {
                    marks.symbols = marks.symbols.wrapping_add(hash(&letter.to_string()));
                }
                letter.len_utf8()
            };
            let taken = rest[..length].chars().rev();
            let mut latest = taken.chain(before.into_iter().flatten());
            before = [latest.next(), latest.next()];
            rest = &rest[length..];
        }
        marks
    }

    fn add_number(&mut self, written: &str, before: [Option<char>; 2]) {
        let [last, last_but_one] = before;
        let stands_apart = !last_but_one.is_some_and(|it| it.is_alphanumeric() || it == ')');
        let sign = match last {
            Some('-' | '\u{2212}') if stands_apart => "-",
            Some('.' | ',') if stands_apart => ".",
            _ => "",
        };
        let mut number = sign.to_owned();
        match has_thousands(written) {
            true => number.extend(written.chars().filter(|letter| *letter != ',')),
            false => number.push_str(written),
        }
        self.numbers = self.numbers.wrapping_add(hash(&number));
    }
}

/// Of the number that `text` begins with, and of what joins its digits.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut length = 0;
    while is_digit(length)
        || (matches!(bytes.get(length), Some(b'.' | b',' | b':' | b'/')) && is_digit(length + 1))
    {
        length += 1;
    }
    length
}

/// `1,000` and `12,345.67`, but not `1,5` and `1,2,300`.
fn has_thousands(number: &str) -> bool {
    let whole = number.split(['.', ':', '/']).next().unwrap_or(number);
    let mut groups = whole.split(',');
    let first = groups.next().map_or(0, str::len);
    let mut count = 0;
    let are_whole = groups.all(|group| {
        count += 1;
        group.len() == 3
    });
    (1..=3).contains(&first) && count > 0 && are_whole && !number[whole.len()..].contains(',')
}

/// Those that words do not have already, and that stand for something by themselves.
fn is_symbol(letter: char, before: [Option<char>; 2], after: &str) -> bool {
    let last = before.into_iter().flatten().find(|it| *it != ' ');
    let next = after.chars().find(|it| *it != ' ');
    match letter {
        '&' | '|' | '~' | '@' | '\\' | '±' | '°' | '¬' | '×' | '÷' => true,
        '-' | '\u{2212}' | '/' => {
            last.is_some_and(|it| it.is_ascii_digit() || it == ')')
                && next.is_some_and(|it| it.is_ascii_digit() || it == '(')
        }
        // Skin tones say no more than the picture does.
        '\u{1f3fb}'..='\u{1f3ff}' => false,
        // Currencies, arrows, mathematics, shapes, pictures.
        '\u{20a0}'..='\u{20cf}' | '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}' => {
            letter != '€' && letter != '₹'
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_they_say() {
        for (left, right) in [
            ("1,000 and 12,345.67", "1000 and 12345.67"),
            ("page 5.", "(page 5)"),
            ("5-3", "5 - 3"),
            ("covid-19", "covid 19"),
            ("5 mg, 10 mg", "10 mg, 5 mg"),
        ] {
            let [left, right] = [left, right].map(Marks::of);
            assert_eq!(left.numbers, right.numbers);
        }
        for (left, right) in [
            (".5 mg", "5 mg"),
            ("1,5", "15"),
            ("1,50", "150"),
            ("10^-3", "10^3"),
            ("abs(-5)", "abs(5)"),
            ("[1,2,3]", "[12,3]"),
            ("1,0000", "10000"),
        ] {
            let [left, right] = [left, right].map(Marks::of);
            assert_ne!(left.numbers, right.numbers);
        }
    }

    #[test]
    fn symbols_are_no_punctuation() {
        for (left, right) in [
            ("Hello, world!", "Hello world."),
            ("well-known and/or so", "well known and or so"),
            ("“so” – he said…", "\"so\" - he said..."),
            ("👍🏽", "👍"),
            ("5 €", "5"),
        ] {
            assert_eq!(Marks::of(left).symbols, Marks::of(right).symbols, "{left}");
        }
        for (left, right) in [
            ("12 × 4", "12 ÷ 4"),
            ("12 - 4", "12 / 4"),
            ("(1) - (2)", "(1) / (2)"),
            ("a ≤ b", "a ≥ b"),
            ("A ∪ B", "A ∩ B"),
            ("100 ₩", "100 ₽"),
            ("a && b", "a || b"),
            ("🙏", "💀"),
        ] {
            assert_ne!(Marks::of(left).symbols, Marks::of(right).symbols, "{left}");
        }
    }
}
