//! `hedge keys` and `hedge teams`: who may ask a running server, made and changed through its admin
//! listener.

use std::process::ExitCode;

use anyhow::{Context, bail};
use api::{KeyMadeView, KeyView, KeysView, TeamView, TeamsView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::admin::{Admin, escaped};
use crate::cli::{
    AdminArgs, GrantArgs, KeyArgs, KeyCreateArgs, KeysCommand, TeamArgs, TeamsCommand,
};
use crate::terminal;

/// Of one request for a list.
const PAGE: usize = 200;
/// Takes a bound away.
const ANY: &str = "any";
const NEVER: &str = "never";
/// A word of limits whose value is a list.
const WARN_AT: &str = "warn_at";

const KEY_HEADS: [&str; 7] = [
    "KEY", "TEAM", "STATE", "SOURCE", "EXPIRES", "USED", "LIMITS",
];
const TEAM_HEADS: [&str; 4] = ["TEAM", "SOURCE", "KEYS", "LIMITS"];

/// Asks, changes and shows.
///
/// # Errors
/// No server answers there, or it says that something cannot be.
pub fn keys(what: &KeysCommand) -> anyhow::Result<ExitCode> {
    match what {
        KeysCommand::Create(args) => create(args)?,
        KeysCommand::List { team, args } => list(team.as_deref(), args)?,
        KeysCommand::Show(KeyArgs { name, args }) => {
            let text = admin(args)?.get(&key_path(name))?;
            show(&read::<KeyView>(&text)?, args, key_words)?;
        }
        KeysCommand::Disable(args) => enable(args, false)?,
        KeysCommand::Enable(args) => enable(args, true)?,
        KeysCommand::Change { name, grants, args } => {
            let mut body = Map::new();
            put_grants(&mut body, grants, true)?;
            let text = admin(args)?.patch(&key_path(name), &Value::Object(body))?;
            show(&read::<KeyView>(&text)?, args, key_words)?;
        }
        KeysCommand::Rotate {
            name,
            overlap,
            args,
        } => {
            let path = format!("{}/rotate", key_path(name));
            let text = admin(args)?.post(&path, &json!({ "overlap": overlap }))?;
            show(&read::<KeyMadeView>(&text)?, args, made_words)?;
        }
        KeysCommand::Delete(KeyArgs { name, args }) => {
            admin(args)?.delete(&key_path(name))?;
            gone(name, args);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The same for teams.
///
/// # Errors
/// As of [`keys`].
pub fn teams(what: &TeamsCommand) -> anyhow::Result<ExitCode> {
    match what {
        TeamsCommand::Create(TeamArgs { name, limits, args }) => {
            let body = json!({ "name": name, "limits": limits_of(limits)? });
            let text = admin(args)?.post("/admin/v1/teams", &body)?;
            show(&read::<TeamView>(&text)?, args, team_words)?;
        }
        TeamsCommand::List(args) => {
            let mut teams = Vec::new();
            pages(args, "/admin/v1/teams", |page: TeamsView| {
                teams.extend(page.teams);
                page.after
            })?;
            let view = TeamsView { teams, after: None };
            show(&view, args, |view| {
                let rows = view.teams.iter().map(team_row);
                table(TEAM_HEADS, rows)
            })?;
        }
        TeamsCommand::Change(TeamArgs { name, limits, args }) => {
            let view = set_limits("teams", name, limits, args)?;
            show(&read::<TeamView>(&view)?, args, team_words)?;
        }
        TeamsCommand::Delete(KeyArgs { name, args }) => {
            let path = format!("/admin/v1/teams/{}", escaped(name));
            admin(args)?.delete(&path)?;
            gone(name, args);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(args: &KeyCreateArgs) -> anyhow::Result<()> {
    let mut body = Map::new();
    if let Some(name) = &args.name {
        body.insert("name".to_owned(), json!(name));
    }
    body.insert("team".to_owned(), json!(args.team));
    put_grants(&mut body, &args.grants, false)?;
    let text = admin(&args.args)?.post("/admin/v1/keys", &Value::Object(body))?;
    show(&read::<KeyMadeView>(&text)?, &args.args, made_words)
}

fn list(team: Option<&str>, args: &AdminArgs) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    pages(args, "/admin/v1/keys", |page: KeysView| {
        let is_meant = |key: &KeyView| team.is_none_or(|team| key.team == team);
        keys.extend(page.keys.into_iter().filter(is_meant));
        page.after
    })?;
    let view = KeysView { keys, after: None };
    show(&view, args, |view| {
        let rows = view.keys.iter().map(key_row);
        table(KEY_HEADS, rows)
    })
}

fn enable(args: &KeyArgs, is_enabled: bool) -> anyhow::Result<()> {
    let KeyArgs { name, args } = args;
    let text = admin(args)?.patch(&key_path(name), &json!({ "enabled": is_enabled }))?;
    show(&read::<KeyView>(&text)?, args, key_words)
}

fn admin(args: &AdminArgs) -> anyhow::Result<Admin> {
    Admin::at(args.url.as_deref(), &args.config)
}

fn key_path(name: &str) -> String {
    format!("/admin/v1/keys/{}", escaped(name))
}

/// One page after the other. `take` gives where the next one begins.
fn pages<T: DeserializeOwned>(
    args: &AdminArgs,
    path: &str,
    mut take: impl FnMut(T) -> Option<String>,
) -> anyhow::Result<()> {
    let admin = admin(args)?;
    let mut after = Some(String::new());
    while let Some(name) = after {
        let text = admin.get(&format!("{path}?limit={PAGE}&after={}", escaped(&name)))?;
        after = take(read(&text)?);
    }
    Ok(())
}

/// Gives a team or a key these limits, in place of its own.
///
/// # Errors
/// As of [`keys`].
pub fn set_limits(
    nouns: &str,
    name: &str,
    limits: &[String],
    args: &AdminArgs,
) -> anyhow::Result<Vec<u8>> {
    let body = json!({ "limits": limits_of(limits)? });
    let path = format!("/admin/v1/{nouns}/{}", escaped(name));
    admin(args)?.patch(&path, &body)
}

/// Into what is sent. A change leaves alone what is not said.
fn put_grants(
    body: &mut Map<String, Value>,
    grants: &GrantArgs,
    is_change: bool,
) -> anyhow::Result<()> {
    match grants.expires.as_deref() {
        None => {}
        Some(NEVER) if is_change => drop(body.insert("expires_at".to_owned(), Value::Null)),
        Some(NEVER) => {}
        Some(span) => drop(body.insert("expires_in".to_owned(), json!(span))),
    }
    for (name, list) in [
        ("models", &grants.models),
        ("routes", &grants.routes),
        ("networks", &grants.networks),
    ] {
        match list.as_slice() {
            [] => {}
            [any] if any == ANY && is_change => drop(body.insert(name.to_owned(), Value::Null)),
            [any] if any == ANY => {}
            list => drop(body.insert(name.to_owned(), json!(list))),
        }
    }
    if let Some(priority) = &grants.priority {
        body.insert("priority".to_owned(), json!(priority));
    }
    if let Some(tokens) = grants.output_tokens_max {
        body.insert("output_tokens_max".to_owned(), json!(tokens));
    }
    if !grants.limits.is_empty() {
        body.insert("limits".to_owned(), limits_of(&grants.limits)?);
    }
    Ok(())
}

fn limits_of(limits: &[String]) -> anyhow::Result<Value> {
    let limits = limits.iter().map(|text| limit(text));
    Ok(Value::Array(limits.collect::<Result<_, _>>()?))
}

/// `cost=25/month,when_spent=local` as the configuration has it. The server judges what is in it.
fn limit(text: &str) -> anyhow::Result<Value> {
    let hint = || {
        format!(
            "`{text}` is no limit such as cost=25/month, requests=60/minute,burst=10 or concurrency=8"
        )
    };
    let mut words = text.split(',');
    let first = words.next().unwrap_or_default();
    let (count, rest) = first.split_once('=').with_context(hint)?;
    let (amount, per) = match rest.split_once('/') {
        Some((amount, per)) => (amount, Some(per)),
        None => (rest, None),
    };
    let mut limit = Map::new();
    limit.insert("count".to_owned(), json!(count));
    let is_cost = count == "cost";
    let name = if is_cost { "usd" } else { "amount" };
    let amount = match is_cost {
        true => amount.parse::<f64>().ok().map(Value::from),
        false => amount.parse::<i64>().ok().map(Value::from),
    };
    limit.insert(name.to_owned(), amount.with_context(hint)?);
    if let Some(per) = per {
        limit.insert("per".to_owned(), json!(per));
    }
    for word in words {
        let (name, value) = word.split_once('=').with_context(hint)?;
        let value = match (name, value.parse::<i64>()) {
            (WARN_AT, _) => {
                let parts = value.split(':').map(|part| part.parse::<f64>().ok());
                json!(parts.collect::<Option<Vec<f64>>>().with_context(hint)?)
            }
            (_, Ok(number)) => json!(number),
            (_, Err(_)) => json!(value),
        };
        if limit.insert(name.to_owned(), value).is_some() {
            bail!("`{text}` says `{name}` twice");
        }
    }
    Ok(Value::Object(limit))
}

fn read<T: DeserializeOwned>(text: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(text).context("what answered is no hedge of this version")
}

fn show<T: Serialize>(
    view: &T,
    args: &AdminArgs,
    words: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    if args.json {
        terminal::say(serde_json::to_string_pretty(view)?);
    } else {
        terminal::say_part(words(view));
    }
    Ok(())
}

fn gone(name: &str, args: &AdminArgs) {
    if args.json {
        terminal::say(json!({ "deleted": name }));
    } else {
        terminal::say(format!("{name} is deleted"));
    }
}

fn made_words(made: &KeyMadeView) -> String {
    let until = made.key.rotated_until.map_or_else(String::new, |until| {
        format!("the old secret opens too until {}\n", moment(until))
    });
    format!(
        "{}\n{}\n{until}this is shown once and never again\n",
        made.key.name, made.secret
    )
}

fn key_words(key: &KeyView) -> String {
    let list = |list: &Option<Vec<String>>| match list {
        Some(list) => list.join(", "),
        None => ANY.to_owned(),
    };
    let tokens = key.output_tokens_max.map(|tokens| tokens.to_string());
    let rows = [
        ("key", key.name.clone()),
        ("team", key.team.clone()),
        ("state", key.state.as_label().to_owned()),
        ("source", key.source.as_label().to_owned()),
        ("made", key.created_at.map_or_else(dash, moment)),
        (
            "expires",
            key.expires_at.map_or_else(|| NEVER.to_owned(), moment),
        ),
        (
            "old secret until",
            key.rotated_until.map_or_else(dash, moment),
        ),
        ("last used", key.last_used.clone().unwrap_or_else(dash)),
        ("models", list(&key.models)),
        ("routes", list(&key.routes)),
        ("networks", list(&key.networks)),
        ("priority", key.priority.clone()),
        ("output tokens", tokens.unwrap_or_else(|| ANY.to_owned())),
        ("limits", limits_words(&key.limits)),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows.map(|(name, value)| format!("{name:width$}  {value}\n"));
    lines.concat()
}

fn team_words(team: &TeamView) -> String {
    table(TEAM_HEADS, std::iter::once(team_row(team)))
}

fn key_row(key: &KeyView) -> [String; KEY_HEADS.len()] {
    [
        key.name.clone(),
        key.team.clone(),
        key.state.as_label().to_owned(),
        key.source.as_label().to_owned(),
        key.expires_at.map_or_else(|| NEVER.to_owned(), moment),
        key.last_used.clone().unwrap_or_else(dash),
        limits_words(&key.limits),
    ]
}

fn team_row(team: &TeamView) -> [String; TEAM_HEADS.len()] {
    [
        team.name.clone(),
        team.source.as_label().to_owned(),
        team.keys.to_string(),
        limits_words(&team.limits),
    ]
}

fn dash() -> String {
    "-".to_owned()
}

/// As it is said with `--limit`.
fn limits_words(limits: &[Value]) -> String {
    if limits.is_empty() {
        return dash();
    }
    let words = limits.iter().map(|limit| {
        let word = |name: &str| {
            limit.get(name).map(|value| match value {
                Value::String(text) => text.clone(),
                Value::Array(parts) => {
                    let parts = parts.iter().map(ToString::to_string);
                    parts.collect::<Vec<_>>().join(":")
                }
                other => other.to_string(),
            })
        };
        let amount = word("usd").or_else(|| word("amount")).unwrap_or_default();
        let mut text = format!("{}={amount}", word("count").unwrap_or_default());
        if let Some(per) = word("per") {
            text.push_str(&format!("/{per}"));
        }
        let known = ["count", "usd", "amount", "per"];
        let rest = limit.as_object().into_iter().flatten();
        for (name, _) in rest.filter(|(name, _)| !known.contains(&name.as_str())) {
            text.push_str(&format!(",{name}={}", word(name).unwrap_or_default()));
        }
        text
    });
    words.collect::<Vec<_>>().join(" ")
}

/// RFC 3339, in UTC, to the second.
pub fn moment(unix_s: u64) -> String {
    super::audit::clock(unix_s.saturating_mul(1_000))
}

/// Columns as wide as their widest cell.
pub fn table<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut all = vec![heads.map(str::to_owned)];
    all.extend(rows);
    let width = |column: usize| {
        let cells = all.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_said_and_shown_in_the_same_words() {
        let cases = [
            (
                "cost=25/month,when_spent=local",
                json!({"count": "cost", "usd": 25.0, "per": "month", "when_spent": "local"}),
                "cost=25.0/month,when_spent=local",
            ),
            (
                "requests=600/minute,burst=60",
                json!({"count": "requests", "amount": 600, "per": "minute", "burst": 60}),
                "requests=600/minute,burst=60",
            ),
            (
                "concurrency=8",
                json!({"count": "concurrency", "amount": 8}),
                "concurrency=8",
            ),
            (
                "tokens=9/day,warn_at=0.5:0.9",
                json!({"count": "tokens", "amount": 9, "per": "day", "warn_at": [0.5, 0.9]}),
                "tokens=9/day,warn_at=0.5:0.9",
            ),
            // What is wrong with it the server says, with its place.
            (
                "tokens=-1/fortnight",
                json!({"count": "tokens", "amount": -1, "per": "fortnight"}),
                "tokens=-1/fortnight",
            ),
        ];
        for (text, expected, shown) in cases {
            let read = limit(text).unwrap();
            assert_eq!(read, expected);
            assert_eq!(limits_words(&[read]), shown);
        }
        for text in [
            "",
            "cost",
            "cost=x/month",
            "requests=1.5/day",
            "cost=1/day,x",
            "a=1,b=1,b=2",
        ] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_shown_beside_its_name() {
        let made = KeyMadeView {
            key: KeyView {
                name: "ci".to_owned(),
                rotated_until: Some(1_800_000_000),
                ..KeyView::default()
            },
            secret: "hk_secret".to_owned(),
        };
        let text = made_words(&made);
        assert!(text.starts_with("ci\nhk_secret\n"), "{text}");
        assert!(text.contains("until 2027-01-15T08:00:00Z"), "{text}");
        assert!(!format!("{made:?}").contains("hk_secret"));
    }
}
