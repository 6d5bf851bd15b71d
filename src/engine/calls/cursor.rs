//! Reading a text of which more may come.

use serde_json::Value;

use super::scan::{JsonScan, Scanned};

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It depends on what comes next.
    More,
    /// Whatever comes, it is something else.
    No,
}

pub(super) type Taken<T> = Result<T, Stop>;

/// Reads from the front of a text. What it says of a text it says of every longer one too, unless
/// it said [`Stop::More`].
#[derive(Debug)]
pub(super) struct Cursor<'t> {
    text: &'t str,
    at: usize,
    is_over: bool,
}

impl<'t> Cursor<'t> {
    /// `is_over`: no more will come, so nothing is waited for.
    pub(super) fn new(text: &'t str, is_over: bool) -> Self {
        Self {
            text,
            at: 0,
            is_over,
        }
    }

    /// How much was read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// What running into the end means.
    fn end<T>(&self) -> Taken<T> {
        Err(if self.is_over { Stop::No } else { Stop::More })
    }

    pub(super) fn peek(&self) -> Taken<char> {
        self.rest().chars().next().map_or_else(|| self.end(), Ok)
    }

    pub(super) fn literal(&mut self, text: &str) -> Taken<()> {
        if self.rest().starts_with(text) {
            self.at += text.len();
            return Ok(());
        }
        if text.starts_with(self.rest()) {
            return self.end();
        }
        Err(Stop::No)
    }

    /// The first of `texts` that comes next. None of them may begin another.
    pub(super) fn one_of(&mut self, texts: &[&'static str]) -> Taken<&'static str> {
        let mut stop = Stop::No;
        for text in texts {
            match self.literal(text) {
                Ok(()) => return Ok(text),
                Err(Stop::More) => stop = Stop::More,
                Err(Stop::No) => {}
            }
        }
        Err(stop)
    }

    /// White space, which may be none.
    pub(super) fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// The text before `mark`, which is read too.
    pub(super) fn until(&mut self, mark: &str) -> Taken<&'t str> {
        let Some(length) = self.rest().find(mark) else {
            return self.end();
        };
        let text = &self.rest()[..length];
        self.at += length + mark.len();
        Ok(text)
    }

    /// Characters that `is_in` takes, at least one, up to one it does not take or the end of all.
    pub(super) fn run(&mut self, is_in: impl Fn(char) -> bool) -> Taken<&'t str> {
        let length = match self.rest().find(|c| !is_in(c)) {
            Some(length) => length,
            None if self.is_over => self.rest().len(),
            None => return self.end(),
        };
        if length == 0 {
            return Err(Stop::No);
        }
        let text = &self.rest()[..length];
        self.at += length;
        Ok(text)
    }

    /// What `read` reads, or nothing at all.
    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Taken<T>,
    ) -> Taken<Option<T>> {
        let at = self.at;
        match read(self) {
            Ok(taken) => Ok(Some(taken)),
            Err(Stop::No) => {
                self.at = at;
                Ok(None)
            }
            Err(Stop::More) => Err(Stop::More),
        }
    }

    /// A string of JSON, and what it says.
    pub(super) fn json_string(&mut self) -> Taken<String> {
        if self.peek()? != '"' {
            return Err(Stop::No);
        }
        let mut is_escaped = false;
        for (at, byte) in self.rest().bytes().enumerate().skip(1) {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => {
                    let written = &self.rest()[..=at];
                    self.at += at + 1;
                    return serde_json::from_str(written).map_err(|_| Stop::No);
                }
                _ => {}
            }
        }
        self.end()
    }

    /// A value of JSON, as written.
    pub(super) fn json_value(&mut self) -> Taken<&'t str> {
        let start = self.at;
        match self.peek()? {
            '"' => {
                self.json_string()?;
            }
            '{' | '[' => match JsonScan::default().push(self.rest()) {
                Scanned::Done(length) => self.at += length,
                Scanned::Going => return self.end(),
                Scanned::Broken(_) => return Err(Stop::No),
            },
            _ => {
                self.run(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))?;
            }
        }
        let written = &self.text[start..self.at];
        serde_json::from_str::<serde::de::IgnoredAny>(written).map_err(|_| Stop::No)?;
        Ok(written)
    }
}

/// `text` as a string of JSON.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
