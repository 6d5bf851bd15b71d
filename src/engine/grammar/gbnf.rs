//! Grammars in llama.cpp's notation (GBNF, its grammars/README.md, read 2026-11-21), rewritten for
//! the compiler.
//!
//! Every character becomes a part of its own: the compiler takes the longest part that fits, and
//! so could not say `abc` by `"a" "bc" | "ab" "d"`. Names of rules are replaced, so nothing of the
//! caller's can be a word of the compiler's language.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use crate::grammar::schema::{GROUPS_MAX, REPEAT_MAX, push_char};

/// Rules of a grammar.
const RULES_MAX: usize = 500;

/// Parts that a grammar comes to, each repeated as often as it must be.
const PARTS_MAX: usize = 10_000;

/// Characters of a caller's name that are told.
const NAME_CHARS_MAX: usize = 64;

/// `text` in the compiler's language.
///
/// # Errors
/// What is wrong, and in which line.
pub(super) fn translate(text: &str) -> Result<String, String> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
        rules: BTreeMap::new(),
        written: String::with_capacity(text.len() * 2),
        groups: 0,
        parts: 0,
    };
    reader
        .grammar()
        .map_err(|said| format!("line {}: {said}", reader.line))?;
    if let Some((name, _)) = reader.rules.iter().find(|(_, rule)| !rule.is_defined) {
        return Err(format!("there is no rule `{}`", shown(name)));
    }
    match reader.rules.get("root") {
        Some(root) => Ok(format!("start: r{}\n{}", root.index, reader.written)),
        None => Err("there is no rule `root` to begin with".to_owned()),
    }
}

struct Rule {
    index: usize,
    is_defined: bool,
}

struct Reader<'g> {
    rest: Peekable<Chars<'g>>,
    line: usize,
    rules: BTreeMap<String, Rule>,
    written: String,
    /// Groups not yet closed.
    groups: usize,
    parts: usize,
}

impl Reader<'_> {
    fn grammar(&mut self) -> Result<(), String> {
        self.space(true);
        while self.rest.peek().is_some() {
            let name = self.name();
            if name.is_empty() {
                return Err("expected `name ::= …`".to_owned());
            }
            self.space(false);
            if !"::=".chars().all(|c| self.rest.next_if_eq(&c).is_some()) {
                return Err(format!("expected `::=` after `{}`", shown(&name)));
            }
            let rule = self.rule(&name)?;
            if std::mem::replace(&mut rule.is_defined, true) {
                return Err(format!("there are two rules `{}`", shown(&name)));
            }
            let head = format!("r{}: ", rule.index);
            self.written.push_str(&head);
            self.space(true);
            self.alternatives()?;
            self.written.push('\n');
            self.space(true);
        }
        Ok(())
    }

    fn rule(&mut self, name: &str) -> Result<&mut Rule, String> {
        let index = self.rules.len();
        if index == RULES_MAX && !self.rules.contains_key(name) {
            return Err(format!("a grammar may have up to {RULES_MAX} rules"));
        }
        Ok(self.rules.entry(name.to_owned()).or_insert(Rule {
            index,
            is_defined: false,
        }))
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self
            .rest
            .next_if(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        {
            name.push(c);
        }
        name
    }

    /// Passes white space and comments, and line breaks where they end nothing.
    fn space(&mut self, passes_lines: bool) {
        while let Some(c) = self.rest.peek().copied() {
            match c {
                ' ' | '\t' => {}
                '#' => {
                    while self.rest.next_if(|c| *c != '\n').is_some() {}
                    continue;
                }
                '\r' | '\n' if passes_lines => self.line += usize::from(c == '\n'),
                _ => return,
            }
            self.rest.next();
        }
    }

    fn alternatives(&mut self) -> Result<(), String> {
        loop {
            self.sequence()?;
            if self.rest.next_if_eq(&'|').is_none() {
                return Ok(());
            }
            self.written.push_str(" | ");
            self.space(true);
        }
    }

    /// Up to what begins no part of it.
    fn sequence(&mut self) -> Result<(), String> {
        let is_nested = self.groups > 0;
        let mut is_empty = true;
        while let Some(c) = self.rest.peek().copied() {
            let began = self.written.len();
            let parts_before = self.parts;
            match c {
                '|' | ')' => break,
                '\r' | '\n' => break,
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.rest.next();
                    self.part(r"/[\x00-\x{10FFFF}]/")?;
                }
                '(' => self.group()?,
                c if c.is_ascii_alphanumeric() || c == '-' || c == '_' => {
                    let name = self.name();
                    let index = self.rule(&name)?.index;
                    self.part(&format!("r{index}"))?;
                }
                '<' | '!' => return Err("tokens cannot be named; write their text".to_owned()),
                '*' | '+' | '?' | '{' => return Err(format!("`{c}` has nothing to repeat")),
                c => return Err(format!("a `{}` begins nothing", c.escape_debug())),
            }
            is_empty = false;
            self.quantifier(began, parts_before)?;
            self.space(is_nested);
        }
        if is_empty {
            self.part("\"\"")?;
        }
        match self.rest.peek() {
            Some(')') if !is_nested => Err("a `)` has no `(`".to_owned()),
            _ => Ok(()),
        }
    }

    fn part(&mut self, text: &str) -> Result<(), String> {
        self.count_parts(1)?;
        self.written.push_str(text);
        self.written.push(' ');
        Ok(())
    }

    fn count_parts(&mut self, more: usize) -> Result<(), String> {
        self.parts = self.parts.saturating_add(more);
        if self.parts > PARTS_MAX {
            return Err(format!("a grammar may come to {PARTS_MAX} parts"));
        }
        Ok(())
    }

    fn group(&mut self) -> Result<(), String> {
        self.rest.next();
        self.groups += 1;
        if self.groups > GROUPS_MAX {
            return Err(format!(
                "groups may lie within each other {GROUPS_MAX} deep"
            ));
        }
        self.written.push('(');
        self.space(true);
        self.alternatives()?;
        self.groups -= 1;
        if self.rest.next() != Some(')') {
            return Err("a `(` is never closed".to_owned());
        }
        self.written.push_str(") ");
        Ok(())
    }

    /// What may follow a part that was written from `began` on.
    fn quantifier(&mut self, began: usize, parts_before: usize) -> Result<(), String> {
        self.space(self.groups > 0);
        let (least, most) = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.rest.next();
                self.counts()?
            }
            _ => return Ok(()),
        };
        self.rest.next();
        let each = self.parts - parts_before;
        self.count_parts(each.saturating_mul(most.unwrap_or(least) as usize))?;
        let part = self.written.split_off(began);
        let again = match (least, most) {
            (_, Some(0)) => "\"\" ".to_owned(),
            (0, None) => format!("({part})* "),
            (1, None) => format!("({part})+ "),
            (0, Some(1)) => format!("({part})? "),
            (least, None) => format!("({part}){{{least},}} "),
            (least, Some(most)) => format!("({part}){{{least},{most}}} "),
        };
        self.written.push_str(&again);
        Ok(())
    }

    /// `n}`, `n,}` and `n,m}`, up to the brace.
    fn counts(&mut self) -> Result<(u32, Option<u32>), String> {
        let least = self.count()?.ok_or("a `{` wants a count")?;
        let most = if self.rest.next_if_eq(&',').is_some() {
            self.space(false);
            self.count()?
        } else {
            Some(least)
        };
        self.space(false);
        if self.rest.peek() != Some(&'}') {
            return Err("a `{` is never closed".to_owned());
        }
        if most.is_some_and(|most| most < least) {
            return Err("a count's bounds are the wrong way round".to_owned());
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<Option<u32>, String> {
        self.space(false);
        let mut count = None;
        while let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(10)) {
            self.rest.next();
            let longer = count.unwrap_or(0) * 10 + digit;
            if longer > REPEAT_MAX {
                return Err(format!("a count may be up to {REPEAT_MAX}"));
            }
            count = Some(longer);
        }
        Ok(count)
    }

    fn literal(&mut self) -> Result<(), String> {
        self.rest.next();
        self.written.push('(');
        let mut is_empty = true;
        loop {
            let c = match self.rest.next() {
                Some('"') => break,
                Some('\\') => self.escape()?,
                Some('\n') | None => return Err("a text is never closed".to_owned()),
                Some(c) => c,
            };
            let mut written = "/".to_owned();
            push_char(&mut written, c);
            written.push('/');
            self.part(&written)?;
            is_empty = false;
        }
        if is_empty {
            self.part("\"\"")?;
        }
        self.written.push_str(") ");
        Ok(())
    }

    fn class(&mut self) -> Result<(), String> {
        self.rest.next();
        let is_not = self.rest.next_if_eq(&'^').is_some();
        let mut inside = String::new();
        while self.rest.next_if_eq(&']').is_none() {
            let from = self.class_char()?;
            push_char(&mut inside, from);
            if self.rest.next_if_eq(&'-').is_none() {
                continue;
            }
            if self.rest.peek() == Some(&']') {
                push_char(&mut inside, '-');
                continue;
            }
            let to = self.class_char()?;
            if to < from {
                return Err("a range in `[…]` is the wrong way round".to_owned());
            }
            inside.push('-');
            push_char(&mut inside, to);
        }
        match (is_not, inside.is_empty()) {
            (false, true) => Err("`[]` matches nothing".to_owned()),
            (true, true) => self.part(r"/[\x00-\x{10FFFF}]/"),
            (true, false) => self.part(&format!("/[^{inside}]/")),
            (false, false) => self.part(&format!("/[{inside}]/")),
        }
    }

    fn class_char(&mut self) -> Result<char, String> {
        match self.rest.next() {
            Some('\\') => self.escape(),
            Some('\n') | None => Err("a `[` is never closed".to_owned()),
            Some(c) => Ok(c),
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let digits = match self.rest.next() {
            Some('t') => return Ok('\t'),
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c) if c.is_ascii_punctuation() => return Ok(c),
            _ => return Err("a `\\` wants one of n r t x u U or a sign after it".to_owned()),
        };
        let mut code: u32 = 0;
        for _ in 0..digits {
            let digit = self.rest.next().and_then(|c| c.to_digit(16));
            let digit = digit.ok_or(format!("expected {digits} hexadecimal digits"))?;
            code = code.checked_mul(16).map_or(u32::MAX, |code| code + digit);
        }
        char::from_u32(code).ok_or_else(|| "there is no such character".to_owned())
    }
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_grammar_is_refused_with_its_line() {
        for (text, said) in [
            ("", "`root`"),
            ("a ::= \"x\"", "`root`"),
            ("root ::= a", "no rule `a`"),
            (
                "root ::= \"a\"\nroot ::= \"b\"",
                "line 2: there are two rules",
            ),
            ("start: /a/", "expected `::=`"),
            ("?", "expected `name"),
            ("root = \"a\"", "expected `::=`"),
            ("root ::= \"a", "never closed"),
            ("root ::= [a", "never closed"),
            ("root ::= (\"a\"", "never closed"),
            ("root ::= \"a\")", "no `(`"),
            ("root ::= * \"a\"", "nothing to repeat"),
            ("root ::= \"a\"{1001}", "1000"),
            ("root ::= \"a\"{2,1}", "wrong way"),
            ("root ::= [b-a]", "wrong way"),
            ("root ::= []", "nothing"),
            ("root ::= <[12]>", "tokens"),
            ("root ::= %json", "begins nothing"),
            ("root ::= \"\\ud800\"", "no such character"),
            ("root ::= \"\\q\"", "wants one of"),
            ("root ::= ((\"a\"{100}){100}){100}", "10000 parts"),
        ] {
            let refused = translate(text).expect_err(text);
            assert!(refused.contains(said), "{text}: {refused}");
        }
        // Of a long name no more than a part was to be told.
        let long = format!("root ::= {}", "n".repeat(NAME_CHARS_MAX + 1));
        let told = format!("no rule `{}`", "n".repeat(NAME_CHARS_MAX));
        assert!(translate(&long).unwrap_err().contains(&told));
        let deep = format!("root ::= {}", "(".repeat(GROUPS_MAX + 1));
        assert!(translate(&deep).unwrap_err().contains("50"));
        let many: String = (0..=RULES_MAX)
            .map(|n| format!("r{n} ::= \"a\"\n"))
            .collect();
        assert!(translate(&many).unwrap_err().contains("500"));
    }
}
