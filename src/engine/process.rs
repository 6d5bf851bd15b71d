//! The engine in a process of its own, behind the same [`domain::Backend`].
//!
//! ```text
//! proxy:  Remote ─► Desk ◄─► RemoteDriver ═══ socket ═══ serve ─► Engine   :child
//!         stream ◄─ line     (supervisor)     frames
//! ```
//! llama.cpp's assertions, an exception that crosses its border, a driver's fault: each ends the
//! process it happens in. Here that is a child with nothing but the model. Its replies under way
//! end with an error at once, and it is started again, later each time; one that dies while
//! loading is given up after three times.
//!
//! Both sides speak `frame`s of the messages in `words` over a socket that has no name. Every reply
//! has a window of events: the child sends no more than were read, so that a slow reader pauses
//! its own slot and nothing else.
//!
//! A child that hangs does the same to its replies as one that ended, only later: it says several
//! times a second that its engine's thread moves or rests, and is ended when that word stays out
//! for `hang_max`. While it loads it need not say so.
//!
//! Not here: what runs in the child besides (its command is `app`'s).

mod desk;
mod encoders;
mod frame;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod launch;
mod remote;
mod serve;
mod supervisor;
mod tenant;
#[cfg(test)]
mod tests;
mod words;

pub use desk::QUARANTINED;
pub use encoders::{RemoteEmbedder, RemoteReranker};
pub use launch::Program;
pub use remote::{Remote, RemoteDriver};
pub use serve::{ServeError, serve};
pub use tenant::Loaded;
pub use words::Job;
