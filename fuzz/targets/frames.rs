//! What the engine's process and the server say to each other.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::fuzz::frames(bytes));
