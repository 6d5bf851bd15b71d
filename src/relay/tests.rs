//! The room's tests: published vectors, attacks, peers that others wrote.

mod attacks;
mod attest;
mod bhttp;
#[cfg(feature = "client")]
mod client;
mod exchange;
mod interop;
mod key_lists;
mod keys;
mod manifests;
#[cfg(target_os = "linux")]
mod memory;
mod proofs;
mod replays;
mod sessions;
mod shapes;
mod slim;
pub(crate) mod support;
mod vectors;
