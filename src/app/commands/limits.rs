//! `hedge limits` and `hedge budgets`: what everybody, teams and keys may use of a running server, and
//! what is left of it.

use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::admin::Admin;
use super::keys::{set_limits, table};
use crate::cli::{AdminArgs, BudgetsCommand, LimitsCommand, LimitsSetArgs};
use crate::terminal;

const HEADS: [&str; 7] = [
    "SCOPE",
    "NAME",
    "COUNT",
    "PER",
    "AMOUNT",
    "LEFT",
    "WHEN SPENT",
];
const COST: &str = "cost";

/// Shows or sets.
///
/// # Errors
/// No server answers there, or it says that something cannot be.
pub fn limits(what: &LimitsCommand) -> anyhow::Result<ExitCode> {
    match what {
        LimitsCommand::List(args) => list(args, |_| true),
        LimitsCommand::Set(LimitsSetArgs {
            team,
            key,
            limits,
            args,
        }) => {
            let (nouns, name) = match (team, key) {
                (Some(team), None) => ("teams", team),
                (None, Some(key)) => ("keys", key),
                (Some(_), Some(_)) | (None, None) => bail!("name one of --team and --key"),
            };
            let text = set_limits(nouns, name, limits, args)?;
            let view: Value = serde_json::from_slice(&text)
                .context("what answered is no hedge of this version")?;
            if args.json {
                terminal::say(serde_json::to_string_pretty(&view)?);
            } else {
                let count = view["limits"].as_array().map_or(0, Vec::len);
                terminal::say(format!("{name} has {count} limits of its own"));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// # Errors
/// As of [`limits`].
pub fn budgets(what: &BudgetsCommand) -> anyhow::Result<ExitCode> {
    let BudgetsCommand::List(args) = what;
    list(args, |limit| limit["count"] == COST)
}

fn list(args: &AdminArgs, is_meant: impl Fn(&Value) -> bool) -> anyhow::Result<ExitCode> {
    let admin = Admin::at(args.url.as_deref(), &args.config)?;
    let text = admin.get("/admin/v1/limits")?;
    let view: Value =
        serde_json::from_slice(&text).context("what answered is no hedge of this version")?;
    let limits = view["limits"].as_array().cloned().unwrap_or_default();
    let limits: Vec<Value> = limits.into_iter().filter(is_meant).collect();
    if args.json {
        let view = json!({ "limits": limits });
        terminal::say(serde_json::to_string_pretty(&view)?);
    } else {
        terminal::say_part(table(HEADS, limits.iter().map(row)));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(limit: &Value) -> [String; HEADS.len()] {
    let text = |name: &str| match &limit[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let is_cost = limit["count"] == COST;
    let amount = |name: &str| match (is_cost, limit[name].as_u64()) {
        (true, Some(microusd)) => dollars(microusd),
        (_, _) => text(name),
    };
    [
        text("scope"),
        text("name"),
        text("count"),
        text("per"),
        amount("amount"),
        amount("left"),
        text("when_spent"),
    ]
}

/// Of millionths, without loss.
fn dollars(microusd: u64) -> String {
    let (whole, rest) = (microusd / 1_000_000, microusd % 1_000_000);
    let cents = format!("{rest:06}");
    let cents = cents.trim_end_matches('0');
    format!("${whole}.{cents:0<2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_shown_in_dollars_to_the_last_millionth() {
        for (microusd, shown) in [
            (0, "$0.00"),
            (1, "$0.000001"),
            (1_500_000, "$1.50"),
            (25_000_000, "$25.00"),
        ] {
            assert_eq!(dollars(microusd), shown);
        }
        let limit = json!({
            "scope": "team", "name": "red", "count": "cost", "per": "month", "amount": 2_500_000,
            "burst": null, "left": 1, "used": 2, "whole_in_s": null, "when_spent": "local"
        });
        let expected = [
            "team",
            "red",
            "cost",
            "month",
            "$2.50",
            "$0.000001",
            "local",
        ];
        assert_eq!(row(&limit), expected);
    }
}
