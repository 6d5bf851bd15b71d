//! What one judgement costs: `cargo bench -p policy --bench reuse`.

use divan::{Bencher, black_box};
use policy::reuse::{Company, Pair, Question, Scorer, judge};

fn main() {
    divan::main();
}

const ASKED: &str =
    "Could you please tell me how long it takes until my new card arrives in Portugal?";
const KEPT: &str = "how many days will it take for a new card to be delivered to Portugal";

fn vector(seed: u32) -> Vec<f32> {
    let raw: Vec<f32> = (0..256)
        .map(|i| ((i * 37 + seed) % 101) as f32 - 50.0)
        .collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.iter().map(|x| x / length).collect()
}

fn bench_judge(bencher: Bencher<'_, '_>, query: &str, entry: &str) {
    let scorer = Scorer::bundled();
    let (query, entry) = (Question::new(query), Question::new(entry));
    let (u, v) = (vector(1), vector(2));
    let pair = Pair {
        query: &query,
        entry: &entry,
        similarity: 0.9,
        query_vector: &u,
        entry_vector: &v,
        company: Company::NOBODY,
    };
    bencher.bench(|| judge(black_box(&pair), &scorer));
}

#[divan::bench]
fn judge_a_paraphrase(bencher: Bencher<'_, '_>) {
    bench_judge(bencher, ASKED, KEPT);
}

#[divan::bench]
fn judge_the_same_long_text(bencher: Bencher<'_, '_>) {
    let text = ASKED.repeat(60);
    bench_judge(bencher, &text, &text);
}

#[divan::bench]
fn judge_two_long_texts(bencher: Bencher<'_, '_>) {
    bench_judge(bencher, &ASKED.repeat(60), &KEPT.repeat(60));
}

#[divan::bench]
fn read_a_question(bencher: Bencher<'_, '_>) {
    bencher.bench(|| Question::new(black_box(ASKED)));
}

#[divan::bench]
fn read_1_mb(bencher: Bencher<'_, '_>) {
    let text = ASKED.repeat((1 << 20) / ASKED.len());
    bencher.bench(|| Question::new(black_box(&text)));
}

#[divan::bench]
fn read_the_scorer(bencher: Bencher<'_, '_>) {
    bencher.bench(Scorer::bundled);
}
