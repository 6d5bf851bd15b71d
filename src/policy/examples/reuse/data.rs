//! Files: texts, vectors, pairs, streams.

use std::collections::HashMap;
use std::io::BufRead;

use policy::reuse::{Company, Near, product};
use serde::Deserialize;

use crate::Fault;

#[derive(Deserialize)]
pub struct LabelledPair {
    pub query_a: String,
    pub query_b: String,
    pub same_answer: u8,
    #[serde(default)]
    pub source: String,
    /// What is kept near `query_b`: what each says, by a number, and its place among the texts.
    #[serde(default)]
    near: Vec<(u64, usize)>,
    /// Where among them `query_a` is.
    #[serde(default)]
    at: usize,
}

impl LabelledPair {
    pub fn company(&self, vectors: &Vectors) -> Result<Company, Fault> {
        let asked = vectors.of(&self.query_b)?;
        let near = self.near.iter().map(|&(says, place)| {
            let vector = vectors.rows.get(place).ok_or("a place without a vector")?;
            Ok(Near {
                says,
                similarity: product(asked, vector),
                vector,
            })
        });
        let near: Vec<Near<'_>> = near.collect::<Result<_, Fault>>()?;
        Ok(Company::of(self.at, &near))
    }
}

#[derive(Clone, Deserialize)]
pub struct Asked {
    pub query: String,
    pub group: String,
    pub source: String,
    pub split: String,
}

#[derive(Deserialize)]
pub struct Turn {
    pub role: String,
    pub content: String,
}

#[derive(Deserialize)]
pub struct LabelledTurns {
    pub messages_a: Vec<Turn>,
    pub messages_b: Vec<Turn>,
    pub same_answer: u8,
}

pub fn rows<T: for<'a> Deserialize<'a>>(path: &str) -> Result<Vec<T>, Fault> {
    let file = std::fs::File::open(path).map_err(|fault| format!("{path}: {fault}"))?;
    std::io::BufReader::new(file)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

pub fn pairs(path: &str) -> Result<Vec<LabelledPair>, Fault> {
    rows(path)
}

/// The vector of each text.
pub struct Vectors {
    places: HashMap<String, usize>,
    rows: Vec<Vec<f32>>,
}

impl Vectors {
    pub fn read(texts: &str, vectors: &str) -> Result<Self, Fault> {
        let mut all = Self {
            places: HashMap::new(),
            rows: Vec::new(),
        };
        for (texts, vectors) in texts.split(',').zip(vectors.split(',')) {
            let texts: Vec<String> = rows(texts)?;
            let read = matrix(&std::fs::read(vectors)?)?;
            if read.len() != texts.len() {
                return Err(format!("{} texts and {} vectors", texts.len(), read.len()).into());
            }
            for (text, row) in texts.into_iter().zip(read) {
                all.places.insert(text, all.rows.len());
                all.rows.push(row);
            }
        }
        Ok(all)
    }

    pub fn of(&self, text: &str) -> Result<&[f32], Fault> {
        let place = self.places.get(text).ok_or("a text without a vector")?;
        Ok(&self.rows[*place])
    }
}

/// A NumPy file of two dimensions, its rows brought to length 1.
fn matrix(bytes: &[u8]) -> Result<Vec<Vec<f32>>, Fault> {
    let fault = "not a NumPy file of f2 or f4 with two dimensions";
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let head = std::str::from_utf8(bytes.get(10..10 + length).ok_or(fault)?)?;
    let width = if head.contains("<f2") {
        2
    } else if head.contains("<f4") {
        4
    } else {
        return Err(fault.into());
    };
    let shape = head.split_once("'shape': (").ok_or(fault)?.1;
    let mut shape = shape.split([',', ')']).map(str::trim);
    let _rows: usize = shape.next().ok_or(fault)?.parse()?;
    let columns: usize = shape.next().ok_or(fault)?.parse()?;
    let values = &bytes[10 + length..];
    Ok(values
        .chunks_exact(width * columns)
        .map(|row| {
            let mut row: Vec<f32> = row
                .chunks_exact(width)
                .map(|b| match *b {
                    [a, b] => half(u16::from_le_bytes([a, b])),
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    _ => 0.0,
                })
                .collect();
            let length = product(&row, &row).sqrt();
            row.iter_mut().for_each(|x| *x /= length);
            row
        })
        .collect())
}

fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from(bits >> 10 & 31);
    let fraction = f32::from(bits & 1023) / 1024.0;
    sign * if exponent == 0 {
        fraction * 2f32.powi(-14)
    } else {
        (1.0 + fraction) * 2f32.powi(exponent - 15)
    }
}

/// Draws that are the same in every run.
pub struct Draws(pub u64);

impl Draws {
    pub fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}
