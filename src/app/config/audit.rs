//! The audit log of what is sealed: raw, and judged.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::AuditRules;

use super::faults::Findings;
use super::raw::RawConfig;
use super::sections::within;

/// A chained log of what left sealed, or came sealed: numbers and names, never what was said. Kept
/// by nodes that seal or open; `hedge audit verify` reads it. Read at the start.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAudit {
    /// Keep it at all.
    pub enabled: bool,
    /// Left out: `audit` in the folder of the relay (`gateway.dir`), and of another node
    /// `$XDG_DATA_HOME/hedge/audit`, else `~/.local/share/hedge/audit`.
    pub dir: Option<String>,
    /// A file that long is followed by the next.
    pub file_bytes_max: u64,
    /// The oldest files beyond that many are removed. 0: none ever is.
    pub keep_files: u64,
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: None,
            file_bytes_max: 64 * 1024 * 1024,
            keep_files: 64,
        }
    }
}

/// What the log is opened with; `None` where none is kept.
pub fn audit(raw: &RawConfig, data_dir: &Path, findings: &mut Findings) -> Option<AuditRules> {
    let dir = dir(raw, data_dir);
    let raw = &raw.audit;
    // A file's first line alone has some 250 bytes, and each entry some 600.
    let file_bytes_max = within(
        "audit.file_bytes_max",
        raw.file_bytes_max,
        65_536..=1 << 40,
        findings,
    );
    if raw.keep_files == 1 {
        findings.fault(
            "audit.keep_files",
            "must be 0 or at least 2: with 1, a full file is removed as soon as the next begins",
        );
    }
    if raw.dir.as_deref() == Some("") {
        findings.fault("audit.dir", "must not be empty");
    }
    let rules = AuditRules {
        dir,
        file_bytes_max,
        keep_files: (raw.keep_files > 0).then_some(raw.keep_files),
    };
    raw.enabled.then_some(rules)
}

/// A relay and an edge of one user on one machine have a log each.
pub fn dir(raw: &RawConfig, data_dir: &Path) -> PathBuf {
    match (&raw.audit.dir, &raw.gateway) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(gateway)) => Path::new(&gateway.dir).join("audit"),
        (None, None) => data_dir.join("audit"),
    }
}
