//! The tables.

use std::collections::BTreeMap;

use domain::{EntryId, Evidence};
use policy::reuse::{
    Acceptance, AcceptanceRules, Company, Pair, Question, Scorer, Verdict, judge, product,
};

use crate::Fault;
use crate::baselines::{THRESHOLDS, per_entry, threshold};
use crate::data::{Asked, Draws, LabelledPair, LabelledTurns, Vectors, pairs, rows};
use crate::replay::{Stream, Tally, by_score, oracle, ours, questions};

const SCORES: [f32; 6] = [0.6, 0.7, 0.8, 0.9, 0.95, 0.98];
const BOUNDS: [f64; 3] = [0.005, 0.01, 0.02];

/// Orders of each stream that the acceptance is tried in.
const ORDERS: u64 = 8;

pub fn all(
    folder: &str,
    split: &str,
    vectors: &Vectors,
    base: &Vectors,
    scorer: &Scorer,
) -> Result<(), Fault> {
    streams(folder, split, vectors, base, scorer)?;
    if split == "tuning" {
        return Ok(());
    }
    let labelled = pairs(&format!("{folder}/pairs_dev.jsonl"))?;
    pair_table(&labelled, vectors, base, scorer)?;
    mutations(&labelled, vectors, scorer)?;
    turns(folder)
}

fn row(name: &str, tally: &Tally) {
    println!(
        "| {name} | {:.1} | {:.2} | {:.1} |",
        tally.hits_share(),
        tally.wrong_share(),
        tally.precision()
    );
}

fn streams(
    folder: &str,
    split: &str,
    vectors: &Vectors,
    base: &Vectors,
    scorer: &Scorer,
) -> Result<(), Fault> {
    let stream: Vec<Asked> = rows(&format!("{folder}/stream.jsonl"))?;
    // "tuning" is the half of the withheld training texts that a scorer fitted with `--half` has not seen.
    let is_tuning = |asked: &Asked| {
        let digest = crc32(asked.query.trim().to_lowercase().as_bytes());
        asked.split == "train" && digest % 10 >= 8 && digest / 10 % 2 == 1
    };
    let stream: Vec<&Asked> = stream
        .iter()
        .filter(|asked| match split {
            "tuning" => is_tuning(asked),
            _ => asked.split == split,
        })
        .collect();
    let mut sources: Vec<&str> = stream.iter().map(|asked| asked.source.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    sources.push("mixed");
    for source in sources {
        let part: Vec<&Asked> = stream
            .iter()
            .copied()
            .filter(|asked| source == "mixed" || asked.source == source)
            .collect();
        let by_base = Stream::new(part.clone(), base)?;
        let by_ours = Stream::new(part, vectors)?;
        let questions = questions(&by_ours);
        println!("\n### {source}: {} requests\n", by_ours.asked.len());
        println!("| | hits % | wrong % of requests | precision % |\n| --- | ---: | ---: | ---: |");
        row("oracle", &oracle(&by_ours));
        let mut plain = Vec::new();
        for at_least in THRESHOLDS {
            let tally = threshold(&by_base, at_least, None);
            row(&format!("static {at_least:.2}"), &tally);
            plain.push(tally);
        }
        for at_least in [0.80, 0.88, 0.92, 0.96] {
            let tally = threshold(&by_base, at_least, Some((&questions, scorer)));
            row(&format!("guards, {at_least:.2}"), &tally);
        }
        for bound in BOUNDS {
            row(
                &format!("per entry, {:.1} %", bound * 100.0),
                &per_entry(&by_base, bound),
            );
        }
        for at_least in SCORES {
            let tally = by_score(&by_ours, &questions, scorer, at_least);
            row(&format!("score alone, {at_least:.2}"), &tally);
        }
        for bound in BOUNDS {
            let tally = ours(&by_ours, &questions, scorer, bound, 1);
            row(
                &format!(
                    "**ours, {:.1} %** ({:.2}x the best static; {} shadows, {} not reusable)",
                    bound * 100.0,
                    times_static(&tally, &plain, bound),
                    tally.shadows,
                    tally.not_reusable
                ),
                &tally,
            );
        }
        orders(&by_ours.asked, vectors, base, scorer)?;
    }
    Ok(())
}

/// How many times as many hits as the best static threshold that keeps to the bound.
fn times_static(tally: &Tally, plain: &[Tally], bound: f64) -> f64 {
    let kept = plain
        .iter()
        .filter(|tally| tally.wrong_share() <= bound * 100.0);
    let best = kept.map(Tally::hits_share).fold(0.0, f64::max);
    tally.hits_share() / best.max(1e-9)
}

/// The same requests in other orders: one order says little of a few wrong hits.
fn orders(
    asked: &[&Asked],
    vectors: &Vectors,
    base: &Vectors,
    scorer: &Scorer,
) -> Result<(), Fault> {
    println!("\n| in {ORDERS} orders | hits % | wrong % | most wrong % | times static | least |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let mut runs: [Vec<(Tally, f64)>; BOUNDS.len()] = Default::default();
    for order in 0..ORDERS {
        let mut asked = asked.to_vec();
        let mut draws = Draws(order * 7_919 + 1);
        for at in (1..asked.len()).rev().filter(|_| order > 0) {
            asked.swap(at, (draws.next() * (at + 1) as f64) as usize);
        }
        let (by_base, by_ours) = (
            Stream::new(asked.clone(), base)?,
            Stream::new(asked, vectors)?,
        );
        let questions = questions(&by_ours);
        let plain = THRESHOLDS.map(|at_least| threshold(&by_base, at_least, None));
        for (runs, bound) in runs.iter_mut().zip(BOUNDS) {
            let tally = ours(&by_ours, &questions, scorer, bound, order * 31 + 1);
            runs.push((tally, times_static(&tally, &plain, bound)));
        }
    }
    for (runs, bound) in runs.iter().zip(BOUNDS) {
        let mean =
            |what: fn(&(Tally, f64)) -> f64| runs.iter().map(what).sum::<f64>() / runs.len() as f64;
        println!(
            "| ours, {:.1} % | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} |",
            bound * 100.0,
            mean(|(tally, _)| tally.hits_share()),
            mean(|(tally, _)| tally.wrong_share()),
            runs.iter()
                .map(|(tally, _)| tally.wrong_share())
                .fold(0.0, f64::max),
            mean(|(_, times)| *times),
            runs.iter()
                .map(|(_, times)| *times)
                .fold(f64::MAX, f64::min),
        );
    }
    Ok(())
}

/// As zlib has it: by it the encoder's training leaves texts out.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Each pair as one kept question and one request.
fn pair_table(
    labelled: &[LabelledPair],
    vectors: &Vectors,
    base: &Vectors,
    scorer: &Scorer,
) -> Result<(), Fault> {
    println!("\n### pairs: {}\n", labelled.len());
    println!("| | hits % | wrong % of requests | precision % |\n| --- | ---: | ---: | ---: |");
    for at_least in THRESHOLDS {
        let mut tally = Tally::default();
        for pair in labelled {
            tally.lookups += 1;
            if product(base.of(&pair.query_a)?, base.of(&pair.query_b)?) >= at_least {
                tally.right += u32::from(pair.same_answer);
                tally.wrong += u32::from(1 - pair.same_answer);
            }
        }
        row(&format!("static {at_least:.2}"), &tally);
    }
    for bound in BOUNDS {
        let mut acceptance = Acceptance::new();
        let rules = AcceptanceRules {
            max_wrong_rate: bound,
            ..AcceptanceRules::default()
        };
        let mut draws = Draws(1);
        let mut all = Tally::default();
        let mut by_source: BTreeMap<&str, Tally> = BTreeMap::new();
        // One after another as traffic would come, not source by source.
        let mut order: Vec<usize> = (0..labelled.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, (draws.next() * (at + 1) as f64) as usize);
        }
        for pair in order.iter().map(|at| &labelled[*at]) {
            let tally = by_source.entry(&pair.source).or_default();
            tally.lookups += 1;
            all.lookups += 1;
            let query = Question::new(&pair.query_b);
            let Ok(class) = query.reusable() else {
                continue;
            };
            let judgement = judged(&query, pair, vectors, scorer)?;
            let is_right = pair.same_answer == 1;
            match acceptance.decide(
                &rules,
                class,
                &judgement,
                (EntryId(all.lookups.into()), &Evidence::default()),
                draws.next(),
            ) {
                Verdict::Serve => {
                    for tally in [tally, &mut all] {
                        tally.right += u32::from(is_right);
                        tally.wrong += u32::from(!is_right);
                    }
                }
                Verdict::Shadow => acceptance.learn(class, &judgement, is_right),
                Verdict::Miss => {}
            }
        }
        row(&format!("**ours, {:.1} %**", bound * 100.0), &all);
        for (source, tally) in &by_source {
            row(&format!("- {source} ({})", tally.lookups), tally);
        }
    }
    Ok(())
}

fn judged(
    query: &Question,
    pair: &LabelledPair,
    vectors: &Vectors,
    scorer: &Scorer,
) -> Result<policy::reuse::Judgement, Fault> {
    let entry = Question::new(&pair.query_a);
    let (u, v) = (vectors.of(&pair.query_b)?, vectors.of(&pair.query_a)?);
    let pair = Pair {
        query,
        entry: &entry,
        similarity: product(u, v),
        query_vector: u,
        entry_vector: v,
        company: Company::NOBODY,
    };
    Ok(judge(&pair, scorer))
}

/// Cached questions, confirmed once, and what they were changed to.
fn mutations(labelled: &[LabelledPair], vectors: &Vectors, scorer: &Scorer) -> Result<(), Fault> {
    println!("\n### mutations of questions confirmed once, at 1 %\n");
    println!("| | of | served % |\n| --- | ---: | ---: |");
    let acceptance = Acceptance::new();
    let evidence = Evidence {
        right: 1,
        ..Evidence::default()
    };
    let mut kinds: BTreeMap<(u8, &str), (u32, u32)> = BTreeMap::new();
    for pair in labelled
        .iter()
        .filter(|pair| pair.source.starts_with("mutation:"))
    {
        let query = Question::new(&pair.query_b);
        let is_served = match query.reusable() {
            Ok(class) => acceptance.would_serve(
                &AcceptanceRules::default(),
                class,
                &judged(&query, pair, vectors, scorer)?,
                &evidence,
            ),
            Err(_) => false,
        };
        let all = if pair.same_answer == 1 {
            "all that mean the same"
        } else {
            "all that do not"
        };
        for kind in [pair.source.as_str(), all] {
            let count = kinds.entry((pair.same_answer, kind)).or_default();
            count.0 += 1;
            count.1 += u32::from(is_served);
        }
    }
    for ((_, kind), (of, served)) in kinds {
        println!(
            "| {kind} | {of} | {:.1} |",
            100.0 * f64::from(served) / f64::from(of)
        );
    }
    Ok(())
}

/// Conversations: the earlier turns are part of the compartment, so only an equal history is compared,
/// and there these pairs ask the same in the same words.
fn turns(folder: &str) -> Result<(), Fault> {
    let labelled: Vec<LabelledTurns> = rows(&format!("{folder}/turns_dev.jsonl"))?;
    let mut tally = Tally::default();
    for pair in &labelled {
        tally.lookups += 1;
        let said = |turns: &[crate::data::Turn]| -> Vec<(String, String)> {
            turns
                .iter()
                .map(|turn| (turn.role.clone(), turn.content.clone()))
                .collect()
        };
        if said(&pair.messages_a) == said(&pair.messages_b) {
            tally.right += u32::from(pair.same_answer);
            tally.wrong += u32::from(1 - pair.same_answer);
        }
    }
    println!("\n### turns: {}\n", tally.lookups);
    println!("| | hits % | wrong % of requests | precision % |\n| --- | ---: | ---: | ---: |");
    row("earlier turns in the compartment", &tally);
    Ok(())
}
