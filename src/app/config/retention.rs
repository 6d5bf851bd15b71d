//! What exchanges said, kept where the operator says so: raw, and judged.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::{TeamId, TextRules, TextView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::faults::Findings;
use super::raw::RawConfig;
use super::secret::Surroundings;
use super::sections::within;

const DAY: Duration = Duration::from_secs(86_400);

/// Ten years.
const DAYS_MAX: u32 = 3_650;

/// The newest, and those that still open what they sealed.
const KEYS_MAX: usize = 8;

/// Of one command: words, and variables that it is given.
const WORDS_MAX: usize = 64;

/// Variables that a command has anyway: where programs and their settings are.
const ALWAYS_GIVEN: [&str; 2] = ["PATH", "HOME"];

/// What exchanges said, kept for some time, encrypted: off unless it is switched on here. See
/// docs/retention.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRetention {
    /// Keep prompts and replies.
    pub enabled: bool,
    /// Of these teams. Left out: of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teams: Option<Vec<String>>,
    /// They are removed so many days after their exchange ended. Required where `enabled` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
    /// In which form.
    pub view: RawTextView,
    /// Of what was asked, and of what was answered: beyond so many bytes each is cut.
    pub text_bytes_max: u64,
    /// Beyond so many bytes of the file the oldest are removed.
    pub bytes_max: u64,
    /// The folder. Left out: `texts` in the folder of the relay (`gateway.dir`), and of another node
    /// `$XDG_DATA_HOME/hedge/texts`, else `~/.local/share/hedge/texts`. Read at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Newest first: the first one seals, all of them open. At least one where `enabled` is set.
    pub keys: Vec<RawTextKey>,
}

/// In which form prompts and replies are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawTextView {
    /// Values of personal data are placeholders, as they are for a public upstream.
    #[default]
    Masked,
    /// As they were said, personal data and all.
    Raw,
}

/// Where a key is from: a file or a command. 32 bytes, as 64 hexadecimal digits or in base64.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTextKey {
    /// A file that this user alone may read (0600).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A program and its arguments, without a shell, that prints the key: of a KMS, its command to decrypt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Variables of this process that the command gets, beside PATH and HOME.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
}

impl Default for RawRetention {
    fn default() -> Self {
        Self {
            enabled: false,
            teams: None,
            keep_days: None,
            view: RawTextView::Masked,
            text_bytes_max: 64 * 1024,
            bytes_max: 1024 * 1024 * 1024,
            dir: None,
            keys: Vec::new(),
        }
    }
}

/// What is kept of what is said.
#[derive(Clone, Debug)]
pub struct RetentionSettings {
    pub rules: TextRules,
    /// Of the file.
    pub bytes_max: u64,
    /// Newest first.
    pub keys: Vec<TextKeySource>,
}

/// Where a key is from.
#[derive(Clone, PartialEq, Eq)]
pub enum TextKeySource {
    File(PathBuf),
    Command {
        words: Vec<String>,
        environment: BTreeMap<String, String>,
    },
}

impl fmt::Debug for TextKeySource {
    /// Without the values of variables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Command { words, .. } => write!(f, "Command({:?})", words.first()),
        }
    }
}

/// `None` where nothing is kept.
pub fn retention(
    raw: &RawConfig,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<RetentionSettings> {
    let raw = &raw.retention;
    let text_bytes = 1024..=1024 * 1024;
    let path = "retention.text_bytes_max";
    let text_bytes_max = within(path, raw.text_bytes_max, text_bytes, findings);
    let bytes = 1024 * 1024..=1 << 40;
    let bytes_max = within("retention.bytes_max", raw.bytes_max, bytes, findings);
    let days = raw.keep_days;
    let days = days.map(|days| within("retention.keep_days", days, 1..=DAYS_MAX, findings));
    if raw.dir.as_deref() == Some("") {
        findings.fault("retention.dir", "must not be empty");
    }
    let keys = keys(&raw.keys, around, findings);
    let teams = teams(raw, findings);
    if !raw.enabled {
        if days.is_some() || !raw.keys.is_empty() || raw.teams.is_some() {
            findings.warn("retention.enabled", "is false: nothing further is kept");
        }
        return None;
    }
    if raw.keys.is_empty() {
        findings.fault(
            "retention.keys",
            "is empty, and nothing is kept in the clear; make a key with `openssl rand -hex 32 > FILE` \
             and `chmod 600 FILE`, and name it: keys = [{ file = \"FILE\" }]",
        );
    }
    let Some(days) = days else {
        findings.fault(
            "retention.keep_days",
            "is required: after how many days prompts and replies are removed",
        );
        return None;
    };
    let view = match raw.view {
        RawTextView::Masked => TextView::Masked,
        RawTextView::Raw => {
            findings.warn(
                "retention.view",
                "is raw: personal data is kept as it was said, encrypted",
            );
            TextView::Raw
        }
    };
    Some(RetentionSettings {
        rules: TextRules {
            teams,
            view,
            keep: DAY * days,
            text_bytes_max: usize::try_from(text_bytes_max).unwrap_or(usize::MAX),
        },
        bytes_max,
        keys,
    })
}

fn teams(raw: &RawRetention, findings: &mut Findings) -> Option<Vec<TeamId>> {
    let teams = raw.teams.as_ref()?;
    if teams.is_empty() {
        findings.fault(
            "retention.teams",
            "is empty, so nobody's would be kept; leave it out for all teams, or set enabled = false",
        );
    }
    for (at, team) in teams.iter().enumerate() {
        if team.is_empty() {
            findings.fault(format!("retention.teams[{at}]"), "must not be empty");
        }
    }
    Some(teams.iter().map(TeamId::new).collect())
}

fn keys(
    raw: &[RawTextKey],
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<TextKeySource> {
    if raw.len() > KEYS_MAX {
        let words = format!("{} keys; from 1 to {KEYS_MAX}", raw.len());
        findings.fault("retention.keys", words);
    }
    let mut keys = Vec::new();
    for (at, raw) in raw.iter().enumerate().take(KEYS_MAX) {
        let path = format!("retention.keys[{at}]");
        let key = match (&raw.file, raw.command.as_slice()) {
            (Some(file), []) if !file.is_empty() => {
                if !raw.environment.is_empty() {
                    let path = format!("{path}.environment");
                    findings.fault(path, "is of a command, and a file has none");
                }
                TextKeySource::File(PathBuf::from(file))
            }
            (None, [program, ..]) if !program.is_empty() && raw.command.len() <= WORDS_MAX => {
                TextKeySource::Command {
                    words: raw.command.clone(),
                    environment: given(&path, &raw.environment, around, findings),
                }
            }
            (None, [_, ..]) => {
                let path = format!("{path}.command");
                let words = format!("is a program and its arguments, at most {WORDS_MAX} words");
                findings.fault(path, words);
                continue;
            }
            _ => {
                findings.fault(path, "is one of `file` and `command`");
                continue;
            }
        };
        if keys.contains(&key) {
            findings.fault(path, "is there twice");
        }
        keys.push(key);
    }
    keys
}

/// The variables that a command is given, and no others.
fn given(
    path: &str,
    names: &[String],
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, String> {
    let mut given = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        let path = format!("{path}.environment[{at}]");
        if at >= WORDS_MAX {
            findings.fault(path, format!("is one too many; at most {WORDS_MAX}"));
            break;
        }
        match around.environment.get(name) {
            _ if name.starts_with("HEDGE_") => {
                findings.fault(path, "is hedge's own, and may be a secret");
            }
            Some(value) => drop(given.insert(name.clone(), value.clone())),
            None => findings.fault(path, format!("the environment has no {name}; export it")),
        }
    }
    for name in ALWAYS_GIVEN {
        if let Some(value) = around.environment.get(name) {
            given.insert(name.to_owned(), value.clone());
        }
    }
    given
}

/// Where they are, also where nothing further is kept: what is there is removed on time all the same.
pub fn dir(raw: &RawConfig, data_dir: &Path) -> PathBuf {
    match (&raw.retention.dir, &raw.gateway) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(gateway)) => Path::new(&gateway.dir).join("texts"),
        (None, None) => data_dir.join("texts"),
    }
}
