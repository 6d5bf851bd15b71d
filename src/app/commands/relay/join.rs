//! `hedge relay join`: this machine becomes an edge, and its configuration says so.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use super::absolute;
use crate::cli::RelayJoinArgs;
use crate::config::{self, ConfigFault};
use crate::sealed::{self, JoinToken, MemberFolder, put_file, relay_url};
use crate::terminal;

const HEDGE_FILE: &str = "hedge.toml";

pub fn join(chosen: Option<&Path>, args: &RelayJoinArgs) -> anyhow::Result<ExitCode> {
    let environment = config::environment();
    let url = relay_url(&args.url)?;
    let token = token(&args.token)?;
    // Failing means that one is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = crate::commands::runtime()?;
    // A token is used once, so what can fail fails before.
    let chosen_dir = args.dir.as_deref().map(absolute);
    let usual = config::member_folder("", &environment);
    MemberFolder::new(absolute(chosen_dir.as_deref().unwrap_or(&usual))).make()?;
    let joined = runtime.block_on(sealed::join(&url, &token))?;
    let admission = &joined.admission;
    let member = match &chosen_dir {
        Some(dir) => dir.to_string_lossy().into_owned(),
        None => admission.relay_id.clone(),
    };
    let folder = MemberFolder::new(absolute(&config::member_folder(&member, &environment)));
    folder.found(&url, &joined)?;
    terminal::say(format!(
        "joined  {} as {}; the certificate is renewed by itself\nfolder  {}",
        admission.relay_id,
        admission.edge_id,
        folder.path().display()
    ));
    let entry = Entry {
        name: args
            .name
            .clone()
            .unwrap_or_else(|| admission.relay_id.clone()),
        models: if admission.models.is_empty() {
            vec!["auto".to_owned()]
        } else {
            admission.models.clone()
        },
        member,
    };
    let file = config::find_file(chosen, &environment);
    let file = file.unwrap_or_else(|| PathBuf::from(HEDGE_FILE));
    match entry.add_to(&file) {
        Ok(added) => terminal::say(format!("config  {}: {added}", file.display())),
        Err(error) => {
            terminal::note(format!(
                "{} was left as it is: {error:#}. Put this into it by hand:\n{}",
                file.display(),
                entry.text()
            ));
            return Ok(ExitCode::FAILURE);
        }
    }
    let flag = super::config_flag(chosen);
    terminal::say(format!(
        "\nNext:\n  hedge serve{flag}\n  hedge chat --model {}/{} \"What is the capital of Portugal?\"",
        entry.name, entry.models[0]
    ));
    Ok(ExitCode::SUCCESS)
}

fn token(text: &str) -> anyhow::Result<JoinToken> {
    if text != "-" {
        return Ok(text.parse()?);
    }
    let mut line = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().read_line(&mut line);
    read.context("cannot read the token from standard input")?;
    Ok(line.parse()?)
}

/// A `[[relays]]` of an edge's file.
struct Entry {
    name: String,
    models: Vec<String>,
    member: String,
}

impl Entry {
    fn text(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        format!(
            "# Added by `hedge relay join`: what is asked of {name} is sealed here, and opened there.\n\
             [[relays]]\n\
             name = {name}\n\
             models = {}\n\
             members = [{}]\n",
            toml::Value::from(self.models.clone()),
            quoted(&self.member),
            name = quoted(&self.name),
        )
    }

    /// Puts it after what is there, where that leaves everything right that was. What was done.
    fn add_to(&self, file: &Path) -> anyhow::Result<String> {
        let before = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context("it cannot be read"),
        };
        if self.is_in(&before)? {
            return Ok(format!("[[relays]] `{}` is there already", self.name));
        }
        let gap = match before.as_str() {
            "" => "",
            before if before.ends_with('\n') => "\n",
            _ => "\n\n",
        };
        let after = format!("{before}{gap}{}", self.text());
        let faults = |text: &str| -> Vec<ConfigFault> { config::faults_of(text) };
        let known = faults(&before);
        if let Some(new) = faults(&after).iter().find(|fault| !known.contains(fault)) {
            bail!("with the entry it would be at fault: {new}");
        }
        put_file(&absolute(file), after.as_bytes()).context("it cannot be written")?;
        Ok(format!("added [[relays]] `{}`", self.name))
    }

    /// Whether the same entry is there.
    ///
    /// # Errors
    /// Another one of this name is, or the file cannot be read as one.
    fn is_in(&self, text: &str) -> anyhow::Result<bool> {
        let table: toml::Table = text
            .parse()
            .map_err(|_| anyhow::anyhow!("it is no TOML as it is"))?;
        let relays = table.get("relays").and_then(toml::Value::as_array);
        let known = relays.into_iter().flatten().find(|relay| {
            let name = relay.get("name").and_then(toml::Value::as_str);
            name == Some(self.name.as_str())
        });
        let Some(known) = known else {
            return Ok(false);
        };
        let members = known.get("members").and_then(toml::Value::as_array);
        let mut members = members
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_str);
        if members.any(|member| member == self.member) {
            return Ok(true);
        }
        bail!(
            "it has [[relays]] `{}` already; if both relays answer alike, add \"{}\" to its `members`",
            self.name,
            self.member
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            name: "relay".to_owned(),
            models: vec!["auto".to_owned(), "local".to_owned()],
            member: "relay-hq".to_owned(),
        }
    }

    fn added(before: &str) -> (anyhow::Result<String>, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hedge.toml");
        if !before.is_empty() {
            std::fs::write(&file, before).unwrap();
        }
        let added = entry().add_to(&file);
        (added, std::fs::read_to_string(&file).unwrap_or_default())
    }

    #[test]
    fn an_entry_comes_after_what_is_there() {
        let (said, text) = added("");
        assert!(said.unwrap().contains("added"), "{text}");
        let (said, again) = added(&text);
        assert!(said.unwrap().contains("already"));
        assert_eq!(text, again, "once");
        let (said, text) = added("listen = \"127.0.0.1:1\" # kept\n[local]\nenabled = true");
        said.unwrap();
        assert!(text.starts_with("listen = \"127.0.0.1:1\" # kept\n[local]\nenabled = true\n"));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["relays"][0]["name"].as_str(), Some("relay"));
    }

    #[test]
    fn a_file_that_it_would_break_is_left() {
        for before in [
            "relays = []\n",
            "not toml",
            "[[relays]]\nname = 'relay'\nmodels = ['x']\nmembers = ['other']\n",
            "[[upstreams]]\nname = 'relay'\nbase_url = 'https://a.example/v1'\nmodels = ['m']\n",
        ] {
            let (said, after) = added(before);
            assert!(said.is_err(), "{before}");
            assert_eq!(before, after);
        }
        // What is at fault already is no reason.
        let (said, _) = added("[[upstreams]]\nname = 'a'\nmodels = ['m']\n");
        said.unwrap();
    }
}
