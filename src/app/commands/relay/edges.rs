//! `hedge relay edges`: who may come.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;

use super::{join_command, known};
use crate::cli::EdgesCommand;
use crate::sealed::{EdgeState, TOKEN_LIFE, list_edges};
use crate::terminal;

pub fn edges(chosen: Option<&Path>, what: &EdgesCommand) -> anyhow::Result<ExitCode> {
    let known = known(chosen)?;
    let folder = &known.folder;
    match what {
        EdgesCommand::List => {
            let listed = list_edges(&folder.edges()).with_context(|| {
                format!(
                    "cannot list {}; `hedge relay init` makes it",
                    folder.edges().display()
                )
            })?;
            if listed.is_empty() {
                terminal::say("none; `hedge relay edges add ID` lets one join");
            }
            for edge in listed {
                let state = match edge.state {
                    EdgeState::Invited => "has not joined".to_owned(),
                    EdgeState::Joined => format!("joined, may ask for {}", edge.models.join(", ")),
                    EdgeState::Faulty(fault) => format!("at fault: {fault}"),
                };
                terminal::say(format!("{:<24}{state}", edge.id));
            }
        }
        EdgesCommand::Add { id, models } => {
            let invited = folder.invite(id, models, SystemTime::now(), &mut rand::rng())?;
            let policy = folder.edges().join(format!("{id}.toml"));
            if invited.is_new {
                terminal::say(format!(
                    "{id} may have chats, embeddings and the list of models, of {}; all else is denied \
                     ({})",
                    models.join(", "),
                    policy.display()
                ));
            } else {
                terminal::say(format!(
                    "{id} is known already and keeps its policy ({}); joining gives it another key, and \
                     the one it has ends",
                    policy.display()
                ));
            }
            terminal::say(format!(
                "\nOn the edge within {} minutes, once:\n  {}",
                TOKEN_LIFE.as_secs() / 60,
                join_command(&known.url, &invited.token)
            ));
        }
        EdgesCommand::Revoke { id } => {
            let was_there = folder.revoke(id)?;
            terminal::say(if was_there {
                format!(
                    "{id} is revoked; a running relay refuses it within a second, and ends its answers"
                )
            } else {
                format!("{id} was not known")
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}
