//! What is wrong with a configuration, all of it at once.

use std::fmt;

/// One fault, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// As written in the file: `upstreams[1].base_url`. Empty when the whole file is at fault.
    pub path: String,
    /// What is wrong and what would be right. Never a secret.
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Collects faults, and things that are no faults but worth saying.
#[derive(Debug, Default)]
pub struct Findings {
    pub faults: Vec<ConfigFault>,
    pub warnings: Vec<ConfigFault>,
}

impl Findings {
    pub fn fault(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.faults.push(ConfigFault {
            path: path.into(),
            message: message.into(),
        });
    }

    pub fn warn(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(ConfigFault {
            path: path.into(),
            message: message.into(),
        });
    }
}

/// Every fault of a configuration, one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigFaults(pub Vec<ConfigFault>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {}", count(self.0.len()))?;
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

fn count(faults: usize) -> String {
    match faults {
        1 => "1 fault".to_owned(),
        more => format!("{more} faults"),
    }
}
