//! One line: what is in it, in which order, and its digest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::{AdminChange, SealedEntry};
use hashing::sha256;
use serde::{Deserialize, Serialize};

use super::{LINE_BYTES_MAX, TEXT_BYTES_MAX};

/// What the first line of a log names as the digest of the one before it.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What stands between a line's members and its digest, which is of all before this.
const HASH_MEMBER: &[u8] = b",\"hash\":\"";
const HASH_BYTES: usize = 64;
const END: &[u8] = b"\"}";

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The first line of all.
    Begin,
    /// The first line of a further file: `last_file` is the one before.
    Next,
    /// A process went on with the chain.
    Start,
    Entry,
    /// An operator changed something.
    Change,
    /// `lost` entries are missing here.
    Gap,
}

/// All members of every kind, in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    pub seq: u64,
    pub prev: String,
    pub kind: Kind,
    pub at_ms: u64,
    #[serde(flatten)]
    pub rest: Rest,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Rest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_file: Option<String>,
    /// What a crash left of a line, and where that was put.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_microusd: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Rest {
    pub fn of(entry: &SealedEntry) -> Self {
        let text = |it: &Option<String>| it.as_deref().map(cut);
        Self {
            side: Some(entry.side.as_label().to_owned()),
            edge: text(&entry.edge),
            relay: Some(cut(&entry.relay)),
            certificate: text(&entry.certificate),
            key_id: Some(entry.key_id),
            enc: Some(cut(&entry.enc)),
            path: text(&entry.path),
            model: text(&entry.model),
            tokens_in: entry.tokens_in,
            tokens_out: entry.tokens_out,
            shape: text(&entry.shape),
            bytes_up: Some(entry.bytes_up),
            bytes_down: Some(entry.bytes_down),
            status: entry.status,
            took_us: Some(microseconds(entry.took)),
            cost_microusd: entry.cost.map(|cost| cost.0),
            result: Some(entry.result.as_label().to_owned()),
            ..Self::default()
        }
    }

    pub fn of_change(change: &AdminChange) -> Self {
        Self {
            who: Some(cut(&change.who)),
            what: Some(change.what.to_owned()),
            id: Some(cut(&change.id)),
            ..Self::default()
        }
    }
}

impl Line {
    /// With its digest and its end, and the digest alone.
    pub fn write(&self, out: &mut Vec<u8>) -> String {
        let from = out.len();
        serde_json::to_writer(&mut *out, self).expect("a line is made of numbers and texts");
        // The brace that closes it comes after the digest.
        out.pop();
        let hash = digest(&out[from..]);
        out.extend_from_slice(HASH_MEMBER);
        out.extend_from_slice(hash.as_bytes());
        out.extend_from_slice(END);
        out.push(b'\n');
        hash
    }

    /// A line without its end, and its digest, which is as it should be.
    pub fn read(bytes: &[u8]) -> Result<(Self, String), Unreadable> {
        if bytes.len() >= LINE_BYTES_MAX {
            return Err(Unreadable::Form);
        }
        let rest = bytes.strip_suffix(END).ok_or(Unreadable::Form)?;
        let at = rest.len().checked_sub(HASH_BYTES);
        let (rest, hash) = rest.split_at(at.ok_or(Unreadable::Form)?);
        let said = rest.strip_suffix(HASH_MEMBER).ok_or(Unreadable::Form)?;
        if digest(said).as_bytes() != hash {
            return Err(Unreadable::Hash);
        }
        let line = serde_json::from_slice(bytes).map_err(|_| Unreadable::Form)?;
        Ok((line, String::from_utf8_lossy(hash).into_owned()))
    }
}

/// Why bytes are no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    Form,
    Hash,
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    sha256(bytes)
        .iter()
        .fold(String::with_capacity(HASH_BYTES), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Since 1970; 0 for times before.
pub(super) fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = TEXT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
