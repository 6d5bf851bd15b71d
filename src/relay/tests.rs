//! The room's tests: published vectors, attacks, peers that others wrote.

mod attacks;
mod attest;
mod bhttp;
mod client;
mod exchange;
mod interop;
mod key_lists;
mod keys;
mod manifests;
mod proofs;
mod replays;
mod shapes;
mod slim;
pub(crate) mod support;
mod vectors;
