//! What a row of the table of families says.

use super::families::{FAMILIES, GENERIC, PLAIN, THOUGHTS};

/// How one family of models writes.
#[derive(Debug)]
pub(crate) struct Family {
    /// As in the docs and the fixtures.
    pub name: &'static str,
    /// Its chat templates have all texts of one of these rows.
    pub signs: &'static [&'static [&'static str]],
    /// The forms its calls come in. Of several that begin alike the first that fits counts.
    pub forms: &'static [Form],
    /// How a call that must be made is written; `None` where that cannot be held to.
    pub forced: Option<ForcedForm>,
    pub ids: Ids,
    /// Replies are messages, each with a header that names its channel (`channels.rs`).
    pub is_channelled: bool,
    /// Other texts that some vocabularies hold as control tokens and that must be kept.
    pub marks: &'static [&'static str],
}

/// A block of one or more calls.
#[derive(Debug)]
pub(crate) struct Form {
    /// Any of these begins a block; with the empty text, a reply may begin with a call at once.
    pub opens: &'static [&'static str],
    /// May end the block; many models leave it out at the end of a reply.
    pub close: &'static str,
    pub call: Call,
    /// Only calls of tools that the request has count: without marks, or with marks that are common
    /// in text, anything else is text.
    pub is_careful: bool,
}

/// How one call is written.
#[derive(Debug)]
pub(crate) enum Call {
    /// `{"name": "f", "arguments": {…}}`, several also in a list or one after another.
    Object,
    /// `before`, perhaps `kind`, the name, `between`, the arguments' JSON, `after`.
    Named {
        before: &'static str,
        kind: &'static str,
        /// A stretch that may follow the name: a mark, and anything up to `between`.
        id: &'static str,
        between: &'static [&'static str],
        after: &'static [&'static str],
    },
    /// `<function=f>`, then `<parameter=key>value</parameter>` for each argument, `</function>`.
    Tags,
    /// `f(key=value, …)`, several in a list.
    Python,
    /// `call:f{key:value, …}`, strings between two of `quote`.
    Braces { quote: &'static str },
    /// The JSON body of a message, whose header named the tool.
    Message,
}

/// How a call that must be made is written; what is read again by the family's first form.
#[derive(Debug)]
pub(crate) struct ForcedForm {
    /// Before the first call, and after the last.
    pub block: (&'static str, &'static str),
    /// Before the name.
    pub before: &'static str,
    /// Between the name and the arguments.
    pub between: &'static str,
    /// After the arguments.
    pub after: &'static str,
    /// Between calls; `None`: the family makes one call at a time.
    pub joint: Option<&'static str>,
    /// The name is a string of JSON, and may be anything.
    pub is_quoted: bool,
}

/// What ids of calls look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// `call_`, the reply's stem, the call's index.
    Usual,
    /// Nine letters or digits: Mistral's templates refuse a history with other ones.
    Nine,
}

/// The marks around a thought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ThoughtMarks {
    pub open: &'static str,
    pub close: &'static str,
}

/// How one model writes, as its chat template tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub family: &'static Family,
    /// `None` when the template knows no thoughts.
    pub thoughts: Option<&'static ThoughtMarks>,
}

impl Manner {
    /// `template`: the file's own text.
    pub(crate) fn of(template: &str) -> Self {
        let has = |text: &str| template.contains(text);
        let is_of = |family: &&&Family| {
            let mut rows = family.signs.iter();
            rows.any(|row| row.iter().all(|sign| has(sign)))
        };
        let family = FAMILIES.iter().find(is_of).copied().unwrap_or(&GENERIC);
        Self {
            family,
            // Some templates only cut thoughts out of earlier replies.
            thoughts: THOUGHTS
                .iter()
                .find(|marks| has(marks.open) || has(marks.close)),
        }
    }

    /// Texts to be kept where the vocabulary holds them as control tokens.
    pub(crate) fn marks(&self) -> Vec<&'static str> {
        let family = self.family;
        let thoughts = self.thoughts.unwrap_or(&THOUGHTS[0]);
        let forms = family.forms.iter().flat_map(|form| {
            let call: &[&str] = match &form.call {
                Call::Named {
                    before,
                    id,
                    between,
                    after,
                    ..
                } => {
                    return [form.opens, &[form.close, before, id], between, after].concat();
                }
                Call::Braces { quote } => &[quote],
                Call::Object | Call::Tags | Call::Python | Call::Message => &[],
            };
            [form.opens, &[form.close], call].concat()
        });
        let mut marks: Vec<&str> = forms
            .chain(family.marks.iter().copied())
            .chain([thoughts.open, thoughts.close])
            .map(str::trim)
            .filter(|mark| !mark.is_empty())
            .collect();
        marks.sort_unstable_by_key(|mark| std::cmp::Reverse(mark.len()));
        marks.dedup();
        marks
    }
}

impl Default for Manner {
    /// Neither calls nor thoughts.
    fn default() -> Self {
        Self {
            family: &PLAIN,
            thoughts: None,
        }
    }
}

impl PartialEq for Manner {
    fn eq(&self, other: &Self) -> bool {
        (self.family.name, self.thoughts) == (other.family.name, other.thoughts)
    }
}

/// The thought that `prompt`, a template's own text, ends within.
pub(crate) fn opened_thought(prompt: &str) -> Option<&'static ThoughtMarks> {
    let end = prompt.trim_end();
    THOUGHTS
        .iter()
        .find(|marks| end.ends_with(marks.open.trim_end()))
}
