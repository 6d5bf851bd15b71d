//! How families of models write thoughts and tool calls, and reading them as they come.
//!
//! ```text
//! the file's chat template ── Manner::of ──► Family (a row of the table) + thought marks
//! text, as it comes ──► Reader ──► Spoken: text, thoughts, calls with their arguments in stretches
//! ```
//! A family is data: the marks around calls, the form of what lies between, and how a forced call
//! is to be written. One [`Reader`] reads them all. Nothing that may be a mark or the beginning of a
//! call is passed on before it is known not to be one, and at most [`HELD_BYTES_MAX`] is held back
//! for it. What looked like a call and is none comes out as text, as it was written. A call that
//! breaks off after its name was passed on keeps what it had: its arguments are then no whole JSON,
//! and what follows is text.
//!
//! Not here: grammars for forced calls, which `grammar/calls.rs` makes from a family's
//! [`ForcedForm`]; ids of calls, which [`crate::voice`] gives.

mod channels;
mod cursor;
mod families;
mod family;
mod head;
mod literals;
mod offered;
mod reader;
mod scan;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::seeds;

pub(crate) use channels::{ANSWER_OPEN, REMARK};
#[cfg(any(fuzzing, test))]
pub(crate) use families::FAMILIES;
#[cfg(test)]
pub(crate) use families::HERMES;
#[cfg(test)]
pub(crate) use family::Family;
pub(crate) use family::{ForcedForm, Ids, Manner, ThoughtMarks, opened_thought};
pub(crate) use head::is_of_name;
pub(crate) use offered::Offered;
pub(crate) use reader::{Beginning, Reader, Spoken};

/// Text that is held back until it is known what it is: the head of a call up to its arguments, or
/// one argument of the forms whose arguments are not JSON. What is longer counts as broken.
const HELD_BYTES_MAX: usize = 64 * 1024;
