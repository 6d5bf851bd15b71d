//! Whether the reply to one question may answer another.
//!
//! Two questions are compared in layers, each cheap. [`Question`] is a text read once: its words, and
//! what in them must not differ. A [`Guard`] refuses a pair by what it can point at: a number, a
//! name, a "not". The [`Scorer`] gives what is left a calibrated probability, and [`Acceptance`]
//! decides by it, by what is known of the entry, and by how often the operator will be wrong.
//!
//! ```text
//! text ─Question─► words, numbers, names … ─┐
//! text ─Question─► …                        ├─judge─► Judgement ─Acceptance─► Serve | Shadow | Miss
//! similarity, vectors ──────────────────────┤             └────── learn ◄── was it right?
//! what else is near ─Company─► …           ─┘
//! ```
//!
//! Nothing here reads a clock or draws a number: a draw comes as an argument. Every text of any length
//! is read; what is beyond [`WORDS_MAX`] words is compared by digest, so that cutting a text short
//! never makes it equal to another.

mod acceptance;
mod company;
mod compared;
mod forest;
mod guard;
mod judge;
mod lexicon;
mod marks;
mod product;
mod question;
mod scorer;
mod unchecked;
mod words;

pub use acceptance::{Acceptance, AcceptanceRules, Verdict};
pub use company::{COMPANY_FIGURES, COMPANY_NAMES, Company, NEAR_MAX, Near};
pub use compared::{FEATURE_NAMES, FEATURES, OF_PAIR};
pub use guard::Guard;
pub use judge::{Judgement, Pair, features, judge, strict_guard};
pub use marks::Marks;
pub use product::product;
pub use question::{Class, Kind, Question, WhyNot};
pub use scorer::{Scorer, ScorerFault};
pub use words::WORDS_MAX;

#[cfg(test)]
mod tests;
