//! Patterns, from ECMA-262 to the compiler's own dialect.
//!
//! JSON Schema writes patterns as JavaScript does (draft 2020-12, core, section 6.4). The compiler
//! reads another dialect, in which some of the same text means something else: `\s` has other
//! characters in it, `.` takes a carriage return, `[a&&b]` is one letter fewer, `\A` is no letter.
//! So a pattern is read here and written anew from parts that both mean alike. What no finite
//! machine can match (looking around, back-references) or what engines differ on is refused.

use std::iter::Peekable;
use std::str::Chars;

/// Most that a count in a pattern may be.
pub(in crate::grammar) const REPEAT_MAX: u32 = 1_000;

/// Groups within each other.
pub(in crate::grammar) const GROUPS_MAX: usize = 50;

/// What `\s` takes: ECMA-262, section 12.2 and 12.3.
const SPACE: &str = concat!(
    r"\t\n\x0B\x0C\r \xA0\x{1680}\x{2000}-\x{200A}",
    r"\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}"
);
const WORD: &str = "0-9A-Za-z_";
const DIGIT: &str = "0-9";

/// `pattern` as the compiler reads it.
///
/// # Errors
/// What is wrong with it, or cannot be had.
pub(in crate::grammar) fn translate(pattern: &str) -> Result<String, String> {
    let mut reader = Reader {
        rest: pattern.chars().peekable(),
        written: String::with_capacity(pattern.len() + 16),
        open: 0,
        can_repeat: false,
    };
    while let Some(c) = reader.rest.next() {
        reader.part(c)?;
    }
    if reader.open > 0 {
        return Err("a `(` is never closed".to_owned());
    }
    Ok(reader.written)
}

struct Reader<'p> {
    rest: Peekable<Chars<'p>>,
    written: String,
    /// Groups not yet closed.
    open: usize,
    /// What was read last can be followed by a quantifier.
    can_repeat: bool,
}

/// What a backslash and what follows it stand for.
enum Escape {
    Char(char),
    /// The inside of a class, and whether it is turned round.
    Class(String, bool),
}

impl Reader<'_> {
    fn part(&mut self, c: char) -> Result<(), String> {
        let can_repeat = std::mem::replace(&mut self.can_repeat, true);
        match c {
            '^' | '$' | '|' => {
                self.written.push(c);
                self.can_repeat = false;
            }
            '(' => self.open_group()?,
            ')' if self.open == 0 => return Err("a `)` has no `(`".to_owned()),
            ')' => {
                self.open -= 1;
                self.written.push(')');
            }
            '*' | '+' | '?' | '{' => {
                if !can_repeat {
                    return Err(format!(
                        "`{c}` has nothing to repeat; for the character itself write `\\{c}`"
                    ));
                }
                self.quantifier(c)?;
                self.can_repeat = false;
            }
            '.' => self.written.push_str(r"[^\n\r\x{2028}\x{2029}]"),
            '[' => self.class()?,
            '\\' => match self.escape()? {
                Escape::Char(c) => push_char(&mut self.written, c),
                Escape::Class(inside, is_not) => {
                    let not = if is_not { "^" } else { "" };
                    self.written.push_str(&format!("[{not}{inside}]"));
                }
            },
            c => push_char(&mut self.written, c),
        }
        Ok(())
    }

    fn open_group(&mut self) -> Result<(), String> {
        self.open += 1;
        if self.open > GROUPS_MAX {
            return Err(format!(
                "groups may lie within each other {GROUPS_MAX} deep"
            ));
        }
        if self.rest.next_if_eq(&'?').is_some() {
            match self.rest.next() {
                Some(':') => {}
                Some('<') if !matches!(self.rest.peek(), Some('=' | '!')) => self.group_name()?,
                _ => {
                    return Err("of `(?`, replies can be held to `(?:` and `(?<name>` only".into());
                }
            }
        }
        self.written.push_str("(?:");
        self.can_repeat = false;
        Ok(())
    }

    fn group_name(&mut self) -> Result<(), String> {
        let mut length = 0;
        for c in self.rest.by_ref() {
            match c {
                '>' if length > 0 => return Ok(()),
                c if c.is_alphanumeric() || c == '_' || c == '$' => length += 1,
                _ => break,
            }
        }
        Err("a group's name is malformed".to_owned())
    }

    fn quantifier(&mut self, c: char) -> Result<(), String> {
        if c == '{' {
            let (least, most) = self.counts()?;
            let most = most.map_or(String::new(), |most| most.to_string());
            self.written.push_str(&format!("{{{least},{most}}}"));
        } else {
            self.written.push(c);
        }
        // What is taken first makes no difference to what may be said.
        self.rest.next_if_eq(&'?');
        Ok(())
    }

    /// The rest of `{n}`, `{n,}` and `{n,m}`.
    fn counts(&mut self) -> Result<(u32, Option<u32>), String> {
        let malformed = || "a `{` begins no count; for the character itself write `\\{`".to_owned();
        let least = self.count()?.ok_or_else(malformed)?;
        let most = match self.rest.next() {
            Some('}') => return Ok((least, Some(least))),
            Some(',') => self.count()?,
            _ => return Err(malformed()),
        };
        if self.rest.next() != Some('}') {
            return Err(malformed());
        }
        if most.is_some_and(|most| most < least) {
            return Err("a count's bounds are the wrong way round".to_owned());
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<Option<u32>, String> {
        let mut count = None;
        while let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(10)) {
            self.rest.next();
            let longer = count.unwrap_or(0) * 10 + digit;
            if longer > REPEAT_MAX {
                return Err(format!("a count in a pattern may be up to {REPEAT_MAX}"));
            }
            count = Some(longer);
        }
        Ok(count)
    }

    fn class(&mut self) -> Result<(), String> {
        let is_not = self.rest.next_if_eq(&'^').is_some();
        let mut inside = String::new();
        while let Some(from) = self.class_item()? {
            let Escape::Char(from) = from else {
                push_class(&mut inside, from);
                continue;
            };
            if self.rest.next_if_eq(&'-').is_none() {
                push_char(&mut inside, from);
                continue;
            }
            match self.class_item()? {
                Some(Escape::Char(to)) if from <= to => {
                    push_char(&mut inside, from);
                    inside.push('-');
                    push_char(&mut inside, to);
                }
                Some(Escape::Char(_)) => {
                    return Err("a range in `[…]` is the wrong way round".to_owned());
                }
                Some(Escape::Class(..)) => {
                    return Err("a range in `[…]` leads to a class".to_owned());
                }
                None => {
                    push_char(&mut inside, from);
                    push_char(&mut inside, '-');
                    return self.close_class(is_not, &inside);
                }
            }
        }
        self.close_class(is_not, &inside)
    }

    fn close_class(&mut self, is_not: bool, inside: &str) -> Result<(), String> {
        match (is_not, inside.is_empty()) {
            (false, true) => return Err("`[]` matches nothing".to_owned()),
            (true, true) => self.written.push_str(r"[\x00-\x{10FFFF}]"),
            (true, false) => self.written.push_str(&format!("[^{inside}]")),
            (false, false) => self.written.push_str(&format!("[{inside}]")),
        }
        Ok(())
    }

    /// `None` at the class's end.
    fn class_item(&mut self) -> Result<Option<Escape>, String> {
        match self.rest.next() {
            None => Err("a `[` is never closed".to_owned()),
            Some(']') => Ok(None),
            Some('\\') if self.rest.next_if_eq(&'b').is_some() => Ok(Some(Escape::Char('\u{8}'))),
            Some('\\') if self.rest.next_if_eq(&'-').is_some() => Ok(Some(Escape::Char('-'))),
            Some('\\') => self.escape().map(Some),
            Some(c) => Ok(Some(Escape::Char(c))),
        }
    }

    fn escape(&mut self) -> Result<Escape, String> {
        let c = self.rest.next().ok_or("it ends with a `\\`")?;
        let class = |inside: &str, is_not| Ok(Escape::Class(inside.to_owned(), is_not));
        let char = match c {
            'd' | 'D' => return class(DIGIT, c == 'D'),
            'w' | 'W' => return class(WORD, c == 'W'),
            's' | 'S' => return class(SPACE, c == 'S'),
            'p' | 'P' => return self.property(c == 'P'),
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'v' => '\u{b}',
            'f' => '\u{c}',
            '0' if !matches!(self.rest.peek(), Some('0'..='9')) => '\0',
            'c' => {
                let letter = self.rest.next().filter(char::is_ascii_alphabetic);
                let letter = letter.ok_or("`\\c` wants a letter")?;
                char::from(letter as u8 % 32)
            }
            'x' => self.code(2)?,
            'u' if self.rest.next_if_eq(&'{').is_some() => self.braced_code()?,
            'u' => self.code(4)?,
            'b' | 'B' => return Err("replies cannot be held to `\\b` and `\\B`".to_owned()),
            '1'..='9' | 'k' => return Err("replies cannot be held to back-references".to_owned()),
            c if c.is_ascii_alphanumeric() => return Err(format!("`\\{c}` means nothing here")),
            c => c,
        };
        Ok(Escape::Char(char))
    }

    /// The rest of `\p{…}`. Its names are the compiler's to know.
    fn property(&mut self, is_not: bool) -> Result<Escape, String> {
        let malformed = || "`\\p` wants a name, as `\\p{L}` or `\\p{Script=Greek}`".to_owned();
        self.rest.next_if_eq(&'{').ok_or_else(malformed)?;
        let mut name = String::new();
        for c in self.rest.by_ref() {
            match c {
                '}' if !name.is_empty() => {
                    return Ok(Escape::Class(format!("\\p{{{name}}}"), is_not));
                }
                c if c.is_ascii_alphanumeric() || c == '_' || c == '=' => name.push(c),
                _ => break,
            }
        }
        Err(malformed())
    }

    fn code(&mut self, digits: usize) -> Result<char, String> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.rest.next().and_then(|c| c.to_digit(16));
            code = code * 16 + digit.ok_or(format!("`\\x` and `\\u` want {digits} digits here"))?;
        }
        char::from_u32(code).ok_or_else(|| "half of a surrogate pair is no character".to_owned())
    }

    fn braced_code(&mut self) -> Result<char, String> {
        let malformed = || "`\\u{…}` wants a character's number".to_owned();
        let mut code: u32 = 0;
        for c in self.rest.by_ref() {
            match c.to_digit(16) {
                Some(digit) if code <= 0x10_FFFF => code = code * 16 + digit,
                None if c == '}' => return char::from_u32(code).ok_or_else(malformed),
                _ => break,
            }
        }
        Err(malformed())
    }
}

/// One character that stands for itself, within a class and without.
pub(in crate::grammar) fn push_char(written: &mut String, c: char) {
    match c {
        // The two that mean something when they are escaped.
        '<' | '>' => written.push(c),
        c if c.is_ascii_punctuation() => {
            written.push('\\');
            written.push(c);
        }
        c if c.is_ascii_control() => written.push_str(&format!("\\x{:02X}", u32::from(c))),
        c => written.push(c),
    }
}

fn push_class(written: &mut String, class: Escape) {
    match class {
        Escape::Char(c) => push_char(written, c),
        Escape::Class(inside, false) => written.push_str(&inside),
        Escape::Class(inside, true) => written.push_str(&format!("[^{inside}]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_dialects_mean_alike_is_kept() {
        for (pattern, written) in [
            ("^ab+c?$", "^ab+c?$"),
            (r"^[A-Z]{2}-\d{3}$", r"^[A-Z]{2,2}\-[0-9]{3,3}$"),
            (r"a{2,}?|b*?", "a{2,}|b*"),
            (r"(a)(?:b)(?<c>d)", "(?:a)(?:b)(?:d)"),
            (r"\w[\w.-]\D", r"[0-9A-Za-z_][0-9A-Za-z_\.\-][^0-9]"),
            ("[^]", r"[\x00-\x{10FFFF}]"),
            ("[a&&b[~~-]", r"[a\&\&b\[\~\~\-]"),
            (r"[\D\b]", r"[[^0-9]\x08]"),
            (r"\/\.\<", r"\/\.<"),
            (r"\x41\u00e9\u{1F600}\cJ\0", "Aé😀\\x0A\\x00"),
            (r"\p{Letter}\P{L}[\p{Lu}]", r"[\p{Letter}][^\p{L}][\p{Lu}]"),
            ("a]}#", r"a\]\}\#"),
        ] {
            assert_eq!(translate(pattern).as_deref(), Ok(written), "{pattern}");
        }
        assert_eq!(translate(".").unwrap(), r"[^\n\r\x{2028}\x{2029}]");
    }

    #[test]
    fn what_could_not_be_kept_to_is_refused_with_its_reason() {
        for (pattern, reason) in [
            ("(?=a)", "(?:"),
            ("(?<!a)b", "(?:"),
            ("(?i)a", "(?:"),
            (r"(a)\1", "back-references"),
            (r"\bword", r"\b"),
            (r"\A", r"\A"),
            ("*a", "nothing to repeat"),
            ("^*", "nothing to repeat"),
            ("a++", "nothing to repeat"),
            ("a{1}{2}", "nothing to repeat"),
            ("{", "nothing to repeat"),
            ("a{,3}", "no count"),
            ("a{x", "no count"),
            ("a{3,2}", "wrong way round"),
            ("a{1001}", "1000"),
            ("[b-a]", "wrong way round"),
            (r"[a-\d]", "class"),
            ("[]", "nothing"),
            ("[a", "never closed"),
            ("(a", "never closed"),
            ("a)", "no `(`"),
            ("a\\", "ends with"),
            (r"\ud800", "surrogate"),
            (r"\x4", "digits"),
            (r"\u{110000}", "number"),
            (r"\p{}", "name"),
            ("(?<>a)", "name"),
        ] {
            let said = translate(pattern).expect_err(pattern);
            assert!(said.contains(reason), "{pattern}: {said}");
        }
        assert!(
            translate(&"(".repeat(GROUPS_MAX + 1))
                .unwrap_err()
                .contains("50")
        );
    }
}
