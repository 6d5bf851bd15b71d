//! `hedge relay identity`: what signs manifests, and its change.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use super::known;
use crate::cli::IdentityCommand;
use crate::terminal;

pub fn identity(chosen: Option<&Path>, what: &IdentityCommand) -> anyhow::Result<ExitCode> {
    let known = known(chosen)?;
    match what {
        IdentityCommand::Show => {
            let keys = known.folder.open(&known.relay_id, SystemTime::now())?;
            terminal::say(format!("now   {}", keys.identity.pin()));
            match keys.next {
                Some(next) => terminal::say(format!("next  {next}")),
                None => terminal::say("next  none; `hedge relay identity prepare` makes one"),
            }
        }
        IdentityCommand::Prepare => {
            let is_new = known.folder.prepare_identity(&mut rand::rng())?;
            let made = if is_new { "made" } else { "there already" };
            terminal::say(format!(
                "the next identity is {made}. Edges learn of it when they renew their certificates, \
                 within 7 days; then:\n  hedge relay identity turn"
            ));
        }
        IdentityCommand::Turn => {
            known.folder.turn_identity()?;
            terminal::say(
                "the relay is who it was going to be, from its next start on:\n  restart hedge relay",
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
