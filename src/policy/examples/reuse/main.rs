//! How well kept replies answer other questions: figures for training, and tables of what a cache
//! would have served.
//!
//! ```text
//! cargo run --release -p policy --example reuse -- features TEXTS VECTORS PAIRS OUT [SCORER]
//! cargo run --release -p policy --example reuse -- words TEXTS OUT
//! cargo run --release -p policy --example reuse -- replay DATA SPLIT TEXTS VECTORS BASE_VECTORS [SCORER]
//! ```
//!
//! TEXTS are files of one JSON string a line, VECTORS NumPy files (`f2` or `f4`, one row for each text),
//! several with commas between. BASE_VECTORS are those that static thresholds are tried with. DATA is a
//! folder of labelled pairs and streams, SPLIT the part of the streams that is replayed. SCORER stands
//! in for the bundled one.

#![expect(clippy::print_stdout, reason = "its report is what it is run for")]

mod baselines;
mod data;
mod replay;
mod report;

use std::io::Write;

use policy::reuse::{FEATURES, Guard, Pair, Question, Scorer, features, product};

type Fault = Box<dyn std::error::Error>;

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["features", texts, vectors, pairs, out, rest @ ..] => {
            dump(texts, vectors, pairs, out, &scorer(rest)?)
        }
        ["words", texts, out] => words(texts, out),
        ["replay", folder, split, texts, vectors, base, rest @ ..] => {
            let ours = data::Vectors::read(texts, vectors)?;
            let base = data::Vectors::read(texts, base)?;
            report::all(folder, split, &ours, &base, &scorer(rest)?)
        }
        _ => Err("arguments as the head of this file says".into()),
    }
}

fn scorer(rest: &[&str]) -> Result<Scorer, Fault> {
    match rest.first() {
        Some(path) => Ok(Scorer::parse(&std::fs::read(path)?)?),
        None => Ok(Scorer::bundled()),
    }
}

/// One line for each text: its words as they are compared, a space between.
fn words(texts: &str, out: &str) -> Result<(), Fault> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(out)?);
    for text in data::rows::<String>(texts)? {
        let question = Question::new(&text);
        let words: Vec<&str> = question.words().collect();
        writeln!(out, "{}", words.join(" "))?;
    }
    Ok(())
}

/// Rows of little-endian f32: the figures, then the place of the guard that refuses, or -1.
fn dump(texts: &str, vectors: &str, pairs: &str, out: &str, scorer: &Scorer) -> Result<(), Fault> {
    let vectors = data::Vectors::read(texts, vectors)?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(out)?);
    let mut rows = 0;
    for pair in data::pairs(pairs)? {
        let (u, v) = (vectors.of(&pair.query_a)?, vectors.of(&pair.query_b)?);
        let (query, entry) = (Question::new(&pair.query_b), Question::new(&pair.query_a));
        let pair = Pair {
            query: &query,
            entry: &entry,
            similarity: product(u, v),
            query_vector: v,
            entry_vector: u,
            company: pair.company(&vectors)?,
        };
        let (figures, refusal) = features(&pair, scorer);
        for figure in figures {
            out.write_all(&figure.to_le_bytes())?;
        }
        let guard = refusal.map_or(-1.0, |guard: Guard| guard as u8 as f32);
        out.write_all(&guard.to_le_bytes())?;
        rows += 1;
    }
    println!("{rows} rows of {} figures", FEATURES + 1);
    Ok(())
}
