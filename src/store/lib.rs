//! The storage traits of `domain`, implemented for one process, and some of them for several.
//!
//! Thin on purpose: exact replies, kept responses and keys live in memory and are found there, so but for
//! the audit log, keys that are made while the node runs, what was used of limits, the replies that outlive
//! the process and the records of exchanges nothing here touches a disk. What replicas share is elsewhere:
//! limits are counted and exact replies kept in Redis; records, keys and replies for other questions go to
//! Postgres. Both families of a trait run the same conformance checks.

mod audit;
mod keys;
mod lock;
mod moka_replies;
mod moka_responses;
mod outbox;
mod own_files;
mod postgres;
mod quota;
mod records;
mod redis_address;
mod reuse;
mod secret_file;
mod shared_replies;
mod sqlite;
mod static_keys;
mod subjects;
mod texts;

pub mod conformance;

pub use audit::{
    AuditCopier, AuditCounts, AuditEntry, AuditFile, AuditFileName, AuditReport, AuditRules,
    BATCH_MAX, BREACHES_MAX, Breach, BreachKind, Comparison, CopyFault, CopyState, DIFFERENCES_MAX,
    Difference, ENTRIES_MAX, Exported, LINE_BYTES_MAX, QUEUE_MAX, RETRY_EVERY, Reconciled,
    SKEW_MAX, SYNC_EVERY, TEXT_BYTES_MAX, TEXTS_MAX, TooMuch, Verifier, audit_files, export_copies,
};
pub use keys::{
    Held, KEYS_POLL_EVERY, KeptKey, KeptTeam, KeyCopy, KeyFault, KeyFile, KeyFileError,
    KeyFollower, KeyPlace, KeyRing, KeyRow, KeyShift, KeyTag, KeysHeard, Rows, SharedKeyCounts,
    SharedKeyRules, SharedKeys, ShiftedKeys, StampedRows, TagSecret, UnixClock, UsedDay,
    shift_keys,
};
pub use moka_replies::{MokaReplies, OVERHEAD_BYTES};
pub use moka_responses::MokaResponses;
pub use outbox::Outbox;
pub use postgres::{AddressFault, PostgresAddress, PostgresFault, PostgresLook};
pub use quota::{
    Calendar, ForgetFault, LocalQuotas, Moment, NoTimeZone, QuotaFile, Settled, SharedCounts,
    SharedDriver, SharedQuotas, SharedRules, WhenApart,
};
pub use records::{
    RECORD_BATCH_MAX, RECORD_QUEUE_MAX, RecordCounts, RecordDesk, RecordEraser, RecordReader,
    RecordRules, RecordWriter, RecordsState, ShiftFault, Shifted, ShiftedFile, own_records,
    records_state, shift_records,
};
pub use redis_address::{
    NoRedisAuthorities, RedisAddress, RedisAddressFault, RedisAuthorities, RedisFault, RedisLook,
};
pub use reuse::{
    Clock, ENTRY_OVERHEAD_BYTES, EmbeddedIndex, MemoryIndex, NEIGHBOURS_MAX, REUSE_FOLLOW_EVERY,
    REUSE_HEARD_MAX, REUSE_QUEUE_MAX, ReuseFileError, ReuseRules, STATE_BYTES_MAX, SharedIndex,
    SharedReuseRules,
};
pub use shared_replies::{
    REPLY_LEASE, REPLY_QUEUE_MAX, ReplyDriver, SharedReplies, SharedReplyCounts, SharedReplyRules,
};
pub use static_keys::{StaticKeys, digest_key};
pub use subjects::{SharedMarks, SubjectSecret};
pub use texts::{
    TEXT_KEY_BYTES_MAX, TEXT_SWEEP_EVERY, TextKey, TextKeyFault, TextKeys, TextPolicy, TextVault,
    TextsHeld,
};
