//! What callers hold replies to: grammars, expressions, schemas.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::fuzz::grammars(bytes));
