//! `hedge relay init`: everything a relay needs, and a token for its first edge.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use reqwest::Url;

use super::{absolute, config_flag, join_command};
use crate::cli::RelayInitArgs;
use crate::config::{RELAY_FILE, is_loopback};
use crate::sealed::{RelayFolder, TOKEN_LIFE, make_new_file, relay_url};
use crate::terminal;

pub const URL_EXAMPLE: &str = "https://localhost:8443";
/// Of https.
const PORT_DEFAULT: u16 = 443;

pub fn init(chosen: Option<&Path>, args: &RelayInitArgs) -> anyhow::Result<ExitCode> {
    if !relay::is_name(&args.name) {
        bail!(
            "`{}` cannot name a relay; letters, digits, `-`, `_` and `.`, at most {}",
            args.name,
            relay::NAME_BYTES_MAX
        );
    }
    let url = relay_url(&args.url)?;
    if url.scheme() != "https" {
        bail!(
            "edges join over https; where something in front ends TLS, set `tls = false` in relay.toml \
             afterwards"
        );
    }
    let file = chosen.map_or_else(|| PathBuf::from(RELAY_FILE), Path::to_owned);
    let folder = RelayFolder::new(absolute(&args.dir));
    let text = relay_toml(&args.name, folder.path(), &url);
    let is_new = match make_new_file(&absolute(&file), text.as_bytes()) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            check_same(&file, &args.name, folder.path())?;
            false
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write {}", file.display()));
        }
    };
    let now = SystemTime::now();
    let mut rng = rand::rng();
    folder.make(&args.name, &names(&url), now, &mut rng)?;
    let invited = folder.invite(&args.edge, &args.models, now, &mut rng)?;
    let keys = folder.open(&args.name, now)?;
    let state = |is_new| if is_new { "made" } else { "there already" };
    terminal::say(format!(
        "relay   {}, {}\nconfig  {}, {}\nfolder  {}: keys for this user's eyes alone; keep a copy of \
         identity.key and ca.key",
        args.name,
        keys.identity.pin(),
        file.display(),
        state(is_new),
        folder.path().display(),
    ));
    if invited.is_new {
        terminal::say(format!(
            "edge    {}: chats, embeddings and the list of models, of {}; all else is denied \
             (edges/{}.toml)",
            args.edge,
            args.models.join(", "),
            args.edge
        ));
    } else {
        terminal::say(format!(
            "edge    {}: known already; its policy stays as it is (edges/{}.toml)",
            args.edge, args.edge
        ));
    }
    terminal::say(format!(
        "\nNext, here:\n  hedge relay{}\n\nand on the edge within {} minutes, once:\n  {}",
        config_flag(chosen),
        TOKEN_LIFE.as_secs() / 60,
        join_command(url.as_str(), &invited.token)
    ));
    Ok(ExitCode::SUCCESS)
}

/// What edges on other machines, and on this one, reach it by.
fn names(url: &Url) -> Vec<String> {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut names = vec![host.to_owned()];
    for own in ["localhost", "127.0.0.1", "::1"] {
        if host != own {
            names.push(own.to_owned());
        }
    }
    names
}

/// A second run makes what is missing of the same relay, and no other one.
fn check_same(file: &Path, name: &str, dir: &Path) -> anyhow::Result<()> {
    let known = super::known(Some(file))?;
    if known.relay_id != name || absolute(known.folder.path()) != dir {
        bail!(
            "{} is there already, of the relay `{}` in {}; name another file with --config, or that \
             relay with --name {} --dir {}",
            file.display(),
            known.relay_id,
            known.folder.path().display(),
            known.relay_id,
            known.folder.path().display()
        );
    }
    Ok(())
}

fn relay_toml(name: &str, dir: &Path, url: &Url) -> String {
    let port = url.port().unwrap_or(PORT_DEFAULT);
    let host = if is_loopback(url) {
        "127.0.0.1"
    } else {
        "0.0.0.0"
    };
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let dir = quoted(&dir.to_string_lossy());
    let url = quoted(url.as_str().trim_end_matches('/'));
    let name = quoted(name);
    format!(
        "# A relay: it opens what edges seal, and answers them. docs/relay.md says what for.\n\
         #   hedge relay            runs it\n\
         #   hedge check --config relay.toml\n\
         \n\
         [gateway]\n\
         relay_id = {name}\n\
         listen = \"{host}:{port}\"\n\
         url = {url}\n\
         dir = {dir}\n\
         # default_shape = \"constant;size=512;bucket=4\"   # hides more, and costs more\n\
         # tls = false               # something in front ends TLS; set client_certificates = false, too\n\
         \n\
         # What it answers from. Without an upstream it is the small model inside the binary, so that\n\
         # everything can be tried without a provider. Provider keys are here alone, and at no edge.\n\
         # [[upstreams]]\n\
         # provider = \"openai\"       # OPENAI_API_KEY\n\
         # models = [\"gpt-5-mini\"]\n\
         # [local]\n\
         # enabled = false\n\
         \n\
         # What an edge may do is in edges/NAME.toml of the folder above.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawConfig, read_whole};

    #[test]
    fn the_file_says_what_was_asked_for() {
        for (url, listen) in [
            ("https://localhost:8443", "127.0.0.1:8443"),
            ("https://[::1]:9000", "127.0.0.1:9000"),
            ("https://relay.example", "0.0.0.0:443"),
        ] {
            let url = relay_url(url).unwrap();
            let text = relay_toml("relay-hq", Path::new("/a \"b\"/relay"), &url);
            let mut findings = crate::config::Findings::default();
            let raw: RawConfig = read_whole(&text, &mut findings);
            assert_eq!(findings.faults, []);
            let gateway = raw.gateway.unwrap();
            assert_eq!(gateway.listen, listen);
            assert_eq!(gateway.relay_id.as_deref(), Some("relay-hq"));
            assert_eq!(gateway.dir, "/a \"b\"/relay");
        }
    }

    #[test]
    fn a_certificate_names_this_machine_and_the_address() {
        let names = |text: &str| names(&relay_url(text).unwrap());
        assert_eq!(
            names("https://relay.example:8443"),
            ["relay.example", "localhost", "127.0.0.1", "::1"]
        );
        assert_eq!(names("https://[::1]:1"), ["::1", "localhost", "127.0.0.1"]);
    }
}
