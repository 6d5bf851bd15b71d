//! How like two engines' answers are.

use std::fmt::Write;

use serde::Serialize;

use super::said::{Drawn, Said};

/// Texts that are equal but for two tokens nearer than this parted by rounding: it is the bound that
/// log probabilities themselves are held to.
const TIE_LOGPROB: f64 = 1e-3;

/// What was compared, line by line.
#[derive(Clone, Debug, Serialize)]
pub struct Agreement {
    pub machine: String,
    pub lines: Vec<Likeness>,
}

/// One target's answers in one pass, against the first target's given alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Likeness {
    pub target: String,
    pub pass: String,
    pub answers: usize,
    pub equal: usize,
    /// Answers that part where the likeliest two tokens were within 0.001 of each other.
    pub parted_at_ties: usize,
    /// The largest lead of a token over the next where an answer parted.
    pub parted_lead_max: Option<f64>,
    pub tokens: usize,
    /// The largest difference of a drawn token's log probability.
    pub drawn_difference_max: Option<f64>,
    /// The same of the tokens among the top, the unlikely ones too.
    pub top_difference_max: Option<f64>,
    pub cosine_min: Option<f64>,
}

impl Agreement {
    pub(super) fn new(machine: String) -> Self {
        Self {
            machine,
            lines: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, target: &str, pass: &str, expected: &[Said], said: &[Said]) {
        let mut line = Likeness {
            target: target.to_owned(),
            pass: pass.to_owned(),
            ..Likeness::default()
        };
        for (expected, said) in expected.iter().zip(said) {
            line.add(expected, said);
        }
        self.lines.push(line);
    }

    #[must_use]
    pub fn table(&self) -> String {
        let mut table = String::from(
            "| target | pass | answers | equal | parted at ties | largest lead where parted | tokens | drawn logprobs differ by at most | top logprobs | least cosine |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        let cell = |figure: Option<f64>| figure.map_or("-".to_owned(), |it| format!("{it:.6}"));
        for line in &self.lines {
            writeln!(
                table,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                line.target,
                line.pass,
                line.answers,
                line.equal,
                line.parted_at_ties,
                cell(line.parted_lead_max),
                line.tokens,
                cell(line.drawn_difference_max),
                cell(line.top_difference_max),
                cell(line.cosine_min),
            )
            .expect("writing to a string does not fail");
        }
        table
    }
}

impl Likeness {
    fn add(&mut self, expected: &Said, said: &Said) {
        self.answers += 1;
        match (expected, said) {
            (Said::Vector(one), Said::Vector(other)) => {
                let cosine = cosine(one, other);
                self.equal += usize::from(one == other);
                self.cosine_min = Some(self.cosine_min.map_or(cosine, |min| min.min(cosine)));
            }
            (
                Said::Text { text, tokens },
                Said::Text {
                    text: other,
                    tokens: others,
                },
            ) => self.add_text((text, tokens), (other, others)),
            (Said::Text { .. }, Said::Vector(_)) | (Said::Vector(_), Said::Text { .. }) => {}
        }
    }

    fn add_text(&mut self, expected: (&str, &[Drawn]), said: (&str, &[Drawn])) {
        let pairs = || expected.1.iter().zip(said.1);
        let same = pairs().take_while(|(one, other)| one.token == other.token);
        let mut common = 0;
        for (one, other) in same {
            common += 1;
            raise(&mut self.drawn_difference_max, one.logprob - other.logprob);
            for (token, logprob) in &one.top {
                if let Some(theirs) = other.top.get(token) {
                    raise(&mut self.top_difference_max, logprob - theirs);
                }
            }
        }
        self.tokens += common;
        // A character that the last token left unfinished is dropped by some and shown by others.
        let whole = |text: &str| text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        if expected.0[..whole(expected.0)] == said.0[..whole(said.0)] {
            self.equal += 1;
            return;
        }
        let lead = expected.1.get(common).and_then(Drawn::lead);
        let lead = lead.unwrap_or(f64::INFINITY);
        self.parted_at_ties += usize::from(lead <= TIE_LOGPROB);
        self.parted_lead_max = Some(self.parted_lead_max.map_or(lead, |max| max.max(lead)));
    }
}

fn raise(max: &mut Option<f64>, difference: f64) {
    *max = Some(max.unwrap_or(0.0).max(difference.abs()));
}

/// 0 for vectors that cannot be compared.
fn cosine(one: &[f64], other: &[f64]) -> f64 {
    if one.len() != other.len() {
        return 0.0;
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = (dot(one, one) * dot(other, other)).sqrt();
    if norms > 0.0 {
        dot(one, other) / norms
    } else {
        0.0
    }
}
