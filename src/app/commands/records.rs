//! `hedge records`: what an exchange said, where a running server keeps it.

use std::process::ExitCode;

use anyhow::Context;
use api::{TextView, TextsView};
use domain::{Said, SaidMessage};

use super::admin::{Admin, escaped};
use crate::cli::RecordsCommand;
use crate::terminal;

/// Asks and shows.
///
/// # Errors
/// No server answers there, or it does with an error.
pub fn records(what: &RecordsCommand) -> anyhow::Result<ExitCode> {
    let RecordsCommand::Show { request_id, args } = what;
    let path = format!("/admin/v1/records/{}/text", escaped(request_id));
    let text = Admin::at(args.url.as_deref(), &args.config)?.get_patiently(&path)?;
    let view: TextsView =
        serde_json::from_slice(&text).context("what answered is no hedge of this version")?;
    match args.json {
        true => terminal::say(serde_json::to_string_pretty(&view)?),
        false => terminal::say_part(words(&view)),
    }
    Ok(ExitCode::SUCCESS)
}

fn words(view: &TextsView) -> String {
    view.texts.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(text: &TextView) -> String {
    let mut lines = vec![format!("{}, ended at {} us", text.team, text.ended_us)];
    match (&text.said, &text.trouble) {
        (Some(said), _) => lines.extend(said_words(said)),
        (None, Some(trouble)) => lines.push(format!("cannot be read: {trouble}")),
        (None, None) => {}
    }
    lines
        .iter()
        .map(|line| format!("{}\n", plain(line)))
        .collect()
}

fn said_words(said: &Said) -> Vec<String> {
    let mut lines = Vec::new();
    if said.left_out > 0 {
        lines.push(format!(
            "({} earlier messages were left out)",
            said.left_out
        ));
    }
    lines.extend(said.asked.iter().flat_map(|it| message(it, &it.role)));
    lines.extend(said.answered.iter().flat_map(|it| message(it, "answer")));
    if said.is_cut {
        lines.push("(cut)".to_owned());
    }
    lines
}

fn message(message: &SaidMessage, who: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if !message.thoughts.is_empty() {
        lines.push(format!("[{who} thought] {}", message.thoughts));
    }
    let has_more = !message.tool_calls.is_empty() || !message.thoughts.is_empty();
    if !(message.text.is_empty() && has_more) {
        lines.push(format!("[{who}] {}", message.text));
    }
    for call in &message.tool_calls {
        lines.push(format!("[{who} calls] {} {}", call.name, call.arguments));
    }
    if message.attachments > 0 {
        lines.push(format!(
            "({} attachments are not kept)",
            message.attachments
        ));
    }
    lines
}

/// What somebody said may hold what a terminal takes for orders.
fn plain(line: &str) -> String {
    let is_odd = |char: char| char.is_control() && char != '\n' && char != '\t';
    line.replace(is_odd, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shown_in_order_and_gives_a_terminal_no_orders() {
        let of = |role: &str, text: &str| SaidMessage {
            role: role.to_owned(),
            text: text.to_owned(),
            ..SaidMessage::default()
        };
        let said = Said {
            view: "masked".to_owned(),
            asked: vec![
                of("system", "be kind"),
                of("user", "\u{1b}]0;evil\u{7}hi\nthere"),
            ],
            left_out: 2,
            answered: vec![of("assistant", "hello")],
            is_cut: true,
        };
        let view = TextsView {
            request_id: "r".to_owned(),
            texts: vec![
                TextView {
                    ended_us: 17,
                    until_us: 18,
                    team: "red".to_owned(),
                    said: Some(said),
                    trouble: None,
                },
                TextView {
                    team: "blue".to_owned(),
                    trouble: Some("no key".to_owned()),
                    ..TextView::default()
                },
            ],
        };
        let expected = "red, ended at 17 us\n(2 earlier messages were left out)\n[system] be kind\n\
                        [user] \u{fffd}]0;evil\u{fffd}hi\nthere\n[answer] hello\n(cut)\n\n\
                        blue, ended at 0 us\ncannot be read: no key\n";
        assert_eq!(words(&view), expected);
    }
}
