//! Limits kept in this process or, for several replicas, in Redis ([`SharedQuotas`]), and their arithmetic.
//!
//! | period | kept as | begins anew |
//! | --- | --- | --- |
//! | second, minute, hour | `Bucket`: one instant | steadily |
//! | day, month | `Account`: settled and held | with the calendar, in a time zone |
//! | ever | `Account` | never |
//! | at once (concurrency) | `Account`, of which nothing is ever settled | with each exchange that ends |
//!
//! The arithmetic is values that are told the time. What was settled can be written down and brought
//! back ([`LocalQuotas::settled`], [`LocalQuotas::restore`]); what was held is not: after a crash the
//! exchanges that it was for are gone.

mod account;
mod bucket;
mod calendar;
mod file;
mod local;
mod shared;

#[cfg(test)]
mod tests;

pub use calendar::{Calendar, NoTimeZone};
pub use file::QuotaFile;
pub use local::{LocalQuotas, Moment, Settled};
#[cfg(test)]
pub(crate) use shared::tests::server::Server as RedisServer;
pub use shared::{ForgetFault, SharedCounts, SharedDriver, SharedQuotas, SharedRules, WhenApart};
