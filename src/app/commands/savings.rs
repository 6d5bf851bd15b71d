//! `hedge savings`: what was spent, and what it would have been.

use std::process::ExitCode;

use anyhow::{Context, bail};
use domain::{RecordFault, RecordShelf, Savings, ShadowSum, Since, Sum, TeamId};
use store::RecordReader;

use crate::cli::SavingsArgs;
use crate::{config, terminal};

const HEADS: [&str; 8] = [
    "",
    "REQUESTS",
    "COMPARED",
    "INPUT",
    "OUTPUT",
    "SPENT",
    "ELSEWHERE",
    "SAVED",
];

/// After the sums: shadows by what came of them, and what they cost, in places of the same names.
const CSV_HEAD: &str = "by,part,requests,compared_requests,input_tokens,output_tokens,\
    compared_spent_microusd,counterfactual_microusd,saved_microusd";

/// Reads this node's records, whether it runs or not.
///
/// # Errors
/// There are none, or they cannot be read.
pub fn savings(args: &SavingsArgs) -> anyhow::Result<ExitCode> {
    let since: Since = args.since.parse().context("--since")?;
    let environment = config::environment();
    let file = args.config.config.as_deref();
    let place = config::load(file, &environment, &[]).record_place(&environment)?;
    let reader = match place.postgres {
        Some(address) => RecordReader::shared(address, place.calendar),
        None => RecordReader::new(&place.dir, place.calendar),
    };
    reader.name_reference(place.reference);
    let team = args.team.as_deref().map(TeamId::new);
    let found = super::runtime()?.block_on(reader.savings(since, team));
    let savings = match found {
        Ok(savings) => savings,
        Err(RecordFault::NoSuchDay) => bail!("--since: there is no such day"),
        Err(RecordFault::Absent) => bail!(
            "there are no records at {}; a server keeps them unless records.enabled is false; name \
             its configuration with --config",
            reader.place()
        ),
        Err(
            fault @ (RecordFault::Busy
            | RecordFault::Unwritten
            | RecordFault::Away(_)
            | RecordFault::Unreadable(_)),
        ) => {
            return Err(anyhow::Error::new(fault))
                .with_context(|| format!("cannot read {}", reader.place()));
        }
    };
    let text = if args.json {
        serde_json::to_string_pretty(&savings)?
    } else if args.csv {
        csv(&savings)
    } else {
        words(&savings)
    };
    terminal::say(text);
    Ok(ExitCode::SUCCESS)
}

/// The total, and its parts both ways.
fn parts(savings: &Savings) -> impl Iterator<Item = (&'static str, &str, &Sum)> {
    let saved_by = savings.saved_by.iter();
    let basis = savings.basis.iter();
    std::iter::once(("total", "all", &savings.total))
        .chain(saved_by.map(|(label, sum)| ("saved_by", label.as_str(), sum)))
        .chain(basis.map(|(label, sum)| ("basis", label.as_str(), sum)))
}

fn csv(savings: &Savings) -> String {
    let mut text = CSV_HEAD.to_owned();
    for (by, part, sum) in parts(savings) {
        text.push_str(&format!(
            "\n{by},{part},{},{},{},{},{},{},{}",
            sum.requests,
            sum.compared_requests,
            sum.input_tokens,
            sum.output_tokens,
            sum.compared_spent_microusd,
            sum.counterfactual_microusd,
            sum.saved_microusd
        ));
    }
    let shadow = &savings.shadow;
    for (part, count) in outcomes(shadow) {
        text.push_str(&format!("\nshadow,{part},{count},,,,,,"));
    }
    let spent = shadow.spent_microusd;
    let saved = spent.saturating_neg();
    text.push_str(&format!(
        "\nshadow,all,{},,,,{spent},,{saved}",
        shadow.asked
    ));
    text
}

fn outcomes(shadow: &ShadowSum) -> [(&'static str, i64); 4] {
    [
        ("agrees", shadow.agreed),
        ("differs", shadow.differed),
        ("unclear", shadow.unclear),
        ("failed", shadow.failed),
    ]
}

/// Of those that can be told; nothing where none was asked for.
fn shadows(shadow: &ShadowSum) -> Option<String> {
    let told = shadow.agreed.saturating_add(shadow.differed);
    let share = |told: i64| shadow.agreed as f64 * 100.0 / told as f64;
    let share = (told > 0).then(|| format!("{:.1} % agree: ", share(told)));
    let parts = outcomes(shadow).map(|(part, count)| format!("{part} {count}"));
    (shadow.asked > 0).then(|| {
        format!(
            "\nanswers of this machine asked for again in the cloud: {}; {}{}; spent on it {}",
            shadow.asked,
            share.unwrap_or_default(),
            parts.join(", "),
            dollars(shadow.spent_microusd)
        )
    })
}

fn words(savings: &Savings) -> String {
    let mut text = format!(
        "from {} to {} ({})\n  in UTC: {} to {}\n",
        savings.since.local,
        savings.until.local,
        savings.time_zone,
        savings.since.utc,
        savings.until.utc
    );
    if let Some(team) = &savings.team {
        text.push_str(&format!("team {team}\n"));
    }
    text.push_str(&format!(
        "spent {}, saved {}\n\n",
        dollars(savings.spent_microusd),
        dollars(savings.total.saved_microusd)
    ));
    let mut rows = vec![HEADS.map(str::to_owned)];
    let mut last = "total";
    for (by, part, sum) in parts(savings) {
        if by != last {
            let head = match by {
                "saved_by" => "saved by",
                _ => "measured by",
            };
            let mut row = [""; HEADS.len()].map(str::to_owned);
            head.clone_into(&mut row[0]);
            rows.push(row);
            last = by;
        }
        let label = match by {
            "total" => "total".to_owned(),
            _ => format!("  {part}"),
        };
        rows.push([
            label,
            sum.requests.to_string(),
            sum.compared_requests.to_string(),
            sum.input_tokens.to_string(),
            sum.output_tokens.to_string(),
            dollars(sum.compared_spent_microusd),
            dollars(sum.counterfactual_microusd),
            dollars(sum.saved_microusd),
        ]);
    }
    text.push_str(&table(&rows));
    if savings.unpriced_requests > 0 {
        text.push_str(&format!(
            "\n{} answers have no known price and are in no figure of money",
            savings.unpriced_requests
        ));
    }
    text.extend(shadows(&savings.shadow));
    text.push_str(&match &savings.reference_model {
        Some(model) => format!("\nreference model: {model}"),
        None => {
            "\nno savings.reference_model is set, so what was answered without a model of a price \
                 being asked for is not compared"
                .to_owned()
        }
    });
    text.push_str(&format!("\n{}", savings.method));
    text
}

/// The first column to the left, figures to the right.
fn table(rows: &[[String; HEADS.len()]]) -> String {
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// To the micro-dollar.
pub(super) fn dollars(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    format!("{sign}${}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_exact() {
        for (micros, wanted) in [
            (0, "$0.000000"),
            (1, "$0.000001"),
            (-1, "-$0.000001"),
            (1_234_567_890, "$1234.567890"),
            (i64::MIN, "-$9223372036854.775808"),
        ] {
            assert_eq!(dollars(micros), wanted);
        }
    }

    #[test]
    fn every_part_is_shown_in_words_and_for_machines() {
        let sum = Sum {
            requests: 3,
            compared_requests: 2,
            input_tokens: 10,
            output_tokens: 20,
            compared_spent_microusd: 5,
            counterfactual_microusd: 12,
            saved_microusd: 7,
        };
        let savings = Savings {
            total: sum,
            spent_microusd: 5,
            unpriced_requests: 1,
            saved_by: vec![("local".into(), sum)],
            basis: vec![("reference".into(), sum)],
            shadow: ShadowSum {
                asked: 12,
                agreed: 7,
                differed: 1,
                unclear: 3,
                failed: 1,
                spent_microusd: 25,
            },
            ..Savings::default()
        };
        assert_eq!(
            csv(&savings).lines().skip(1).collect::<Vec<_>>(),
            [
                "total,all,3,2,10,20,5,12,7",
                "saved_by,local,3,2,10,20,5,12,7",
                "basis,reference,3,2,10,20,5,12,7",
                "shadow,agrees,7,,,,,,",
                "shadow,differs,1,,,,,,",
                "shadow,unclear,3,,,,,,",
                "shadow,failed,1,,,,,,",
                "shadow,all,12,,,,25,,-25",
            ]
        );
        let words = words(&savings);
        for part in [
            "spent $0.000005, saved $0.000007",
            "  local",
            "1 answers have no known price",
            "asked for again in the cloud: 12; 87.5 % agree: agrees 7, differs 1, unclear 3, failed 1; \
             spent on it $0.000025",
        ] {
            assert!(words.contains(part), "{words}");
        }
    }
}
