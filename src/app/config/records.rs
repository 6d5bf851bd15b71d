//! Records of exchanges: raw, and judged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::RecordRules;

use super::faults::Findings;
use super::raw::RawConfig;
use super::sections::within;

const DAY: Duration = Duration::from_secs(86_400);

/// What is kept of each exchange, however it ended: numbers and names, never what was said. `hedge
/// savings` reads it. Read at the start. See docs/records.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRecords {
    /// Keep them at all.
    pub enabled: bool,
    /// The folder. Left out: `records` in the folder of the relay (`gateway.dir`), and of another node
    /// `$XDG_DATA_HOME/hedge/records`, else `~/.local/share/hedge/records`.
    pub dir: Option<String>,
    /// They are removed so many days after their exchange ended. 0: never for their age.
    pub keep_days: u32,
    /// Beyond so many bytes the oldest are removed.
    pub bytes_max: u64,
}

impl Default for RawRecords {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: None,
            keep_days: 90,
            bytes_max: 1024 * 1024 * 1024,
        }
    }
}

/// `None` where none are kept.
pub fn records(raw: &RawConfig, data_dir: &Path, findings: &mut Findings) -> Option<RecordRules> {
    let dir = dir(raw, data_dir);
    let raw = &raw.records;
    // A century.
    let days = within("records.keep_days", raw.keep_days, 0..=36_525, findings);
    let bytes = 1024 * 1024..=1 << 40;
    let bytes_max = within("records.bytes_max", raw.bytes_max, bytes, findings);
    if raw.dir.as_deref() == Some("") {
        findings.fault("records.dir", "must not be empty");
    }
    let rules = RecordRules {
        dir,
        keep: DAY * days,
        bytes_max,
    };
    raw.enabled.then_some(rules)
}

/// A relay and an edge of one user on one machine have records each.
pub fn dir(raw: &RawConfig, data_dir: &Path) -> PathBuf {
    match (&raw.records.dir, &raw.gateway) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(gateway)) => Path::new(&gateway.dir).join("records"),
        (None, None) => data_dir.join("records"),
    }
}
