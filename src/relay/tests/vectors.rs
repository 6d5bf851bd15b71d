//! Published vectors. Most lie beside the project and are read from there; those of `draft` and
//! `transcripts` are in it too.

mod draft;
mod ehbp;
mod hpke;
mod schedule;
mod transcripts;
mod wycheproof;
