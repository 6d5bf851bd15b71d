//! `hedge relay` and what belongs to it.

mod edges;
mod identity;
mod init;
mod join;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;

use crate::cli::{RelayArgs, RelayCommand};
use crate::config;
use crate::sealed::{JoinToken, RelayFolder};

/// # Errors
/// What could not be done, and what to do next.
pub fn relay(args: &RelayArgs) -> anyhow::Result<ExitCode> {
    let file = args.config.as_deref();
    match &args.what {
        None => super::serve::serve_relay(file),
        Some(RelayCommand::Init(init)) => init::init(file, init),
        Some(RelayCommand::Edges { what }) => edges::edges(file, what),
        Some(RelayCommand::Join(join)) => join::join(file, join),
        Some(RelayCommand::Identity { what }) => identity::identity(file, what),
    }
}

/// What commands beside a running relay need to know of it.
struct Known {
    folder: RelayFolder,
    relay_id: String,
    url: String,
}

/// Of the relay's file, also where something else in it is at fault, such as a secret that only the
/// relay is given.
fn known(chosen: Option<&Path>) -> anyhow::Result<Known> {
    let loaded = config::load_relay(chosen, &config::environment(), &[]);
    let Some(file) = &loaded.file else {
        bail!(
            "there is no relay.toml here; run this where the relay's is, name it with --config, or \
             make one with `hedge relay init`"
        );
    };
    let gateway = loaded.raw.gateway.as_ref();
    let known = gateway.and_then(|gateway| {
        Some(Known {
            folder: RelayFolder::new(&gateway.dir),
            relay_id: gateway.relay_id.clone()?,
            url: gateway
                .url
                .clone()
                .unwrap_or_else(|| init::URL_EXAMPLE.to_owned()),
        })
    });
    match known {
        Some(known) => Ok(known),
        None => bail!(
            "{} has no [gateway] with a relay_id, so it is no relay's; `hedge check --config {}` says \
             what is wrong with it",
            file.display(),
            file.display()
        ),
    }
}

/// What to type on the edge.
fn join_command(url: &str, token: &JoinToken) -> String {
    let url = url.trim_end_matches('/');
    format!("hedge relay join {url} {}", *token.expose())
}

/// ` --config FILE`, where it is not what is read anyway.
fn config_flag(chosen: Option<&Path>) -> String {
    chosen.map_or_else(String::new, |file| format!(" --config {}", file.display()))
}

/// From the root on, so that it means the same wherever it is read.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
