//! `hedge cache`: what a running server keeps for other requests, why a request got what it got, and
//! removing it.

use std::process::ExitCode;

use anyhow::Context;
use api::{CacheView, ExplainView, ExplainedView, PurgedView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::admin::{Admin, escaped};
use crate::cli::{AdminArgs, CacheCommand, PurgeArgs};
use crate::terminal;

/// Asks and shows.
///
/// # Errors
/// No server answers there, or not as one of this version does.
pub fn cache(what: &CacheCommand) -> anyhow::Result<ExitCode> {
    match what {
        CacheCommand::Stats(args) => {
            let text = admin(args)?.get("/admin/v1/cache")?;
            show::<CacheView>(&text, args, stats)
        }
        CacheCommand::Explain { request_id, args } => {
            let id = escaped(request_id);
            let text = admin(args)?.get(&format!("/admin/v1/cache/requests/{id}"))?;
            show::<ExplainView>(&text, args, explained)
        }
        CacheCommand::Purge(PurgeArgs {
            tag,
            model,
            team,
            all,
            args,
        }) => {
            let named = [("tag", tag), ("model", model), ("team", team)];
            let named = named
                .into_iter()
                .find_map(|(name, value)| Some((name, value.as_ref()?)));
            let what = match named {
                Some((name, value)) => json!({ name: value }),
                None => json!({ "all": all }),
            };
            let text = admin(args)?.post("/admin/v1/cache/purge", &what)?;
            show::<PurgedView>(&text, args, purged)
        }
    }
}

fn admin(args: &AdminArgs) -> anyhow::Result<Admin> {
    Admin::at(args.url.as_deref(), &args.config)
}

fn show<T: DeserializeOwned + Serialize>(
    text: &[u8],
    args: &AdminArgs,
    words: fn(&T) -> String,
) -> anyhow::Result<ExitCode> {
    let view: T =
        serde_json::from_slice(text).context("what answered is no hedge of this version")?;
    if args.json {
        terminal::say(serde_json::to_string_pretty(&view)?);
    } else {
        terminal::say_part(words(&view));
    }
    Ok(ExitCode::SUCCESS)
}

fn stats(view: &CacheView) -> String {
    if !view.semantic {
        return "replies answer their own requests alone: there is no encoder, or cache.semantic is \
                false\n"
            .to_owned();
    }
    let looked = view.served + view.missed + view.shadowed;
    let rows = [
        ("entries", view.entries),
        ("compartments", view.compartments),
        ("bytes", view.bytes),
        ("given up", view.evicted),
        ("faults", view.faults),
        ("looked up", looked),
        ("  served", view.served),
        ("  answered afresh and compared", view.shadowed),
        ("  missed", view.missed),
        ("not looked up", view.unasked),
        ("encoder or index failed", view.failed),
        ("compared: said the same", view.shadows_right),
        ("compared: did not", view.shadows_wrong),
        ("compared: no room for it", view.shadows_dropped),
        ("feedback: good", view.feedback_good),
        ("feedback: bad", view.feedback_bad),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows.map(|(name, count)| format!("{name:width$}  {count}\n"));
    let apart = match view.apart {
        true => "what replicas share cannot be reached: nothing is found until Postgres is back\n",
        false => "",
    };
    lines.concat() + apart
}

fn explained(view: &ExplainView) -> String {
    let requests = view.requests.iter().map(request);
    requests.collect::<Vec<_>>().join("\n")
}

fn request(of: &ExplainedView) -> String {
    let mut text = format!("team {}: {}\n", of.team, of.outcome);
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:18}{value}\n"));
    if let Some(compartment) = &of.compartment {
        line("compartment", compartment);
    }
    if let Some(class) = &of.class {
        line("class", class);
    }
    if let Some(why) = &of.why_not {
        line("not compared", why);
    }
    match &of.neighbour {
        Some(near) => {
            line("nearest entry", &near.entry);
            line("similarity", &format!("{:.4}", near.similarity));
            let near_by = format!("{} say the same, {} do not", near.alike, near.other);
            line("others near", &near_by);
            line("guard", near.guard.as_deref().unwrap_or("none refuses"));
            line("probability", &format!("{:.4}", near.probability_same));
            line("verdict", &near.verdict);
        }
        None if of.why_not.is_none() && of.outcome == "missed" => {
            line("nearest entry", "none in its compartment");
        }
        None => {}
    }
    text
}

fn purged(view: &PurgedView) -> String {
    format!(
        "removed {} kept for the same request, and {} kept for others\n",
        view.exact, view.entries
    )
}

#[cfg(test)]
mod tests {
    use api::NeighbourView;

    use super::*;

    #[test]
    fn an_explanation_says_what_decided() {
        let view = ExplainView {
            request_id: "r".to_owned(),
            requests: vec![ExplainedView {
                team: "red".to_owned(),
                outcome: "missed".to_owned(),
                class: Some("fact".to_owned()),
                compartment: Some("0a0b0c0d".to_owned()),
                neighbour: Some(NeighbourView {
                    entry: "00ff".to_owned(),
                    similarity: 0.98768,
                    probability_same: 0.0,
                    alike: 3,
                    other: 2,
                    guard: Some("number".to_owned()),
                    verdict: "miss".to_owned(),
                }),
                why_not: None,
            }],
        };
        let text = explained(&view);
        for word in [
            "team red: missed",
            "0a0b0c0d",
            "0.9877",
            "3 say the same, 2 do not",
            "number",
            "miss",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn ids_are_escaped_in_paths() {
        assert_eq!(escaped("a-1/../b?c"), "a-1%2F..%2Fb%3Fc");
    }
}
