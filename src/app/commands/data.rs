//! `hedge data`: what a running server keeps of somebody, handed out or removed through its admin listener.

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::{Context, bail};
use api::{ErasedView, ExportView};
use serde_json::{Map, Value, json};

use super::admin::Admin;
use crate::cli::{DataCommand, SubjectArgs};
use crate::terminal;

const EXPORT_PATH: &str = "/admin/v1/data/export";
const ERASE_PATH: &str = "/admin/v1/data/erase";

/// Of one request for a page.
const PAGE: usize = 500;

/// Asks and shows.
///
/// # Errors
/// No server answers there, or it says that something cannot be.
pub fn data(what: &DataCommand) -> anyhow::Result<ExitCode> {
    match what {
        DataCommand::Export(subject) => export(subject)?,
        DataCommand::Erase { yes, subject } => {
            if !yes && !is_meant(subject)? {
                terminal::note("nothing was removed");
                return Ok(ExitCode::FAILURE);
            }
            erase(subject)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Each page as it comes, so that there may be as much as there is.
fn export(subject: &SubjectArgs) -> anyhow::Result<()> {
    let admin = admin(subject)?;
    let mut body = named(subject);
    body.insert("limit".to_owned(), PAGE.into());
    let is_json = subject.args.json;
    let mut count = 0_u64;
    loop {
        let text = admin.post_patiently(EXPORT_PATH, &Value::Object(body.clone()))?;
        let page: ExportView = read(&text)?;
        for item in page.items {
            match (is_json, count) {
                (true, 0) => terminal::say_part(format_args!("[{item}")),
                (true, _) => terminal::say_part(format_args!(",\n{item}")),
                (false, _) => terminal::say(item),
            }
            count += 1;
        }
        let Some(after) = page.after else {
            break;
        };
        body.insert("after".to_owned(), after.into());
    }
    if is_json {
        terminal::say(if count == 0 { "[]" } else { "]" });
    }
    Ok(())
}

fn erase(subject: &SubjectArgs) -> anyhow::Result<()> {
    let body = Value::Object(named(subject));
    let text = admin(subject)?.post_patiently(ERASE_PATH, &body)?;
    let view: ErasedView = read(&text)?;
    match subject.args.json {
        true => terminal::say(serde_json::to_string_pretty(&view)?),
        false => terminal::say_part(erased_words(&view)),
    }
    Ok(())
}

fn admin(subject: &SubjectArgs) -> anyhow::Result<Admin> {
    Admin::at(subject.args.url.as_deref(), &subject.args.config)
}

fn named(subject: &SubjectArgs) -> Map<String, Value> {
    let fields = [
        ("user", &subject.user),
        ("tag", &subject.tag),
        ("team", &subject.team),
    ];
    let fields = fields.into_iter();
    let given = fields.filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?))));
    given.collect()
}

fn read<T: serde::de::DeserializeOwned>(text: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(text).context("what answered is no hedge of this version")
}

/// Whether somebody at the terminal says so.
fn is_meant(subject: &SubjectArgs) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        bail!("what is removed is gone; add --yes");
    }
    let of = subject.team.as_ref().map_or_else(
        || "all teams".to_owned(),
        |team| format!("the team `{team}`"),
    );
    terminal::note_part(format_args!(
        "remove what is kept of this, in {of}? It is gone then. [y/N] "
    ));
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn erased_words(view: &ErasedView) -> String {
    let rows = [
        ("records that are nobody's now", view.records),
        ("prompts and replies kept", view.texts),
        ("kept responses", view.responses),
        ("replies kept for the same request", view.replies),
        ("replies kept for others", view.entries),
        ("counts of the user's limits", view.limits),
        ("damaged files", view.files),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = rows
        .map(|(name, count)| format!("{name:width$}  {count}\n"))
        .concat();
    if !view.rewritten {
        text.push_str(
            "the table of records is too large, or another's, to be written anew here: VACUUM FULL \
             hedge.records in Postgres removes what is left in what is free\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_in_a_large_table_is_said() {
        let view = ErasedView {
            records: 12,
            rewritten: true,
            ..ErasedView::default()
        };
        let text = erased_words(&view);
        assert!(
            text.starts_with("records that are nobody's now      12\n"),
            "{text}"
        );
        assert!(!text.contains("VACUUM"));
        let large = ErasedView {
            rewritten: false,
            ..view
        };
        assert!(erased_words(&large).contains("VACUUM FULL hedge.records"));
    }
}
