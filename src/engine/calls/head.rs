//! The beginning of a call up to its arguments, and what may follow them.

use super::cursor::{Cursor, Stop, Taken, quoted};
use super::family::{Call, Form};
use super::literals::{self, Dialect, comma};
use super::offered::Offered;

const PARAMETER_OPEN: &str = "<parameter=";
pub(super) const PARAMETER_CLOSE: &str = "</parameter>";
const FUNCTION_OPEN: &str = "<function=";
const FUNCTION_CLOSE: &str = "</function>";

/// Members of a call's object that say nothing here.
const IGNORED: [&str; 4] = ["type", "id", "call_id", "index"];

/// A call up to its arguments.
#[derive(Debug, PartialEq)]
pub(super) struct Head {
    pub name: String,
    pub rest: Rest,
}

/// How a call's arguments come.
#[derive(Debug, PartialEq)]
pub(super) enum Rest {
    /// As JSON, whose first bracket comes next.
    Json,
    /// They are here already.
    Whole(String),
    /// One by one.
    Pairs,
}

/// What surrounds the calls of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    is_list: bool,
    /// Within `{"tool_calls": …}` or `print(…)`.
    is_wrapped: bool,
}

/// What follows a call.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Call(Head),
    Over,
}

/// What comes within arguments that come one by one.
#[derive(Debug, PartialEq)]
pub(super) enum Pair {
    /// A name and its value as JSON.
    Whole(String, String),
    /// The name of an argument whose bare text comes next.
    Text(String),
    Over,
}

/// What a tool's name may have where no quotes surround it.
pub(crate) fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || "_-./:".contains(letter)
}

impl Form {
    /// Reads a block's first call; `open` is what it was found by.
    pub(super) fn first(
        &self,
        cursor: &mut Cursor<'_>,
        open: &str,
        offered: &Offered,
    ) -> Taken<(Block, Head)> {
        cursor.space();
        if self.call.begin() != open {
            cursor.literal(open)?;
            cursor.space();
        }
        let is_wrapped = cursor
            .optional(|cursor| self.call.wrapper(cursor))?
            .is_some();
        cursor.space();
        let may_list = matches!(self.call, Call::Object | Call::Python);
        let is_list = may_list && cursor.optional(|cursor| cursor.literal("["))?.is_some();
        // Without any mark, a function's name and a bracket are text.
        if matches!(self.call, Call::Python) && open.is_empty() && !is_list {
            return Err(Stop::No);
        }
        cursor.space();
        let block = Block {
            is_list,
            is_wrapped,
        };
        Ok((block, self.head(cursor, offered)?))
    }

    /// Reads what follows a call. Never stops with [`Stop::No`]: what does not belong to the block is
    /// left where it is.
    pub(super) fn next(
        &self,
        cursor: &mut Cursor<'_>,
        block: Block,
        is_tail_read: bool,
        offered: &Offered,
    ) -> Taken<Next> {
        if !is_tail_read {
            cursor.optional(|cursor| self.call.tail(cursor))?;
        }
        let another = cursor.optional(|cursor| {
            cursor.space();
            if block.is_list {
                cursor.literal(",")?;
            } else if matches!(self.call, Call::Object) {
                cursor.optional(|cursor| cursor.one_of(&[",", ";"]))?;
            }
            cursor.space();
            self.head(cursor, offered)
        })?;
        if let Some(head) = another {
            return Ok(Next::Call(head));
        }
        let mut closes = Vec::new();
        if block.is_list {
            closes.push("]");
        }
        if block.is_wrapped {
            closes.push(if matches!(self.call, Call::Python) {
                ")"
            } else {
                "}"
            });
        }
        closes.push(self.close);
        for close in closes.iter().filter(|close| !close.is_empty()) {
            cursor.optional(|cursor| {
                cursor.space();
                cursor.literal(close)
            })?;
        }
        Ok(Next::Over)
    }

    fn head(&self, cursor: &mut Cursor<'_>, offered: &Offered) -> Taken<Head> {
        let is_known = |name: &str| !self.is_careful || offered.has(name);
        let head = match &self.call {
            Call::Object => return object(cursor, self.is_careful, is_known),
            Call::Named {
                before,
                kind,
                id,
                between,
                ..
            } => {
                cursor.literal(before)?;
                if !kind.is_empty() {
                    cursor.optional(|cursor| cursor.literal(kind))?;
                }
                cursor.space();
                let name = cursor.run(is_of_name)?;
                if !id.is_empty() && cursor.optional(|cursor| cursor.literal(id))?.is_some() {
                    cursor.run(is_of_name)?;
                }
                cursor.one_of(between)?;
                cursor.space();
                if cursor.peek()? != '{' {
                    return Err(Stop::No);
                }
                (name, Rest::Json)
            }
            Call::Tags => {
                cursor.literal(FUNCTION_OPEN)?;
                let name = cursor.run(is_of_name)?;
                cursor.literal(">")?;
                (name, Rest::Pairs)
            }
            Call::Python => {
                let name = cursor.run(is_of_name)?;
                cursor.literal("(")?;
                // The way Llama calls what is built into it.
                (name.strip_suffix(".call").unwrap_or(name), Rest::Pairs)
            }
            Call::Braces { .. } => {
                cursor.literal("call:")?;
                let name = cursor.run(is_of_name)?;
                cursor.literal("{")?;
                (name, Rest::Pairs)
            }
            Call::Message => return Err(Stop::No),
        };
        let (name, rest) = head;
        if !is_known(name) {
            return Err(Stop::No);
        }
        Ok(Head {
            name: name.to_owned(),
            rest,
        })
    }
}

impl Call {
    /// What a call itself begins with, where that is a mark too.
    fn begin(&self) -> &'static str {
        match self {
            Call::Named { before, .. } => before,
            Call::Tags => FUNCTION_OPEN,
            Call::Object | Call::Python | Call::Braces { .. } | Call::Message => "",
        }
    }

    fn wrapper(&self, cursor: &mut Cursor<'_>) -> Taken<()> {
        match self {
            Call::Object => {
                cursor.literal("{")?;
                cursor.space();
                cursor.one_of(&["\"tool_calls\"", "\"tool_call\""])?;
                cursor.space();
                cursor.literal(":")
            }
            Call::Python => cursor.literal("print("),
            Call::Named { .. } | Call::Tags | Call::Braces { .. } | Call::Message => Err(Stop::No),
        }
    }

    /// Reads what ends a call after its arguments.
    fn tail(&self, cursor: &mut Cursor<'_>) -> Taken<()> {
        cursor.space();
        match self {
            Call::Object => loop {
                cursor.space();
                if cursor.optional(|cursor| cursor.literal("}"))?.is_some() {
                    return Ok(());
                }
                cursor.literal(",")?;
                cursor.space();
                cursor.json_string()?;
                cursor.space();
                cursor.literal(":")?;
                cursor.space();
                cursor.json_value()?;
            },
            Call::Named { after, .. } => cursor.one_of(after).map(|_| ()),
            Call::Message => cursor.one_of(&["<|call|>", "<|end|>"]).map(|_| ()),
            Call::Tags | Call::Python | Call::Braces { .. } => Err(Stop::No),
        }
    }

    /// Reads the next of arguments that come one by one.
    pub(super) fn pair(
        &self,
        cursor: &mut Cursor<'_>,
        tool: &str,
        offered: &Offered,
    ) -> Taken<Pair> {
        cursor.space();
        let (close, dialect) = match self {
            Call::Tags => return tagged_pair(cursor, tool, offered),
            Call::Python => (")", Dialect::Python),
            Call::Braces { quote } => ("}", Dialect::Marked { quote }),
            Call::Object | Call::Named { .. } | Call::Message => return Err(Stop::No),
        };
        // The comma was read with the argument before it.
        if cursor.optional(|cursor| cursor.literal(close))?.is_some() {
            return Ok(Pair::Over);
        }
        let key = match dialect {
            Dialect::Python => cursor.run(|c| c.is_alphanumeric() || c == '_')?.to_owned(),
            Dialect::Marked { .. } => literals::key(cursor, dialect)?,
        };
        cursor.space();
        cursor.literal(if close == ")" { "=" } else { ":" })?;
        let mut json = String::new();
        literals::value(cursor, dialect, &mut json)?;
        comma(cursor, close)?;
        Ok(Pair::Whole(key, json))
    }
}

fn tagged_pair(cursor: &mut Cursor<'_>, tool: &str, offered: &Offered) -> Taken<Pair> {
    if cursor.one_of(&[FUNCTION_CLOSE, PARAMETER_OPEN])? == FUNCTION_CLOSE {
        return Ok(Pair::Over);
    }
    let key = cursor
        .run(|c| c != '>' && c != '<' && c != '\n')?
        .to_owned();
    cursor.literal(">")?;
    if offered.is_text(tool, &key) {
        return Ok(Pair::Text(key));
    }
    let written = cursor.until(PARAMETER_CLOSE)?;
    let written = written.strip_prefix('\n').unwrap_or(written);
    let written = written.strip_suffix('\n').unwrap_or(written);
    let json = offered.argument(tool, &key, written);
    Ok(Pair::Whole(key, json))
}

/// The object of a call, up to its arguments if its name came first, else all of it.
fn object(
    cursor: &mut Cursor<'_>,
    is_careful: bool,
    is_known: impl Fn(&str) -> bool,
) -> Taken<Head> {
    cursor.literal("{")?;
    let mut name: Option<String> = None;
    let mut arguments: Option<String> = None;
    loop {
        cursor.space();
        let key = cursor.json_string()?;
        cursor.space();
        cursor.literal(":")?;
        cursor.space();
        match key.as_str() {
            "name" | "function" => {
                let said = cursor.json_string()?;
                if said.is_empty() || !is_known(&said) || name.is_some() {
                    return Err(Stop::No);
                }
                name = Some(said);
            }
            "arguments" | "parameters" => match (cursor.peek()?, name.take()) {
                ('{', Some(name)) => {
                    return Ok(Head {
                        name,
                        rest: Rest::Json,
                    });
                }
                (first, known) => {
                    name = known;
                    arguments = Some(held_arguments(cursor, first)?);
                }
            },
            key if is_careful && !IGNORED.contains(&key) => return Err(Stop::No),
            _ => {
                cursor.json_value()?;
            }
        }
        cursor.space();
        if cursor.optional(|cursor| cursor.literal("}"))?.is_some() {
            // An object that only has a name is too common in text.
            if is_careful && arguments.is_none() {
                return Err(Stop::No);
            }
            let rest = Rest::Whole(arguments.unwrap_or_else(|| "{}".to_owned()));
            let name = name.ok_or(Stop::No)?;
            return Ok(Head { name, rest });
        }
        cursor.literal(",")?;
    }
}

/// Arguments that are no object, or come before the name.
fn held_arguments(cursor: &mut Cursor<'_>, first: char) -> Taken<String> {
    match first {
        '{' => cursor.json_value().map(str::to_owned),
        // Some models write the arguments as OpenAI sends them, JSON within a string.
        '"' => cursor.json_string(),
        'n' => {
            cursor.literal("null")?;
            Ok("{}".to_owned())
        }
        _ => Err(Stop::No),
    }
}

/// A member of the arguments, as they are passed on.
pub(super) fn member(count: usize, key: &str) -> String {
    let before = if count == 0 { "{" } else { ", " };
    format!("{before}{}: ", quoted(key))
}
