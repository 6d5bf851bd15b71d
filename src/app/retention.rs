//! What exchanges said, kept: who takes it and who seals it, and the keys for that, fetched from where the
//! configuration says: a file, or a command.

use std::collections::BTreeMap;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use pipeline::{TextWriter, Texts};
use store::{TEXT_KEY_BYTES_MAX, TextKey, TextKeyFault, TextKeys, TextPolicy, TextVault};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::{Config, ConfigFault, RetentionSettings, TextKeySource};
use crate::metrics::Metrics;

/// For a KMS to answer.
const COMMAND_MAX: Duration = Duration::from_secs(10);

/// Who takes texts, and where they go.
#[derive(Clone, Debug)]
pub struct Retention {
    pub texts: Arc<Texts>,
    pub vault: Arc<TextVault>,
}

impl Retention {
    /// In the configuration's folder; nothing is kept before there is a policy.
    pub fn new(config: &Config) -> (Self, TextWriter) {
        let vault = TextVault::new(&config.texts_dir, Arc::new(SystemTime::now));
        let (texts, writer) = Texts::new(Arc::clone(&vault) as _);
        (Self { texts, vault }, writer)
    }

    /// From now on it is as `config` says, with the keys that were fetched for it.
    pub fn apply(&self, config: &Config, policy: Option<TextPolicy>, metrics: &Metrics) {
        let rules = config.retention.as_ref().map(|it| it.rules.clone());
        if rules.is_some() || self.vault.is_there() {
            metrics.watch_texts(&self.texts, &self.vault);
        }
        self.vault.set_policy(policy);
        self.texts.set_rules(rules);
    }
}

/// The policy of `config` with its keys; `None` where nothing is kept.
///
/// # Errors
/// A key cannot be had: what was asked for cannot be done.
pub async fn policy_of(config: &Config) -> Result<Option<TextPolicy>, ConfigFault> {
    match &config.retention {
        Some(settings) => policy(settings).await.map(Some),
        None => Ok(None),
    }
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceFault {
    #[error("{path}: {}", domain::chain(.source))]
    File {
        path: String,
        #[source]
        source: TextKeyFault,
    },
    #[error("{program} cannot be run: {source}")]
    Unstarted {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} did not end within {COMMAND_MAX:?}")]
    Late { program: String },
    #[error("{program} ended with {status}; run it by hand to see what it says")]
    Failed { program: String, status: ExitStatus },
    #[error("what {program} prints is longer than a key")]
    TooLong { program: String },
    #[error("what {program} prints: {source}")]
    Printed {
        program: String,
        #[source]
        source: TextKeyFault,
    },
}

/// The policy with its keys.
///
/// # Errors
/// The first key that cannot be had, with its path.
async fn policy(settings: &RetentionSettings) -> Result<TextPolicy, ConfigFault> {
    let mut keys = Vec::new();
    // At once: each may take as long as a command may.
    let fetched = join_all(settings.keys.iter().map(fetch)).await;
    for (at, key) in fetched.into_iter().enumerate() {
        let path = || format!("retention.keys[{at}]");
        let key = key.map_err(|fault| in_words(path(), &fault))?;
        if keys.contains(&key) {
            let message = "is the same key as one before it".to_owned();
            return Err(ConfigFault {
                path: path(),
                message,
            });
        }
        keys.push(key);
    }
    let keys = TextKeys::new(keys).ok_or_else(|| ConfigFault {
        path: "retention.keys".to_owned(),
        message: "is empty".to_owned(),
    })?;
    Ok(TextPolicy {
        keys,
        keep: settings.rules.keep,
        bytes_max: settings.bytes_max,
    })
}

/// Keys that cannot be read, of those in files: nobody is asked.
#[must_use]
pub fn unreadable(settings: &RetentionSettings) -> Vec<ConfigFault> {
    let sources = settings.keys.iter().enumerate();
    let faults = sources.filter_map(|(at, source)| {
        let TextKeySource::File(_) = source else {
            return None;
        };
        let fault = of_file(source)?.err()?;
        Some(in_words(format!("retention.keys[{at}]"), &fault))
    });
    faults.collect()
}

fn in_words(path: String, fault: &KeySourceFault) -> ConfigFault {
    ConfigFault {
        path,
        message: format!(
            "{fault}; without it nothing can be kept. Mend it, or set retention.enabled = false"
        ),
    }
}

/// The key itself.
///
/// # Errors
/// It cannot be had.
pub async fn fetch(source: &TextKeySource) -> Result<TextKey, KeySourceFault> {
    match source {
        TextKeySource::Command { words, environment } => of_command(words, environment).await,
        TextKeySource::File(_) => {
            let source = source.clone();
            let reading = tokio::task::spawn_blocking(move || of_file(&source));
            let read = reading.await.ok().flatten();
            read.unwrap_or_else(|| {
                Err(KeySourceFault::File {
                    path: String::new(),
                    source: TextKeyFault::Malformed,
                })
            })
        }
    }
}

/// `None` of a command.
fn of_file(source: &TextKeySource) -> Option<Result<TextKey, KeySourceFault>> {
    let TextKeySource::File(path) = source else {
        return None;
    };
    Some(TextKey::read(path).map_err(|source| KeySourceFault::File {
        path: path.display().to_string(),
        source,
    }))
}

/// It gets no input, none of this process's variables but those that are named, and what it says to standard
/// error goes nowhere: it may hold the key.
async fn of_command(
    words: &[String],
    environment: &BTreeMap<String, String>,
) -> Result<TextKey, KeySourceFault> {
    let program = words.first().cloned().unwrap_or_default();
    let unstarted = |source| KeySourceFault::Unstarted {
        program: program.clone(),
        source,
    };
    let mut child = Command::new(&program)
        .args(words.iter().skip(1))
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(unstarted)?;
    let output = child.stdout.take();
    let running = async {
        let mut printed = Vec::new();
        if let Some(output) = output {
            // What is longer is left unread, and the command ends when it is dropped.
            let limit = TEXT_KEY_BYTES_MAX as u64 + 1;
            output.take(limit).read_to_end(&mut printed).await?;
        }
        let is_whole = printed.len() <= TEXT_KEY_BYTES_MAX;
        let status = match is_whole {
            true => Some(child.wait().await?),
            false => None,
        };
        Ok((printed, status))
    };
    let (printed, status) = match timeout(COMMAND_MAX, running).await {
        Err(_) => return Err(KeySourceFault::Late { program }),
        Ok(done) => done.map_err(unstarted)?,
    };
    match status {
        None => Err(KeySourceFault::TooLong { program }),
        Some(status) if !status.success() => Err(KeySourceFault::Failed { program, status }),
        Some(_) => {
            let text = String::from_utf8(printed).map_err(|_| TextKeyFault::Malformed);
            let key = text.and_then(|text| TextKey::parse(&text));
            key.map_err(|source| KeySourceFault::Printed { program, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn shell(script: &str) -> TextKeySource {
        let environment = [("PATH", "/usr/bin:/bin"), ("GIVEN", HEX)];
        TextKeySource::Command {
            words: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        }
    }

    #[tokio::test]
    async fn a_command_prints_a_key_and_nothing_else_is_one() {
        let key = TextKey::parse(HEX).unwrap();
        let printed = fetch(&shell(&format!("echo {HEX}; echo noise >&2"))).await;
        assert!(printed.unwrap() == key);
        assert!(fetch(&shell("echo $GIVEN")).await.unwrap() == key);
        for (script, wanted) in [
            ("exit 3", "ended with exit status: 3"),
            ("true", "it is no key"),
            ("echo secret-and-wrong", "it is no key"),
            ("printf '\\377'", "it is no key"),
            ("yes", "longer than a key"),
            // Its own variables are not this process's.
            ("echo $CARGO_MANIFEST_DIR", "it is no key"),
        ] {
            let fault = fetch(&shell(script)).await.unwrap_err().to_string();
            assert!(fault.contains(wanted), "{script}: {fault}");
            assert!(!fault.contains("secret-and-wrong"));
        }
        let none = TextKeySource::Command {
            words: vec!["/nonexistent/kms".to_owned()],
            environment: BTreeMap::new(),
        };
        let fault = fetch(&none).await.unwrap_err().to_string();
        assert!(fault.contains("/nonexistent/kms cannot be run"), "{fault}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_hangs_is_ended() {
        let fault = fetch(&shell("sleep 600")).await.unwrap_err();
        assert!(matches!(fault, KeySourceFault::Late { .. }), "{fault}");
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_is_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let source = TextKeySource::File(path.clone());
        let settings = |keys: Vec<TextKeySource>| RetentionSettings {
            rules: domain::TextRules {
                teams: None,
                view: domain::TextView::Masked,
                keep: Duration::from_secs(1),
                text_bytes_max: 1,
            },
            bytes_max: 1,
            keys,
        };
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let faults = unreadable(&settings(vec![source.clone()]));
        assert!(faults[0].message.contains("No such file"), "{faults:?}");
        std::fs::write(&path, format!("{HEX}\n")).unwrap();
        mode(&path, 0o640);
        let faults = unreadable(&settings(vec![source.clone()]));
        assert!(faults[0].message.contains("0600"), "{faults:?}");
        assert_eq!(faults[0].path, "retention.keys[0]");
        mode(&path, 0o400);
        assert!(unreadable(&settings(vec![source.clone()])).is_empty());
        let key = TextKey::parse(HEX).unwrap();
        let held = policy(&settings(vec![source.clone()])).await.unwrap();
        assert_eq!(held.keys.newest(), key.name());
        let twice = policy(&settings(vec![source, shell(&format!("echo {HEX}"))])).await;
        let fault = twice.unwrap_err();
        assert_eq!(fault.path, "retention.keys[1]");
    }
}
